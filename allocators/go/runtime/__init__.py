"""The real Go runtime, instrumented: replays a trace through mallocgc and tells every address.

The ground truth of the model beside it. build.py finds a toolchain and builds the replayer, overlay.py puts
hooks into its runtime, state.py reads what they write.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, THREAD_END, EventBatch
from harness.errors import AllocatorError

from ..snapshot import Snapshot
from .build import Toolchain, build_replayer, find_toolchain
from .state import read_states

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cycle", "Run", "Toolchain", "find_toolchain", "replay", "start_snapshot"]

# An event as the replayer reads it (main.go: record).
RECORD = np.dtype([("op", "u1"), ("noscan", "u1"), ("p", "<u2"), ("slot", "<u4"), ("size", "<u8")])
ALLOCATE, RELEASE, COLLECT, STATE = range(1, 5)

# Objects that the replayer can hold at once: words of a global table (main.go: tableSlots).
TABLE_SLOTS = 1 << 21

NO_BACKGROUND_SWEEP, NO_BACKGROUND_SCAVENGE = 1, 2

# Threads that the scheduler may want while a replay runs; made before it, they allocate nothing in it.
SPARE_THREADS = 8

# When the collector runs. explicit: only where the trace says so. stopped and lazy: at the pacer's triggers
# too, the world stopped, swept at once (GODEBUG=gcstoptheworld=2) or by allocation alone (=1, without the
# background sweeper).
Collector = Literal["explicit", "stopped", "lazy"]
STOP_THE_WORLD = {"explicit": (), "stopped": ("gcstoptheworld=2",), "lazy": ("gcstoptheworld=1",)}


class Cycle(NamedTuple):
    """What one collection found, in bytes where nothing else is said."""

    heap_live: int  # When it began.
    heap_marked: int
    stack_scan: int
    work_buffer_spans: int  # A count; each takes four pages.


@dataclass(frozen=True)
class Run:
    """A trace carried out by the real runtime."""

    start: Snapshot
    end: Snapshot
    states: list[Snapshot]  # Where the replay was told to take them, in between.
    addresses: NDArray[
        np.uint64
    ]  # One an allocation or realloc, in trace order; the zero-size object's included.
    cycles: list[Cycle]


def replay(
    batches: Iterable[EventBatch],
    *,
    toolchain: Toolchain | None = None,
    procs: int = 1,
    collector: Collector = "explicit",
    gogc: int | Literal["off"] = 100,
    memory_limit: int | Literal["off"] = "off",
    experiments: tuple[str, ...] = (),
    state_every: int = 0,
) -> Run:
    """Carry out a trace with the real runtime, thread ordinals dealt out to Ps as the model does.

    ``state_every`` takes the heap's state after every so many events. AllocatorError where no toolchain is
    found, the replayer does not build, the trace holds too many objects at once, or the run fails.
    """
    if procs > 1 and collector != "explicit":
        raise AllocatorError("the real runtime is replayed on several Ps with explicit collections only")
    records = _records(batches, procs, state_every)
    environment = _environment(procs, collector, gogc, memory_limit)
    hold_back = NO_BACKGROUND_SCAVENGE | (NO_BACKGROUND_SWEEP if collector == "lazy" else 0)
    return _run(toolchain or find_toolchain(), experiments, records, environment, hold_back, SPARE_THREADS)


def start_snapshot(toolchain: Toolchain) -> Snapshot:
    """Return the heap of a Go process that has done nothing yet, for Go(start="snapshot")."""
    records = _records([], 1, 0)
    environment = _environment(1, "explicit", "off", "off")
    start = _run(toolchain, (), records, environment, NO_BACKGROUND_SCAVENGE, spare_threads=0).start
    # The replayer's table of objects is no program's.
    start.scalars["globals_scan"] -= TABLE_SLOTS * 8
    return start


def _run(
    toolchain: Toolchain,
    experiments: tuple[str, ...],
    records: NDArray[Any],
    environment: dict[str, str],
    hold_back: int,
    spare_threads: int,
) -> Run:
    replayer = build_replayer(toolchain, experiments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records.tofile(folder / "trace")
        command = [
            str(replayer),
            f"-trace={folder / 'trace'}",
            f"-addresses={folder / 'addresses'}",
            f"-allocations={np.count_nonzero(records['op'] == ALLOCATE)}",
            f"-states={folder / 'states'}",
            f"-state-bytes={_state_bytes(records)}",
            f"-cycles={folder / 'cycles'}",
            f"-hold-back={hold_back}",
            f"-spare-threads={spare_threads}",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise AllocatorError(f"the replay with {toolchain.version} failed: {done.stderr.strip()[-2000:]}")
        words = np.fromfile(folder / "states", dtype=np.uint64)
        states = read_states(words.tolist(), toolchain.version, _has_greentea(toolchain, experiments))
        addresses = np.fromfile(folder / "addresses", dtype=np.uint64)
        cycles = folder / "cycles"
        found = np.fromfile(cycles, dtype=np.uint64).reshape(-1, 4).tolist() if cycles.exists() else []
    return Run(states[0], states[-1], states[1:-1], addresses, [Cycle(*row) for row in found])


def _has_greentea(toolchain: Toolchain, experiments: tuple[str, ...]) -> bool:
    if toolchain.minor >= 26:
        return "nogreenteagc" not in experiments
    return "greenteagc" in experiments


def _environment(
    procs: int, collector: Collector, gogc: int | Literal["off"], memory_limit: int | Literal["off"]
) -> dict[str, str]:
    # A stack that a cycle shrinks has to grow again, from a span of its own that comes and goes.
    debug = ["gcshrinkstackoff=1", *STOP_THE_WORLD[collector]]
    return {
        "GOMAXPROCS": str(procs),
        "GOGC": "off" if collector == "explicit" else str(gogc),
        "GOMEMLIMIT": str(memory_limit),
        "GODEBUG": ",".join(debug),
    }


def _records(batches: Iterable[EventBatch], procs: int, state_every: int) -> NDArray[Any]:
    return np.fromiter(_events(batches, procs, state_every), dtype=RECORD)


def _events(batches: Iterable[EventBatch], procs: int, state_every: int) -> Iterator[tuple[int, ...]]:
    p_by_thread: dict[int, int] = {}
    ordinal = 0
    event = 0
    for batch in batches:
        rows = zip(
            *(
                column.tolist()
                for column in (batch.op, batch.thread, batch.slot, batch.size, batch.alignment, batch.noscan)
            ),
            strict=True,
        )
        for op, thread, slot, size, alignment, noscan in rows:
            event += 1
            if op in (ALLOC, CALLOC, REALLOC, FREE) and thread not in p_by_thread:
                p_by_thread[thread] = ordinal % procs
                ordinal += 1
            if slot >= TABLE_SLOTS:
                raise AllocatorError(
                    f"the replayer holds {TABLE_SLOTS} objects at most, and event {event} is one more"
                )
            if op in (ALLOC, CALLOC, REALLOC):
                yield ALLOCATE, noscan, p_by_thread[thread], slot, rounded_size(size, alignment, bool(noscan))
            elif op == FREE:
                yield RELEASE, 0, 0, slot, 0
            elif op == GC:
                yield COLLECT, 0, 0, 0, 0
            elif op == THREAD_END:
                p_by_thread.pop(thread, None)
            if state_every and event % state_every == 0:
                yield STATE, 0, 0, 0, 0


def rounded_size(size: int, alignment: int, noscan: bool) -> int:
    """Return the bytes that a Go program would ask for: words where there are pointers, alignment by size."""
    if not noscan:
        size = -(-size // 8) * 8
    if alignment > 8:
        size = -(-size // alignment) * alignment
    return size


def _state_bytes(records: NDArray[Any]) -> int:
    """Return room for the heap's states: at most 9 + 16 words a span and one span an allocation."""
    states = 2 + int(np.count_nonzero(records["op"] == STATE))
    allocations = int(np.count_nonzero(records["op"] == ALLOCATE))
    pages = int(records["size"].sum()) // 8192 + allocations // 8
    return states * (1 << 20) + states * min(allocations, pages + 4096) * 25 * 8
