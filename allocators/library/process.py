"""A real library in a process of its own, driven in lock step: the other side of driver/protocol.hpp."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from harness.allocator import EventBatch
from harness.errors import AllocatorError

from .build import build_driver

# The answer for a realloc that kept its block (protocol.hpp: kUnmoved).
UNMOVED = 1

_RECORD = np.dtype(
    [("op", "u1"), ("alignment_log2", "u1"), ("thread", "<u2"), ("slot", "<u4"), ("size", "<u8")]
)

# A range as MallocExtension::Ranges reports it: type 0 in use, 1 free, 2 given back to the system.
RANGE = np.dtype([("address", "<u8"), ("length", "<u8"), ("type", "<u4"), ("fraction", "<f8")])
_RANGE_SENT = np.dtype(
    {
        "names": list(RANGE.names or ()),
        "formats": [RANGE[name] for name in RANGE.names or ()],
        "offsets": [0, 8, 16, 24],
        "itemsize": 32,
    }
)

# How much of a process's last words is told.
_SAID_BYTES = 500

# Frame: kind, count, argument.
_FRAME = struct.Struct("<IIQ")
_REPLAY, _START_THREAD, _CALL, _STATE = range(1, 5)


def records_of(batch: EventBatch) -> NDArray[Any]:
    """Return events as the driver reads them (protocol.hpp: Record)."""
    records = np.empty(len(batch.op), _RECORD)
    records["op"] = batch.op
    # Exact for powers of two, which alignments are.
    records["alignment_log2"] = np.log2(np.maximum(batch.alignment, 1)) if batch.alignment.any() else 0
    records["thread"] = batch.thread
    records["slot"] = batch.slot
    records["size"] = batch.size
    return records


class LibraryState(NamedTuple):
    """All that the library says of itself at one moment; sizes in bytes."""

    properties: dict[str, int]
    free_list_sizes: dict[tuple[str, int], int]  # By list type and largest object; without empty ones.
    ranges: NDArray[Any]  # Of RANGE, ascending.
    stats_text: str
    resident_bytes: int | None  # None where pages are not counted.


class LibraryProcess:
    """A library preloaded into a fresh process that carries out events and calls one at a time.

    `environment` is all of the process's environment that concerns the library. Address randomisation is off
    where the system allows that, and `heap_base` says where the heap lies in any case. AllocatorError where
    the library is none of gperftools', and for whatever goes wrong in the process.
    """

    def __init__(
        self,
        library: Path,
        environment: Mapping[str, str],
        *,
        touch: Literal["none", "first", "whole"] = "none",
        counts_resident: bool = False,
    ) -> None:
        self.library = library
        self._counts_resident = counts_resident
        self._slots = 0
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        self._child = subprocess.Popen(
            [str(build_driver()), touch, *(["resident"] if counts_resident else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**kept, **environment, "LD_PRELOAD": str(library)},
        )
        # The library says so whenever an allocation fails; nobody reading it would stop the process.
        self._said = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            (length,) = struct.unpack("<Q", self._receive(8))
            about = self._receive(length).decode().splitlines()
            self.version = about[0].split()[-1]
            self.page_size, self.alignment, self.thread_vector_bytes = (int(line) for line in about[1:])
            self.heap_base = int(self.state().ranges["address"].min())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_thread(self, thread: int) -> None:
        """Let the main thread start the thread that will carry out a number's events."""
        self._ask(_START_THREAD, thread, 0, b"")
        self._receive(8)

    def replay(self, batch: EventBatch) -> NDArray[np.uint64]:
        """Carry out events; return one answer each.

        The address of an allocation or of a realloc that moved, UNMOVED for one that kept its block, and 0
        for a failure and for all other events.
        """
        records = records_of(batch)
        self._slots = max(self._slots, int(batch.slot.max(initial=0)) + 1)
        self._ask(_REPLAY, len(records), self._slots, records.data.cast("B"))
        return np.frombuffer(self._receive(8 * len(records)), np.uint64)

    def call(self, name: str, *arguments: object) -> None:
        """Carry out what a program can ask of the library; AllocatorError where it refuses.

        A thread's call is carried out on that thread, any other on the main thread.
        """
        thread, text = 0, " ".join([name, *(str(argument) for argument in arguments)])
        if name in ("mark_thread_idle", "mark_thread_temporarily_idle"):
            try:
                thread = int(str(arguments[0]))
            except (IndexError, ValueError) as error:
                raise AllocatorError(f"{text}: expected a thread's number") from error
        data = text.encode()
        self._ask(_CALL, thread, len(data), data)
        if struct.unpack("<Q", self._receive(8)) != (1,):
            raise AllocatorError(f"the library (gperftools {self.version}) refuses: {text}")

    def state(self) -> LibraryState:
        """Return all that the library says of itself."""
        self._ask(_STATE, 0, 0, b"")
        lengths = struct.unpack("<4Q", self._receive(32))
        numbers, ranges, text, resident = (self._receive(length) for length in lengths)
        properties: dict[str, int] = {}
        free_list_sizes: dict[tuple[str, int], int] = {}
        for line in numbers.decode().splitlines():
            match line.split():
                case [name, value]:
                    properties[name] = int(value)
                case [kind, size, value]:
                    free_list_sizes[kind, int(size)] = int(value)
        return LibraryState(
            properties,
            free_list_sizes,
            np.frombuffer(ranges, _RANGE_SENT).astype(RANGE),
            text.decode(),
            struct.unpack("<Q", resident)[0] if self._counts_resident else None,
        )

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.wait()
        self._listener.join()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _ask(self, kind: int, count: int, argument: int, payload: bytes | memoryview) -> None:
        assert self._child.stdin is not None
        try:
            for part in (_FRAME.pack(kind, count, argument), payload):
                view = memoryview(part)
                while view:
                    view = view[self._child.stdin.write(view) :]
        except OSError as error:
            raise self._fault() from error

    def _receive(self, length: int) -> bytearray:
        assert self._child.stdout is not None
        data = bytearray(length)
        view = memoryview(data)
        while view:
            got = self._child.stdout.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise self._fault()
            view = view[got:]
        return data

    def _listen(self) -> None:
        """Keep the end of what the process says on its standard error."""
        assert self._child.stderr is not None
        while heard := self._child.stderr.read(1 << 16):
            self._said = (self._said + heard)[-_SAID_BYTES:]

    def _fault(self) -> AllocatorError:
        """Say what became of a process that no longer answers."""
        status = self._child.wait()
        self._listener.join()
        said = self._said.decode(errors="replace").strip()
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        return AllocatorError(f"{self.library}: the driver's process {how}" + (f": {said}" if said else ""))
