"""What costs are measured on: the user's traces, and small synthetic programs that each stress one path.

All on one thread: real allocators are timed on one, and a model must take the paths that the timed one took.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from harness import distributions
from harness.allocator import ALLOC, FREE, REALLOC, THREAD_END, EventBatch
from harness.errors import HarnessError
from harness.native._native import Generator
from harness.trace import RawColumns, RowChecker, TraceReader

# Of a longer trace so many events are enough, and all of them stay in memory.
MOST_EVENTS = 2_000_000

_EVENTS = 300_000
_SEED = 1


@dataclass(frozen=True)
class Workload:
    """Checked events of one thread, and what they come to."""

    name: str
    batches: list[EventBatch]
    totals: dict[str, int]
    recorded: bool  # A trace's, not made here.


def of_trace(path: str) -> Workload:
    """Return a trace's first MOST_EVENTS events; TraceError where the trace has a fault or no event."""
    reader = TraceReader(path)
    left = MOST_EVENTS
    parts: list[RawColumns] = []
    for raw in reader.raw_batches(
        columns=[name for name in reader.columns if name not in ("site", "time_ns")]
    ):
        parts.append({name: values[:left] for name, values in raw.items()})
        left -= len(parts[-1]["op"])
        if left <= 0:
            break
    if not any(len(part["op"]) for part in parts):
        raise HarnessError(f"{path}: has no events, and nothing to measure; expected a trace of a program")
    return _workload(PurePath(path).stem, parts, recorded=True)


def synthetic() -> Iterator[Workload]:
    """Yield the programs that are made here."""
    for name, (sizes, burst) in _BURSTS.items():
        yield _workload(name, [_bursts(np.array(sizes, np.uint64), burst, noscan=False)])
    # Pages that nobody has touched are one page of zeroes in memory, and marking them takes less than a heap
    # does whose objects are used: large objects are made without pointers.
    yield _workload("objects of some KiB", [_bursts(_SOME_KIB, 40, noscan=True)])
    yield _workload("large objects", [_bursts(_LARGE, 64, noscan=True)])
    yield _workload("tiny objects", [_bursts(np.arange(1, 16, dtype=np.uint64), 64, noscan=True)])
    yield _workload("without pointers", [_bursts(_SMALL, 2_000, noscan=True)])
    yield _workload("growing arrays", [_growing_arrays()])
    yield _workload("growing heap", [_growing_heap()])
    yield _generated("few objects", live=2_000)
    yield _generated("many objects", live=60_000)
    for number in (1, 4):
        name = f"fleetbench-{number}"
        yield _generated(name, live=10_000, sizes=name)


_SMALL = np.array([16, 24, 32, 48, 64, 96, 128, 256], np.uint64)
_SOME_KIB = np.array([4 << 10, 6 << 10, 12 << 10, 24 << 10], np.uint64)
_LARGE = np.array([40 << 10, 100 << 10, 300 << 10, 600 << 10], np.uint64)

# Sizes, taken in turn, and how many objects are made before all are freed, the youngest first.
_BURSTS: dict[str, tuple[Sequence[int], int]] = {
    "hits": (_SMALL.tolist(), 16),
    "refills": ([64], 20_000),
    "refills of several sizes": ([32, 80, 176, 400, 1024, 2048], 20_000),
    "spans": ([8 << 10], 4_000),
}


def _bursts(sizes: NDArray[np.uint64], burst: int, *, noscan: bool) -> RawColumns:
    # Bytes are what a garbage collector counts: programs of large objects are made shorter.
    mean = float(sizes.mean())
    rounds = max(2, min(_EVENTS, int(4e9 / mean)) // (2 * burst))
    up = np.arange(burst, dtype=np.uint64)
    count = rounds * 2 * burst
    op = np.tile(np.repeat(np.array([ALLOC, FREE], np.uint8), burst), rounds)
    size = np.where(op == ALLOC, np.resize(sizes, count), 0).astype(np.uint64)
    return _columns(op, np.tile(np.concatenate([up, up[::-1]]), rounds), size, noscan)


def _growing_arrays() -> RawColumns:
    """Arrays that double from 32 bytes to 64 KiB, eight side by side, as vectors and strings do."""
    steps = 12
    arrays = np.arange(8, dtype=np.uint64)
    op = np.repeat(np.array([ALLOC, *[REALLOC] * (steps - 1), FREE], np.uint8), len(arrays))
    size = np.repeat(np.array([*(32 << step for step in range(steps)), 0], np.uint64), len(arrays))
    rounds = _EVENTS // 10 // len(op)
    objects = np.tile(arrays, (steps + 1) * rounds)
    return _columns(np.tile(op, rounds), objects, np.tile(size, rounds), noscan=True)


def _growing_heap() -> RawColumns:
    """Objects that are all kept: every byte comes from the system."""
    count = 60_000
    size = np.resize(np.array([64, 256, 1024, 3000], np.uint64), count)
    return _columns(np.full(count, ALLOC, np.uint8), np.arange(count, dtype=np.uint64), size, noscan=False)


def _columns(
    op: NDArray[np.uint8], objects: NDArray[np.uint64], size: NDArray[np.uint64], noscan: bool
) -> RawColumns:
    return {
        "op": op,
        "thread": np.zeros(len(op), np.uint32),
        "object": objects,
        "size": size,
        "noscan": np.full(len(op), noscan, np.uint8),
    }


def _generated(name: str, *, live: int, sizes: str | None = None) -> Workload:
    generator = Generator(seed=_SEED)
    drawn = distributions.load(sizes)._asdict() if sizes else {"sizes": [], "weights": [], "live_weights": []}
    generator.begin_phase(
        live=live,
        threads=1,
        remote_free=0.0,
        noscan=0.5,
        size_mu=0.0 if sizes else 4.5,
        size_sigma=0.0 if sizes else 1.5,
        lifetimes="exponential",
        short_lived=0.0,
        short_life=0.0,
        **drawn,
    )
    raw = generator.next(_EVENTS)
    return _workload(name, [{column: values for column, values in raw.items() if column != "time_ns"}])


def _workload(name: str, parts: Sequence[RawColumns], *, recorded: bool = False) -> Workload:
    checker = RowChecker(name)
    batches = [checker.check(_of_one_thread(part)) for part in parts]
    return Workload(name, batches, checker.totals(), recorded)


def _of_one_thread(raw: RawColumns) -> RawColumns:
    keeps = raw["op"] != THREAD_END
    kept = {name: values[keeps] for name, values in raw.items()}
    return kept | {"thread": np.zeros(int(keeps.sum()), np.uint32)}
