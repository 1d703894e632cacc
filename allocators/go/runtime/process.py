"""The real Go runtime in a process of its own, a batch at a time; see replayer/main.go."""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, THREAD_END, EventBatch
from harness.errors import AllocatorError

from ...watchdog import LOOK_SECONDS, Watchdog, ended, processor_ns
from ..snapshot import Snapshot
from .build import Toolchain, build_replayer
from .state import CYCLE, HeapState, read_state

# An event as the replayer reads it (main.go: record).
RECORD = np.dtype([("op", "u1"), ("noscan", "u1"), ("p", "<u2"), ("slot", "<u4"), ("size", "<u8")])
_ALLOCATE, _RELEASE, _COLLECT = 1, 2, 3

_COMMAND = struct.Struct("<QQ")
_ANSWER = struct.Struct("<QQQ")
_REPLAY, _STATE, _CYCLES = 1, 2, 3

# What is asked for, in words; a start is the first state.
_ASKED = {
    _REPLAY: "to carry out {count} events, of which {done} are done",
    _STATE: "for the state of its heap",
    _CYCLES: "for its collections",
}

# Room for a heap's state in the shared file; a page of it takes memory only when it is written.
_STATE_BYTES = 1 << 32

_NO_BACKGROUND_SWEEP, _NO_BACKGROUND_SCAVENGE = 1, 2

# Threads that the scheduler may want while a replay runs; made before it, they allocate nothing in it.
_SPARE_THREADS = 8

# How much of a process's last words is told, and of the stacks of one that is stuck.
_SAID_BYTES = 500
_STACKS_BYTES = 1 << 16

# When and how the collector runs. explicit: only where the trace says so. stopped and lazy: at the pacer's
# triggers too, the world stopped, swept at once (GODEBUG=gcstoptheworld=2) or by allocation alone (=1,
# without the background sweeper). default: as every Go program runs, with nothing held back.
Collector = Literal["explicit", "stopped", "lazy", "default"]
_STOP_THE_WORLD = {"stopped": ("gcstoptheworld=2",), "lazy": ("gcstoptheworld=1",)}
_HELD_BACK = {
    "explicit": _NO_BACKGROUND_SCAVENGE,
    "stopped": _NO_BACKGROUND_SCAVENGE,
    "lazy": _NO_BACKGROUND_SCAVENGE | _NO_BACKGROUND_SWEEP,
    "default": 0,
}


class Replayed(NamedTuple):
    """What a batch of events gave."""

    addresses: NDArray[np.uint64]  # One an event; 0 where it has none.
    in_use_bytes_mean: float  # Of the heap, after each event.
    elapsed_ns: int


