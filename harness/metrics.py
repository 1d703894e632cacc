"""From footprints and exact sums to the numbers of the tables: pure functions, no Arrow, no native code.

Every number that is printed is defined here once, in DEFINITIONS and the lists beside it: its name, its unit,
the formula in words and the function that computes it. docs/metrics.md is made of the same definitions
(metrics_page.py). A ratio over nothing is None, and so is what needs a number that nobody knows: all that is
reckoned from R, where a trace does not know what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Parts = Mapping[str, int | None]
Number = int | float | None
Unit = Literal["bytes", "ratio", "share", "count", "per 1,000 events", "objects", "ns"]

# The parts that hold no object and stay committed: what an allocator keeps at hand, by tier.
EXTERNAL_PARTS = ("front_end", "transfer", "central", "tail", "page_heap")

# A span is thinly used where less of it than this holds objects.
THIN_OCCUPANCY = 0.25


def ratio(numerator: Number, denominator: Number) -> float | None:
    """Return numerator / denominator, None where either is unknown or the denominator is 0."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def total(numbers: Sequence[Number]) -> Number:
    """Return a sum, None where a number is unknown."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def difference(minuend: Number, subtrahend: Number) -> Number:
    """Return minuend - subtrahend, None where either is unknown."""
    return None if minuend is None or subtrahend is None else minuend - subtrahend


def committed_bytes(parts: Parts) -> int | None:
    """Return P = mapped - released, in bytes."""
    mapped, released = parts["mapped"], parts["released"]
    return None if mapped is None or released is None else mapped - released


@dataclass(frozen=True)
class Evidence:
    """What a run's metrics are computed from.

    `trace` holds the checked trace's totals, `result` a backend's exact totals, `floor` its footprint before
    the first event. What describes a moment is that at the first event of most committed bytes. A backend
    that can be asked at samples only gives the mean over these for a sum over events.
    """

    trace: Mapping[str, Any]
    result: Mapping[str, Any]
    floor: Parts

    def count(self, *names: str) -> Number:
        """Return a sum of the backend's counters, None where it has none of that name."""
        return total([self.result["counters"].get(name) for name in names])

    def gauge(self, name: str) -> Number:
        """Return what a backend tells of itself beside its footprint."""
        value: Number = (self.result.get("peak_gauges") or {}).get(name)
        return value

    def census(self, name: str) -> Number:
        """Return a number over all spans, None where these were not looked at."""
        value: Number = (self.result.get("census") or {}).get(name)
        return value

    def resident(self, name: str) -> Number:
        """Return what the kernel said is resident, in bytes."""
        value: Number = (self.result.get("resident") or {}).get(name)
        return value

    def ns_per_event(self, kind: str) -> Number:
        """Return a time if it was had in that way."""
        timing = self.result.get("timing") or {}
        value: Number = timing.get("ns_per_event") if timing.get("kind") == kind else None
        return value

    def per_1000_events(self, *names: str) -> Number:
        """Return a sum of counters for every 1,000 events."""
        events = ratio(self.trace["events"], 1000)
        return ratio(self.count(*names), events)

    @property
    def peak(self) -> Parts:
        """The footprint at the first event of most committed bytes."""
        parts: Parts = self.result["peak_footprint"]
        return parts

    @property
    def requested(self) -> Number:
        """R at the first event of most committed bytes."""
        value: Number = self.result["requested_at_peak_committed"]
        return value

    @property
    def waste(self) -> Number:
        """P - R at the first event of most committed bytes."""
        return difference(committed_bytes(self.peak), self.requested)

    @property
    def internal_waste(self) -> Number:
        """A - R at the first event of most committed bytes."""
        return difference(self.peak["live"], self.requested)

    @property
    def mean_requested(self) -> float | None:
        """The mean of R over events."""
        return ratio(self.trace["requested_sum"], self.trace["events"])

    @property
    def mean_committed(self) -> float | None:
        """The mean of P over events, or over samples where a backend can be asked at these only."""
        if self.result["committed_sum"] is None:
            mean: float | None = self.result.get("mean_committed_bytes")
            return mean
        return ratio(self.result["committed_sum"], self.trace["events"])

    @property
    def fragmentation_mean(self) -> float | None:
        """Sum of P over sum of R, of exact integers where both are known for every event."""
        if self.result["committed_sum"] is None:
            return ratio(self.mean_committed, self.mean_requested)
        return ratio(self.result["committed_sum"], self.trace["requested_sum"])

    @property
    def served(self) -> int:
        """Allocations that a tier had to serve: a realloc that stays where it is needs none."""
        in_place: int = self.result["counters"].get("reallocations_in_place", 0)
        return int(self.trace["allocations"] + self.trace["reallocations"] - in_place)

    def share_served(self, *names: str, less: str | None = None) -> float | None:
        """Return the share of allocations that such counters count."""
        served = self.count(*names)
        if less is not None:
            served = difference(served, self.count(less))
        return ratio(served, self.served)


