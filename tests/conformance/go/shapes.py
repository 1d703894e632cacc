"""Random programs by shape and seed for the Go model: the events of a trace.

A shape is a kind of program that leads Go's heap down particular paths; the seed chooses sizes and order. The
same shape and seed give the same program on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from go_support import BOUNDARY_SIZES, Row, batch_of, boundary_size, pareto_size

from harness.allocator import ALLOC, FREE, GC, REALLOC, THREAD_END, EventBatch

KIB, MIB = 1 << 10, 1 << 20

SizeOf = Callable[[Random], int]

# Allocations of a small program and of a large one.
SMALL, LARGE = 40_000, 300_000

# Every size that has a class, and every one around the multiples of a page up to 64 pages.
SMALL_SIZES = range(33_001)
PAGE_SIZES = [pages * 8192 + off for pages in range(4, 65) for off in (-8, -1, 0, 1, 8)]


class Writer:
    """Notes what a program does, event by event."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.rows: list[Row] = []
        self.live: list[int] = []
        self.allocated = 0
        self.thread = 0
        self._spare: list[int] = []
        self._names = 0

    def allocate(self, size: int, noscan: bool) -> int:
        """Allocate an object and keep it."""
        if self._spare:
            name = self._spare.pop()
        else:
            name = self._names
            self._names += 1
        self.rows.append((ALLOC, self.thread, name, size, noscan))
        self.live.append(name)
        self.allocated += 1
        return name

    def free_at(self, index: int) -> None:
        """Let one of the kept objects die."""
        live = self.live
        live[index], live[-1] = live[-1], live[index]
        name = live.pop()
        self._spare.append(name)
        self.rows.append((FREE, self.thread, name, 0, False))

    def free_any(self) -> None:
        """Let any of them die."""
        self.free_at(self.random.randrange(len(self.live)))

    def free_recent(self) -> None:
        """Let one of the youngest die."""
        self.free_at(max(0, len(self.live) - 1 - self.random.randrange(64)))


def _noscan(random: Random, of_256: int) -> bool:
    return random.getrandbits(8) < of_256


def _churn(w: Writer, allocations: int, size_of: SizeOf, noscan_of_256: int, frees_of_256: int) -> None:
    stop = w.allocated + allocations
    while w.allocated < stop:
        if w.live and w.random.getrandbits(8) < frees_of_256:
            w.free_any() if w.random.getrandbits(1) else w.free_recent()
        else:
            w.allocate(size_of(w.random), _noscan(w.random, noscan_of_256))


def _mixed(w: Writer, count: int) -> None:
    """All sizes up to 400 KB."""
    _churn(w, count, pareto_size, 128, 100 + w.random.randrange(27))


def _boundaries(w: Writer, count: int) -> None:
    """Sizes around every rule."""
    _churn(w, count, boundary_size, 160, 110 + w.random.randrange(17))


def _small(w: Writer, count: int) -> None:
    """Headers, one and more pages a span."""
    _churn(w, count, partial(pareto_size, least=64, most=3000), 60 + w.random.randrange(160), 122)


def _tiny(w: Writer, count: int) -> None:
    """Tiny objects that share blocks, and die one by one."""
    _churn(w, count, lambda random: random.randrange(1, 20), 220, 122)


def _pointers(w: Writer, count: int) -> None:
    """Objects with pointers only, so that marking needs many work buffers."""
    _churn(w, count, partial(pareto_size, least=8, most=1200), 0, 118)


def _bytes(w: Writer, count: int) -> None:
    """No pointers at all."""
    _churn(w, count, partial(pareto_size, least=16, most=20_000), 256, 122)


def _large(w: Writer, count: int) -> None:
    """Objects with a span of their own, up to 3 MiB, among small ones."""

    def size_of(random: Random) -> int:
        if random.getrandbits(5):
            return random.randrange(16, 4000)
        return random.randrange(30 * KIB, 3 * MIB >> random.randrange(7))

    _churn(w, count, size_of, 128, 125)


