"""Explains a run's waste at its peak: by what it is caused, which classes have it, and that in words.

Needs a run with a census (replay.Settings.census), whose class rows are those of the peak: then what the rows
hold, and what no class holds, add up to the run's waste_bytes exactly. Where nobody knows what was asked for,
rounding is None, and the rest adds up to what is committed beyond the objects' slots, and headers in these.
Nothing here prints; waste_report.py makes tables of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import AllocatorError, HarnessError
from harness.metrics import Number, Parts, ratio
from harness.results import Run, TraceRuns

# What makes committed memory larger than what was asked for: the name, how a table heads it, how a sentence
# calls it.
CAUSES: Mapping[str, tuple[str, str]] = {
    "rounding": ("rounding", "rounding of sizes up to those of slots"),
    "header": ("headers", "headers before objects"),
    "dead": ("garbage", "garbage that no sweep has reached"),
    "front_end": ("front end", "free memory in the caches of threads or Ps"),
    "transfer": ("transfer", "free slots in transfer caches"),
    "central": ("central", "free slots of spans that other objects keep"),
    "tail": ("tails", "tails of spans"),
    "page_heap": ("page heap", "free pages that were not given back"),
    "runtime": ("runtime", "what the process itself holds"),
}

# What each cause has of a whole, in bytes; None is what nobody knows.
Causes = Mapping[str, int | None]

# A cause is worth a word where it makes up so much of a row's waste.
_WORTH_A_WORD_SHARE = 0.15
# What is said of a row in words: no more than its main causes.
_CAUSES_IN_WORDS = 2


@dataclass(frozen=True)
class Waste:
    """What one size class, or what no class holds, wastes at the peak; all of it in bytes.

    `share` is that of the run's whole waste. `row` is the class row, None outside of classes.
    """

    name: str
    causes: Causes
    waste_bytes: int
    share: float | None
    words: str
    row: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Explained:
    """A run's waste at its peak: the whole by cause, and by class with the largest first."""

    run: Run
    causes: Causes
    waste_bytes: int  # Without what nobody knows.
    rows: list[Waste]
    advice: str


def explain_all(
    result: TraceRuns, remedies: Sequence[Mapping[str, str]]
) -> tuple[list[Explained], list[HarnessError]]:
    """Return what each run of a trace wastes and why, and the faults of those that cannot be explained."""
    explained: list[Explained] = []
    faults: list[HarnessError] = []
    for run, hints in zip(result.runs, remedies, strict=True):
        try:
            explained.append(explain(run, hints))
        except HarnessError as fault:
            faults.append(fault)
    return explained, faults


def explain(run: Run, remedies: Mapping[str, str] | None = None) -> Explained:
    """Return what a run wastes and why; `remedies` are an allocator's hints by cause.

    AllocatorError where the run has no classes, or where its parts do not add up to its waste.
    """
    whole = _whole(run)
    if run.failure is not None or not run.classes or whole is None:
        why = run.failure or "it does not tell what its size classes hold"
        raise AllocatorError(f"{run.label}: its waste cannot be explained: {why}")
    parts = [(_class_name(row), _class_causes(row), row) for row in run.classes]
    outside = outside_classes(run.footprint["peak"], run.classes)
    causes = {name: _sum([*(part[name] for _, part, _ in parts), outside.get(name, 0)]) for name in CAUSES}
    if known_bytes(causes) != whole:
        raise AllocatorError(
            f"{run.label}: the waste of its parts is {known_bytes(causes)} bytes, and of the whole {whole}: "
            "was the run made with a census?"
        )
    rows = [
        Waste(name, part, known_bytes(part), ratio(known_bytes(part), whole), _class_words(row, part), row)
        for name, part, row in parts
    ]
    rows += [
        Waste(_OUTSIDE[name][0], {name: held}, held, ratio(held, whole), _OUTSIDE[name][1])
        for name, held in outside.items()
        if held
    ]
    rows.sort(key=lambda each: -each.waste_bytes)
    return Explained(run, causes, int(whole), rows, _advice(run, causes, int(whole), remedies or {}))


def known_bytes(causes: Causes) -> int:
    """Return what the causes that are known come to."""
    return sum(held for held in causes.values() if held is not None)