@dataclass(frozen=True)
class Metric:
    """One number of a run's summary."""

    name: str
    unit: Unit
    better: Literal["lower", "higher"] | None  # None: it describes, and judges nothing.
    formula: str
    compute: Callable[[Evidence], Number] = field(repr=False)
    note: str = ""


# By heading, in the order in which a reader asks.
GROUPS: Mapping[str, Sequence[Metric]] = {
    "How much memory": (
        Metric("peak_requested_bytes", "bytes", None, "max of R", lambda e: e.trace["peak_requested_bytes"]),
        Metric("peak_committed_bytes", "bytes", "lower", "max of P", lambda e: e.result["peak_committed"]),
        Metric("peak_mapped_bytes", "bytes", "lower", "max of V", lambda e: e.result["peak_mapped"]),
        Metric("mean_requested_bytes", "bytes", None, "mean of R", lambda e: e.mean_requested),
        Metric(
            "mean_committed_bytes",
            "bytes",
            "lower",
            "mean of P",
            lambda e: e.mean_committed,
            "peaks hide what a pause would give back",
        ),
        Metric(
            "end_requested_bytes",
            "bytes",
            None,
            "R after the last event",
            lambda e: e.trace["end_requested_bytes"],
        ),
        Metric(
            "end_committed_bytes",
            "bytes",
            "lower",
            "P after the last event",
            lambda e: committed_bytes(e.result["end_footprint"]),
        ),
        Metric(
            "floor_committed_bytes",
            "bytes",
            "lower",
            "P before the first event",
            lambda e: committed_bytes(e.floor),
            "what the allocator takes for itself",
        ),
        Metric(
            "floor_resident_bytes",
            "bytes",
            "lower",
            "resident set before the first event",
            lambda e: e.resident("floor"),
            "real libraries only, from the kernel, less what the driver holds",
        ),
        Metric(
            "peak_resident_bytes",
            "bytes",
            "lower",
            "most of the resident set",
            lambda e: e.resident("peak"),
            "likewise",
        ),
        Metric(
            "end_resident_bytes",
            "bytes",
            "lower",
            "resident set after the last event",
            lambda e: e.resident("end"),
            "likewise",
        ),
    ),
    "Fragmentation": (
        Metric(
            "fragmentation_peak_ratio",
            "ratio",
            "lower",
            "max P / max R",
            lambda e: ratio(e.result["peak_committed"], e.trace["peak_requested_bytes"]),
            "Johnstone and Wilson's fourth (1998): what most tools print, and the head line of the table",
        ),
        Metric(
            "fragmentation_mean",
            "ratio",
            "lower",
            "(sum of P) / (sum of R)",
            lambda e: e.fragmentation_mean,
            "their first, as a ratio of sums: exact, and over events, never over seconds",
        ),
        Metric(
            "fragmentation_at_peak_requested",
            "ratio",
            "lower",
            "P / R at the first event of most R",
            lambda e: ratio(e.result["committed_at_peak_requested"], e.trace["peak_requested_bytes"]),
            "their second",
        ),
        Metric(
            "fragmentation_at_peak_committed",
            "ratio",
            "lower",
            "P / R at the peak",
            lambda e: ratio(e.result["peak_committed"], e.requested),
            "their third",
        ),
    ),
    "Waste at the peak": (
        Metric(
            "waste_bytes",
            "bytes",
            "lower",
            "P - R",
            lambda e: e.waste,
            "all that is committed and was not asked for: internal, external, garbage and runtime",
        ),
        Metric(
            "internal_waste_bytes",
            "bytes",
            "lower",
            "A - R",
            lambda e: e.internal_waste,
            "rounding and headers",
        ),
        Metric(
            "external_waste_bytes",
            "bytes",
            "lower",
            "F + T + C + W + H",
            lambda e: total([e.peak[name] for name in EXTERNAL_PARTS]),
            "free slots and pages that the allocator keeps, and tails of spans",
        ),
        Metric(
            "garbage_bytes",
            "bytes",
            "lower",
            "D",
            lambda e: e.peak["dead"],
            "dead and not yet swept: not fragmentation, but what a garbage collector costs",
        ),
        Metric(
            "internal_fragmentation",
            "share",
            "lower",
            "(A - R) / A",
            lambda e: ratio(e.internal_waste, e.peak["live"]),
        ),
        Metric("overhead", "share", "lower", "(P - R) / R", lambda e: ratio(e.waste, e.requested)),
        Metric(
            "overhead_above_floor",
            "share",
            "lower",
            "(P - R - P before the first event) / R",
            lambda e: ratio(difference(e.waste, committed_bytes(e.floor)), e.requested),
            "so that what an allocator takes for itself does not weigh on a small program",
        ),
        Metric(
            "efficiency",
            "share",
            "higher",
            "R / P",
            lambda e: ratio(e.requested, committed_bytes(e.peak)),
        ),
    ),
    "Spans at the peak": (
        Metric(
            "span_occupancy_mean",
            "share",
            "higher",
            "mean over spans of slots that hold an object / slots",
            lambda e: e.census("span_occupancy_mean"),
            "of spans that are cut into slots; this group needs a second pass up to the peak (`--census`)",
        ),
        Metric(
            "thin_span_bytes_share",
            "share",
            "lower",
            f"bytes of spans of which less than {THIN_OCCUPANCY:.0%} of the slots hold an object"
            " / bytes of spans",
            lambda e: e.census("thin_span_bytes_share"),
            "memory that few objects pin",
        ),
        Metric(
            "single_object_spans",
            "count",
            "lower",
            "spans of several slots that one object alone holds",
            lambda e: e.census("single_object_spans"),
        ),
        Metric(
            "single_object_span_bytes",
            "bytes",
            "lower",
            "bytes of these spans",
            lambda e: e.census("single_object_span_bytes"),
        ),
    ),
    "Who serves an allocation": (
        Metric(
            "front_end_hit_rate",
            "share",
            "higher",
            "front_end_hits / allocations",
            lambda e: e.share_served("front_end_hits"),
            "by a cache of the thread or P, without leaving it; a realloc that stays in place is none",
        ),
        Metric(
            "tier_share_transfer",
            "share",
            None,
            "refills_from_transfer / allocations",
            lambda e: e.share_served("refills_from_transfer"),
            "by a transfer cache; with the hit rate and the next three it makes up 1",
        ),
        Metric(
            "tier_share_central",
            "share",
            None,
            "refills_from_central / allocations",
            lambda e: e.share_served("refills_from_central"),
            "by a central list that has a span at hand",
        ),
        Metric(
            "tier_share_new_span",
            "share",
            None,
            "(refills_from_new_span + large_allocations - those from new OS memory) / allocations",
            lambda e: e.share_served(
                "refills_from_new_span", "large_allocations", less="large_allocations_from_new_os_memory"
            ),
            "by the page heap",
        ),
        Metric(
            "tier_share_new_os_memory",
            "share",
            "lower",
            "(refills and large allocations from new OS memory) / allocations",
            lambda e: e.share_served("refills_from_new_os_memory", "large_allocations_from_new_os_memory"),
            "by the operating system",
        ),
        Metric("refills", "count", "lower", "front end <- next tier", lambda e: e.count("refills")),
        Metric(
            "objects_per_refill",
            "objects",
            None,
            "refilled_objects / refills",
            lambda e: ratio(e.count("refilled_objects"), e.count("refills")),
        ),
        Metric(
            "flushes",
            "count",
            "lower",
            "front end -> next tier",
            lambda e: e.count("flushes"),
        ),
        Metric(
            "span_return_rate",
            "share",
            None,
            "spans_returned / spans_requested",
            lambda e: ratio(e.count("spans_returned"), e.count("spans_requested")),
            "how many spans became empty again",
        ),
        Metric(
            "remote_free_rate",
            "share",
            None,
            "frees on another thread than the allocating one / frees",
            lambda e: ratio(e.trace["remote_frees"], e.trace["frees"]),
        ),
        Metric(
            "failed_allocations",
            "count",
            "lower",
            "allocations that found no memory",
            lambda e: e.result["failed_allocations"],
        ),
    ),
    "Locks": (
        Metric(
            "central_locks_per_1000_events",
            "per 1,000 events",
            "lower",
            "1,000 x central_lock_acquisitions / events",
            lambda e: e.per_1000_events("central_lock_acquisitions"),
            "TCMalloc: transfer caches and central lists",
        ),
        Metric(
            "page_heap_locks_per_1000_events",
            "per 1,000 events",
            "lower",
            "1,000 x page_heap_lock_acquisitions / events (Go: heap_lock_acquisitions)",
            lambda e: e.per_1000_events(
                "heap_lock_acquisitions"
                if "heap_lock_acquisitions" in e.result["counters"]
                else "page_heap_lock_acquisitions"
            ),
        ),
        Metric(
            "span_set_operations_per_1000_events",
            "per 1,000 events",
            "lower",
            "1,000 x (span_set_pushes + span_set_pops) / events",
            lambda e: e.per_1000_events("span_set_pushes", "span_set_pops"),
            "Go: its central lists take no lock",
        ),
    ),
    "Garbage collection": (
        Metric("gc_cycles", "count", "lower", "cycles that were begun", lambda e: e.count("gc_cycles")),
        Metric(
            "gc_forced", "count", None, "of these, asked for by the program", lambda e: e.count("gc_forced")
        ),
        Metric(
            "gc_mark_bytes_scan",
            "bytes",
            "lower",
            "bytes marked that may hold pointers, over all cycles",
            lambda e: e.count("gc_mark_bytes_scan"),
        ),
        Metric(
            "gc_mark_bytes_noscan",
            "bytes",
            "lower",
            "bytes marked that hold none",
            lambda e: e.count("gc_mark_bytes_noscan"),
        ),
        Metric("gc_sweep_spans", "count", "lower", "spans swept", lambda e: e.count("gc_sweep_spans")),
        Metric(
            "gc_goal_bytes",
            "bytes",
            None,
            "heap size that the collector aims at, at the peak",
            lambda e: e.gauge("gc_goal_bytes"),
            "over time in the samples",
        ),
        Metric(
            "gc_headroom_bytes",
            "bytes",
            "lower",
            "goal - what the last cycle marked, at the peak",
            lambda e: difference(e.gauge("gc_goal_bytes"), e.gauge("gc_marked_bytes")),
            "by how much GOGC lets the heap outgrow what is in use: headroom, not fragmentation",
        ),
    ),
    "Traffic with the operating system": (
        Metric(
            "os_bytes_requested", "bytes", "lower", "bytes mapped", lambda e: e.count("os_bytes_requested")
        ),
        Metric("os_calls", "count", "lower", "calls that map or give back", lambda e: e.count("os_calls")),
        Metric(
            "released_bytes_total",
            "bytes",
            None,
            "bytes given back, all told",
            lambda e: e.count("released_bytes_total"),
        ),
    ),
    "Time": (
        Metric(
            "measured_ns_per_event",
            "ns",
            "lower",
            "processor time of a real library, median of repetitions, the driver's own taken off",
            lambda e: e.ns_per_event("measured"),
            "the only number that differs from run to run; `timing` holds its spread",
        ),
        Metric(
            "modelled_ns_per_event",
            "ns",
            "lower",
            "sum over paths of (count x cost) / events",
            lambda e: e.ns_per_event("modelled"),
            "of a model; `timing` names the table of costs (costs.md)",
        ),
    ),
}

