"""A Go execution trace as the truth: the spans that a runtime had, beside the model's on the same events.

With GODEBUG=traceallocfree=1 an unmodified runtime writes down every span, object and collection. The model
begins with the spans and objects that were there when the trace began, marks when the runtime did, and is
asked what spans it has when each collection begins, and at the end. What it sweeps when is its own choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.allocator import ALLOC, FREE, GC, Spec
from harness.conform import Report, Spread, Table
from harness.errors import AllocatorError, TraceError
from harness.formats.go import Go as GoFormat
from harness.formats.go import GoTrace
from harness.trace import Progress, RowChecker

from . import MAX_PROCS, Go
from .snapshot import PAGE_BYTES, SPAN_CLASSES

# How far the model may lie from what the runtime had in spans, as a share of it. How far sweeping is at each
# moment depends on when a background goroutine has a processor, and no event of the heap tells; with several
# there is more of it.
BOUND_ON_ONE_P = 0.02
BOUND_ON_SEVERAL_PS = 0.05

# The model of what wrote a version of the format. Two releases share one; their placement is the same.
_MODELLED = {23: "1.24", 25: "1.25", 26: "1.27"}

# Options that the trace takes the place of, and what they would say.
_TOLD_BY_TRACE = {
    "collector": "when it marked",
    "start": "which objects were there at the start",
    "snapshot": "which objects were there at the start",
}

# In place of a span class: stacks and work buffers, which hold no objects (GoSpanEvents in go_trace.hpp).
_MANUAL = 2**32 - 1

# Span class of tiny blocks: size class 2, noscan.
_TINY = 5
_TINY_BLOCK_BYTES = 16
# Objects with pointers that are larger than this have a header within their slot (malloc.go: heapBitsInSpan).
_MOST_WITHOUT_HEADER_BYTES = 512
_HEADER_BYTES = 8

# More than any span: a large object is in the first and only slot of its own.
_LARGE_BYTES = 1 << 62

# Names of the objects that fill what is free at the start; the trace's own are dense.
_FILLERS = 1 << 40

_NO_STOPS = np.zeros(0, np.int64)

Columns = dict[str, NDArray[Any]]
Counts = NDArray[np.int64]  # By span class.


class ExecutionTrace:
    """Reads Go's execution traces for `harness conform go`."""

    def recognises(self, head: bytes) -> bool:
        """Look for the header of an execution trace."""
        return GoFormat().recognises(head)

    def compare(self, path: str, spec: Spec, progress: Progress) -> Report:
        """Replay the trace's events through the model; compare spans, and slots as far as they can be."""
        trace = GoTrace(path, keeps_spans=True)
        comparison: _Comparison | None = None
        first: list[Columns] = []
        waiting = 0
        for rows in trace.raw_batches():
            if comparison is None:
                # What existed at the start comes first, all of it before anything else is handed on.
                first.append(rows)
                waiting += len(rows["op"])
                if waiting <= (at_start := trace.counts()["objects_at_start"]):
                    continue
                comparison = _Comparison(trace, spec, _joined(first), at_start)
                rows = _from(_joined(first), at_start)
            comparison.follow(rows)
            progress(len(rows["op"]))
        if comparison is None:
            raise TraceError(f"{path}: holds no allocation after its start, expected some to compare")
        return comparison.report()


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _from(rows: Columns, first: int, stop: int | None = None) -> Columns:
    return {name: column[first:stop] for name, column in rows.items()}


@dataclass
class _RealSpans:
    """The runtime's spans, as the trace's events have them so far."""

    spans: Counts = field(default_factory=lambda: np.zeros(SPAN_CLASSES, np.int64))
    pages: Counts = field(default_factory=lambda: np.zeros(SPAN_CLASSES, np.int64))
    allocated: Counts = field(default_factory=lambda: np.zeros(SPAN_CLASSES, np.int64))
    freed: Counts = field(default_factory=lambda: np.zeros(SPAN_CLASSES, np.int64))
    of_page: dict[int, tuple[int, int]] = field(default_factory=dict)  # Base and span class.
    waiting: list[Columns] = field(default_factory=list)
    _taken: int = 0  # Of the first that waits.

    def add(self, events: Columns) -> None:
        """Take note of events to come."""
        if len(events["row"]):
            self.waiting.append(events)

    def advance(self, row: int) -> None:
        """Let everything happen that has at most so many rows before it."""
        while self.waiting:
            events = self.waiting[0]
            stop = int(np.searchsorted(events["row"], row, side="right"))
            if stop > self._taken:
                self._happen(_from(events, self._taken, stop))
                self._taken = stop
            if stop < len(events["row"]):
                return
            self.waiting.pop(0)
            self._taken = 0

    def _happen(self, events: Columns) -> None:
        columns = (events[name].tolist() for name in ("is_free", "address", "pages", "span_class"))
        for is_free, address, pages, span_class in zip(*columns, strict=True):
            if span_class == _MANUAL:
                continue
            step = -1 if is_free else 1
            self.spans[span_class] += step
            self.pages[span_class] += step * pages
            (self.freed if is_free else self.allocated)[span_class] += 1
            if not is_free:
                # A large object begins at the first page.
                for page in range(
                    address // PAGE_BYTES, address // PAGE_BYTES + _object_pages(span_class, pages)
                ):
                    self.of_page[page] = (address, span_class)


