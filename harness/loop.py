"""The replay loop for an allocator in plain Python: the twin of include/harness/replay.hpp."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.allocator import (
    ALLOC,
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

_UNKNOWN = -1


class Loop:
    """What a replay keeps beside an allocator: its blocks by slot, exact sums and maxima."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.blocks: dict[int, Any] = {}
        self.held: dict[int, int] = {}  # Bytes that the program got of each live object.
        self.events = 0
        self.requested = 0
        self.committed_sum = 0
        self.peak_mapped = self.peak_committed = 0
        self.peak_committed_event = 0
        self.peak_requested = 0
        self.requested_at_peak_committed = self.committed_at_peak_requested = 0
        self.failed_allocations = 0
        self.peak_footprint = Footprint()
        self.recent_mapped = self.recent_committed = 0
        self._note_committed(allocator.footprint())

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replay a batch; return one row of SAMPLE_COLUMNS per stop."""
        samples: list[list[int]] = []
        columns = (batch.op, batch.thread, batch.slot, batch.size, batch.alignment, batch.noscan)
        begin = 0
        for end in [*stops.tolist(), len(batch.op)]:
            for row in zip(*(column[begin:end].tolist() for column in columns), strict=True):
                self._step(*row)
            if len(samples) < len(stops):
                samples.append(self._sample())
            begin = end
        return np.array(samples, np.int64).reshape(-1, len(Footprint._fields) + 2)

    def _step(self, op: int, thread: int, slot: int, size: int, alignment: int, noscan: int) -> None:
        allocator = self.allocator
        if op == FREE:
            block = self.blocks.pop(slot, None)
            self.requested -= self.held.pop(slot, 0)
            if block is not None:
                allocator.release(block, thread)
        elif op in (ALLOC, CALLOC):
            self._keep(
                slot, size, allocator.allocate(Request(size, alignment, bool(noscan), op == CALLOC, thread))
            )
        elif op == REALLOC:
            request = Request(size, alignment, bool(noscan), False, thread)
            old = self.blocks.get(slot)
            self._keep(
                slot, size, allocator.allocate(request) if old is None else allocator.reallocate(old, request)
            )
        elif op == GC:
            allocator.collect()
        elif op == THREAD_END:
            allocator.thread_end(thread)
        self._note_event()

    def _keep(self, slot: int, size: int, block: Any) -> None:
        if block is None:  # The program is left with what it had.
            self.failed_allocations += 1
            return
        self.requested += size - self.held.get(slot, 0)
        self.held[slot] = size
        self.blocks[slot] = block

    def _note_event(self) -> None:
        footprint = self.allocator.footprint()
        committed = self._note_committed(footprint)
        self.committed_sum += committed
        if self.requested > self.peak_requested or self.events == 0:
            self.peak_requested = self.requested
            self.committed_at_peak_requested = committed
        if committed > self.peak_committed or self.events == 0:
            self.peak_committed = committed
            self.requested_at_peak_committed = self.requested
            self.peak_committed_event = self.events
            self.peak_footprint = footprint
        self.events += 1

    def _note_committed(self, footprint: Footprint) -> int:
        mapped = footprint.mapped or 0
        committed = mapped - (footprint.released or 0)
        self.recent_mapped = max(self.recent_mapped, mapped)
        self.recent_committed = max(self.recent_committed, committed)
        self.peak_mapped = max(self.peak_mapped, mapped)
        return committed

    def _sample(self) -> list[int]:
        footprint = self.allocator.footprint()
        self._check(footprint)
        row = [_UNKNOWN if value is None else value for value in footprint]
        row += [self.recent_mapped, self.recent_committed]
        self.recent_mapped = footprint.mapped or 0
        self.recent_committed = self.recent_mapped - (footprint.released or 0)
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
        "peak_committed": loop.peak_committed,
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
    loop: Loop | None = allocator.__dict__.get("_loop")
    if loop is None:
        loop = allocator.__dict__["_loop"] = Loop(allocator)
    return loop
