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

SCHEMA = "harness-go-heap/1"

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
        manual = sum(span.pages for span in self.spans if span.kind != HEAP) * 8192
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
        return cls(
            **fields
            | {
                "spans": [SpanRecord(*row) for row in fields["spans"]],
                "processors": [ProcessorRecord(*row) for row in fields["processors"]],
                "central": [(partial, full) for partial, full in fields["central"]],
                "chunks": [ChunkRecord(*row) for row in fields["chunks"]],
            }
        )

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
        if not bases or bases != list(range(bases[0], bases[0] + len(bases) * (4 << 20), 4 << 20)):
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
