"""Reads the words that hooks.go writes about a heap (harnessHeapState) and about its collections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import AllocatorError

from ..snapshot import ChunkRecord, ProcessorRecord, Snapshot, SpanRecord

# In the order of hooks.go: scalars. Bytes, but for generations, sweep_done and the two addresses at the end.
SCALARS = (
    "sweepgen",
    "arena_end",
    "heap_in_use",
    "heap_free",
    "heap_released",
    "heap_live",
    "heap_marked",
    "total_alloc",
    "total_free",
    "mapped_ready",
    "trigger",
    "goal",
    "globals_scan",
    "stack_scan",
    "last_heap_goal",
    "sweep_dist_min_trigger",
    "sweep_done",
    "finalizer_bytes",
    "pages_swept",
    "root_work",
    "scavenge_goal",
    "scavenge_generation",
    "free_high_water",
    "scavenge_search",
)


# In the order of hooks.go: a span. Its kind is one of snapshot.py's.
SPAN = (
    "base",
    "pages",
    "kind",
    "span_class",
    "nelems",
    "freeindex",
    "alloc_count",
    "alloc_count_before_cache",
    "page_marked",
    "words",
)

# In the order of hooks.go: a chunk's base, eight words of taken pages, eight of scavenged ones, and four of
# the scavenge index.
CHUNK_WORDS = 21

# In the order of hooks.go: what one collection found. Bytes and nanoseconds, but for the count at the end.
CYCLE = (
    "heap_live",  # When it began.
    "start_ns",
    "heap_marked",
    "end_ns",
    "stack_scan",
    "heap_scan_work",
    "assist_ns",
    "worker_ns",  # Of dedicated and fractional workers.
    "idle_ns",  # Of workers on idle Ps.
    "work_buffer_spans",  # Each takes four pages.
)


@dataclass(frozen=True)
class HeapState:
    """The heap of a real process at one moment: tables of words, as the process wrote them."""

    go: str  # As `go env GOVERSION` says it.
    greentea: bool
    scalars: dict[str, int]
    spans: NDArray[np.uint64]  # Rows of SPAN, in the order in which the process lists them.
    alloc_bits: NDArray[np.uint64]  # Of one span after the other.
    processors: list[ProcessorRecord]
    central: list[tuple[list[int], list[int]]]
    chunks: NDArray[np.uint64]  # Rows of CHUNK_WORDS.

    def snapshot(self) -> Snapshot:
        """Return it as a start for the model."""
        ends = np.cumsum(self.spans[:, -1])
        spans = [
            SpanRecord(*[*row[:-1], self.alloc_bits[end - row[-1] : end].tolist()])
            for row, end in zip(self.spans.tolist(), ends.tolist(), strict=True)
        ]
        chunks = [
            ChunkRecord(base, row[0:8], row[8:16], row[16], row[17], row[18], bool(row[19]))
            for base, *row in self.chunks.tolist()
        ]
        spans.sort(key=lambda span: span.base)
        return Snapshot(self.go, self.greentea, self.scalars, spans, self.processors, self.central, chunks)


def read_state(words: NDArray[np.uint64], go_version: str, greentea: bool) -> HeapState:
    """Return the heap's state; AllocatorError where the words are not as many as they say."""
    reader = _Reader(words)
    scalars = dict(zip(SCALARS, reader.counted().tolist(), strict=True))
    spans = reader.rows(len(SPAN))
    alloc_bits = reader.counted()
    processors = []
    for _ in reader.repeat():
        processors.append(ProcessorRecord(*[*reader.many(6).tolist(), reader.counted().tolist()]))
    central = [(reader.counted().tolist(), reader.counted().tolist()) for _ in reader.repeat()]
    chunks = reader.rows(CHUNK_WORDS)
    if reader.at != len(words):
        raise AllocatorError(
            f"{go_version}: a heap state has {len(words)} words and {reader.at} were understood"
        )
    return HeapState(go_version, greentea, scalars, spans, alloc_bits, processors, central, chunks)


class _Reader:
    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words = words
        self.at = 0

    def many(self, count: int) -> NDArray[np.uint64]:
        self.at += count
        return self.words[self.at - count : self.at]

    def one(self) -> int:
        return int(self.many(1)[0])

    def counted(self) -> NDArray[np.uint64]:
        return self.many(self.one())

    def rows(self, width: int) -> NDArray[np.uint64]:
        return self.many(self.one() * width).reshape(-1, width)

    def repeat(self) -> Iterator[None]:
        for _ in range(self.one()):
            yield
