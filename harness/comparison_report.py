"""From a comparison to text: a table a pair of runs, what is equal left out, and what has no partner named.

Computes nothing; the numbers are those of comparison.py, all of them in its JSON and CSV, bytes as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.comparison import Comparison, Pair, Row, TracePair
from harness.report import (
    Cell,
    bytes_text,
    count_text,
    metric_heading,
    ns_text,
    percent_text,
    prose,
    ratio_text,
    rows_csv,
    table,
)

SCHEMA = "harness-compare/1"

TEXTS: Mapping[str, Cell] = {
    "bytes": bytes_text,
    "ratio": ratio_text,
    "share": percent_text,
    "count": count_text,
    "objects": ratio_text,
    "per 1,000 events": ratio_text,
    "ns": ns_text,
}
_SECTIONS = {
    "summary": None,
    "peak": "at peak committed:",
    "counters": "counters:",
    "classes": "waste by size of slot:",
}


def comparison(found: Comparison, form: str, *, everything: bool = False) -> str:
    """Return a comparison in one of the formats of the command line.

    Tables have what differs, with `everything` what is equal, too; JSON and CSV have all in any case.
    """
    if form == "json":
        return json.dumps(_as_dict(found), indent=1) + "\n"
    if form == "csv":
        return rows_csv(list(_csv_rows(found)))
    texts = [text for each in found.traces for text in _trace_texts(found, each, form, everything)]
    for name, paths in ((found.a, found.only_in_a), (found.b, found.only_in_b)):
        texts += [prose(form, f"only in {name}: {path}") for path in paths]
    return "\n\n".join(texts) + "\n"


def _trace_texts(found: Comparison, traces: TracePair, form: str, everything: bool) -> Iterator[str]:
    lines = [f"{traces.a['path']}: {traces.a['events']:,} events"]
    if traces.a["digest"] != traces.b["digest"]:
        lines.append(f"against another trace, {traces.b['path']}: {traces.b['events']:,} events")
    yield prose(form, *lines)
    for pair in traces.pairs:
        yield from _pair_texts(found, pair, form, everything)
    for name, labels in ((found.a, traces.only_in_a), (found.b, traces.only_in_b)):
        if labels:
            yield prose(form, f"without a partner, only in {name}: {', '.join(labels)}")


def _pair_texts(found: Comparison, pair: Pair, form: str, everything: bool) -> Iterator[str]:
    is_same = pair.a.label == pair.b.label
    names = (found.a, found.b) if is_same else (pair.a.label, pair.b.label)
    shown = [row for row in pair.rows if everything or not row.is_equal]
    heading = pair.a.label if is_same else f"{pair.a.label} against {pair.b.label}"
    equal = len(pair.rows) - len(shown)
    if not shown:
        yield prose(form, f"{heading}: no difference in {equal:,} numbers")
    else:
        yield prose(form, heading)
        yield table(list(_cells(shown)), ["", *names, "difference", "change", ""], form, left=1)
    if shown and equal:
        yield prose(form, f"{equal:,} equal numbers are left out (--all shows them)")
    yield from (prose(form, f"note: {text}") for text in pair.notes)


def _cells(rows: Sequence[Row]) -> Iterator[list[str]]:
    section = "summary"
    for row in rows:
        if row.section != section:
            section = row.section
            yield [_SECTIONS[section] or "", *[""] * 5]
        text = TEXTS[row.unit]
        heading = metric_heading(row.name) if section != "classes" else _class_heading(row.name)
        yield [
            heading if section == "summary" else f"· {heading}",
            text(row.a),
            text(row.b),
            difference_text(row),
            change_text(row),
            row.verdict,
        ]


def difference_text(row: Row) -> str:
    """Return by how much a number changed, with its sign and in its unit."""
    text = points_text if row.unit == "share" else TEXTS[row.unit]
    return ("+" if row.difference is not None and row.difference > 0 else "") + text(row.difference)


def change_text(row: Row) -> str:
    """Return by what share a number changed."""
    return "" if row.change is None or row.is_equal else f"{100 * row.change:+,.1f} %"


def points_text(value: float | None) -> str:
    """Return a difference of two percentages, which is no percentage of either."""
    return percent_text(value) if value is None else f"{100 * value:.2f} points"


def _class_heading(name: str) -> str:
    size, _, scan = name.partition(" ")
    return f"{bytes_text(int(size))} {scan}".rstrip() if size.isdigit() else name


def _as_dict(found: Comparison) -> dict[str, Any]:
    sides = ("a", "b")
    return {
        "schema": SCHEMA,
        "a": found.a,
        "b": found.b,
        "traces": [
            {
                **{side: {name: getattr(each, side)[name] for name in ("path", "digest")} for side in sides},
                "pairs": [
                    {
                        **{
                            side: {
                                name: getattr(getattr(pair, side), name)
                                for name in ("label", "allocator", "version", "kind", "options")
                            }
                            for side in sides
                        },
                        "rows": [asdict(row) for row in pair.rows],
                        "notes": pair.notes,
                    }
                    for pair in each.pairs
                ],
                "only_in_a": each.only_in_a,
                "only_in_b": each.only_in_b,
            }
            for each in found.traces
        ],
        "only_in_a": found.only_in_a,
        "only_in_b": found.only_in_b,
    }


def _csv_rows(found: Comparison) -> Iterator[dict[str, Any]]:
    for each in found.traces:
        for pair in each.pairs:
            whose = {
                "trace_a": each.a["path"],
                "trace_b": each.b["path"],
                "run_a": pair.a.label,
                "run_b": pair.b.label,
            }
            yield from (whose | asdict(row) for row in pair.rows)
