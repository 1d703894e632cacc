"""One metric over commits: what it was at each, and where it became another; pure functions.

history_files.py reads it from disk, history_report.py says what is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from harness import metrics

SCHEMA = "harness-history/1"

Verdict = Literal["better", "worse", ""]


@dataclass(frozen=True)
class Point:
    """One number of one commit."""

    commit: str
    date: datetime
    harness: str
    digest: str
    value: float


@dataclass(frozen=True)
class Series:
    """One metric of one allocator on one trace, in the order of commits."""

    trace: str
    allocator: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Change:
    """Where a number became another."""

    before: Point  # The last of those that it was held against.
    after: Point
    level: float  # What it was held against.
    change: float | None  # (after - level) / level, None where that was 0.
    verdict: Verdict  # On what it is after.


@dataclass(frozen=True)
class History:
    """One metric over commits."""

    metric: str
    by_topology: bool  # Else by date, since git does not know all of the commits here.
    series: Sequence[Series]


def changes(series: Series, metric: str, least: float = 0.0) -> list[Change]:
    """Return where a number became another: by more than `least`, a share of what it was after the last one.

    What drifts by little at each commit is found, since it is held against the last change.
    """
    defined = metrics.DEFINITIONS.get(metric)
    better = None if defined is None else defined.better
    found: list[Change] = []
    level = series.points[0].value
    for before, after in zip(series.points, series.points[1:], strict=False):
        difference = after.value - level
        if difference == 0 or abs(difference) < least * abs(level):
            continue
        verdict: Verdict = ""
        if better is not None:
            verdict = "better" if (difference < 0) == (better == "lower") else "worse"
        found.append(Change(before, after, level, metrics.ratio(difference, abs(level)), verdict))
        level = after.value
    return found


def short(commit: str) -> str:
    """Return a commit's name as people read it."""
    return commit[:10]
