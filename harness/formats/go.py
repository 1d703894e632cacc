"""Go's execution traces with allocation events: GODEBUG=traceallocfree=1, Go 1.23 and newer.

A binary file that begins `go 1.NN trace`. go_wire.hpp reads it, go_trace.hpp makes rows of its events; here
stands what a harness trace says of them: the source, the types as sites, what was lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from harness.errors import HarnessError, TraceError
from harness.formats import AS_IT_STANDS, Description, Reading, TraceSink
from harness.formats._formats import GoReader, GoTraceRefused, RecordFault
from harness.formats.addresses import REMEDY
from harness.formats.text import open_text, unreadable
from harness.sites import Sites, encode
from harness.trace import REQUIRED

Columns = dict[str, NDArray[Any]]

_HEADER = re.compile(rb"go 1\.\d{1,3} trace\0\0\0")
_BLOCK_BYTES = 1 << 20

# Go 1.23 traces less than Go 1.24 does, in one format.
_AMBIGUOUS_VERSION = 23

# Which releases write a version of the format.
_RELEASES = {23: "1.23 or 1.24", 25: "1.25", 26: "1.26 or 1.27"}

# Mended even where the reading is strict: events of several threads are ordered by a clock that is coarser
# than they are, so that a trace of several Ps may have a few.
_REORDERED = ("waited", "late_frees", "late_span_frees", "untold_spans")
_MENDED = (
    "unseen_frees",
    "unknown_frees",
    "unknown_spans",
    "unknown_types",
    "pointer_contradictions",
    "bad_spans",
    "late_starts",
    "damaged_batches",
    "unread_bytes",
)


class GoTrace:
    """A Go execution trace, opened; its rows are made as they are asked for.

    With `keeps_spans`, rows carry the objects' addresses, and span_events() has what became of spans.
    """

    unknown_columns: tuple[str, ...] = ()

    def __init__(self, path: str, reading: Reading = AS_IT_STANDS, *, keeps_spans: bool = False) -> None:
        self.path = path
        self.reading = reading
        self.columns = [*REQUIRED, "noscan", "time_ns", "site"]
        self._kept = [*self.columns, "address"] if keeps_spans else self.columns
        self._reader = GoReader(lenient=reading.lenient, keeps_spans=keeps_spans)

    def raw_batches(self) -> Iterator[Columns]:
        """Yield rows of harness-trace/1; TraceError at the first event that cannot be read."""
        stream = open_text(self.path)
        block = b"begun"
        while block:
            try:
                block = stream.read(_BLOCK_BYTES)
            except (OSError, pa.ArrowException) as error:
                raise unreadable(self.path, error) from error
            if block:
                self._reader.feed(block)
            else:
                self._reader.end()
            while (rows := self._take()) is not None:
                yield {name: rows[name] for name in self._kept}

    @property
    def version(self) -> int:
        """The version of the format, 26 of `go 1.26 trace`; known with the first row."""
        return self._reader.version

    def span_events(self) -> Columns:
        """Return what became of spans before the rows that were yielded, since this was called last.

        Columns `row` (how many rows stand before), `is_free`, `address` and `pages`, `span_class` (2**32 - 1:
        a span of stacks or work buffers), `time_ns`. Spans that were there at the start come first.
        """
        return self._reader.take_spans()

    def collections(self) -> Columns:
        """Return the collections, all of them after the last row.

        Columns `row` (that of its op gc), `begin_ns`, `end_ns` (-1 where the trace ends before) and
        `is_explicit` (runtime.GC began it).
        """
        return self._reader.collections()

    def counts(self) -> dict[str, int]:
        """Return what was read so far, by kind: events, objects, bytes (GoCounts in go_trace.hpp)."""
        return self._reader.counts()

    @property
    def metadata(self) -> dict[str, Any]:
        """What the trace says of itself."""
        counts = self.counts()
        explicit = int(self.collections()["is_explicit"].sum())
        version = self._reader.version
        return {
            "source": {
                "program": "unknown",
                "recorder": "Go execution tracer, GODEBUG=traceallocfree=1",
                "go": _RELEASES.get(version, f"1.{version}"),
                "format": f"go 1.{version} trace",
                "procs": counts["max_procs"],
                "collections": {
                    "explicit": explicit,
                    "automatic": len(self.collections()["is_explicit"]) - explicit,
                },
                "objects_at_start": counts["objects_at_start"],
                "free_events": counts["free_events"],
                "reordered": {name: counts[name] for name in _REORDERED if counts[name]},
            },
            "frees": "collector",
            "sizes": "class" if counts["class_sizes"] else "exact",
            "sizes_known": {"exact": counts["exact_sizes"], "class": counts["class_sizes"]},
        }

    @property
    def sites(self) -> bytes | None:
        """The types as sites, without frames; the first is for objects of no type."""
        names = [name.decode(errors="replace") for name, _ in self._reader.types()]
        return encode(Sites.of_stacks([()] * len(names), [None, *names[1:]]))

    @property
    def losses(self) -> list[str]:
        """What of the program's allocations the trace does not tell, in words."""
        counts = self.counts()
        texts = ["Go's trace tells no call stacks of allocations: types stand for sites"]
        if self._reader.version == _AMBIGUOUS_VERSION and counts["allocations"] and not counts["tiny_joins"]:
            texts.append("Go 1.23 tells of a block of tiny objects the first alone")
        if self._reader.cut:
            texts.append(f"read up to a fault: {self._reader.cut}")
        return texts

    @property
    def repairs(self) -> dict[str, int]:
        """What was mended so far, by kind."""
        counts = self.counts()
        return {name: counts[name] for name in _MENDED if counts[name]}

    def _take(self) -> Columns | None:
        try:
            return self._reader.take()
        except GoTraceRefused as fault:
            raise TraceError(f"{self.path}: {fault}") from fault
        except RecordFault as fault:
            raise TraceError(f"{self.path}: {fault}{REMEDY}") from fault


class Go:
    """Go's execution traces."""

    suffixes = (".out", ".trace")
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for the header."""
        return _HEADER.match(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> GoTrace:
        """Open a trace."""
        return GoTrace(path, reading)

    def write(self, path: str, description: Description) -> TraceSink:
        """Refuse."""
        raise HarnessError(f"{path}: Go's execution traces are only read")
