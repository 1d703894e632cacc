"""Replays what a baseline names, as it was replayed then: to hold it against that, or to make it anew.

Models are replayed once. Real libraries are measured several times in turn, so that a machine that slows down
burdens all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from harness import __version__
from harness.allocator import DEFAULT_ALLOCATORS, Spec, find
from harness.baseline import Baseline, KeptRun, make, named, with_traces
from harness.errors import HarnessError
from harness.gate import ENOUGH_REPETITIONS, Verdicts, check_content, check_runs, name_in
from harness.replay import Settings, replay_all
from harness.results import Environment, TraceRuns
from harness.thresholds import Thresholds
from harness.trace import Noscan, Progress, TraceReader, unnoticed

# By the label under which a baseline has it.
Specs = Mapping[str, Spec]
Shown = Callable[[str], AbstractContextManager[Progress]]


def _unshown(path: str) -> AbstractContextManager[Progress]:
    return nullcontext(unnoticed)


@dataclass(frozen=True)
class How:
    """How a check or an update is done."""

    new_traces: bool = False  # Whether traces may hold something else than the baseline says.
    repetitions: int = ENOUGH_REPETITIONS  # Of real libraries.
    progress: Shown = _unshown


_AS_EVER = How()


def check(
    baseline: Baseline,
    thresholds: Thresholds,
    traces: Sequence[str] = (),
    specs: Sequence[Spec] = (),
    how: How = _AS_EVER,
) -> Verdicts:
    """Replay what a baseline names and hold it against that; what could not be is among the faults.

    `traces` choose some of the baseline's or stand in their place, `specs` stand in the place of its runs of
    the same allocators.
    """
    faults: list[HarnessError] = []
    planned: dict[str, Specs] = {}
    for path in traces or map(baseline.located, baseline.traces):
        try:
            name = name_in(baseline, path)
            if name is None:
                raise HarnessError(f"{path}: {baseline.path} has no such trace")
            _look_at(baseline, name, path, how)
            kept = baseline.traces[name].runs
            planned[path] = _by_label(path, specs) if specs else specs_of(kept)
        except HarnessError as fault:
            faults.append(fault)
    results, more = _carried_out(planned, baseline.noscan, how)
    processor = Environment().processor
    found = check_runs(baseline, results, thresholds, new_traces=how.new_traces, processor=processor)
    return replace(found, faults=[*faults, *more, *found.faults])


def update(
    path: str,
    before: Baseline | None,
    traces: Sequence[str] = (),
    specs: Sequence[Spec] = (),
    how: How = _AS_EVER,
    *,
    chosen: Sequence[str] = (),
    noscan: str | None = None,
) -> tuple[Baseline, list[HarnessError]]:
    """Return what traces make of the baseline that there was, if any, to be saved unless there are faults.

    Without `traces` it is of those that it had, else these are added or put in the place of theirs; without
    `specs` of the allocators that it had.
    """
    faults: list[HarnessError] = []
    planned: dict[str, Specs] = {}
    _check_update(path, before, traces, noscan)
    known = Baseline(path, {}) if before is None else before
    of_all = {label: run for kept in known.traces.values() for label, run in kept.runs.items()}
    for trace in traces or map(known.located, known.traces):
        name = named(trace, path)
        try:
            _look_at(known, name, trace, how)
            runs = known.traces[name].runs if name in known.traces else of_all
            default = [find(text)[0] for text in DEFAULT_ALLOCATORS]
            planned[trace] = _by_label(trace, specs) or specs_of(runs) or _by_label(trace, default)
        except HarnessError as fault:
            faults.append(fault)
    noscan = known.noscan if noscan is None else noscan
    chosen = chosen or known.chosen
    results, more = _carried_out(planned, noscan, how) if not faults else ([], [])
    try:
        newer = make(path, results, chosen=chosen, noscan=noscan, processor=Environment().processor)
    except HarnessError as fault:
        return known, [*faults, *more, fault]
    return with_traces(known, newer), [*faults, *more]


def _check_update(path: str, before: Baseline | None, traces: Sequence[str], noscan: str | None) -> None:
    """Raise HarnessError where a baseline could not be written, before the work that it is to hold."""
    if before is None and not traces:
        raise HarnessError(
            f"{path}: no such baseline; say which traces it is to be of: "
            f"harness check --update TRACE... -a NAME"
        )
    if not Path(path).absolute().parent.is_dir():
        raise HarnessError(f"{path}: cannot be written: there is no folder {Path(path).parent}")
    left = [] if before is None else [name for name in before.traces if name not in _names(traces, path)]
    if before is None or not traces or not left:
        return
    if before.harness != __version__ or noscan not in (None, before.noscan):
        raise HarnessError(
            f"{path}: its version and --noscan hold for all of its traces: update {left[0]}, too, "
            f"or name none"
        )


def _names(traces: Sequence[str], path: str) -> set[str]:
    return {named(trace, path) for trace in traces}


def _look_at(baseline: Baseline, name: str, path: str, how: How) -> None:
    """Raise HarnessError where a trace is not there, or not the baseline's, before any is replayed."""
    content = TraceReader(path).metadata.get("digest")
    if content is not None and name in baseline.traces and not how.new_traces:
        check_content(baseline, name, path, content)


