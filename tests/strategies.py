"""Hypothesis strategies for traces that a real program could have produced, whatever allocator replays them.

A trace is drawn as a short list of actions, each repeated, so that a few choices fill and drain whole caches.
Every list is valid: indexes are taken modulo what there is, which also makes it shrink well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, THREAD_END, EventBatch
from harness.native._native import Checker

THREADS = 3


class Allocate(NamedTuple):
    """Allocate objects of one size."""

    op: int
    size: int  # Index into the trace's sizes.
    alignment: int
    thread: int
    noscan: bool
    count: int


class Reallocate(NamedTuple):
    """Resize live objects."""

    pick: int  # Index into the live objects.
    size: int
    thread: int
    count: int


class Release(NamedTuple):
    """Free live objects."""

    pick: int
    thread: int
    count: int


class End(NamedTuple):
    """End a thread; if it is seen again it is a new one."""

    thread: int


class Collect(NamedTuple):
    """Ask for a garbage collection."""

    thread: int


Action = Allocate | Reallocate | Release | End | Collect
Row = tuple[int, int, int, int, int, bool]  # op, thread, object, size, alignment, noscan

_thread = st.integers(0, THREADS - 1)
_count = st.integers(1, 40)
_index = st.integers(0, 60)
# Off-by-one lives at class boundaries and at the ends of small and large, so sizes are drawn next to them.
_BOUNDARIES = (8, 16, 64, 1024, 2048, 8192, 16_384, 28_672, 32_768, 65_536, 262_144, 1 << 20, 3 << 20)
_size = st.one_of(
    st.integers(0, 128),
    st.integers(1, 40_000),
    st.builds(int.__add__, st.sampled_from(_BOUNDARIES), st.integers(-1, 1)),
)
_alignment = st.sampled_from((0,) * 6 + (16, 64, 4096, 8192, 16_384, 1 << 20))
# Few sizes a trace, so that objects meet in the same caches.
_sizes = st.lists(_size, min_size=1, max_size=3)
_actions = st.lists(
    st.one_of(
        st.builds(
            Allocate, st.sampled_from((ALLOC, CALLOC)), _index, _alignment, _thread, st.booleans(), _count
        ),
        st.builds(Reallocate, _index, _index, _thread, _count),
        st.builds(Release, _index, _thread, _count),
        st.builds(End, _thread),
        st.builds(Collect, _thread),
    )
)


class _Program:
    """Carries out actions on the objects that it holds, and notes what it did."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.live: list[int] = []
        self.allocated = 0
        self.rows: list[Row] = []

    def perform(self, action: Action) -> None:
        match action:
            case Allocate(op, size, alignment, thread, noscan, count):
                for _ in range(count):
                    self.live.append(self.allocated)
                    self.rows.append((op, thread, self.allocated, self._size(size), alignment, noscan))
                    self.allocated += 1
            case Reallocate(pick, size, thread, count):
                for step in range(min(count, len(self.live))):
                    name = self.live[(pick + step) % len(self.live)]
                    self.rows.append((REALLOC, thread, name, self._size(size), 0, False))
            case Release(pick, thread, count):
                for _ in range(min(count, len(self.live))):
                    name = self.live.pop(pick % len(self.live))
                    self.rows.append((FREE, thread, name, 0, 0, False))
            case End(thread):
                self.rows.append((THREAD_END, thread, 0, 0, 0, False))
            case Collect(thread):
                self.rows.append((GC, thread, 0, 0, 0, False))

    def _size(self, index: int) -> int:
        return self.sizes[index % len(self.sizes)]


def _checked(rows: list[Row]) -> EventBatch:
    op, thread, name, size, alignment, noscan = zip(*rows, strict=True) if rows else ((),) * 6
    columns = Checker(noscan_fraction=0.0, override_noscan=False).check(
        np.array(op, np.uint8),
        np.array(thread, np.uint32),
        np.array(name, np.uint64),
        np.array(size, np.uint64),
        np.array(alignment, np.uint32),
        np.array(noscan, np.uint8),
        None,
    )
    return EventBatch(*columns)


def _perform(sizes: list[int], actions: list[Action], releases_all: bool) -> EventBatch:
    program = _Program(sizes)
    for action in actions:
        program.perform(action)
    if releases_all:
        program.perform(Release(0, 0, len(program.live)))
    return _checked(program.rows)


def traces(*, releases_all: bool = False) -> st.SearchStrategy[EventBatch]:
    """Return traces of a few threads; with `releases_all`, none leaves an object behind."""
    return st.builds(_perform, _sizes, _actions, st.just(releases_all))


def every_event(events: EventBatch) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return a stop after each event of a batch."""
    return np.arange(1, len(events.op) + 1, dtype=np.int64)
