"""From a history to text: each series as a line of bars and a table of the commits at which it changed.

Computes nothing; the numbers are those of history.py, all of them in its JSON and CSV.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from harness import metrics
from harness.comparison_report import TEXTS
from harness.history import SCHEMA, Change, History, Point, Series, changes, short
from harness.report import Cell, count_text, metric_heading, prose, rows_csv, sparkline, table


def history(found: History, form: str, *, least: float = 0.0, everything: bool = False) -> str:
    """Return a history in one of the formats of the command line.

    `least` is the share by which a number has to change to be shown as changed. Tables have the commits at
    which it did, the first and the last; with `everything` all, as JSON and CSV have in any case.
    """
    if form == "json":
        return json.dumps(_as_dict(found, least), indent=1) + "\n"
    if form == "csv":
        return rows_csv(list(_csv_rows(found, least)))
    texts = [text for series in found.series for text in _texts(found, series, form, least, everything)]
    if not found.by_topology:
        texts.append(prose(form, "note: git does not know all of these commits here: they stand by date"))
    return "\n\n".join(texts) + "\n"


def _texts(found: History, series: Series, form: str, least: float, everything: bool) -> Iterator[str]:
    text = _number_text(found.metric)
    points = series.points
    values = [point.value for point in points]
    changed = {change.after.commit: change for change in changes(series, found.metric, least)}
    counted = f"{count_text(len(points))} commit{'s' if len(points) > 1 else ''}"
    lines = [
        f"{metric_heading(found.metric)} of {series.trace} under {series.allocator}: {counted}, "
        f"{count_text(len(changed))} changed it",
        f"least {text(min(values))}, most {text(max(values))}",
    ]
    if form != "latex":  # Its fonts lack the bars.
        lines.insert(1, _bars(values))
    yield prose(form, *lines)
    ends = (points[0], points[-1])
    shown = [point for point in points if everything or point in ends or point.commit in changed]
    cells = [
        [
            short(point.commit),
            _date_text(point.date),
            text(point.value),
            _change_text(changed.get(point.commit), text),
        ]
        for point in shown
    ]
    yield table(cells, ["commit", "date", metric_heading(found.metric), ""], form, left=2, words=1)


def _bars(values: Sequence[float]) -> str:
    """Return bars between the least and the most, since what changes is little beside the whole."""
    least, most = min(values), max(values)
    # All alike are no bars but a line.
    return sparkline([value - least for value in values], most - least or 1)


def _number_text(metric: str) -> Cell:
    defined = metrics.DEFINITIONS.get(metric)
    return str if defined is None else TEXTS[defined.unit]


def _date_text(date: datetime) -> str:
    return f"{date:%Y-%m-%d}"


def _change_text(change: Change | None, text: Cell) -> str:
    """Return what became of a number at a commit, and what else did."""
    if change is None:
        return ""
    numbers = [text(change.level), text(change.after.value)]
    if numbers[0] == numbers[1]:  # The difference is beyond the digits of the unit.
        numbers = [f"{change.level:,.10g}", f"{change.after.value:,.10g}"]
    said = f"changed at {short(change.after.commit)} from {' to '.join(numbers)}"
    if change.change is not None:
        said += f", {100 * change.change:+,.{1 if abs(change.change) >= 0.0005 else 5}f} %"
    return ", ".join([said, *filter(None, [change.verdict]), *_reasons(change)])


def _reasons(change: Change) -> Iterator[str]:
    before, after = change.before, change.after
    if before.digest != after.digest:
        yield "another trace"
    if before.harness != after.harness:
        yield f"harness {before.harness} -> {after.harness}"


def _as_dict(found: History, least: float) -> dict[str, Any]:
    defined = metrics.DEFINITIONS.get(found.metric)
    return {
        "schema": SCHEMA,
        "metric": found.metric,
        "unit": None if defined is None else defined.unit,
        "better": None if defined is None else defined.better,
        "order": "topology" if found.by_topology else "date",
        "series": [
            {
                "trace": series.trace,
                "allocator": series.allocator,
                "points": [_point(found.metric, point) for point in series.points],
                "changes": [
                    {
                        "commit": change.after.commit,
                        "from": _number(found.metric, change.level),
                        "to": _number(found.metric, change.after.value),
                        "change": change.change,
                        "verdict": change.verdict,
                        "reasons": list(_reasons(change)),
                    }
                    for change in changes(series, found.metric, least)
                ],
            }
            for series in found.series
        ],
    }


def _csv_rows(found: History, least: float) -> Iterator[dict[str, Any]]:
    for series in found.series:
        changed = {change.after.commit: change for change in changes(series, found.metric, least)}
        for point in series.points:
            change = changed.get(point.commit)
            yield {
                "trace": series.trace,
                "allocator": series.allocator,
                "metric": found.metric,
                **_point(found.metric, point),
                "changed_from": None if change is None else _number(found.metric, change.level),
                "change": None if change is None else change.change,
                "verdict": None if change is None else change.verdict,
            }


def _point(metric: str, point: Point) -> dict[str, Any]:
    return {
        "commit": point.commit,
        "date": point.date.isoformat(),
        "harness": point.harness,
        "digest": point.digest,
        "value": _number(metric, point.value),
    }


def _number(metric: str, value: float) -> int | float:
    """Return a whole number as one, where the unit has only such."""
    return int(value) if value.is_integer() else value
