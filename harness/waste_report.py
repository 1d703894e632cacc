"""From explained waste to text: the whole by cause, then the classes that waste most, each with its reason.

Computes nothing but shares and units; the numbers are those of waste.py.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from harness.metrics import ratio
from harness.report import bytes_text, count_text, percent_text, prose, rows_csv, table
from harness.waste import CAUSES, Explained, Waste

# So that what is said in words stands in a terminal as a paragraph.
_LINE_CHARACTERS = 100

Found = Sequence[tuple[Mapping[str, Any], Sequence[Explained]]]


def waste_text(found: Found, form: str, top: int) -> str:
    """Return traces, each with its runs' explained waste, in one of the formats of the command line."""
    if form == "json":
        return json.dumps([_trace_dict(trace, runs) for trace, runs in found], indent=1) + "\n"
    if form == "csv":
        return rows_csv([row for trace, runs in found for run in runs for row in _csv_rows(trace, run)])
    parts = [_run_text(trace, run, form, top) for trace, runs in found for run in runs]
    return "\n\n".join(parts) + "\n"


def _trace_dict(trace: Mapping[str, Any], runs: Sequence[Explained]) -> dict[str, Any]:
    return {
        "trace": {"path": trace["path"], "digest": trace["digest"]},
        "runs": [
            {
                "allocator": each.run.allocator,
                "label": each.run.label,
                "waste_bytes": each.waste_bytes,
                "causes": each.causes,
                "advice": each.advice,
                "rows": [_row_dict(row) for row in each.rows],
            }
            for each in runs
        ],
    }


def _row_dict(row: Waste) -> dict[str, Any]:
    return {
        "name": row.name,
        "waste_bytes": row.waste_bytes,
        "share": row.share,
        "causes": row.causes,
        "words": row.words,
        "class": row.row,
    }


def _csv_rows(trace: Mapping[str, Any], found: Explained) -> list[dict[str, Any]]:
    return [
        {"trace": trace["path"], "allocator": found.run.label, "name": row.name}
        | {"waste_bytes": row.waste_bytes, "share": row.share}
        | {f"{name}_bytes": row.causes.get(name, 0) for name in CAUSES}  # None is an empty cell.
        | {"words": row.words}
        for row in found.rows
    ]


def _run_text(trace: Mapping[str, Any], found: Explained, form: str, top: int) -> str:
    run, rows = found.run, found.rows[:top]
    committed = run.summary["peak_committed_bytes"]
    head = (
        f"{trace['path']}: {run.label} wastes {bytes_text(found.waste_bytes)} of {bytes_text(committed)} "
        f"committed at its peak{_unknown_text(found)}"
    )
    causes = [
        [heading, bytes_text(held), percent_text(ratio(held, found.waste_bytes))]
        for name, (heading, _) in CAUSES.items()
        if (held := found.causes[name]) != 0
    ]
    texts = [
        prose(form, head),
        table(causes, ["cause", "waste", "share"], form, left=1),
        _paragraph(found.advice + ".", form),
        _rows_table(rows, form),
    ]
    more = len(found.rows) - len(rows)
    if more:
        rest = sum(row.waste_bytes for row in found.rows[len(rows) :])
        texts.append(prose(form, f"and {more:,} more with {bytes_text(rest)} (--top)"))
    return "\n\n".join(texts)


def _unknown_text(found: Explained) -> str:
    unknown = [CAUSES[name][1] for name, held in found.causes.items() if held is None]
    if not unknown:
        return ""
    return f", and by {' and by '.join(unknown)} what nobody knows: the trace does not have every size"


def _paragraph(text: str, form: str) -> str:
    if form == "table":
        return textwrap.fill(text, _LINE_CHARACTERS)
    return prose(form, text)


def _rows_table(rows: Sequence[Waste], form: str) -> str:
    cells = []
    for each in rows:
        row = each.row or {}
        slot = row.get("slot_bytes")
        cells.append(
            [
                each.name,
                "" if each.row is None else bytes_text(slot) if slot else "own span",
                count_text(row["live_objects"]) if row else "",
                count_text(row["spans"]) if row else "",
                bytes_text(each.waste_bytes),
                percent_text(each.share),
                each.words,
            ]
        )
    headings = ["class", "slot", "objects", "spans", "waste", "share", "why"]
    return table(cells, headings, form, left=1, words=1)
