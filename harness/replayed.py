"""What a test has of a replay: its metrics by name, and whether they are worse than a baseline's.

A session keeps what was replayed, so that the same trace and allocator are replayed once, and what goes into
the baseline when it ends. pytest_plugin.py makes both; nothing here knows of pytest.
"""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import baseline, gate, metrics, thresholds
from harness.allocator import find
from harness.baseline import Baseline
from harness.comparison import Row
from harness.comparison_report import TEXTS, change_text, difference_text
from harness.errors import HarnessError
from harness.report import metric_heading
from harness.results import Environment, Run, TraceRuns

# The metrics that a census alone tells.
_OF_CENSUS = frozenset(metric.name for metric in metrics.GROUPS["Spans at the peak"])


@dataclass(eq=False)
class Replayed:
    """One trace replayed through one allocator; every metric of docs/metrics.md is an attribute."""

    name: str  # Of the trace, as the test wrote it.
    result: TraceRuns = field(repr=False)
    noscan: str | None = field(repr=False)
    session: Session = field(repr=False)
    read: list[str] = field(default_factory=list, repr=False)  # The metrics that were asked for.

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self.name} under {self.run.label}"

    @property
    def run(self) -> Run:
        """Everything that the replay left behind."""
        return self.result.runs[0]

    @property
    def trace(self) -> Mapping[str, Any]:
        """The trace's totals."""
        return self.result.trace

    @property
    def classes(self) -> list[dict[str, Any]]:
        """The size classes, by the columns of docs/metrics.md."""
        return self.run.classes

    @property
    def samples(self) -> dict[str, list[int | None]]:
        """The samples over the trace, by column."""
        return self.run.samples

    def __getattr__(self, name: str) -> int | float:
        """Return a metric; AttributeError for one that there is not, or that is not known of this run."""
        __tracebackhide__ = True
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in metrics.DEFINITIONS:
            near = difflib.get_close_matches(name, metrics.DEFINITIONS, n=3)
            told = f"did you mean {' or '.join(near)}?" if near else "docs/metrics.md lists them all"
            raise AttributeError(f"{name!r} is no metric; {told}")
        value = self.run.summary[name]
        if value is None:
            how = "it takes census=True" if name in _OF_CENSUS else "`.run.summary` has None for it"
            raise AttributeError(f"{self}: {name} is not known of this run; {how}")
        if name not in self.read:
            self.read.append(name)
        return value

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *metrics.DEFINITIONS]

    def assert_no_regression(self, *, new_trace: bool = False) -> None:
        """Raise AssertionError where a metric of the baseline is worse than its threshold allows.

        `new_trace` says that the trace was recorded anew, and may differ from the baseline's. HarnessError
        where there is nothing to compare with. With --harness-update it goes into the baseline instead.
        """
        __tracebackhide__ = True
        if self.run.kind != "model":
            raise HarnessError(
                f"{self}: is measured and differs from run to run; hold it against repetitions with "
                f"`harness check`"
            )
        if self.session.is_update:
            self.session.keep(self)
            return
        kept = self.session.baseline
        verdicts = self._held(kept, new_trace)
        if verdicts.faults:
            raise HarnessError(f"{verdicts.faults[0]}; `pytest --harness-update` puts it into the baseline")
        if verdicts.regressions:
            raise AssertionError(_regressions(self, kept, verdicts))

    def told(self) -> Iterator[str]:
        """Yield in words what was read, and what it is in the baseline."""
        rows: dict[str, Row] = {}
        try:
            verdicts = self._held(self.session.baseline, new_trace=True)
            rows = {change.row.name: change.row for change in verdicts.changes}
        except HarnessError:
            pass  # Nobody asked for a baseline.
        for name in self.read:
            value = self.run.summary[name]
            line = f"{self}: {metric_heading(name)} is {TEXTS[metrics.DEFINITIONS[name].unit](value)}"
            if isinstance(value, int):
                line += f" ({value:,})"
            if name in rows:
                same = rows[name].is_equal
                line += f", {'as' if same else _difference(rows[name])} in the baseline"
            yield line

    def _held(self, kept: Baseline, new_trace: bool) -> gate.Verdicts:
        __tracebackhide__ = True
        if kept.noscan != self.noscan:
            raise HarnessError(
                f"{self}: {kept.path} was made with noscan={kept.noscan!r}, and this with "
                f"noscan={self.noscan!r}"
            )
        found = self.session.configuration.thresholds
        return gate.check_runs(kept, [self.result], found, new_traces=new_trace)


