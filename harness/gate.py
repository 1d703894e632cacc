"""Whether memory got worse: runs held against a baseline, number by number; pure functions.

A model's numbers are the same on every machine, so that any difference is one, and the thresholds say which
are worth a failure. A real library's are measured: they differ where their repetitions do, by the rank sum
test of Mann and Whitney, and by more than the threshold. Prints nothing: gate_report.py does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from harness import metrics
from harness.baseline import Baseline, KeptRun, KeptTrace, Value, identity, named, runs_by_label, value_of
from harness.comparison import Row, summary_row
from harness.errors import HarnessError
from harness.results import Run, TraceRuns
from harness.thresholds import Case, Threshold, Thresholds

# "worse" and "better" lie within the threshold; "changed" is of a number that judges nothing; "~" is none
# that can be told from chance; "equal" is none at all.
Verdict = Literal["regression", "warning", "improvement", "worse", "better", "changed", "~", "equal"]

# Two-sided; five repetitions a side reach 0.008 at best, four 0.03 and never this.
SIGNIFICANT = 0.01
ENOUGH_REPETITIONS = 5


@dataclass(frozen=True)
class Change:
    """One number of one run, and what has become of it."""

    trace: str  # As it can be opened from here.
    label: str  # Of the allocator.
    kept_label: str  # Of the run in the baseline, which may have had other options.
    row: Row
    threshold: Threshold
    allowed: float  # The most by which it may get worse, in the metric's unit.
    verdict: Verdict
    probability: float | None = None  # Of a real library: that chance alone does as much.


@dataclass(frozen=True)
class Verdicts:
    """What a check has found."""

    baseline: str
    new_traces: bool
    changes: list[Change]
    notes: list[str] = field(default_factory=list)  # What else differs, and may be why.
    faults: list[HarnessError] = field(default_factory=list)  # What could not be compared.

    def those(self, *verdicts: Verdict) -> list[Change]:
        """Return the changes of some verdicts."""
        return [change for change in self.changes if change.verdict in verdicts]

    @property
    def regressions(self) -> list[Change]:
        """What fails the check."""
        return self.those("regression")

    @property
    def warnings(self) -> list[Change]:
        """What got worse beyond its threshold and fails nothing."""
        return self.those("warning")

    @property
    def improvements(self) -> list[Change]:
        """What got better by more than it may get worse."""
        return self.those("improvement")

    @property
    def status(self) -> int:
        """The exit status: 2 where something could not be compared, 1 for a regression, 0 otherwise."""
        return 2 if self.faults else 1 if self.regressions else 0


_NO_CHANGES = Thresholds()


def check_runs(
    baseline: Baseline,
    results: Sequence[TraceRuns],
    thresholds: Thresholds = _NO_CHANGES,
    *,
    new_traces: bool = False,
    processor: str | None = None,
) -> Verdicts:
    """Hold results against a baseline; what it has and they do not is left out.

    A result is of the trace that the baseline knows by its path, else by its content, else by its file's
    name; with `new_traces` its content may have changed. A trace that is among the results several times was
    measured as often. `processor` is the one of this machine: times of another one judge nothing.
    """
    repeated: dict[str, list[TraceRuns]] = {}
    faults: list[HarnessError] = []
    for result in results:
        try:
            repeated.setdefault(_name_of(baseline, result.trace, new_traces), []).append(result)
        except HarnessError as fault:
            faults.append(fault)
    changes: list[Change] = []
    notes: list[str] = []
    for name, each in repeated.items():
        checked = _Checked(
            each[0].trace["path"],
            "new-traces" if new_traces else "thresholds",
            thresholds,
            processor,
        )
        checked.hold(baseline.traces[name], runs_by_label(each))
        changes += checked.changes
        notes += checked.notes
        faults += checked.faults
    return Verdicts(baseline.path, new_traces, changes, list(dict.fromkeys(notes)), faults)


def name_in(baseline: Baseline, path: str, content: str | None = None) -> str | None:
    """Return what a baseline calls a trace, by its path, else its content, else its file's name."""
    name = named(path, baseline.path)
    if name in baseline.traces:
        return name
    same = [key for key, kept in baseline.traces.items() if kept.digest == content]
    same += [key for key in baseline.traces if PurePath(key).name == PurePath(path).name]
    return same[0] if same else None


def check_content(baseline: Baseline, name: str, path: str, content: str) -> None:
    """Raise HarnessError where a file holds another trace than the baseline's of that name."""
    expected = baseline.traces[name].digest
    if expected != content:
        raise HarnessError(
            f"{path}: holds another trace than {baseline.path} is of ({content[:15]}, expected "
            f"{expected[:15]}); restore it, or say --new-traces if it was recorded anew"
        )


def chance(a: Sequence[float], b: Sequence[float]) -> float:
    """Return how likely two samples of one distribution differ at least as much (Mann and Whitney, 1947).

    Two-sided, exact where there are no ties. HarnessError without SciPy.
    """
    if len({*a, *b}) == 1:
        return 1.0
    try:
        from scipy.stats import mannwhitneyu
    except ImportError as error:
        raise HarnessError(
            "real libraries are compared by statistics, and SciPy is not installed; "
            "`pip install 'alloc-harness[statistics]'`, or leave them out of the baseline"
        ) from error
    return float(mannwhitneyu(a, b, alternative="two-sided", method="auto").pvalue)