DEFINITIONS: Mapping[str, Metric] = {metric.name: metric for metrics in GROUPS.values() for metric in metrics}

# What the summary needs of a backend that has nothing to tell, since it failed.
UNKNOWN_RESULT: Mapping[str, Any] = {
    "committed_sum": None,
    "peak_committed": None,
    "peak_mapped": None,
    "committed_at_peak_requested": None,
    "requested_at_peak_committed": None,
    "failed_allocations": None,
    "counters": {},
}


# Where R stands in the evidence: all that is None where the sizes of a trace are not what was asked for.
_REQUESTED_OF_TRACE = ("peak_requested_bytes", "end_requested_bytes", "requested_sum")
_REQUESTED_OF_RESULT = ("requested_at_peak_committed",)
_REQUESTED_OF_SAMPLES = ("requested", "peak_requested")


def summary(
    trace: Mapping[str, Any], result: Mapping[str, Any], floor: Parts, *, knows_requests: bool = True
) -> dict[str, Number]:
    """Return the metrics of a whole run by name, in the order of their definitions.

    `knows_requests` says whether the trace's sizes are what the program asked for.
    """
    if not knows_requests:
        trace = {**trace, **dict.fromkeys(_REQUESTED_OF_TRACE)}
        result = {**result, **dict.fromkeys(_REQUESTED_OF_RESULT)}
    evidence = Evidence(trace, result, floor)
    return {name: metric.compute(evidence) for name, metric in DEFINITIONS.items()}


