"""A baseline on disk: what allocators made of traces once, number by number, to hold later runs against.

It is JSON that is made to be committed: keys sorted, one number a line, nothing that differs from run to run
but what real libraries measured. Traces are named relative to the file. gate.py judges with it; nothing here
replays or loads Arrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import __version__, metrics
from harness.errors import HarnessError
from harness.results import Run, TraceRuns, write_whole

SCHEMA = "harness-baseline/1"

# Where a baseline is looked for if nobody says.
DEFAULT_PATH = "harness-baseline.json"

# What a baseline keeps of a model unless other metrics are chosen: how much memory at its worst and in the
# mean, how much of that is not the program's, what one pays for it in time, and what the program asked for,
# which judges nothing and explains the others where a trace was recorded anew.
MODEL_METRICS = (
    "peak_committed_bytes",
    "mean_committed_bytes",
    "end_committed_bytes",
    "fragmentation_peak_ratio",
    "fragmentation_mean",
    "waste_bytes",
    "internal_waste_bytes",
    "failed_allocations",
    "modelled_ns_per_event",
    "peak_requested_bytes",
    "mean_requested_bytes",
)
# And of a real library, where it tells them.
LIBRARY_METRICS = (
    "peak_committed_bytes",
    "mean_committed_bytes",
    "peak_resident_bytes",
    "failed_allocations",
    "measured_ns_per_event",
    "peak_requested_bytes",
)

Value = int | float | list[int | float]  # A list: of a real library, a number a repetition.


@dataclass(frozen=True)
class KeptRun:
    """What one allocator made of one trace."""

    allocator: str
    version: str
    kind: str  # "model" or "library".
    options: Mapping[str, Any]  # Every option, defaults included.
    metrics: Mapping[str, Value]
    processor: str | None = None  # Of a real library: where it was measured.


@dataclass(frozen=True)
class KeptTrace:
    """One trace and what was made of it."""

    digest: str
    events: int
    runs: Mapping[str, KeptRun]  # By label.


@dataclass(frozen=True)
class Baseline:
    """Every number that later runs are held against."""

    path: str
    traces: Mapping[str, KeptTrace]  # By path, relative to the file's folder.
    noscan: str | None = None  # As --noscan was given.
    chosen: tuple[str, ...] = ()  # The metrics, where they are not MODEL_METRICS and LIBRARY_METRICS.
    harness: str = __version__

    def located(self, trace: str) -> str:
        """Return a trace's path as it can be opened from here."""
        if "://" in trace or os.path.isabs(trace):
            return trace
        return os.path.normpath(os.path.join(os.path.dirname(self.path), trace))


def named(path: str, baseline: str) -> str:
    """Return how a baseline file names a trace: relative to its folder, with slashes."""
    if "://" in path:
        return path
    folder = os.path.dirname(os.path.abspath(baseline))
    return Path(os.path.relpath(os.path.abspath(path), folder)).as_posix()


def identity(trace: Mapping[str, Any]) -> str:
    """Return what tells a trace's content: its digest, or for want of one its totals."""
    digest: str | None = trace.get("digest")
    if digest is not None:
        return digest
    names = ("events", "allocations", "reallocations", "frees", "allocated_bytes", "requested_sum")
    return "without a digest: " + ", ".join(f"{trace.get(name)} {name}" for name in names)


def make(
    path: str,
    results: Sequence[TraceRuns],
    *,
    chosen: Sequence[str] = (),
    noscan: str | None = None,
    processor: str | None = None,
) -> Baseline:
    """Return the baseline that results make, to be saved at a path.

    A trace that is among the results several times was measured as often: a real library's numbers are kept
    of each time, a model's of the first. `chosen` names the metrics, by default MODEL_METRICS and
    LIBRARY_METRICS; a number that a run does not have is left out. HarnessError where a metric is unknown or
    a run has failed.
    """
    check_metrics(chosen)
    repeated: dict[str, list[TraceRuns]] = {}
    for result in results:
        repeated.setdefault(named(result.trace["path"], path), []).append(result)
    return Baseline(
        path,
        {
            name: KeptTrace(
                identity(each[0].trace),
                each[0].trace["events"],
                {label: _kept(runs, chosen, processor) for label, runs in runs_by_label(each).items()},
            )
            for name, each in repeated.items()
        },
        noscan,
        tuple(chosen),
    )


def runs_by_label(results: Sequence[TraceRuns]) -> dict[str, list[Run]]:
    """Return the runs of one trace's results, one or a repetition each."""
    found: dict[str, list[Run]] = {}
    for result in results:
        for run in result.runs:
            found.setdefault(run.label, []).append(run)
    return found


def value_of(runs: Sequence[Run], metric: str) -> Value | None:
    """Return what a baseline keeps of a metric: a model's number, a real library's of every repetition."""
    values = [run.summary.get(metric) for run in runs]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return known if runs[0].kind == "library" else known[0]


def check_metrics(names: Sequence[str]) -> None:
    """Raise HarnessError for a name that is no metric."""
    for name in names:
        if name not in metrics.DEFINITIONS:
            raise HarnessError(f"{name!r} is no metric; docs/metrics.md lists them all")


