"""The replay loop for an allocator in plain Python: the twin of include/harness/replay.hpp.

What is done for every event stands in Loop._run() and takes its names from local variables. Events are
turned into Python's objects some hundreds at a time; what can wait until those are done is left to NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.allocator import (
    CALLOC,
    FREE,
    GC,
    PARTS,
    REALLOC,
    THREAD_END,
    Allocator,
    EventBatch,
    Footprint,
    Request,
)
from harness.errors import AllocatorError
from harness.native._native import PythonRows

_UNKNOWN = -1

# Python looks for cycles whenever there are 700 more tuples and the like; fewer Requests start no search.
_ROWS_AT_A_TIME = 600


class _Memory:
    """The two numbers of an allocator that does not keep them: its footprint at this moment says them."""

    def __init__(self, allocator: Allocator) -> None:
        self._footprint = allocator.footprint

    @property
    def mapped_bytes(self) -> int:
        return self._footprint().mapped or 0

    @property
    def committed_bytes(self) -> int:
        footprint = self._footprint()
        return (footprint.mapped or 0) - (footprint.released or 0)


class Loop:
    """What a replay keeps beside an allocator: its blocks by slot, exact sums and maxima."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        keeps_both = hasattr(allocator, "mapped_bytes") and hasattr(allocator, "committed_bytes")
        self.memory: Any = allocator if keeps_both else _Memory(allocator)
        self.blocks: list[Any] = []
        self.events = 0
        self.requested = 0
        self.committed_sum = 0
        self.failed_allocations = 0
        self.shortfalls: dict[int, int] = {}  # By slot: bytes that the trace says were had, and were not.
        self.failed_bytes = 0  # Their sum.
        self.peak_requested = self.peak_committed = -1  # Less than the first event's, whatever that is.
        self.peak_committed_event = 0
        self.requested_at_peak_committed = self.committed_at_peak_requested = 0
        self.peak_footprint = Footprint()
        self.recent_mapped = self.peak_mapped = self.memory.mapped_bytes
        self.recent_committed = self.memory.committed_bytes

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replay a batch; return one row of SAMPLE_COLUMNS per stop."""
        rows = PythonRows(Request, batch)
        slots = int(batch.slot.max(initial=0)) + 1
        self.blocks += [None] * (slots - len(self.blocks))
        samples: list[list[int]] = []
        begin = 0
        for end in [*stops.tolist(), len(batch.op)]:
            for first in range(begin, end, _ROWS_AT_A_TIME):
                last = min(first + _ROWS_AT_A_TIME, end)
                requested = batch.requested[first:last].astype(np.int64) - self.failed_bytes
                self._note_events(self._run(rows.part(first, last, self.blocks), requested), requested)
            if len(samples) < len(stops):
                samples.append(self._sample())
            begin = end
        return np.array(samples, np.int64).reshape(-1, len(Footprint._fields) + 2)

    def _run(self, rows: tuple[list[int], list[int], list[Any]], requested: NDArray[np.int64]) -> list[int]:
        """Replay some rows; return the committed bytes after each."""
        memory, blocks, shortfalls = self.memory, self.blocks, self.shortfalls
        allocate, release = self.allocator.allocate, self.allocator.release
        committed: list[int] = []
        # No maximum changes while neither is exceeded.
        committed_bound = min(self.recent_committed, self.peak_committed)
        mapped_bound = self.recent_mapped
        for op, slot, handed in zip(*rows, strict=True):
            if op == FREE:
                block = blocks[slot]
                blocks[slot] = None
                if shortfalls:
                    self._make_up(slot, requested, len(committed))
                if block is not None:
                    release(block, handed)
            elif op <= CALLOC:
                block = blocks[slot] = allocate(handed)
                if block is None:
                    self._fall_short(slot, requested, len(committed))
            elif op == REALLOC:
                self._reallocate(slot, handed, requested, len(committed))
            elif op == GC:
                self.allocator.collect()
            elif op == THREAD_END:
                self.allocator.thread_end(handed)
            committed_now = memory.committed_bytes
            committed.append(committed_now)
            if committed_now > committed_bound or memory.mapped_bytes > mapped_bound:
                self._note_rise(committed_now, requested, len(committed) - 1)
                committed_bound = min(self.recent_committed, self.peak_committed)
                mapped_bound = self.recent_mapped
        return committed

    def _reallocate(self, slot: int, request: Request, requested: NDArray[np.int64], row: int) -> None:
        old = self.blocks[slot]
        allocator = self.allocator
        block = allocator.allocate(request) if old is None else allocator.reallocate(old, request)
        if block is None:
            self._fall_short(slot, requested, row)
        else:
            self.blocks[slot] = block
            self._make_up(slot, requested, row)

    def _fall_short(self, slot: int, requested: NDArray[np.int64], row: int) -> None:
        """Leave the program with what it had: what the trace says that it holds is wrong from here on."""
        before = int(requested[row - 1]) if row else self.requested
        growth = int(requested[row]) - before
        self.failed_allocations += 1
        self.shortfalls[slot] = self.shortfalls.get(slot, 0) + growth
        self.failed_bytes += growth
        requested[row:] -= growth

    def _make_up(self, slot: int, requested: NDArray[np.int64], row: int) -> None:
        """Forget what an object lacked, now that it is gone or has all of its bytes."""
        shortfall = self.shortfalls.pop(slot, 0)
        self.failed_bytes -= shortfall
        requested[row:] += shortfall

    def _note_rise(self, committed: int, requested: NDArray[np.int64], row: int) -> None:
        mapped = self.memory.mapped_bytes
        if mapped > self.recent_mapped:
            self.recent_mapped = mapped
            self.peak_mapped = max(self.peak_mapped, mapped)
        if committed > self.recent_committed:
            self.recent_committed = committed
        if committed > self.peak_committed:
            self.peak_committed = committed
            self.requested_at_peak_committed = int(requested[row])
            self.peak_committed_event = self.events + row
            self.peak_footprint = self.allocator.footprint()

    def _note_events(self, committed: list[int], requested: NDArray[np.int64]) -> None:
        peak = int(requested.argmax())  # The first of several.
        if requested[peak] > self.peak_requested:
            self.peak_requested = int(requested[peak])
            self.committed_at_peak_requested = committed[peak]
        self.committed_sum += sum(committed)
        self.requested = int(requested[-1])
        self.events += len(committed)

    def _sample(self) -> list[int]:
        footprint = self.allocator.footprint()
        self._check(footprint)
        row = [_UNKNOWN if value is None else value for value in footprint]
        row += [self.recent_mapped, self.recent_committed]
        self.recent_mapped = self.memory.mapped_bytes
        self.recent_committed = self.memory.committed_bytes
        return row

    def _check(self, footprint: Footprint) -> None:
        parts = footprint[: len(PARTS)]
        if any(part is None for part in parts) or footprint.mapped is None:
            return  # What cannot be known cannot be added up.
        total = sum(part for part in parts if part is not None)
        if total != footprint.mapped:
            raise AllocatorError(
                f"after event {self.events}: the footprint's parts add up to {total}, "
                f"not to mapped {footprint.mapped}"
            )
        committed = footprint.mapped - (footprint.released or 0)
        for name, kept, said in (
            ("mapped_bytes", self.memory.mapped_bytes, footprint.mapped),
            ("committed_bytes", self.memory.committed_bytes, committed),
        ):
            if kept != said:
                raise AllocatorError(
                    f"after event {self.events}: {name} is {kept}, but {said} by the footprint"
                )
        if footprint.live is not None and self.requested > footprint.live:
            raise AllocatorError(
                f"after event {self.events}: requested bytes {self.requested} exceed live {footprint.live}"
            )
        for name, part in zip(PARTS, parts, strict=True):
            if part is not None and part < 0:
                raise AllocatorError(
                    f"after event {self.events}: {name} is {part}, expected no negative number"
                )


def feed_python(allocator: Allocator, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """Replay a batch against an allocator in plain Python."""
    return _loop_of(allocator).feed(batch, stops)


def result_python(allocator: Allocator) -> dict[str, Any]:
    """Return what the loop kept, in the form of NativeAllocator.result()."""
    loop = _loop_of(allocator)
    return {
        "committed_sum": loop.committed_sum,
        "peak_mapped": loop.peak_mapped,
        "peak_committed": max(loop.peak_committed, 0),
        "requested_at_peak_committed": loop.requested_at_peak_committed,
        "peak_committed_event": loop.peak_committed_event,
        "committed_at_peak_requested": loop.committed_at_peak_requested,
        "failed_allocations": loop.failed_allocations,
        "has_realloc": type(allocator).reallocate is not Allocator.reallocate,
        "peak_footprint": loop.peak_footprint._asdict(),
        "end_footprint": allocator.footprint()._asdict(),
        "counters": allocator.counters(),
        "classes": [],
    }


def _loop_of(allocator: Allocator) -> Loop:
    # By attribute: an object whose __dict__ was asked for is slower at every attribute from then on.
    loop = allocator._loop
    if loop is None:
        loop = Loop(allocator)
        allocator._loop = loop
    return loop
