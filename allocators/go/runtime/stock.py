"""A Go program of a stock toolchain in a process of its own: carries out a kept trace and measures itself.

The other side of stock/main.go. Events wait in a file (Spool), so that any number of fresh processes can
carry them out, one after the other and each as fast as it can.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import subprocess
import tempfile
import time
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from harness.allocator import EventBatch
from harness.errors import AllocatorError

from ...watchdog import ended
from .build import Toolchain, build_stock
from .process import RECORD, records_of

HEAP_OBJECTS = "/memory/classes/heap/objects:bytes"
HEAP_UNUSED = "/memory/classes/heap/unused:bytes"
HEAP_FREE = "/memory/classes/heap/free:bytes"
HEAP_RELEASED = "/memory/classes/heap/released:bytes"
HEAP_STACKS = "/memory/classes/heap/stacks:bytes"
# What the runtime has beside the heap.
OFF_HEAP = (
    "/memory/classes/metadata/mcache/free:bytes",
    "/memory/classes/metadata/mcache/inuse:bytes",
    "/memory/classes/metadata/mspan/free:bytes",
    "/memory/classes/metadata/mspan/inuse:bytes",
    "/memory/classes/metadata/other:bytes",
    "/memory/classes/os-stacks:bytes",
    "/memory/classes/other:bytes",
    "/memory/classes/profiling/buckets:bytes",
)
GC_CYCLES = "/gc/cycles/total:gc-cycles"
GC_FORCED = "/gc/cycles/forced:gc-cycles"
GC_GOAL = "/gc/heap/goal:bytes"
GC_CPU = "/cpu/classes/gc/total:cpu-seconds"
GC_ASSIST_CPU = "/cpu/classes/gc/mark/assist:cpu-seconds"
TINY_ALLOCS = "/gc/heap/tiny/allocs:objects"

METRICS = (
    *(HEAP_OBJECTS, HEAP_UNUSED, HEAP_FREE, HEAP_RELEASED, HEAP_STACKS),
    *OFF_HEAP,
    *(GC_CYCLES, GC_FORCED, GC_GOAL, GC_CPU, GC_ASSIST_CPU, TINY_ALLOCS),
)

# And these, which are no metrics of the runtime.
ANONYMOUS = "anonymous memory"  # As the kernel counts it.
TABLE = "table"  # What holds the objects: part of the heap's objects, and of the anonymous memory.

# A sample: bytes, counts, and nanoseconds where the metric is in seconds.
SAMPLE = np.dtype([(name, "<u8") for name in (*METRICS, ANONYMOUS, TABLE)])

_COMMAND = struct.Struct("<QQQQ")
_ANSWER = struct.Struct("<Q")

# How events are carried out. replay: allocating, and against the clock. touch: besides, the program writes to
# every page of its objects. idle: what a replay does beside allocating.
Manner = Literal["replay", "touch", "idle"]
_COMMANDS: dict[Manner, int] = {"replay": 1, "touch": 2, "idle": 3}

# Events that are handed over at a time, and the most samples among them.
_CAPACITY = 1 << 16


class Spool:
    """Events on disk, as a Go program reads them: 16 bytes each, in a file without a name."""

    def __init__(self) -> None:
        # Without a buffer, which would be written once more at the end of a disk that is full.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # Closed by close().
        self.events = 0

    def append(self, batch: EventBatch) -> None:
        """Keep a batch; AllocatorError where the disk is full."""
        self._file.seek(0, os.SEEK_END)
        left = records_of(batch).data.cast("B")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise AllocatorError(
                f"the trace's events cannot be kept in {tempfile.gettempdir()}: {error.strerror}; "
                f"set TMPDIR to a folder with room for {RECORD.itemsize} bytes an event"
            ) from error
        self.events += len(batch.op)

    def read(self, first: int, count: int) -> bytes:
        """Return some of the events."""
        self._file.seek(first * RECORD.itemsize)
        return self._file.read(count * RECORD.itemsize)

    def close(self) -> None:
        """Delete them."""
        self._file.close()


class Outcome(NamedTuple):
    """What carrying out a trace came to."""

    elapsed_ns: int  # Of the events alone.
    samples: NDArray[Any]  # Rows of SAMPLE.


class StockProcess:
    """The program, started and idle; a context that ends it.

    Whatever it does has to be done `time_limit_seconds` from its start. AllocatorError where it does not
    build, and for whatever goes wrong in it.
    """

    def __init__(
        self,
        toolchain: Toolchain,
        *,
        procs: int,
        gogc: int | Literal["off"] = 100,
        memory_limit: int | Literal["off"] = "off",
        time_limit_seconds: float = 600,
    ) -> None:
        self._toolchain = toolchain
        self._slots = 1
        program = build_stock(toolchain)
        self._stops_at = _CAPACITY * RECORD.itemsize
        self._samples_at = self._stops_at + 8 * _CAPACITY
        descriptor = os.memfd_create("events")
        try:
            os.ftruncate(descriptor, self._samples_at + SAMPLE.itemsize * _CAPACITY)
            self._shared = mmap.mmap(descriptor, 0)
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  # Closed with the process.
            self._time_limit_seconds = time_limit_seconds
            self._deadline = time.monotonic() + time_limit_seconds
            self._child = subprocess.Popen(
                [
                    str(program),
                    f"-shared={descriptor}",
                    f"-events={_CAPACITY}",
                    f"-stops={_CAPACITY}",
                    f"-metrics={','.join(METRICS)}",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                bufsize=0,
                pass_fds=(descriptor,),
                env={"GOMAXPROCS": str(procs), "GOGC": str(gogc), "GOMEMLIMIT": str(memory_limit)},
            )
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sample(self) -> NDArray[Any]:
        """Return the process as it stands: one row of SAMPLE."""
        return self._ask("replay", 0, np.zeros(1, np.uint64)).samples

    def carry_out(self, spool: Spool, stops: NDArray[np.int64], manner: Manner = "replay") -> Outcome:
        """Carry out all events; `stops` are ascending counts of events at which a sample is taken."""
        elapsed_ns = 0
        samples = [np.zeros(0, SAMPLE)]
        for first in range(0, spool.events, _CAPACITY):
            count = min(_CAPACITY, spool.events - first)
            records = spool.read(first, count)
            self._shared[: len(records)] = records
            begin, end = np.searchsorted(stops, [first, first + count], side="right")
            here = (stops[begin:end] - first).astype(np.uint64)
            found = self._ask(manner, count, here)
            elapsed_ns += found.elapsed_ns
            samples.append(found.samples)
        return Outcome(elapsed_ns, np.concatenate(samples))

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.kill()
        self._child.wait()
        self._child.stdin.close()
        self._child.stdout.close()
        self._said.close()
        self._shared.close()

    def _ask(self, manner: Manner, count: int, stops: NDArray[np.uint64]) -> Outcome:
        slots = int(np.frombuffer(self._shared, RECORD, count)["slot"].max(initial=0)) + 1
        self._slots = max(self._slots, slots)
        self._shared[self._stops_at : self._stops_at + stops.nbytes] = stops.tobytes()
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(_COMMAND.pack(_COMMANDS[manner], count, len(stops), self._slots))
        except BrokenPipeError:
            raise self._fault() from None
        (elapsed_ns,) = _ANSWER.unpack(self._receive(_ANSWER.size))
        return Outcome(elapsed_ns, np.frombuffer(self._shared, SAMPLE, len(stops), self._samples_at).copy())

    def _receive(self, length: int) -> bytes:
        assert self._child.stdout is not None
        waiting = select.poll()
        waiting.register(self._child.stdout, select.POLLIN)
        data = b""
        while len(data) < length:
            left = self._deadline - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                raise AllocatorError(
                    f"the program of {self._toolchain.version} was not done within "
                    f"time_limit_seconds={self._time_limit_seconds:g}"
                )
            part = self._child.stdout.read(length - len(data))
            if not part:
                raise self._fault()
            data += part
        return data

    def _fault(self) -> AllocatorError:
        """Say what became of a process that no longer answers; after Go's first line come stacks."""
        status = ended(self._child)
        self._said.seek(0)
        said = next(iter(self._said.read().decode(errors="replace").strip().splitlines()), "")
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return AllocatorError(
            f"the program of {self._toolchain.version} {how}" + (f": {said}" if said else "")
        )