def save(baseline: Baseline) -> None:
    """Write a baseline to its path, whole or not at all; HarnessError where it cannot be written."""
    write_whole(baseline.path, to_json(baseline))


def to_json(baseline: Baseline) -> str:
    """Return the text of a baseline's file."""
    traces = {
        name: {
            "digest": trace.digest,
            "events": trace.events,
            "runs": {
                label: {key: value for key, value in vars(run).items() if value is not None}
                for label, run in trace.runs.items()
            },
        }
        for name, trace in baseline.traces.items()
    }
    head: dict[str, Any] = {"schema": SCHEMA, "harness": baseline.harness, "noscan": baseline.noscan}
    if baseline.chosen:
        head["metrics"] = sorted(baseline.chosen)
    # The head stands first, so that a reader knows what he reads; all below it is sorted.
    ordered = {**head, "traces": json.loads(json.dumps(traces, sort_keys=True))}
    return json.dumps(ordered, indent=1) + "\n"


def with_traces(baseline: Baseline, newer: Baseline) -> Baseline:
    """Return a baseline with the traces of a newer one of the same path, in place of those it has of them."""
    return replace(newer, traces={**baseline.traces, **newer.traces})


def load(path: str, *, any_version: bool = False) -> Baseline:
    """Return the baseline of a file.

    HarnessError where there is none, one of another schema, or unless `any_version` says that this is meant
    one that another version of harness wrote, whose models may be others.
    """
    try:
        found = json.loads(Path(path).read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        raise HarnessError(
            f"{path}: no such baseline; make one with `harness check {path} --update TRACE... -a NAME`"
        ) from error
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise HarnessError(
            f"{path}: is no baseline, or not a whole one: it holds no JSON: {error}; "
            f"take it from version control, or remove it and make it anew with --update"
        ) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise HarnessError(f"{path}: is no baseline: found schema {schema!r}, expected {SCHEMA!r}")
    try:
        baseline = _baseline(path, found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else error
        raise HarnessError(
            f"{path}: is no baseline that this version reads: {said}; "
            f"take it from version control, or remove it and make it anew with --update"
        ) from error
    if baseline.harness != __version__ and not any_version:
        raise HarnessError(
            f"{path}: was written by harness {baseline.harness}, and this is {__version__}, whose models may "
            f"differ; --any-version compares all the same, and with --update makes it one of this version"
        )
    return baseline


def size_text(baseline: Baseline) -> str:
    """Return how much a baseline holds, in words."""
    runs = [run for trace in baseline.traces.values() for run in trace.runs.values()]
    numbers = sum(len(run.metrics) for run in runs)
    return f"{len(baseline.traces):,} traces, {len(runs):,} runs, {numbers:,} numbers"


def line_of(text: str, trace: str, label: str, metric: str) -> int | None:
    """Return in which line of a baseline's text a number stands, from 1 on; None where it is not found."""
    wanted = [(2, trace), (4, label), (6, metric)]
    for number, line in enumerate(text.splitlines(), 1):
        depth, name = wanted[0]
        bare = line.lstrip(" ")
        if len(line) - len(bare) == depth and bare.startswith(f"{json.dumps(name)}:"):
            del wanted[0]
            if not wanted:
                return number
    return None


def _kept(runs: Sequence[Run], chosen: Sequence[str], processor: str | None) -> KeptRun:
    run = runs[0]
    for each in runs:
        if each.failure is not None:
            raise HarnessError(each.failure)
    is_library = run.kind == "library"
    names = chosen or (LIBRARY_METRICS if is_library else MODEL_METRICS)
    values = {name: value_of(runs, name) for name in names}
    return KeptRun(
        run.allocator,
        run.version,
        run.kind,
        run.options,
        {name: value for name, value in values.items() if value is not None},
        processor if is_library else None,
    )


def _baseline(path: str, found: Mapping[str, Any]) -> Baseline:
    """Return what a JSON object says; KeyError, TypeError or ValueError where it is something else."""
    noscan = found["noscan"]
    if noscan is not None and not isinstance(noscan, str):
        raise ValueError("noscan is neither text nor null")
    return Baseline(
        path,
        {name: _trace(name, trace) for name, trace in found["traces"].items()},
        noscan,
        tuple(found.get("metrics", ())),
        _text(found, "harness", "harness"),
    )


def _trace(name: str, found: Mapping[str, Any]) -> KeptTrace:
    runs = {label: _run(f"{name}: {label}", run) for label, run in found["runs"].items()}
    return KeptTrace(_text(found, "digest", name), int(found["events"]), runs)


def _run(where: str, found: Mapping[str, Any]) -> KeptRun:
    kind = _text(found, "kind", where)
    if kind not in ("model", "library"):
        raise ValueError(f"{where}: kind {kind!r} is neither model nor library")
    for name, value in found["metrics"].items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(type(number) in (int, float) for number in numbers):
            raise ValueError(f"{where}: {name} is neither a number nor some")
    return KeptRun(
        _text(found, "allocator", where),
        _text(found, "version", where),
        kind,
        dict(found["options"]),
        dict(found["metrics"]),
        found.get("processor"),
    )


def _text(found: Mapping[str, Any], name: str, where: str) -> str:
    value = found[name]
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} is no text")
    return value