def _waves(w: Writer, count: int) -> None:
    """A heap that grows and shrinks."""
    most = count // 6
    while w.allocated < count:
        _churn(w, min(most, count - w.allocated), partial(pareto_size, least=32, most=60_000), 128, 60)
        for _ in range(len(w.live) * 4 // 5):
            w.free_any()


def _phases(w: Writer, count: int) -> None:
    """Phases of a size each: spans of one class must become those of another."""
    for phase in range(8):
        size = 16 << w.random.randrange(11)
        _churn(w, count // 8, lambda random, size=size: random.randrange(size, 2 * size), 128, 100)
        keep = len(w.live) // 10
        while len(w.live) > keep:
            w.free_at(len(w.live) - 1) if phase % 2 else w.free_any()


def _steady(w: Writer, count: int) -> None:
    """A constant heap, the oldest object replaced first."""
    size_of = partial(pareto_size, least=8, most=5000)
    for _ in range(min(5_000, count // 4)):
        w.allocate(size_of(w.random), _noscan(w.random, 128))
    oldest = 0
    while w.allocated < count:
        w.free_at(oldest % len(w.live))
        oldest += 1
        w.allocate(size_of(w.random), _noscan(w.random, 128))


def _growing(w: Writer, count: int) -> None:
    """Slices that are appended to: realloc to twice the size, and no object of its own dies."""
    sizes: dict[int, tuple[int, bool]] = {}
    while w.allocated + len(w.rows) // 2 < count:
        if sizes and w.random.getrandbits(1):
            name = w.live[w.random.randrange(len(w.live))]
            size, noscan = sizes[name]
            size = size * 2 if size < 300 * KIB else 8
            sizes[name] = (size, noscan)
            w.rows.append((REALLOC, w.thread, name, size, noscan))
        elif len(w.live) > 3000:
            sizes.pop(w.live[-1])
            w.free_at(len(w.live) - 1)
        else:
            noscan = _noscan(w.random, 128)
            sizes[w.allocate(8, noscan)] = (8, noscan)


def _aligned_words(w: Writer, count: int) -> None:
    """Sizes that the table of classes hits or just misses."""
    sizes = [size + off for size in BOUNDARY_SIZES for off in (-8, 0, 8) if size + off >= 0]
    _churn(w, count, lambda random: sizes[random.randrange(len(sizes))], 128, 120)


def _every_size(w: Writer, count: int) -> None:
    """Every size from 0 to 33,000, with and without pointers, and around the multiples of a page."""
    for noscan in (False, True):
        for size in (*SMALL_SIZES, *PAGE_SIZES):
            w.allocate(size, noscan)
            if size % 3:
                w.free_at(len(w.live) - 1)


def _threads(w: Writer, count: int) -> None:
    """Four threads that take turns, and end."""
    while w.allocated < count:
        w.thread = w.random.randrange(4)
        _churn(w, 64, pareto_size, 128, 100)
        if w.random.getrandbits(9) == 0:
            w.rows.append((THREAD_END, w.thread, 0, 0, False))


def _many_threads(w: Writer, count: int) -> None:
    """Twelve threads: more than there are Ps."""
    while w.allocated < count:
        w.thread = w.random.randrange(12)
        _churn(w, 200, partial(pareto_size, least=8, most=9000), 150, 110)


SHAPES: dict[str, Callable[[Writer, int], None]] = {
    "mixed": _mixed,
    "boundaries": _boundaries,
    "small": _small,
    "tiny": _tiny,
    "pointers": _pointers,
    "bytes": _bytes,
    "large": _large,
    "waves": _waves,
    "phases": _phases,
    "steady": _steady,
    "growing": _growing,
    "aligned_words": _aligned_words,
    "every_size": _every_size,
    "threads": _threads,
    "many_threads": _many_threads,
}

# Explicit collections in a program that has some: so many, evenly.
COLLECTIONS = 6


def program(shape: str, seed: int, allocations: int, collects: bool) -> EventBatch:
    """Return the events of a random program, with explicit collections where it `collects`."""
    writer = Writer(seed)
    SHAPES[shape](writer, allocations)
    rows = writer.rows
    if collects:
        every = len(rows) // (COLLECTIONS + 1)
        for at in range(COLLECTIONS, 0, -1):
            rows.insert(at * every, (GC, 0, 0, 0, False))
    return batch_of(rows)
