"""`harness convert`: any known format in, any out, canonical on the way; or a part of the trace.

Every row read is checked. What is written has dense slots, reused only after the free, and zero in every cell
that means nothing. Rows stream; memory holds the live objects (native/live_set.hpp) and one row group.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC, EventBatch
from harness.errors import HarnessError
from harness.formats import AS_IT_STANDS, Description, RawTrace, Reading, TraceSink, of_source, of_target
from harness.formats.addresses import Repaired, mended
from harness.native._native import LiveSet
from harness.trace import BATCH_EVENTS, OPTIONAL, Progress, RowChecker, unnoticed

Columns = dict[str, NDArray[Any]]

_MAX_THREAD = 2**32 - 1
_NS_PER_S = 1_000_000_000
_ENDLESS = 2**63 - 1


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did."""

    events: int  # Written.
    source_events: int  # Read; a cut stops reading where it ends.
    alive_at_cut: int  # Objects that were alive where the cut begins, allocated first.
    frees_dropped: int  # Of objects that do not belong to the part.
    warnings: list[str] = field(default_factory=list)


def convert(
    source: str,
    target: str,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    events: tuple[int | None, int | None] | None = None,
    threads: list[int] | None = None,
    time_s: tuple[float | None, float | None] | None = None,
    reading: Reading = AS_IT_STANDS,
    progress: Progress = unnoticed,
) -> ConversionResult:
    """Write a trace anew: canonical, in another format, or a part of it.

    `events` and `time_s` (seconds from the first event) are from A up to B, B not included. Objects alive
    at A are allocated first, in their order, by their own threads, at the time of the cut. `threads` keeps
    the objects that those threads allocate and all that becomes of them, collections, and the ends of the
    threads that are left. A lenient `reading` mends what no program can have done. What was lost or mended
    stands in the target's metadata. The target appears whole or not at all. Raises HarnessError.
    """
    _check_window("--events", events, 1)
    _check_window("--time", time_s, _NS_PER_S)
    _check_threads(threads)
    source_name, source_format = of_source(source, from_format)
    target_name, target_format = of_target(target, to_format)
    if reading.columns and not getattr(source_format, "maps_columns", False):
        raise HarnessError(f"{source}: --map names columns, and the format {source_name} has none to name")
    trace = source_format.read(source, reading)
    if reading.lenient:
        trace = Repaired(trace)
    if time_s is not None and "time_ns" not in trace.columns:
        raise HarnessError(f"{source}: --time needs a column time_ns, which the trace lacks; use --events")
    cut = _Cut(trace, events, threads, time_s)
    description = Description(
        optional=tuple(name for name in OPTIONAL if name in trace.columns),
        metadata=_metadata(trace, source_name, events, threads, time_s),
        sites=trace.sites,
    )
    with target_format.write(target, description) as sink:
        cut.run(sink, progress)
        sink.describe(_metadata(trace, source_name, events, threads, time_s), trace.sites)
    warnings = _losses(trace) + _left_by(target_name, target_format.keeps_metadata, trace)
    warnings += [f"{target_name}: {loss}" for loss in getattr(sink, "losses", ())] + cut.warnings()
    return ConversionResult(cut.written, cut.read, cut.alive_at_cut, cut.frees_dropped, warnings)