def samples_of_trace(
    samples: Mapping[str, Sequence[int | None]], *, knows_requests: bool = True
) -> dict[str, list[int | None]]:
    """Return what samples say of the trace, without R where nobody knows it."""
    return {
        name: list(values) if knows_requests or name not in _REQUESTED_OF_SAMPLES else [None] * len(values)
        for name, values in samples.items()
    }


def over_samples(samples: Mapping[str, Sequence[int | None]]) -> dict[str, Number]:
    """Return peak and mean of committed bytes over samples, so that a model and a library compare alike."""
    pairs = list(zip(samples["mapped"], samples["released"], strict=True))
    committed = [v - u for v, u in pairs if v is not None and u is not None]
    if not committed or len(committed) < len(pairs):
        return {"peak_committed_bytes": None, "mean_committed_bytes": None}
    return {
        "peak_committed_bytes": max(committed),
        "mean_committed_bytes": sum(committed) / len(committed),
    }


def committed_over_time(samples: Mapping[str, Sequence[int | None]]) -> list[int | None]:
    """Return for each sample the most that was committed since the one before, in bytes.

    Where only the samples themselves are known it is what was committed at each.
    """
    return [
        committed_bytes({"mapped": mapped, "released": released}) if peak is None else peak
        for mapped, released, peak in zip(
            samples["mapped"], samples["released"], samples["peak_committed"], strict=True
        )
    ]


