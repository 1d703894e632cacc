"""Two results side by side: which runs are of a pair, and what differs, number by number; pure functions.

What is deterministic differs or does not. What was measured, a time, has a spread, and differs where the two
spreads do not touch. Prints nothing: comparison_report.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, TypeVar

from harness import metrics
from harness.errors import HarnessError
from harness.results import Run, TraceRuns

Number = int | float | None

# "~": no difference, or none beyond the spread. "": one of the two is unknown, or neither way is better.
Verdict = Literal["better", "worse", "~", ""]

# What a reader asks first stands first; the others follow in the order of the summary.
_HEADLINE = (
    "fragmentation_peak_ratio",
    "fragmentation_mean",
    "peak_committed_bytes",
    "mean_committed_bytes",
    "waste_bytes",
    "peak_resident_bytes",
    "modelled_ns_per_event",
    "measured_ns_per_event",
)

# Parts of a footprint that say how much the program holds, or how far the allocator maps ahead.
_PARTS_THAT_JUDGE_NOTHING = ("live", "released")


@dataclass(frozen=True)
class Row:
    """One number of two runs."""

    section: Literal["summary", "peak", "counters", "classes"]
    name: str
    unit: str
    better: Literal["lower", "higher"] | None
    a: Number
    b: Number
    difference: Number  # b - a, None where one is unknown.
    change: float | None  # difference / a, None where a is 0, too.
    verdict: Verdict  # On b.

    @property
    def is_equal(self) -> bool:
        """Whether it is the same number."""
        return self.a == self.b


@dataclass(frozen=True)
class Pair:
    """Two runs, and every number that one of them has."""

    a: Run
    b: Run
    rows: list[Row]
    notes: list[str]  # What else differs, and may be why.


@dataclass(frozen=True)
class TracePair:
    """Two results of one trace, or of two that are to be compared all the same."""

    a: Mapping[str, Any]  # The trace's totals.
    b: Mapping[str, Any]
    pairs: list[Pair]
    only_in_a: list[str]  # Labels of runs without a partner.
    only_in_b: list[str]


@dataclass(frozen=True)
class Side:
    """One of the two, as its user calls it."""

    name: str
    results: Sequence[TraceRuns] = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """Everything that two sides have in common."""

    a: str
    b: str
    traces: list[TracePair]
    only_in_a: list[str]  # Paths of traces without a partner.
    only_in_b: list[str]


def compare(a: Side, b: Side, *, classes: bool = False, different_traces: bool = False) -> Comparison:
    """Return how two sides differ, B less A; with `classes` by size class, too.

    HarnessError where they have no trace in common, unless `different_traces` says that this is meant, or no
    run that has a partner.
    """
    keys: list[Callable[[TraceRuns], Hashable]] = [_identity]
    if different_traces:
        keys += [lambda each: PurePath(each.trace["path"]).name, lambda each: None]
    matched, alone_a, alone_b = _matched(a.results, b.results, keys)
    if not matched and alone_a and alone_b:
        raise HarnessError(
            f"different traces: {_trace_text(alone_a[0])} in {a.name} and {_trace_text(alone_b[0])} in "
            f"{b.name}; --different-traces compares them all the same"
        )
    traces = [_trace_pair(first, second, classes) for first, second in matched]
    if not any(each.pairs for each in traces):
        labels = [dict.fromkeys(run.label for each in side.results for run in each.runs) for side in (a, b)]
        of_a, of_b = (", ".join(each) or "nothing" for each in labels)
        raise HarnessError(
            f"no two runs to compare: {a.name} has {of_a}, {b.name} has {of_b}; a pair is two of one label, "
            f"or the only two of one allocator, or of all"
        )
    paths = [[each.trace["path"] for each in alone] for alone in (alone_a, alone_b)]
    return Comparison(a.name, b.name, traces, *paths)


def _trace_pair(a: TraceRuns, b: TraceRuns, classes: bool) -> TracePair:
    keys: list[Callable[[Run], Hashable]] = [lambda run: run.label]
    # What is left of one allocator on both sides has other options; more than one would be a guess.
    keys.append(lambda run: run.allocator)
    if len(a.runs) == len(b.runs) == 1:
        keys.append(lambda run: None)
    matched, alone_a, alone_b = _matched(a.runs, b.runs, keys)
    pairs = [Pair(x, y, list(_rows(x, y, classes)), list(_notes(x, y, classes))) for x, y in matched]
    return TracePair(a.trace, b.trace, pairs, [run.label for run in alone_a], [run.label for run in alone_b])


_Item = TypeVar("_Item")


def _matched(
    a: Sequence[_Item], b: Sequence[_Item], keys: Sequence[Callable[[_Item], Hashable]]
) -> tuple[list[tuple[_Item, _Item]], list[_Item], list[_Item]]:
    """Return pairs in the order of `a`, and what is left of `a` and of `b`.

    By the first key equal ones are paired in their order; by a later one only what is the last of its kind on
    both sides.
    """
    left_a, left_b = dict(enumerate(a)), dict(enumerate(b))
    partners: dict[int, int] = {}
    for number, key in enumerate(keys):
        of_a, of_b = _by_key(left_a, key), _by_key(left_b, key)
        for value, indexes in of_a.items():
            others = of_b.get(value, [])
            if number == 0 or len(indexes) == len(others) == 1:
                for index, other in zip(indexes, others, strict=False):
                    partners[index] = other
                    del left_a[index], left_b[other]
    pairs = [(a[index], b[partners[index]]) for index in sorted(partners)]
    return pairs, list(left_a.values()), list(left_b.values())


def _by_key(items: Mapping[int, _Item], key: Callable[[_Item], Hashable]) -> dict[Hashable, list[int]]:
    found: dict[Hashable, list[int]] = {}
    for index, item in items.items():
        found.setdefault(key(item), []).append(index)
    return found


def _identity(result: TraceRuns) -> Hashable:
    """Return what two results of one trace have in common: its digest, or for want of one its totals."""
    trace = result.trace
    return trace["digest"] or tuple(sorted((name, value) for name, value in trace.items() if name != "path"))


def _trace_text(result: TraceRuns) -> str:
    digest = result.trace["digest"]
    return f"{result.trace['path']} ({digest[:15] if digest else 'without a digest'})"


def _rows(a: Run, b: Run, classes: bool) -> Iterator[Row]:
    """Yield every number that one of two runs has."""
    names = _names(a.summary, b.summary)
    first = [name for name in _HEADLINE if name in names]
    for name in dict.fromkeys([*first, *names]):
        values = a.summary.get(name), b.summary.get(name)
        yield from summary_row(name, *values, within_spread=_within_spread(name, a, b))
    parts = a.footprint["peak"], b.footprint["peak"]
    for name in _names(*parts):
        judged: Literal["lower"] | None = None if name in _PARTS_THAT_JUDGE_NOTHING else "lower"
        yield from _row("peak", name, "bytes", judged, parts[0].get(name), parts[1].get(name))
    for name in _names(a.counters, b.counters):
        if name not in names:
            yield from _row("counters", name, _unit(name), None, a.counters.get(name), b.counters.get(name))
    if classes and a.classes and b.classes:
        yield from sorted(_class_rows(a, b), key=lambda row: -abs(row.difference or 0))


def summary_row(name: str, a: Number, b: Number, *, within_spread: bool = False) -> Iterator[Row]:
    """Yield what became of a metric, or nothing where both numbers are unknown.

    `within_spread` says that it was measured, and that the two cannot be told from chance.
    """
    # A result of another version may have a metric that this one does not define.
    metric = metrics.DEFINITIONS.get(name)
    unit, better = (metric.unit, metric.better) if metric else (_unit(name), None)
    yield from _row("summary", name, unit, better, a, b, within_spread=within_spread)


def _row(
    section: Literal["summary", "peak", "counters", "classes"],
    name: str,
    unit: str,
    better: Literal["lower", "higher"] | None,
    a: Number,
    b: Number,
    *,
    within_spread: bool = False,
) -> Iterator[Row]:
    """Yield a row, or none where both are unknown."""
    if a is None and b is None:
        return
    difference = None if a is None or b is None else b - a
    verdict: Verdict = ""
    if difference is not None and (difference == 0 or within_spread):
        verdict = "~"
    elif difference is not None and better is not None:
        verdict = "better" if (difference < 0) == (better == "lower") else "worse"
    yield Row(section, name, unit, better, a, b, difference, metrics.ratio(difference, a), verdict)


def _class_rows(a: Run, b: Run) -> Iterator[Row]:
    """Yield the waste of each size, since a number of a class says nothing of another table of classes."""
    wastes: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for run, waste in zip((a, b), wastes, strict=True):
        for row in run.classes:
            slot = str(row["slot_bytes"]) if row["slot_bytes"] else "own span"
            name = slot + {None: "", True: " noscan", False: " scan"}[row["noscan"]]
            waste[name] = waste.get(name, 0) + int(row["waste_bytes"])
    for name in _names(*wastes):
        # A class that a run does not have, or never used, wastes nothing; its objects are in another one.
        better: Literal["lower"] | None = "lower" if all(name in waste for waste in wastes) else None
        yield from _row("classes", name, "bytes", better, wastes[0].get(name, 0), wastes[1].get(name, 0))


def _within_spread(name: str, a: Run, b: Run) -> bool:
    """Return whether a number of two runs was measured, and lies within both their spreads."""
    timings = [run.timing or {} for run in (a, b)]
    if name != "measured_ns_per_event" or any(timing.get("kind") != "measured" for timing in timings):
        return False
    first, second = timings
    return bool(first["low"] <= second["high"] and second["low"] <= first["high"])


def _unit(name: str) -> str:
    return "bytes" if "bytes" in name.split("_") else "count"


def _names(*mappings: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for each in mappings for name in each))


def _notes(a: Run, b: Run, classes: bool) -> Iterator[str]:
    """Say what of two runs is not the same beside their numbers, and what has no number."""
    yield from (f"failed: {run.failure}" for run in (a, b) if run.failure is not None)
    real = dict.fromkeys(run.label for run in (a, b) if run.kind == "library" and run.failure is None)
    if real:
        yield (
            f"measured once, so that a small difference may be chance: the memory of {' and of '.join(real)}"
        )
    without = [which for which, run in (("first", a), ("second", b)) if not run.classes]
    if classes and len(without) == 1:
        yield f"the {without[0]} has no size classes to compare"
    elif classes and a.has_census != b.has_census:
        yield "the size classes are of two moments, since one of the two has a census (see replay --census)"
    if a.allocator != b.allocator:
        return
    if a.version != b.version:
        yield f"versions differ: {a.version} and {b.version}"
    changed = [name for name in _names(a.options, b.options) if a.options.get(name) != b.options.get(name)]
    if a.label == b.label and changed:
        yield f"defaults differ: {', '.join(changed)}"
    tables = [(run.timing or {}).get("cost_table") for run in (a, b)]
    if None not in tables and tables[0] != tables[1]:
        yield f"modelled times are from two tables of costs: {tables[0]} and {tables[1]}"
    for run, other, which in ((a, b, "first"), (b, a, "second")):
        general = [text for text in run.warnings if not text.startswith(f"{run.label}: ")]
        yield from (f"of the {which} alone: {text}" for text in general if text not in other.warnings)