class _Cut:
    """Reads, checks, cuts and renames; the whole trace is a cut too."""

    def __init__(
        self,
        trace: RawTrace,
        events: tuple[int | None, int | None] | None,
        threads: list[int] | None,
        time_s: tuple[float | None, float | None] | None,
    ) -> None:
        self._trace = trace
        self._checker = RowChecker(trace.path, slots_rest=False)
        self._first_event, self._end_event = _bounds(events, 1)
        self._first_ns, self._end_ns = _bounds(time_s, _NS_PER_S)
        self._is_whole = events is None and time_s is None and threads is None
        self._has_begun = self._is_whole
        self._live = LiveSet(threads or [])
        self._absent = set(threads or [])  # Threads asked for and not yet seen.
        self._origin_ns = 0  # Time of the trace's first event.
        self._last_ns = 0  # And of the last that was read.
        self.read = 0
        self.written = 0
        self.alive_at_cut = 0
        self.frees_dropped = 0

    def run(self, sink: TraceSink, progress: Progress) -> None:
        for raw in self._trace.raw_batches():
            batch = self._checker.check(raw)
            count = len(batch.op)
            if len(batch.time_ns):
                self._origin_ns = int(batch.time_ns[0]) if self.read == 0 else self._origin_ns
                self._last_ns = int(batch.time_ns[-1])
            first, end = self._window(batch)
            self._look_for_threads(raw)
            if not self._has_begun:
                before = min(first, count)
                self._live.skip(*_part(batch, raw, 0, before))
                if before < count:
                    self._begin(sink, int(batch.time_ns[before]) if len(batch.time_ns) else 0)
            if self._has_begun and first < end:
                self._take(sink, batch, raw, first, end)
            self.read += count
            progress(count)
            if self._has_begun and end < count:
                break
        if not self._has_begun:
            self._begin_at_the_end(sink)

    def warnings(self) -> list[str]:
        texts = [f"thread {thread} does not occur in what was read" for thread in sorted(self._absent)]
        if self.frees_dropped:
            texts.append(f"{self.frees_dropped:,} frees of other threads' objects were left out")
        return texts

    def _window(self, batch: EventBatch) -> tuple[int, int]:
        """Return the first row of a batch that belongs to the part, and the first behind the part."""
        count = len(batch.op)
        first = min(max(self._first_event - self.read, 0), count)
        end = min(max(self._end_event - self.read, 0), count)
        if self._first_ns > 0 or self._end_ns < _ENDLESS:
            # As unsigned distances, which any two times in order have.
            times = batch.time_ns.view(np.uint64) - np.uint64(self._origin_ns % 2**64)
            first = max(first, int(np.searchsorted(times, np.uint64(self._first_ns))))
            end = min(end, int(np.searchsorted(times, np.uint64(self._end_ns))))
        return first, end

    def _begin(self, sink: TraceSink, first_ns: int) -> None:
        """Allocate what lives at the cut; `first_ns` is the time of the first event in it."""
        self._has_begun = True
        alive = self._live.alive()
        allocations = int(np.isin(alive["op"], (ALLOC, CALLOC)).sum())
        self.alive_at_cut = allocations
        count = len(alive["op"])
        time_ns = self._origin_ns + self._first_ns if self._first_ns > 0 else first_ns
        alive["time_ns"] = np.full(count, min(time_ns, first_ns), np.int64)
        for first in range(0, count, BATCH_EVENTS):
            self._write(sink, {name: column[first : first + BATCH_EVENTS] for name, column in alive.items()})

    def _begin_at_the_end(self, sink: TraceSink) -> None:
        """Begin a part that lies behind the last event; only one that begins right there has a meaning."""
        if self.read < self._first_event:
            raise HarnessError(
                f"{self._trace.path}: --events begins at {self._first_event:,}, "
                f"and the trace ends after {self.read:,} events"
            )
        if self._first_ns > 0:
            raise HarnessError(
                f"{self._trace.path}: --time begins at {self._first_ns / _NS_PER_S:g} s, "
                f"and the trace's last event is before that"
            )
        self._begin(sink, self._last_ns)

    def _take(self, sink: TraceSink, batch: EventBatch, raw: Columns, first: int, end: int) -> None:
        batch, thread, site = _part(batch, raw, first, end)
        # Ops up to REALLOC allocate. np.isin and np.where would take as long as the check of the rows.
        allocates = batch.op <= REALLOC
        columns: Columns = {
            "op": batch.op,
            "thread": thread,
            "size": batch.size * allocates,
            "alignment": batch.alignment,
            "noscan": batch.noscan & allocates,
            "time_ns": batch.time_ns,
        }
        if site is not None:
            columns["site"] = site
        if self._is_whole:
            self._write(sink, columns | {"object": batch.slot.astype(np.uint64)})
            return
        is_taken, columns["object"] = self._live.take(batch, thread, site)
        taken = is_taken.astype(bool)
        if not taken.all():
            self.frees_dropped += int(((batch.op == FREE) & ~taken).sum())
            columns = {name: column[taken] for name, column in columns.items() if len(column)}
        self._write(sink, columns)

    def _write(self, sink: TraceSink, columns: Columns) -> None:
        sink.write(columns)
        self.written += len(columns["op"])

    def _look_for_threads(self, raw: Columns) -> None:
        if self._absent:
            self._absent = {thread for thread in self._absent if not (raw["thread"] == thread).any()}


