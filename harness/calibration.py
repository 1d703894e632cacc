"""`harness calibrate`: what each path of a model takes on this machine, measured with the real allocator.

Knows no allocator. An entry point in the group ``harness.calibrations`` names a function that makes a
backend's subject: it counts the paths of its model and times the real thing over the same events. Costs are
fitted to the times, so that the sum of counts times costs comes near to what was measured.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness import costs
from harness.costs import CostTable
from harness.errors import AllocatorError, HarnessError
from harness.results import Environment
from harness.trace import Progress, unnoticed
from harness.workloads import Workload

ENTRY_POINT_GROUP = "harness.calibrations"

# A median of so many, each in a fresh process, the workloads in turn: what disturbs the machine for a second
# or two then disturbs no workload more often than once.
REPETITIONS = 5

# How far the times are off, and how far a cost may be from where the fit begins, all relative: a cost that
# no workload says much of stays where it was. Programs as people record them weigh more than those that
# do one thing only.
_TIME_ERROR = 0.08
_RECORDED_TIME_ERROR = 0.04
_COST_ERROR = 0.6

# Rounds of the fit, each by the last one's sums; the last ones change nothing that is printed. A sum that is
# off by more than a factor counts as off by it. Of a cost that goes to 0, half is left after each round.
_ROUNDS = 40
_FARTHEST = 10.0
_NOTHING = 1e-6

_ENOUGH_FOR_A_SPREAD = 3

# Less than that cannot be told from the loop around it.
_LEAST_NS_PER_EVENT = 0.5


class Measured(NamedTuple):
    """What one run of the real allocator took, nanoseconds for all events."""

    ns: float  # Without the driver's own.
    driver_ns: float


class Subject(Protocol):
    """A model whose paths are counted, and the real allocator that is timed."""

    library: str  # The real allocator and its version.
    guesses: Mapping[str, float]  # By path, where the fit begins for want of a table.

    def counters(self, workload: Workload) -> Mapping[str, int]:
        """Return what the model of just this allocator counts over a workload."""

    def measure(self, workload: Workload) -> Measured:
        """Carry out a workload in a fresh process, touching no object; AllocatorError where that fails."""

    def close(self) -> None:
        """End what was begun."""


class Compared(NamedTuple):
    """One workload: what was measured, and what the model and its costs come to; nanoseconds an event."""

    workload: str
    recorded: bool
    driver: float
    least: float
    measured: float
    most: float
    modelled: float
    held_out: float  # Modelled with costs that were fitted without this workload.

    @property
    def ratio(self) -> float:
        """Modelled / measured."""
        return self.modelled / self.measured

    @property
    def held_out_ratio(self) -> float:
        """Modelled without this workload's help / measured."""
        return self.held_out / self.measured


@dataclass(frozen=True)
class Calibrated:
    """A model's costs, and how well they do."""

    model: str
    table: CostTable
    compared: list[Compared]

    @property
    def judged(self) -> list[Compared]:
        """What the costs are judged by: recorded programs, where there are any."""
        return [each for each in self.compared if each.recorded] or self.compared


def registered() -> dict[str, Callable[[], Subject]]:
    """Return what makes each model's subject, by the model's name."""
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)
    return {entry.name: entry.load() for entry in found}


def calibrate(
    workloads: Sequence[Workload],
    subjects: Mapping[str, Callable[[], Subject]] | None = None,
    *,
    repetitions: int = REPETITIONS,
    progress: Progress = unnoticed,
) -> tuple[list[Calibrated], list[AllocatorError]]:
    """Measure and fit the costs of every model; return them, and why a model's could not be measured.

    `progress` is called with 1 for every run that is done, of which there are `runs_of` many.
    """
    done: list[Calibrated] = []
    faults: list[AllocatorError] = []
    for model, make in (registered() if subjects is None else subjects).items():
        try:
            with closing(make()) as subject:
                done.append(_calibrated(model, subject, workloads, repetitions, progress))
        except AllocatorError as fault:
            faults.append(AllocatorError(f"costs of {model} not measured: {fault}"))
    return done, faults


def runs_of(workloads: Sequence[Workload], repetitions: int = REPETITIONS) -> int:
    """Return how many runs calibrate() makes where all can be measured."""
    return len(registered()) * len(workloads) * repetitions


