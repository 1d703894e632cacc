"""Reads the words that hooks.go writes about a heap (harnessHeapState) into a Snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    "scavenge_goal",
    "scavenge_generation",
    "free_high_water",
    "scavenge_search",
)


def read_states(words: Sequence[int], go_version: str, greentea: bool) -> list[Snapshot]:
    """Return every heap state of a run: counts of words, each before its words."""
    states = []
    at = 0
    while at < len(words):
        count = words[at]
        states.append(_read_state(words[at + 1 : at + 1 + count], go_version, greentea))
        at += 1 + count
    return states


class _Reader:
    def __init__(self, words: Sequence[int]) -> None:
        self.words = words
        self.at = 0

    def one(self) -> int:
        self.at += 1
        return self.words[self.at - 1]

    def many(self, count: int) -> list[int]:
        self.at += count
        return list(self.words[self.at - count : self.at])

    def counted(self) -> list[int]:
        return self.many(self.one())

    def repeat(self) -> Iterator[None]:
        for _ in range(self.one()):
            yield


def _read_state(words: Sequence[int], go_version: str, greentea: bool) -> Snapshot:
    reader = _Reader(words)
    scalars = dict(zip(SCALARS, reader.counted(), strict=True))
    spans = []
    for _ in reader.repeat():
        base, pages, kind, span_class, nelems, freeindex, alloc_count, before_cache = reader.many(8)
        bits = reader.counted()
        spans.append(
            SpanRecord(base, pages, kind, span_class, nelems, freeindex, alloc_count, before_cache, bits)
        )
    processors = []
    for _ in reader.repeat():
        number, base, cache, scavenged, tiny, tiny_offset = reader.many(6)
        processors.append(
            ProcessorRecord(number, base, cache, scavenged, tiny, tiny_offset, reader.counted())
        )
    central = [(reader.counted(), reader.counted()) for _ in reader.repeat()]
    chunks = []
    for _ in reader.repeat():
        base, taken, scavenged_pages = reader.one(), reader.many(8), reader.many(8)
        in_use, last_in_use, generation, empty = reader.many(4)
        chunks.append(ChunkRecord(base, taken, scavenged_pages, in_use, last_in_use, generation, bool(empty)))
    if reader.at != len(words):
        raise AllocatorError(
            f"{go_version}: a heap state has {len(words)} words and {reader.at} were understood"
        )
    spans.sort(key=lambda span: span.base)
    return Snapshot(go_version, greentea, scalars, spans, processors, central, chunks)