@dataclass(frozen=True)
class Column:
    """One number of a size class, of a sample or of a footprint."""

    name: str
    unit: Unit | Literal["flag", "list"]
    meaning: str


# A footprint's parts, by the letters of the formulas; together they are what is mapped.
FOOTPRINT: Mapping[str, Column] = {
    "A": Column("live", "bytes", "slots of objects that the program holds, rounding and headers included"),
    "D": Column("dead", "bytes", "slots that the program has let go of and no sweep has reached"),
    "F": Column(
        "front_end", "bytes", "free slots of caches per thread or P, and free pages of a P's page cache"
    ),
    "T": Column("transfer", "bytes", "free slots in transfer caches"),
    "C": Column("central", "bytes", "free slots of spans in central lists"),
    "W": Column("tail", "bytes", "what no slot of a span can use"),
    "H": Column("page_heap", "bytes", "free pages not given back"),
    "U": Column("released", "bytes", "pages given back to the operating system, or mapped and never taken"),
    "N": Column("runtime", "bytes", "what the allocator's own process holds and no event asked for"),
}

# What a size class holds of them.
CLASS_PARTS = (
    "live_bytes",
    "dead_bytes",
    "front_end_bytes",
    "transfer_bytes",
    "central_bytes",
    "tail_bytes",
)
# Counted over the whole trace, whichever moment the others are of.
CLASS_COUNTS = ("allocations", "spans_requested", "spans_returned", "lock_acquisitions")

CLASS_COLUMNS: Sequence[Column] = (
    Column("class", "count", "the allocator's own number; 0: objects with a span of their own"),
    Column("noscan", "flag", "whether its objects hold no pointers, where these have spans apart"),
    Column("slot_bytes", "bytes", "size of a slot; 0 where every object has its own"),
    Column("span_bytes", "bytes", "size of a span; 0 likewise"),
    Column("spans", "count", "spans of the class"),
    Column("spans_requested", "count", "taken from the page heap, over the whole trace"),
    Column("spans_returned", "count", "given back to it, likewise"),
    Column("span_return_rate", "share", "spans_returned / spans_requested"),
    Column("allocations", "count", "by the program, over the whole trace"),
    Column("live_objects", "count", "slots that hold an object of the program"),
    Column("requested_bytes", "bytes", "what the program asked for of these; null where nobody knows it"),
    Column("live_bytes", "bytes", "their slots"),
    Column("rounding_bytes", "bytes", "live - requested - headers; likewise"),
    Column("header_bytes", "bytes", "within live"),
    Column("dead_bytes", "bytes", "slots not yet swept"),
    Column("front_end_bytes", "bytes", "free slots in caches of threads or Ps"),
    Column("transfer_bytes", "bytes", "free slots in transfer caches"),
    Column("central_bytes", "bytes", "free slots of spans in central lists"),
    Column("tail_bytes", "bytes", "tails of its spans"),
    Column("lock_acquisitions", "count", "of the class's own lock, likewise (TCMalloc: transfer, central)"),
    Column("waste_bytes", "bytes", "rounding + headers + dead + free slots + tails, of these what is known"),
    Column("waste_share", "share", "of the waste of all classes"),
    Column(
        "occupancy_spans",
        "list",
        "with a census: spans by how many of their slots hold an object: none, to 10 %, to 20 %, ... 100 %",
    ),
    Column(
        "single_object_spans", "count", "with a census: spans of several slots that one object alone holds"
    ),
    Column("single_object_span_bytes", "bytes", "with a census: bytes of these"),
)