def _object_pages(span_class: int, pages: int) -> int:
    return pages if span_class >> 1 else 1


class _Classes(NamedTuple):
    """What span classes are, by number: a span of class 0 has one slot, for a large object."""

    slot_bytes: list[int]
    slots: list[int]
    span_bytes: Counts  # One page of a large object's.

    @classmethod
    def of(cls, go: Go) -> _Classes:
        """Return the classes of a model."""
        found = cls([_LARGE_BYTES] * 2, [1, 1], np.full(SPAN_CLASSES, PAGE_BYTES, np.int64))
        for row in go.size_classes():
            found.slot_bytes.extend([int(row["object_bytes"])] * 2)
            found.slots.extend([int(row["scan_objects"]), int(row["noscan_objects"])])
            found.span_bytes[2 * int(row["class"]) :][:2] = row["span_bytes"]
        return found

    def largest_bytes(self, span_class: int) -> int:
        """Return the largest request of a class."""
        slot = self.slot_bytes[span_class]
        has_header = not span_class & 1 and slot > _MOST_WITHOUT_HEADER_BYTES
        return slot - _HEADER_BYTES if has_header else slot


class _Beginning(NamedTuple):
    """A collection that has begun, and what the runtime had then in spans of objects, by span class."""

    number: int
    thread: int
    spans: Counts
    pages: Counts


class _Moment(NamedTuple):
    """What both had in spans of objects at one moment, by span class."""

    events: int
    real_spans: Counts
    model_spans: Counts
    real_pages: Counts
    model_pages: Counts


@dataclass
class _Slots:
    """How many allocations went into the same slot of a span on both sides, these renamed."""

    compared: int = 0
    same: int = 0


