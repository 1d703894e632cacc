"""The heap of a real Go process at one moment: the start of a model, the end of a run of the real runtime.

A file is one JSON object with the key ``schema`` = ``harness-go-heap/1``. Addresses and bytes are integers;
bitmaps are lists of 64-bit words, lowest bit first. runtime/ writes it, Go(start="snapshot") reads it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import AllocatorError

from ._go import Snapshot as _NativeSnapshot
from ._go import size_class_table

SCHEMA = "harness-go-heap/1"

PAGE_BYTES = 8192
CHUNK_BYTES = 4 << 20
SPAN_CLASSES = 136

# What the C++ twin calls by the same names.
NATIVE_SCALARS = (
    "arena_end",
    "heap_live",
    "heap_marked",
    "total_alloc",
    "total_free",
    "last_heap_goal",
    "sweep_dist_min_trigger",
    "finalizer_bytes",
    "pages_swept",
    "root_work",
    "scavenge_goal",
    "scavenge_generation",
    "free_high_water",
    "scavenge_search",
)

# Kinds of spans.
HEAP, STACK, WORK_BUFFER = range(3)


@dataclass
class SpanRecord:
    """One span: pages cut into slots, or held by the runtime itself."""

    base: int
    pages: int
    kind: int  # HEAP, STACK or WORK_BUFFER.
    span_class: int
    nelems: int
    freeindex: int
    alloc_count: int
    alloc_count_before_cache: int  # Of a cached span: what the statistics have counted of it.
    page_marked: int  # Whether the last cycle noted on the span's first page that something in it is marked.
    alloc_bits: list[int]  # As the last sweep left them; slots below freeindex are allocated besides.


@dataclass
class ProcessorRecord:
    """What one P keeps: its page cache, its tiny block, its cached span of each span class (0: none)."""

    number: int
    page_cache_base: int
    page_cache: int
    page_cache_scavenged: int
    tiny: int
    tiny_offset: int
    cached: list[int]


@dataclass
class ChunkRecord:
    """4 MiB of pages: which are taken, which scavenged, and what the scavenge index knows."""

    base: int
    taken: list[int]
    scavenged: list[int]
    in_use: int
    last_in_use: int
    generation: int
    empty: bool


@dataclass
class Snapshot:
    """A whole heap; ``central``: each span class's swept partial and swept full spans, first out first."""

    go: str  # As `go env GOVERSION` says it.
    greentea: bool
    scalars: dict[str, int]
    spans: list[SpanRecord]
    processors: list[ProcessorRecord]
    central: list[tuple[list[int], list[int]]]
    chunks: list[ChunkRecord]
    schema: str = field(default=SCHEMA)

    @property
    def metadata_bytes(self) -> int:
        """The runtime's memory outside of the heap, as the memory limit counts it."""
        manual = sum(span.pages for span in self.spans if span.kind != HEAP) * PAGE_BYTES
        scalars = self.scalars
        return scalars["mapped_ready"] - scalars["heap_in_use"] - scalars["heap_free"] - manual

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Read a file; AllocatorError where it is no such snapshot."""
        try:
            text = path.read_text()
        except OSError as error:
            raise AllocatorError(f"go: the snapshot {path} cannot be read: {error.strerror}") from error
        try:
            return cls.from_json(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise AllocatorError(f"go: {path} is no snapshot of the schema {SCHEMA}: {error}") from error

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Snapshot:
        """Return what to_json() was made from; ValueError, TypeError or KeyError for other fields."""
        if fields.get("schema") != SCHEMA:
            raise ValueError(f"schema is {fields.get('schema')!r}")
        snapshot = cls(
            **fields
            | {
                "spans": [SpanRecord(*row) for row in fields["spans"]],
                "processors": [ProcessorRecord(*row) for row in fields["processors"]],
                "central": [(partial, full) for partial, full in fields["central"]],
                "chunks": [ChunkRecord(*row) for row in fields["chunks"]],
            }
        )
        snapshot.check()
        return snapshot

    def check(self) -> None:
        """Raise ValueError where the parts contradict one another, so that no model begins with them."""
        bases = {span.base for span in self.spans}
        first = {chunk.base for chunk in self.chunks}
        slots = {
            index * 2 + noscan: (noscan_slots if noscan else scan_slots, pages)
            for index, _, pages, scan_slots, noscan_slots in size_class_table(self.greentea)
            for noscan in (0, 1)
        }
        for span in self.spans:
            if span.base % PAGE_BYTES or span.base // CHUNK_BYTES * CHUNK_BYTES not in first:
                raise ValueError(f"the span at {span.base} lies in no chunk")
            if span.kind != HEAP:
                continue
            nelems, pages = slots.get(span.span_class, (1, span.pages))
            words = (nelems + 63) // 64
            if (
                not 0 <= span.span_class < SPAN_CLASSES
                or (span.nelems, span.pages, len(span.alloc_bits)) != (nelems, pages, words)
                or not 0 <= span.alloc_count <= nelems
                or not 0 <= span.freeindex <= nelems
            ):
                raise ValueError(f"the span at {span.base} is none of its span class {span.span_class}")
        named = [base for partial, full in self.central for base in (*partial, *full)]
        named += [base for processor in self.processors for base in processor.cached if base]
        named += [
            processor.tiny // PAGE_BYTES * PAGE_BYTES for processor in self.processors if processor.tiny
        ]
        for base in named:
            if base not in bases:
                raise ValueError(f"a list names a span at {base}, and there is none")
        if len(self.central) != SPAN_CLASSES or any(len(p.cached) != SPAN_CLASSES for p in self.processors):
            raise ValueError(f"there are {SPAN_CLASSES} span classes")
        taken = sum(word.bit_count() for chunk in self.chunks for word in chunk.taken)
        held = sum(span.pages for span in self.spans) + sum(p.page_cache.bit_count() for p in self.processors)
        if taken != held:
            raise ValueError(f"{taken} pages are taken, and spans and page caches hold {held}")

    def to_json(self) -> dict[str, Any]:
        """Return fields for json.dump; records are lists in the order of their fields."""
        return asdict(self) | {
            "spans": [list(asdict(span).values()) for span in self.spans],
            "processors": [list(asdict(processor).values()) for processor in self.processors],
            "chunks": [list(asdict(chunk).values()) for chunk in self.chunks],
        }

    def to_native(self) -> Any:
        """Return the C++ twin, for a model to start with; AllocatorError where the model cannot take it."""
        bases = [chunk.base for chunk in self.chunks]
        if not bases or bases != list(range(bases[0], bases[0] + len(bases) * CHUNK_BYTES, CHUNK_BYTES)):
            raise AllocatorError("go: the snapshot's 4 MiB chunks are not contiguous, and the model's are")
        if not self.scalars["sweep_done"]:
            raise AllocatorError("go: the snapshot was taken during a sweep")
        native = _NativeSnapshot()
        for name in NATIVE_SCALARS:
            setattr(native, name, self.scalars[name])
        native.free_bytes = self.scalars["heap_free"]
        native.released_bytes = self.scalars["heap_released"]
        for span in self.spans:
            native.add_span(*asdict(span).values())
        for processor in sorted(self.processors, key=lambda p: p.number):
            native.add_processor(*list(asdict(processor).values())[1:])
        for partial, full in self.central:
            native.add_central(partial, full)
        for chunk in self.chunks:
            native.add_chunk(*asdict(chunk).values())
        return native