def _calibrated(
    model: str, subject: Subject, workloads: Sequence[Workload], repetitions: int, progress: Progress
) -> Calibrated:
    runs: list[list[Measured]] = [[] for _ in workloads]
    for _ in range(repetitions):
        for workload, measured in zip(workloads, runs, strict=True):
            measured.append(subject.measure(workload))
            progress(1)
    rows = [
        _Row(workload, measured, statistics.median(run.ns for run in measured))
        for workload, measured in zip(workloads, runs, strict=True)
    ]
    rows = [row for row in rows if row.ns_per_event > _LEAST_NS_PER_EVENT]
    if not rows:
        raise AllocatorError(f"{subject.library}: no workload took longer than the loop around it")
    known = costs.shipped()[model].ns if model in costs.shipped() else {}
    # A cost of 0 says that other paths took its share, and is nothing to begin with.
    begin = {path: known.get(path) or guess for path, guess in subject.guesses.items()}
    table = CostTable(
        library=subject.library,
        processor=Environment().processor,
        date=datetime.date.today().isoformat(),
        how=f"harness calibrate: {len(rows)} workloads on one thread, medians of {repetitions} runs, "
        f"no object touched, the driver's own time subtracted",
        low_ratio=1.0,
        high_ratio=1.0,
        ns=begin,
    )
    counts = np.array(
        [list(table.paths(subject.counters(row.workload), row.workload.totals).values()) for row in rows],
        np.float64,
    )
    ns = np.array([row.ns for row in rows])
    start = np.array(list(begin.values()))
    weights = np.array([1 / row.relative_error for row in rows])
    fitted = fit(counts, ns, start, weights)
    compared = []
    for i, row in enumerate(rows):
        others = np.arange(len(rows)) != i
        without = fit(counts[others], ns[others], start, weights[others])
        events = row.workload.totals["events"]
        compared.append(
            Compared(
                row.workload.name,
                row.workload.recorded,
                driver=statistics.median(run.driver_ns for run in row.runs) / events,
                least=min(run.ns for run in row.runs) / events,
                measured=row.ns_per_event,
                most=max(run.ns for run in row.runs) / events,
                modelled=float(counts[i] @ fitted) / events,
                held_out=float(counts[i] @ without) / events,
            )
        )
    found = {path: round(float(cost), 4) for path, cost in zip(begin, fitted, strict=True)}
    calibrated = Calibrated(model, replace(table, ns=found), compared)
    ratios = [each.held_out_ratio for each in calibrated.judged]
    return replace(
        calibrated,
        table=replace(calibrated.table, low_ratio=round(min(ratios), 4), high_ratio=round(max(ratios), 4)),
    )


class _Row(NamedTuple):
    """A workload, its runs, and their median."""

    workload: Workload
    runs: list[Measured]
    ns: float

    @property
    def ns_per_event(self) -> float:
        return self.ns / self.workload.totals["events"]

    @property
    def relative_error(self) -> float:
        """How far the median may be off: half of what the middle half of the runs takes up, or more."""
        least = _RECORDED_TIME_ERROR if self.workload.recorded else _TIME_ERROR
        if len(self.runs) < _ENOUGH_FOR_A_SPREAD:
            return least
        lower, _, upper = statistics.quantiles([run.ns for run in self.runs], n=4, method="inclusive")
        return max(least, (upper - lower) / 2 / self.ns)


def fit(
    counts: NDArray[np.float64],
    ns: NDArray[np.float64],
    begin: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return costs, none negative, whose sums come nearest to the times in ratio.

    `counts`: a row a workload, a column a path; `ns` and `weights`, one over the relative error: a row each;
    `begin`: a cost a column, all positive, near which a cost stays that the rows say little of.
    """
    if (begin <= 0).any():
        raise HarnessError("a cost to begin with must be positive")
    near = np.eye(len(begin)) / _COST_ERROR
    found = begin
    for _ in range(_ROUNDS):
        # Half and twice the time are as bad as each other: logarithms are to be near, and each is taken to be
        # the straight line through the last round's sum. Half a step is made, so that it stays near that.
        sums = np.clip(counts @ found, ns / _FARTHEST, ns * _FARTHEST)
        rows = counts * begin * (weights / sums)[:, None]
        wanted = np.concatenate([weights * (1 + np.log(ns / sums)), np.full(len(begin), 1 / _COST_ERROR)])
        found = (found + begin * nonnegative_least_squares(np.vstack([rows, near]), wanted)) / 2
    return np.where(found < begin * _NOTHING, 0.0, found)


def nonnegative_least_squares(
    matrix: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the x without a negative element that minimises |matrix x - wanted|.

    Lawson and Hanson, "Solving Least Squares Problems" (1974), chapter 23.
    """
    count = matrix.shape[1]
    x = np.zeros(count)
    free = np.zeros(count, bool)  # The others are held at 0.
    tolerance = 1e-12 * float(np.abs(matrix.T @ wanted).max(initial=0.0))
    while True:
        gradient = matrix.T @ (wanted - matrix @ x)
        candidates = np.where(free, -np.inf, gradient)
        if free.all() or candidates.max() <= tolerance:
            return x
        free[int(candidates.argmax())] = True
        while True:
            found = np.zeros(count)
            found[free] = np.linalg.lstsq(matrix[:, free], wanted, rcond=None)[0]
            blocking = free & (found <= 0)
            if not blocking.any():
                x = found
                break
            # As far towards it as nothing becomes negative; what gets to 0 is held there.
            step = float((x[blocking] / (x[blocking] - found[blocking])).min())
            x = x + step * (found - x)
            free &= x > tolerance
            x[~free] = 0.0