@dataclass
class Session:
    """What the tests of one process share."""

    root: Path  # What relative paths are relative to, and whose configuration is the project's.
    baseline_file: Path | None = None  # None: as the project's configuration says.
    is_update: bool = False
    kept: list[Replayed] = field(default_factory=list)  # What goes into the baseline.
    outcome: str = ""  # What became of the baseline at the end, for the user.
    _results: dict[tuple[Any, ...], TraceRuns] = field(default_factory=dict)
    _configuration: thresholds.Configuration | None = None
    _baseline: Baseline | None = None

    def replay(self, trace: str, allocator: str, *, noscan: str | None, census: bool) -> Replayed:
        """Return a trace replayed through an allocator; once, as long as the file is the same.

        HarnessError for whatever of it is no trace, no allocator or no share of noscan objects.
        """
        __tracebackhide__ = True
        try:
            return Replayed(trace, self._result(trace, allocator, noscan, census), noscan, self)
        except HarnessError as error:
            raise type(error)(str(error)) from None  # Where it was found is nothing to the test.

    def _result(self, trace: str, allocator: str, noscan: str | None, census: bool) -> TraceRuns:
        from harness.replay import Settings, replay
        from harness.trace import Noscan

        specs = find(allocator)
        if len(specs) > 1:
            raise HarnessError(f"{allocator} are {len(specs)} allocators; replay() takes one")
        try:
            chosen = Noscan.parse(noscan)
        except ValueError as error:
            raise HarnessError(
                f"noscan={noscan!r}: expected 'all', 'none' or a fraction between 0 and 1"
            ) from error
        path = trace if "://" in trace else str(self.root / trace)
        key = (path, _stamp(path), specs[0].label, noscan, census)
        if key not in self._results:
            self._results[key] = replay(path, specs, Settings(noscan=chosen, census=census))
        return self._results[key]

    @property
    def configuration(self) -> thresholds.Configuration:
        """What the project says of its gate."""
        if self._configuration is None:
            self._configuration = thresholds.configuration(folder=self.root)
        return self._configuration

    @property
    def baseline(self) -> Baseline:
        """The baseline; HarnessError where there is none."""
        __tracebackhide__ = True
        if self._baseline is None:
            path = self._path()
            if not os.path.exists(path):
                raise HarnessError(f"{path}: no such baseline; make one with `pytest --harness-update`")
            self._baseline = baseline.load(path)
        return self._baseline

    def keep(self, replayed: Replayed) -> None:
        """Have a replay go into the baseline when the session ends."""
        self.kept.append(replayed)

    def packed(self) -> bytes:
        """Return what goes into the baseline, for the session of another process."""
        bare = [
            (each.name, replace(each.result, runs=[replace(each.run, samples={}, classes=[])]), each.noscan)
            for each in self.kept
        ]
        return pickle.dumps(bare)

    def unpack(self, packed: bytes) -> None:
        """Take what the session of another process has packed."""
        self.kept += [Replayed(name, result, noscan, self) for name, result, noscan in pickle.loads(packed)]

    def update(self) -> None:
        """Write the baseline: what was kept in place of what it has of these, all else as it is.

        HarnessError where it cannot be, or where not all have the same noscan.
        """
        path = self._path()
        noscans = {each.noscan for each in self.kept}
        old = baseline.load(path, any_version=True) if os.path.exists(path) else None
        if old is not None:
            noscans.add(old.noscan)
        if len(noscans) > 1:
            raise HarnessError(f"{path}: a baseline has one noscan, found {sorted(map(str, noscans))}")
        made = baseline.make(
            path,
            _merged([each.result for each in self.kept]),
            chosen=self.configuration.metrics,
            noscan=noscans.pop(),
            processor=Environment().processor,
        )
        baseline.save(made if old is None else _with_runs(old, made))
        labels = {(each.trace["path"], each.run.label) for each in self.kept}
        self.outcome = f"wrote {self.shown(path)}: {len(labels)} replay{'s' if len(labels) > 1 else ''}"

    def shown(self, path: str) -> str:
        """Return a path as one reads it from rootdir."""
        return os.path.relpath(path, self.root) if Path(path).is_relative_to(self.root) else path

    def _path(self) -> str:
        if self.baseline_file is not None:
            return str(self.baseline_file)
        return self.configuration.baseline or str(self.root / baseline.DEFAULT_PATH)


def _stamp(path: str) -> tuple[int, int] | None:
    """Return what tells a file from one that was written in its place."""
    try:
        status = os.stat(path)
    except OSError:
        return None  # The reader says what is wrong with it.
    return status.st_mtime_ns, status.st_size


def _merged(results: Sequence[TraceRuns]) -> list[TraceRuns]:
    """Return one result a trace, with one run a label."""
    by_path: dict[str, TraceRuns] = {}
    for each in results:
        runs = by_path[each.trace["path"]].runs if each.trace["path"] in by_path else []
        labels = [run.label for run in each.runs]
        others = [run for run in runs if run.label not in labels]
        by_path[each.trace["path"]] = TraceRuns(each.trace, [*others, *each.runs])
    return list(by_path.values())


def _with_runs(old: Baseline, new: Baseline) -> Baseline:
    """Return a newer baseline with the runs that an older one has of the same traces beside its own."""
    both = {
        name: replace(trace, runs={**old.traces[name].runs, **trace.runs})
        for name, trace in new.traces.items()
        if name in old.traces and old.traces[name].digest == trace.digest
    }
    return baseline.with_traces(old, replace(new, traces={**new.traces, **both}))


def _regressions(replayed: Replayed, kept: Baseline, verdicts: gate.Verdicts) -> str:
    """Return what got worse, and what else has changed, in words."""
    order = list(metrics.DEFINITIONS)
    found = sorted(verdicts.changes, key=lambda change: order.index(change.row.name))
    worse = [change for change in found if change.verdict == "regression"]
    lines = [f"{replayed} is worse than {replayed.session.shown(kept.path)} allows"]
    lines += [f"  {_sentence(change)}" for change in worse]
    others = [change for change in found if change not in worse and not change.row.is_equal]
    if others:
        lines.append("what else has changed:")
        lines += [f"  {_sentence(change)}" for change in others]
    lines += [f"note: {text}" for text in verdicts.notes]
    lines.append("if it is meant to: pytest --harness-update, and commit the baseline")
    return "\n".join(lines)


def _sentence(change: gate.Change) -> str:
    row, text = change.row, TEXTS[change.row.unit]
    said = f"{metric_heading(row.name)}: {text(row.b)}, {_difference(row)}"
    if change.verdict == "regression":
        said += f"; {text(change.allowed)} worse is allowed"
    return said


def _difference(row: Row) -> str:
    share = change_text(row)
    return f"{difference_text(row)}{share and f' ({share})'} from {TEXTS[row.unit](row.a)}"