class RuntimeProcess:
    """A Go program that carries out events with runtime.mallocgc, one after the other.

    ``slots``: objects that it can hold at once, in a table of globals; the collector scans it, so it should
    be as large as the trace needs. ``capacity``: events that one batch may have. AllocatorError where the
    program does not build, and for whatever goes wrong in it, being stuck too (watchdog.py): then the
    stacks of its goroutines are the error's note.
    """

    def __init__(
        self,
        toolchain: Toolchain,
        *,
        procs: int = 1,
        collector: Collector = "explicit",
        gogc: int | Literal["off"] = 100,
        memory_limit: int | Literal["off"] = "off",
        experiments: tuple[str, ...] = (),
        slots: int = 1,
        capacity: int = 1 << 16,
        spare_threads: int = _SPARE_THREADS,
    ) -> None:
        if procs > 1 and collector in ("stopped", "lazy"):
            raise AllocatorError("the real runtime stops the world on one P only; set procs=1")
        self._toolchain = toolchain
        self.collector = collector
        self._pins = procs > 1 and collector == "explicit"
        self._ps = _Ps(procs if self._pins else 1)
        self._capacity = capacity
        # Where words stand in the shared file; while events are carried out, the first says how many are.
        self._words_at = capacity * (RECORD.itemsize + 8)
        self._greentea = _has_greentea(toolchain, experiments)
        self.name = (
            f"{toolchain.version} {'with' if self._greentea else 'without'} green tea ({toolchain.go})"
        )
        replayer, self._slots = build_replayer(toolchain, experiments, slots)
        with tempfile.TemporaryDirectory() as folder:
            shared = Path(folder) / "shared"
            command = [
                str(replayer),
                f"-shared={shared}",
                f"-events={capacity}",
                f"-hold-back={_HELD_BACK[collector]}",
                f"-spare-threads={spare_threads}",
                f"-pin={str(self._pins).lower()}",
                f"-fill={str(collector == 'lazy' and self._greentea).lower()}",
            ]
            with shared.open("w+b") as file:
                file.truncate(self._words_at + _STATE_BYTES)
                self._shared = mmap.mmap(file.fileno(), 0)
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  # Closed with the process.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                bufsize=0,
                env=_environment(procs, collector, gogc, memory_limit),
            )
            try:
                # Once it answers, the process has mapped the file, and the name is not needed any more.
                self.start = self.state()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def globals_scan_bytes(self) -> int:
        """What of its globals the collector scans for the table of objects."""
        return self._slots * 8

    def replay(self, batch: EventBatch) -> Replayed:
        """Carry out events, at most as many as the process has capacity for."""
        return self.replay_at_once([batch])

    def replay_at_once(self, batches: Iterable[EventBatch]) -> Replayed:
        """Carry out several batches without a pause; together they must not exceed the capacity."""
        count = 0
        for batch in batches:
            records = self._records(batch, self._capacity - count)
            start = count * RECORD.itemsize
            self._shared[start : start + records.nbytes] = records.tobytes()
            count += len(records)
        in_use, elapsed, _ = self._ask(_REPLAY, count)
        answers = self._words(self._capacity * RECORD.itemsize, count)
        # What was freed, and what has no memory, has no address.
        records = np.frombuffer(self._shared, RECORD, count)
        answers[(records["op"] != _ALLOCATE) | (records["size"] == 0)] = 0
        del records  # A view of the file, which could not be closed.
        return Replayed(answers, in_use / max(1, count), elapsed)

    def processor_ns(self) -> int:
        """Return the processor time that the process has had, in nanoseconds."""
        return processor_ns(self._child.pid)

    def state(self) -> HeapState:
        """Return the heap as it stands."""
        words, _, _ = self._ask(_STATE, 0)
        if words * 8 > _STATE_BYTES:
            raise AllocatorError(
                f"a heap's state takes {words * 8} bytes, and there is room for {_STATE_BYTES}"
            )
        found = self._words(self._words_at, words)
        return read_state(found, self._toolchain.version, self._greentea)

    def cycles(self) -> NDArray[Any]:
        """Return what each collection since the last call found, as rows of CYCLE."""
        count, _, _ = self._ask(_CYCLES, 0)
        words = self._words(self._words_at, count * len(CYCLE))
        return words.view([(name, "<u8") for name in CYCLE]).reshape(-1)

    def close(self) -> None:
        """End the process; what was asked of it before is lost."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()
        self._child.kill()
        self._child.wait()
        self._said.close()
        self._shared.close()

    def _records(self, batch: EventBatch, room: int) -> NDArray[Any]:
        if len(batch.op) > room:
            raise AllocatorError(f"{len(batch.op)} events in a batch, expected at most {room}")
        most = int(batch.slot.max(initial=0))
        if most >= self._slots:
            raise AllocatorError(f"the replayer holds {self._slots} objects at most, and a trace {most + 1}")
        records = records_of(batch)
        records["p"] = self._ps.of(batch)
        return records

    def _words(self, offset: int, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._shared, np.uint64, count, offset).copy()

    def _ask(self, kind: int, count: int) -> tuple[int, int, int]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._shared[self._words_at : self._words_at + 8] = bytes(8)
        answer = b""
        try:
            self._child.stdin.write(_COMMAND.pack(kind, count))
            while len(answer) < _ANSWER.size:
                self._wait(kind, count)
                part = self._child.stdout.read(_ANSWER.size - len(answer))
                if not part:
                    break
                answer += part
        except BrokenPipeError:
            answer = b""
        if len(answer) < _ANSWER.size:
            status = ended(self._child)
            raise AllocatorError(
                f"the program of {self._toolchain.version} ended with status {status}: "
                f"{self._last_words(_SAID_BYTES)}"
            )
        found: tuple[int, int, int] = _ANSWER.unpack(answer)
        return found

    def _wait(self, kind: int, count: int) -> None:
        """Return when there is something to read; AllocatorError where the program is stuck."""
        assert self._child.stdout is not None
        watchdog = Watchdog(self._child.pid)
        waiting = select.poll()
        waiting.register(self._child.stdout, select.POLLIN)
        while not waiting.poll(LOOK_SECONDS * 1000):
            done = int.from_bytes(self._shared[self._words_at : self._words_at + 8], "little")
            stuck = watchdog.look(done)
            if stuck:
                # A Go program prints its stacks and ends.
                ended(self._child, told=signal.SIGQUIT)
                stacks = self._last_words(_STACKS_BYTES)
                error = AllocatorError(
                    f"the program of {self.name} {stuck} and was ended; it was asked "
                    f"{_ASKED[kind].format(count=count, done=done)}, and stood in {_main_stack(stacks)}"
                )
                error.add_note(stacks)
                raise error

    def _last_words(self, length: int) -> str:
        self._said.seek(0)
        return self._said.read(length).decode(errors="replace").strip()


def _main_stack(stacks: str) -> str:
    """Return the functions of the goroutine that carries out events, from the innermost outwards."""
    _, _, main = stacks.partition("\ngoroutine 1 ")
    lines = main.partition("\n\n")[0].splitlines()[1:]
    functions = [line.rpartition("(")[0] for line in lines if line.endswith(")") and line[0].isalpha()]
    # A signal in the few instructions between a goroutine's stack and the scheduler's finds the latter alone.
    return " < ".join(functions) if "main.main" in functions else "no known place"


class _Ps:
    """Deals the threads of a trace out to Ps as the model does: by order of appearance, round and round."""

    def __init__(self, procs: int) -> None:
        self._procs = procs
        self._by_thread: dict[int, int] = {}
        self._ordinal = 0

    def of(self, batch: EventBatch) -> NDArray[np.uint16] | list[int]:
        """Return the P of each event."""
        if self._procs == 1:
            return np.zeros(len(batch.op), np.uint16)
        return [self._one(*event) for event in zip(batch.op.tolist(), batch.thread.tolist(), strict=True)]

    def _one(self, op: int, thread: int) -> int:
        if op == THREAD_END:
            self._by_thread.pop(thread, None)
        if op in (GC, THREAD_END):
            return 0
        if thread not in self._by_thread:
            self._by_thread[thread] = self._ordinal % self._procs
            self._ordinal += 1
        return self._by_thread[thread]


def records_of(batch: EventBatch) -> NDArray[Any]:
    """Return events as a Go program carries them out, rows of RECORD on P 0."""
    allocates = np.isin(batch.op, (ALLOC, CALLOC, REALLOC))
    ops = np.zeros(256, np.uint8)
    ops[[ALLOC, CALLOC, REALLOC, FREE, GC]] = _ALLOCATE, _ALLOCATE, _ALLOCATE, _RELEASE, _COLLECT
    records = np.zeros(len(batch.op), RECORD)
    records["op"] = ops[batch.op]
    records["noscan"] = batch.noscan
    records["slot"] = batch.slot
    records["size"] = np.where(allocates, rounded_sizes(batch), 0)
    return records


def rounded_sizes(batch: EventBatch) -> NDArray[np.uint64]:
    """Return the bytes that a Go program would ask for: words where there are pointers, alignment by size."""
    size = np.where(batch.noscan == 0, (batch.size + np.uint64(7)) // np.uint64(8) * np.uint64(8), batch.size)
    alignment = np.maximum(batch.alignment, 1).astype(np.uint64)
    aligned = (size + alignment - np.uint64(1)) // alignment * alignment
    return np.where(batch.alignment > 8, aligned, size).astype(np.uint64)


def slots_of(batches: Iterable[EventBatch]) -> int:
    """Return how many objects a trace holds at once, at least 1."""
    return max((int(batch.slot.max(initial=0)) + 1 for batch in batches), default=1)


def start_snapshot(toolchain: Toolchain) -> Snapshot:
    """Return the heap of a Go process that has done nothing yet, for Go(start="snapshot")."""
    with RuntimeProcess(toolchain, gogc="off", spare_threads=0) as process:
        start = process.start.snapshot()
        # The replayer's table of objects is no program's.
        start.scalars["globals_scan"] -= process.globals_scan_bytes
        return start


def _has_greentea(toolchain: Toolchain, experiments: tuple[str, ...]) -> bool:
    if toolchain.minor >= 26:
        return "nogreenteagc" not in experiments
    return "greenteagc" in experiments


def _environment(
    procs: int, collector: Collector, gogc: int | Literal["off"], memory_limit: int | Literal["off"]
) -> dict[str, str]:
    # A stack that a cycle shrinks has to grow again, from a span of its own that comes and goes.
    debug = [] if collector == "default" else ["gcshrinkstackoff=1", *_STOP_THE_WORLD.get(collector, ())]
    return {
        **{name: os.environ[name] for name in ("PATH",) if name in os.environ},
        "GOMAXPROCS": str(procs),
        "GOGC": "off" if collector == "explicit" else str(gogc),
        "GOMEMLIMIT": str(memory_limit),
        "GODEBUG": ",".join(debug),
    }