class _Comparison:
    """The model in the middle of a trace."""

    def __init__(self, trace: GoTrace, spec: Spec, rows: Columns, at_start: int) -> None:
        self._trace = trace
        chosen = {
            "version": _MODELLED.get(trace.version, _MODELLED[max(_MODELLED)]),
            "procs": min(max(trace.counts()["max_procs"], 1), MAX_PROCS),
        }
        given = {name: spec.options[name] for name in spec.given}
        for name in sorted(_TOLD_BY_TRACE.keys() & spec.given):
            raise AllocatorError(
                f"go: a recording says {_TOLD_BY_TRACE[name]}: leave out {name}={given[name]}"
            )
        options = {**spec.options, **chosen, **given}
        self._one_p = bool(options["procs"] == 1)
        self._gogc = options["gogc"]
        self._go = Go(**options)
        self._go.native.record_placements(True)
        self._classes = _Classes.of(self._go)
        self._checker = RowChecker(trace.path)
        self._real = _RealSpans()
        self._real.add(trace.span_events())
        self._real.advance(at_start)
        self._has_one_order = self._begin_as_it_stood(_from(rows, 0, at_start))
        self._real_at_start = (self._real.allocated.copy(), self._real.freed.copy())
        self._model_at_start = self._model_counts()
        self._events = at_start
        self._moments: list[_Moment] = []
        self._before_collections = _Slots()
        self._all = _Slots()
        self._collections = 0
        self._beginning: _Beginning | None = None  # What the next rows are to begin.
        self._marking: int | None = None  # The collection that marks.

    # ---- The start ----

    def _begin_as_it_stood(self, start: Columns) -> bool:
        """Let the model have the spans and objects of the start; return whether slots follow in one order.

        Each span is filled, in the order of addresses, and what was free in it is let go of: then a
        collection leaves the same slots free. Which span a P had in its cache nobody tells; with one P, and
        one span a class that has room, there is no choice.
        """
        rows: list[tuple[int, int, int, int]] = []  # Op, object, size, noscan.
        fillers = 0
        with_room: dict[int, int] = {}
        by_span: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
        columns = (start[name].tolist() for name in ("address", "object", "size"))
        for address, name, size in zip(*columns, strict=True):
            base, span_class = self._real.of_page[address // PAGE_BYTES]
            slot = (address - base) // self._classes.slot_bytes[span_class]
            by_span.setdefault((base, span_class), {})[slot] = (name, size)
        for (_, span_class), held in sorted(by_span.items()):
            slots = self._classes.slots[span_class]
            with_room[span_class] = with_room.get(span_class, 0) + (len(held) < slots)
            for slot in range(slots):
                name, size = held.get(slot, (_FILLERS + fillers, self._classes.largest_bytes(span_class)))
                fillers += slot not in held
                # A tiny block is one object here, whoever shares it.
                size = _TINY_BLOCK_BYTES if span_class == _TINY else size
                rows.append((ALLOC, name, size, span_class & 1))
        rows += [(FREE, _FILLERS + k, 0, 0) for k in range(fillers)]
        # From here on it collects when it is told to.
        self._collect()
        if not rows:
            return self._one_p
        op, name, size, noscan = zip(*rows, strict=True)
        thread = int(start["thread"][0]) if len(start["thread"]) else 0
        self._feed(
            {
                "op": np.array(op, np.uint8),
                "thread": np.full(len(rows), thread, np.uint32),
                "object": np.array(name, np.uint64),
                "size": np.array(size, np.uint64),
                "noscan": np.array(noscan, np.uint8),
                "time_ns": np.zeros(len(rows), np.int64),
            }
        )
        self._go.native.take_placements()
        self._collect()
        return self._one_p and all(count <= 1 for count in with_room.values())

    def _collect(self) -> None:
        self._go.native.begin_recorded_cycle()
        self._go.native.end_recorded_cycle(sweeps=True)

    # ---- The events ----

    def follow(self, rows: Columns) -> None:
        """Carry out the next rows, and compare spans where collections begin."""
        self._real.add(self._trace.span_events())
        done = 0
        for at in np.flatnonzero(rows["op"] == GC).tolist():
            self._go_on(_from(rows, done, at))
            self._announce(int(rows["thread"][at]))
            done = at + 1
        self._go_on(_from(rows, done))

    def _announce(self, thread: int) -> None:
        """Take note that a collection begins, which the allocation that started it is to come before."""
        if self._beginning is not None:
            self._begin_cycle()
        self._end_cycle()
        self._real.advance(self._events)
        self._beginning = _Beginning(
            self._collections, thread, self._real.spans.copy(), self._real.pages.copy()
        )
        self._collections += 1
        self._events += 1

    def _go_on(self, rows: Columns) -> None:
        if not len(rows["op"]):
            return
        if (beginning := self._beginning) is not None:
            # malloc.go starts a cycle when it has the slot, and the tracer is told of the object after that.
            is_started_by_first = (
                not self._trace.collections()["is_explicit"][beginning.number]
                and rows["op"][0] == ALLOC
                and rows["thread"][0] == beginning.thread
            )
            if is_started_by_first:
                self._carry_out(_from(rows, 0, 1))
                rows = _from(rows, 1)
            self._begin_cycle()
        if self._marking is not None:
            end_ns = int(self._trace.collections()["end_ns"][self._marking])
            stop = len(rows["op"])
            if end_ns >= 0:
                stop = int(np.searchsorted(rows["time_ns"], end_ns, side="right"))
            self._carry_out(_from(rows, 0, stop))
            if stop == len(rows["op"]):
                return
            self._end_cycle()
            rows = _from(rows, stop)
        self._carry_out(rows)

    def _begin_cycle(self) -> None:
        begun = self._beginning
        assert begun is not None
        # What the last one left is swept first, as by the runtime (gcStart).
        self._go.native.begin_recorded_cycle()
        self._marking, self._beginning = begun.number, None
        self._compare_spans(begun.spans, begun.pages)

    def _end_cycle(self) -> None:
        if self._marking is not None:
            is_explicit = bool(self._trace.collections()["is_explicit"][self._marking])
            self._go.native.end_recorded_cycle(sweeps=is_explicit)
        self._marking = None

    def _feed(self, rows: Columns) -> None:
        self._go.feed(
            self._checker.check({name: rows[name] for name in rows if name != "address"}), _NO_STOPS
        )

    def _carry_out(self, rows: Columns) -> None:
        count = len(rows["op"])
        if not count:
            return
        self._feed(rows)
        _, placed, _ = self._go.native.take_placements()
        self._compare_slots(rows, placed)
        self._events += count

    def _compare_slots(self, rows: Columns, placed: NDArray[np.uint64]) -> None:
        """Count the allocations of both sides that went into one slot; spans are the same where they pair."""
        allocates = np.flatnonzero(rows["op"] == ALLOC)
        if not len(allocates):
            return
        spans = self._go.native.spans()
        order = np.argsort(spans["base"])
        bases, classes = spans["base"][order], spans["span_class"][order]
        index = np.searchsorted(bases, placed, side="right") - 1
        model_offset = (placed - bases[index]).tolist()
        model_class, model_base = classes[index].tolist(), bases[index].tolist()
        addresses = rows["address"][allocates].tolist()
        partner: dict[int, int] = {}
        taken: dict[int, int] = {}
        counts = [self._all] + ([self._before_collections] if not self._collections else [])
        for k, row in enumerate(allocates.tolist()):
            self._real.advance(self._events + row)
            base, span_class = self._real.of_page[addresses[k] // PAGE_BYTES]
            slot_bytes = self._classes.slot_bytes[span_class]
            is_same = (
                span_class == model_class[k]
                and (addresses[k] - base) // slot_bytes == model_offset[k] // slot_bytes
                and partner.setdefault(base, model_base[k]) == model_base[k]
                and taken.setdefault(model_base[k], base) == base
            )
            for count in counts:
                # Where the tiny block of the start ends, and what goes into it yet, nobody tells.
                if span_class != _TINY or count is self._all:
                    count.compared += 1
                    count.same += is_same

    def _compare_spans(self, real_spans: Counts, real_pages: Counts) -> None:
        spans = self._go.native.spans()
        classes = spans["span_class"][spans["manual"] == 0]
        pages = spans["pages"][spans["manual"] == 0]
        self._moments.append(
            _Moment(
                self._events,
                real_spans,
                np.bincount(classes, minlength=SPAN_CLASSES),
                real_pages,
                np.bincount(classes, pages, SPAN_CLASSES).astype(np.int64),
            )
        )

    def _model_counts(self) -> tuple[Counts, Counts]:
        """Return the spans that the model has allocated and freed, by span class."""
        counts = (np.zeros(SPAN_CLASSES, np.int64), np.zeros(SPAN_CLASSES, np.int64))
        for row in self._go.result()["classes"]:
            span_class = 2 * row["class"] + int(row["noscan"])
            counts[0][span_class], counts[1][span_class] = row["spans_requested"], row["spans_returned"]
        return counts

    # ---- The result ----

    def report(self) -> Report:
        """Return what was found once all rows were followed."""
        self._real.add(self._trace.span_events())
        if self._beginning is not None:
            self._begin_cycle()
        if self._marking is not None and self._trace.collections()["end_ns"][self._marking] >= 0:
            self._end_cycle()
        self._real.advance(self._events)
        self._compare_spans(self._real.spans, self._real.pages)
        model = [now - then for now, then in zip(self._model_counts(), self._model_at_start, strict=True)]
        real = [
            now - then
            for now, then in zip((self._real.allocated, self._real.freed), self._real_at_start, strict=True)
        ]
        ps = f"{self._trace.counts()['max_procs']:,} P{'' if self._one_p else 's'}"
        green = "with" if self._go.has_greentea else "without"
        return Report(
            model=f"model of Go {self._go.version} {green} green tea",
            truth=f"what a Go runtime wrote down of itself (go 1.{self._trace.version} trace, {ps})",
            events=self._events,
            checkpoints=len(self._moments),
            spreads=self._spreads(real, model),
            tables=[self._class_table(real, model), self._moment_table()],
            notes=self._notes(),
        )

    def _spreads(self, real: list[Counts], model: list[Counts]) -> list[Spread]:
        moments = self._moments
        real_bytes = [int(each.real_pages.sum()) * PAGE_BYTES for each in moments]
        model_bytes = [int(each.model_pages.sum()) * PAGE_BYTES for each in moments]
        real_spans = [int(each.real_spans.sum()) for each in moments]
        model_spans = [int(each.model_spans.sum()) for each in moments]
        first = self._before_collections
        bound = BOUND_ON_ONE_P if self._one_p else BOUND_ON_SEVERAL_PS
        told = [
            ("mean_in_spans_bytes", _mean(model_bytes), _mean(real_bytes), bound),
            ("most_in_spans_bytes", max(model_bytes), max(real_bytes), bound),
            ("mean_spans_in_use", _mean(model_spans), _mean(real_spans), bound),
            ("spans_in_use_at_the_end", model_spans[-1], real_spans[-1], None),
            ("spans_allocated", int(model[0].sum()), int(real[0].sum()), None),
            ("spans_freed", int(model[1].sum()), int(real[1].sum()), None),
            (
                "allocations_in_the_same_slot_until_a_collection",
                first.same,
                first.compared,
                0.0 if self._has_one_order else None,
            ),
            ("allocations_in_the_same_slot", self._all.same, self._all.compared, None),
        ]
        return [Spread(name, value, [float(truth)], margin) for name, value, truth, margin in told]

    def _class_table(self, real: list[Counts], model: list[Counts]) -> Table:
        means = [
            np.mean([getattr(each, name) for each in self._moments], axis=0)
            for name in ("real_spans", "model_spans")
        ]
        difference = np.abs(means[0] - means[1]) * self._classes.span_bytes
        used = np.flatnonzero((real[0] > 0) | (model[0] > 0) | (means[0] > 0))
        rows: list[list[str | int | float]] = []
        for span_class in sorted(used.tolist(), key=lambda k: (-difference[k], k)):
            last = self._moments[-1]
            rows.append(
                [
                    f"{span_class >> 1} {'noscan' if span_class & 1 else 'scan'}",
                    self._classes.slot_bytes[span_class] if span_class >> 1 else "own span",
                    *(int(both[span_class]) for pair in zip(real, model, strict=True) for both in pair),
                    *(round(float(mean[span_class]), 1) for mean in means),
                    int(last.real_spans[span_class]),
                    int(last.model_spans[span_class]),
                ]
            )
        headings = ["span class", "slot_bytes", "allocated", "model", "freed", "model"]
        return Table(
            "spans by class, since the trace began; those first whose mean differs by most bytes",
            [*headings, "in use, mean", "model", "at the end", "model"],
            rows,
        )

    def _moment_table(self) -> Table:
        moments = self._moments
        every = max(1, -(-len(moments) // Table.shown))
        chosen = [*range(0, len(moments) - 1, every), len(moments) - 1]
        rest = [k for k in range(len(moments)) if k not in chosen]
        rows: list[list[str | int | float]] = []
        for k in [*chosen, *rest]:
            each = moments[k]
            real, model = int(each.real_pages.sum()), int(each.model_pages.sum())
            rows.append(
                [
                    f"collection {k + 1}" if k < len(moments) - 1 else "the end",
                    each.events,
                    int(each.real_spans.sum()),
                    int(each.model_spans.sum()),
                    real * PAGE_BYTES,
                    model * PAGE_BYTES,
                    f"{model / real - 1:+.1%}" if real else "",
                ]
            )
        return Table(
            "spans in use when each collection begins",
            ["when", "events", "spans", "model", "in spans_bytes", "model_bytes", "difference"],
            rows,
            len(chosen),
        )

    def _notes(self) -> list[str]:
        counts = self._trace.counts()
        sizes = counts["exact_sizes"] + counts["class_sizes"]
        texts = [
            "sweeping: the background goroutine sweeps when it has a processor, which the model reckons from "
            "the trace's time; a span that is swept too late, or too soon, is another's to fill",
            f"the start: {counts['objects_at_start']:,} objects were there and are in their slots; which "
            "spans Ps had in their caches, and where their tiny blocks ended, no event tells (tiny objects "
            "are not among the slots until a collection)",
            f"sizes: exact for {counts['exact_sizes']:,} of {sizes:,} objects; of the others the class, "
            "which is all that spans depend on",
            f"GOGC is not in the trace; {self._gogc} sets how soon all must be swept (go:gogc=...)",
            f"stacks and work buffers have spans of their own and are left out ({counts['manual_spans']:,})",
        ]
        if not self._one_p:
            texts.append(
                "several Ps: their events are in the order of a coarse clock, and which of them had which "
                "span at the start is not known, so that slots soon differ"
            )
        if not self._has_one_order:
            texts.append("slots are told and not judged: who takes which of several spans with room is open")
        return texts


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)