def _whole(run: Run) -> Number:
    """Return a run's waste at its peak, as far as it is known."""
    committed, live = run.summary["peak_committed_bytes"], run.footprint["peak"]["live"]
    if run.knows_requests or committed is None or live is None:
        return run.summary["waste_bytes"]
    return committed - live + sum(int(row["header_bytes"]) for row in run.classes)


def _sum(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


# What no class holds, by the cause that it belongs to: the row's name, and its words.
_OUTSIDE: Mapping[str, tuple[str, str]] = {
    "front_end": ("page caches", "free pages that Ps have at hand for spans"),
    "page_heap": ("page heap", "free pages, kept for spans to come or not yet given back"),
    "runtime": ("runtime", "the allocator's own: no event of the trace asked for it"),
}


def outside_classes(peak: Parts, classes: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return what of a footprint no class row of the same moment holds, in bytes by cause."""
    in_caches = sum(row["front_end_bytes"] for row in classes)
    return {name: (peak[name] or 0) - (in_caches if name == "front_end" else 0) for name in _OUTSIDE}


def _class_name(row: Mapping[str, Any]) -> str:
    noscan = {None: "", True: " noscan", False: " scan"}[row["noscan"]]
    return f"{row['class']}{noscan}"


def _class_causes(row: Mapping[str, Any]) -> Causes:
    return {name: row.get(f"{name}_bytes", 0) for name in CAUSES}


def _class_words(row: Mapping[str, Any], causes: Causes) -> str:
    """Return what a class's waste comes from, the main causes first."""
    waste = known_bytes(causes)
    if waste <= 0:
        return "none"
    known = {name: held for name, held in causes.items() if held}
    main = sorted((name for name in known if known[name] > 0), key=lambda name: -known[name])
    worth = [name for name in main if known[name] >= _WORTH_A_WORD_SHARE * waste] or main[:1]
    return "; ".join(_cause_words(name, row) for name in worth[:_CAUSES_IN_WORDS])


def _cause_words(cause: str, row: Mapping[str, Any]) -> str:
    slot, objects = row["slot_bytes"], row["live_objects"]
    counted = row[f"{cause}_bytes"] // slot if slot else 0
    if cause == "rounding":
        mean = f"{row['requested_bytes'] / max(objects, 1):,.0f} B"
        of = f"slots of {slot:,} B" if slot else "whole pages"
        return f"{_counted(objects, 'object')} of {mean} in the mean take {of}"
    if cause == "header":
        return f"a header of {row['header_bytes'] // max(objects, 1)} B before {_counted(objects, 'object')}"
    if cause == "dead":
        what = _counted(counted, "object") if slot else "objects with a span of their own"
        return f"{what} dead and not yet swept"
    if cause == "front_end":
        return f"{_counted(counted, 'free slot')} in caches of threads or Ps"
    if cause == "transfer":
        return f"{_counted(counted, 'free slot')} in the transfer cache"
    if cause == "central":
        return _central_words(row, counted)
    tail_bytes = row["tail_bytes"] // max(row["spans"], 1)
    return f"{tail_bytes:,} B at the end of {_counted(row['spans'], 'span')} fit no slot"


def _central_words(row: Mapping[str, Any], free: int) -> str:
    spans = row["spans"]
    usable = spans * row["span_bytes"] - row["tail_bytes"]
    text = (
        f"{_counted(free, 'free slot')} in {_counted(spans, 'span')}, "
        f"which {'is' if spans == 1 else 'are'} {row['live_bytes'] / usable:.0%} in use"
    )
    single = row["single_object_spans"]
    return text + (f", {single:,} of them for one object alone" if single else "")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _advice(run: Run, causes: Causes, whole: int, remedies: Mapping[str, str]) -> str:
    """Return in words what the waste is, most of all, and what to try."""
    if whole <= 0:
        return "nothing is wasted"
    known = {name: held for name, held in causes.items() if held is not None}
    main = max(known, key=lambda name: known[name])
    of = "the waste" if len(known) == len(causes) else "the waste that is known"
    text = f"{known[main] / whole:.0%} of {of} is {CAUSES[main][1]}"
    if main in remedies:
        text += f": {remedies[main]}"
    headroom, committed = run.summary.get("gc_headroom_bytes"), run.summary["peak_committed_bytes"]
    if headroom is not None and committed and run.summary["gc_cycles"]:
        text += (
            f". The collector's goal lies {headroom / committed:.0%} of what is committed above what it last "
            "found alive: headroom that GOGC gives, not fragmentation"
        )
    return text