SAMPLE_COLUMNS: Sequence[Column] = (
    Column("event", "count", "events done"),
    Column("time_ns", "ns", "the trace's time, where it has one"),
    Column("requested", "bytes", "R"),
    Column("peak_requested", "bytes", "max of R since the sample before"),
    *FOOTPRINT.values(),
    Column("mapped", "bytes", "V"),
    Column("metadata", "bytes", "off-heap structures, where an exact formula exists"),
    Column("peak_mapped", "bytes", "max of V since the sample before"),
    Column("peak_committed", "bytes", "max of P since the sample before"),
    Column("gc_live_bytes", "bytes", "Go: what the collector compares with its trigger (heapLive)"),
    Column("gc_marked_bytes", "bytes", "Go: what the last cycle found alive (heapMarked)"),
    Column("gc_goal_bytes", "bytes", "Go: the heap's size that the cycle should end with"),
    Column("gc_trigger_bytes", "bytes", "Go: the size at which the next cycle begins"),
    Column("gc_cycles", "count", "Go: cycles begun"),
)


def class_waste_bytes(row: Mapping[str, Any]) -> int:
    """Return what one size class holds beyond what the program asked for of it, in bytes.

    Where that is unknown, what it holds beyond its objects' slots, and the headers in these.
    """
    asked = row["requested_bytes"]
    kept = row["live_bytes"] - row["header_bytes"] if asked is None else asked
    return sum(int(row[name]) for name in CLASS_PARTS) - int(kept)


def with_shares(classes: Sequence[Mapping[str, Any]], *, knows_requests: bool = True) -> list[dict[str, Any]]:
    """Return the classes that were used, each with what follows from its columns.

    `knows_requests` says whether the trace's sizes are what the program asked for.
    """
    used = [row for row in classes if row["allocations"] or row["spans"]]
    if not knows_requests:
        used = [{**row, "requested_bytes": None} for row in used]
    wastes = [class_waste_bytes(row) for row in used]
    of_all = sum(wastes)
    rows = []
    for row, waste in zip(used, wastes, strict=True):
        derived = {
            "span_return_rate": ratio(row["spans_returned"], row["spans_requested"]),
            "rounding_bytes": difference(row["live_bytes"] - row["header_bytes"], row["requested_bytes"]),
            "waste_bytes": waste,
            "waste_share": ratio(waste, of_all),
        }
        every = {**row, **derived}
        rows.append({column.name: every[column.name] for column in CLASS_COLUMNS if column.name in every})
    return rows


# Spans by live objects / slots: none, above 0 up to 10 %, and so on up to 90 to 100 %.
OCCUPANCY_BINS = 11


def occupancy_bytes(classes: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """Return bytes of spans by how full these are, of all spans and of those that hold one object.

    Each list has OCCUPANCY_BINS numbers. Objects that have a span of their own, class 0, are left out.
    """
    everything, single = [0] * OCCUPANCY_BINS, [0] * OCCUPANCY_BINS
    for row in classes:
        if "occupancy_spans" not in row or not row["slot_bytes"]:
            continue
        for index, spans in enumerate(row["occupancy_spans"]):
            everything[index] += spans * row["span_bytes"]
        slots = row["span_bytes"] // row["slot_bytes"]
        single[-(-(OCCUPANCY_BINS - 1) // slots)] += row["single_object_span_bytes"]
    return everything, single