def _part(
    batch: EventBatch, raw: Columns, first: int, end: int
) -> tuple[EventBatch, NDArray[np.uint32], NDArray[np.uint32] | None]:
    """Return rows of a checked batch, with the file's own thread numbers and sites."""
    site = raw.get("site")
    return (
        EventBatch._make(column[first:end] for column in batch),
        raw["thread"][first:end],
        None if site is None else site[first:end],
    )


def _bounds(window: tuple[float | None, float | None] | None, factor: int) -> tuple[int, int]:
    first, end = window or (None, None)
    return round((first or 0) * factor), _ENDLESS if end is None else min(round(end * factor), _ENDLESS)


def _check_window(option: str, window: tuple[float | None, float | None] | None, factor: int) -> None:
    first, end = window or (None, None)
    for bound in (first, end):
        if bound is not None and not (math.isfinite(bound) and 0 <= bound * factor < _ENDLESS):
            raise HarnessError(f"{option}: found {bound}, expected a number from 0 up")
    if first is not None and end is not None and end < first:
        raise HarnessError(f"{option} {first}:{end} ends before it begins")


def _check_threads(threads: list[int] | None) -> None:
    if threads is not None and not threads:
        raise HarnessError("--threads: found none, expected at least one thread number")
    for thread in threads or []:
        if not 0 <= thread <= _MAX_THREAD:
            raise HarnessError(f"--threads: found {thread}, expected a number from 0 to {_MAX_THREAD:,}")


def _metadata(
    trace: RawTrace,
    format_name: str,
    events: tuple[int | None, int | None] | None,
    threads: list[int] | None,
    time_s: tuple[float | None, float | None] | None,
) -> dict[str, Any]:
    """Return the source's metadata with a record of this conversion at the end of its conversions."""
    name = "-" if trace.path == "-" else os.path.basename(trace.path)
    done: dict[str, Any] = {"from": name, "format": format_name}
    if "digest" in trace.metadata:
        done["digest"] = trace.metadata["digest"]
    asked = {"events": events, "threads": threads, "time_s": time_s}
    done |= {option: list(value) for option, value in asked.items() if value is not None}
    metadata = dict(trace.metadata)
    metadata.setdefault("source", {"program": "unknown", "file": name})
    metadata["conversions"] = [*metadata.get("conversions", []), done]
    if losses := _losses(trace):
        metadata["losses"] = [*metadata.get("losses", []), *losses]
    return metadata


def _losses(trace: RawTrace) -> list[str]:
    """Say what of the trace its reading lost, and what it mended."""
    texts = [*trace.losses, *mended(trace.repairs)]
    if trace.unknown_columns:
        listed = ", ".join(trace.unknown_columns)
        texts.append(f"left behind, for harness-trace/1 knows no such column: {listed}")
    return texts


def _left_by(target_name: str, keeps_metadata: bool, trace: RawTrace) -> list[str]:
    """Say what the target's format cannot hold."""
    if keeps_metadata:
        return []
    if trace.sites is not None:
        return [f"{target_name} holds no metadata: the source and the sites' frames stay behind"]
    if trace.metadata:
        return [f"{target_name} holds no metadata: what the trace says of its source stays behind"]
    return []