def specs_of(runs: Mapping[str, KeptRun]) -> dict[str, Spec]:
    """Return what replays a baseline's runs again, by their labels.

    AllocatorError where an allocator or one of its options is gone; an option that is new has its default.
    """
    found = {}
    for label, run in runs.items():
        (spec,) = find(run.allocator)
        gone = [name for name in run.options if name not in spec.options]
        if gone:
            raise HarnessError(
                f"{label}: the baseline has an option {gone[0]!r} that {run.allocator} no longer has; "
                f"make it anew with --update -a {run.allocator}"
            )
        options = {**spec.options, **run.options}
        found[label] = replace(spec, options=options, given=frozenset(run.options))
    return found


def _by_label(path: str, specs: Sequence[Spec]) -> Specs:
    """Return allocators by the labels that their runs of a trace will have."""
    metadata = TraceReader(path).metadata if specs else {}
    return {spec.label: spec for each in specs for spec in (each.for_trace(metadata),)}


def _carried_out(
    planned: Mapping[str, Specs], noscan: str | None, how: How
) -> tuple[list[TraceRuns], list[HarnessError]]:
    """Return what each trace's allocators make of it, a real library's runs once a repetition, and faults."""
    try:
        settings = Settings(noscan=Noscan.parse(noscan))
    except ValueError as error:
        raise HarnessError(f"noscan {noscan}: expected all, none or a fraction between 0 and 1") from error
    models = {path: _of_kind(specs, "model") for path, specs in planned.items()}
    libraries: dict[str, Specs] = {path: _of_kind(specs, "library") for path, specs in planned.items()}
    outcomes = list(_replay(models, settings, how.progress))
    for _ in range(how.repetitions):
        for path, specs in libraries.items():
            told = list(_replay({path: specs}, settings, how.progress))
            outcomes += told
            # What cannot be measured cannot be the next time, and has said so.
            libraries[path] = {} if _has_fault(told) else _unfailed(specs, told)
    results = [outcome for outcome in outcomes if isinstance(outcome, TraceRuns)]
    return results, [outcome for outcome in outcomes if isinstance(outcome, HarnessError)]


def _has_fault(outcomes: Sequence[TraceRuns | HarnessError]) -> bool:
    return any(isinstance(outcome, HarnessError) for outcome in outcomes)


def _unfailed(specs: Specs, outcomes: Sequence[TraceRuns | HarnessError]) -> Specs:
    """Return the allocators of which no run has failed."""
    runs = [run for outcome in outcomes if isinstance(outcome, TraceRuns) for run in outcome.runs]
    failed = {run.label for run in runs if run.failure is not None}
    return {label: spec for label, spec in specs.items() if label not in failed}


def _of_kind(specs: Specs, kind: str) -> dict[str, Spec]:
    return {label: spec for label, spec in specs.items() if getattr(spec.factory, "kind", "model") == kind}


def _replay(
    traces: Mapping[str, Specs],
    settings: Settings,
    progress: Shown,
) -> Iterator[TraceRuns | HarnessError]:
    """Replay traces, those with the same allocators together, and call runs what the baseline calls them."""
    left = [path for path, specs in traces.items() if specs]
    while left:
        specs = traces[left[0]]
        alike = [path for path in left if traces[path] == specs]
        left = [path for path in left if path not in alike]
        for outcome in replay_all(alike, list(specs.values()), settings, progress):
            if isinstance(outcome, TraceRuns):
                for label, run in zip(specs, outcome.runs, strict=True):
                    run.label = label
            yield outcome