def _name_of(baseline: Baseline, trace: Mapping[str, Any], new_traces: bool) -> str:
    """Return the trace of a baseline that a result is of."""
    path, content = trace["path"], identity(trace)
    name = name_in(baseline, path, content)
    if name is None:
        raise HarnessError(
            f"{path}: {baseline.path} has no such trace; it has {', '.join(baseline.traces) or 'none'}"
        )
    if not new_traces:
        check_content(baseline, name, path, content)
    return name


def _label_in(kept: KeptTrace, label: str, allocator: str) -> str | None:
    """Return which run of a baseline another one is held against: of its label, or of its allocator.

    Of several runs of the allocator that is the one with all options at their defaults.
    """
    if label in kept.runs:
        return label
    same = [each for each, run in kept.runs.items() if run.allocator == allocator]
    return same[0] if len(same) == 1 else allocator if allocator in same else None


class _Labels(NamedTuple):
    """What a run is called, and what the baseline calls the one that it is held against."""

    now: str
    kept: str


class _Checked:
    """One trace's runs on the way to verdicts."""

    def __init__(self, path: str, case: Case, thresholds: Thresholds, processor: str | None) -> None:
        self.path = path
        self.changes: list[Change] = []
        self.notes: list[str] = []
        self.faults: list[HarnessError] = []
        self._case: Case = case
        self._thresholds = thresholds
        self._processor = processor

    def hold(self, kept: KeptTrace, runs: Mapping[str, Sequence[Run]]) -> None:
        """Hold the runs of a trace against those of the baseline."""
        for label, now in runs.items():
            kept_label = _label_in(kept, label, now[0].allocator)
            failures = [run.failure for run in now if run.failure is not None]
            if kept_label is None:
                known = ", ".join(kept.runs) or "none"
                self.faults.append(HarnessError(f"{self.path}: the baseline has no {label}; it has {known}"))
            elif failures:
                self.faults.append(HarnessError(f"{self.path}: {failures[0]}"))
            else:
                self.notes += _notes(kept_label, kept.runs[kept_label], now[0])
                self._compare(_Labels(label, kept_label), kept.runs[kept_label], now)

    def _compare(self, labels: _Labels, before: KeptRun, now: Sequence[Run]) -> None:
        for name, value in before.metrics.items():
            metric = metrics.DEFINITIONS.get(name)
            found = value_of(now, name)
            if metric is None:
                self.notes.append(f"{name} is no metric of this version and was left out")
            elif found is None:
                self.faults.append(
                    HarnessError(f"{self.path}: {labels.now}: {name} is unknown now, and the baseline has it")
                )
            elif before.kind == "library":
                self._measured(labels, metric, before, value, found)
            else:
                threshold = self._thresholds.of(metric, self._case)
                self._judge(labels, metric, threshold, _middle(value), _middle(found), None)

    def _measured(
        self, labels: _Labels, metric: metrics.Metric, kept: KeptRun, before: Value, now: Value
    ) -> None:
        if metric.unit == "ns" and self._processor is not None and kept.processor != self._processor:
            self.notes.append(
                f"{labels.now}: times are of another processor than the baseline's, {kept.processor}, "
                f"and were not compared"
            )
            return
        samples = [value if isinstance(value, list) else [value] for value in (before, now)]
        if min(map(len, samples)) < ENOUGH_REPETITIONS:
            self.notes.append(
                f"{labels.now}: fewer than {ENOUGH_REPETITIONS} repetitions: nothing can be told from chance"
            )
        threshold = self._thresholds.of(metric, "libraries")
        self._judge(labels, metric, threshold, _middle(before), _middle(now), chance(*samples))

    def _judge(
        self,
        labels: _Labels,
        metric: metrics.Metric,
        threshold: Threshold,
        before: int | float,
        now: int | float,
        probability: float | None,
    ) -> None:
        is_chance = probability is not None and probability > SIGNIFICANT
        (row,) = summary_row(metric.name, before, now, within_spread=is_chance)
        allowed = threshold.allowed(before)
        verdict = _verdict(row, threshold, allowed)
        self.changes.append(Change(self.path, *labels, row, threshold, allowed, verdict, probability))


def _verdict(row: Row, threshold: Threshold, allowed: float) -> Verdict:
    if row.is_equal:
        return "equal"
    if row.verdict == "~":
        return "~"
    if row.verdict == "" or threshold.severity == "ignore":
        return "changed"
    is_beyond = abs(row.difference or 0) > allowed
    if row.verdict == "better":
        return "improvement" if is_beyond else "better"
    if not is_beyond:
        return "worse"
    return "regression" if threshold.severity == "fail" else "warning"


def _middle(value: Value) -> int | float:
    return statistics.median(value) if isinstance(value, list) else value


def _notes(kept_label: str, before: KeptRun, now: Run) -> Iterator[str]:
    """Say what of two runs differs beside their numbers."""
    whose = now.label if now.label == kept_label else f"{now.label} against {kept_label}"
    if before.version != now.version:
        yield f"{whose}: versions differ: {before.version} in the baseline, {now.version} now"
    differing = [
        f"{name} {before.options.get(name)} -> {now.options.get(name)}"
        for name in dict.fromkeys([*before.options, *now.options])
        if before.options.get(name) != now.options.get(name)
    ]
    if differing:
        yield f"{whose}: options differ: {', '.join(differing)}"
