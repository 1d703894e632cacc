"""From explanations to text: numbers side by side, and below them each allocator's path in words.

One size has a table with a column an allocator and the paths; several have a table an allocator, a row a
size. Computes nothing; the numbers are those of explanation.py, all of them in JSON and CSV.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from harness.explanation import Explained, Number, Path, Request, Step, Unit
from harness.report import cell_text, count_text, percent_text, prose, rows_csv, table

SCHEMA = "harness-explanation/1"

_NOTHING = "-"
_WIDTH = 110  # Of the text in a terminal.

# What a table of several sizes shows, and how it heads it there.
_COMPACT = {
    "requested_bytes": "size",
    "size_class": "class",
    "slot_bytes": "slot",
    "header_bytes": "header",
    "internal_fragmentation": "lost",
    "span_bytes": "span",
    "slots_per_span": "slots",
    "tail_bytes": "tail",
    "batch_objects": "moved",
    "first_tier": "first by",
    "steady_tier": "then by",
    "largest_bytes": "up to",
    "next_slot_bytes": "+ 1 byte",
}


def explanations(found: Sequence[Explained], form: str) -> str:
    """Return explanations in one of the formats of the command line."""
    if form == "json":
        return (
            json.dumps({"schema": SCHEMA, "explanations": [_object(each) for each in found]}, indent=1) + "\n"
        )
    if form == "csv":
        return rows_csv([_row(each) for each in found])
    sizes = dict.fromkeys(each.request.size for each in found)
    parts = _one_size(found, form) if len(sizes) == 1 else _several_sizes(found, form)
    return "\n\n".join(parts) + "\n"


def _object(each: Explained) -> dict[str, Any]:
    return {
        "allocator": each.spec.name,
        "version": each.version,
        "options": each.spec.options,
        "alignment": each.request.alignment,
        "noscan": each.request.noscan,
        "numbers": each.explanation.values(),
        "paths": [
            {
                "title": path.title,
                "steps": [asdict(step) for step in path.steps],
            }
            for path in each.explanation.paths
        ],
    }


def _row(each: Explained) -> dict[str, Any]:
    who = {"allocator": each.spec.label, "version": each.version}
    asked = {"alignment": each.request.alignment, "noscan": each.request.noscan}
    return who | asked | each.explanation.values()


def _one_size(found: Sequence[Explained], form: str) -> list[str]:
    rows = [
        [heading, *(_cell(each, name) for each in found)]
        for name, heading in _headings([each.explanation.numbers for each in found]).items()
    ]
    parts = [
        prose(form, _request_text(found[0].request)),
        table(rows, ["", *(each.spec.label for each in found)], form, left=1),
    ]
    if form != "latex":  # A paper has words of its own.
        parts += [_path_text(each, path, form) for each in found for path in each.explanation.paths]
    return parts


def _several_sizes(found: Sequence[Explained], form: str) -> list[str]:
    parts = [prose(form, f"objects {_kind_text(found[0].request)}")]
    for label in dict.fromkeys(each.spec.label for each in found):
        rows = [[_cell(each, name) for name in _COMPACT] for each in found if each.spec.label == label]
        parts += [prose(form, label), table(rows, list(_COMPACT.values()), form, left=0)]
    if form != "latex":
        parts.append("One size alone has all numbers, and its way through the tiers: harness explain SIZE")
    return parts


def _headings(columns: Sequence[Sequence[Number]]) -> dict[str, str]:
    """Return every number's name and heading; one that only a later column has stands where it has it."""
    order: list[Number] = []
    for column in columns:
        at = 0
        for each in column:
            names = [known.name for known in order]
            if each.name in names:
                at = names.index(each.name) + 1
            else:
                order.insert(at, each)
                at += 1
    return {each.name: each.heading for each in order}


def _cell(each: Explained, name: str) -> str:
    for known in each.explanation.numbers:
        if known.name == name:
            return _NOTHING if known.value is None else _TEXTS[known.unit](known.value)
    return _NOTHING


def _count_text(value: Any) -> str:
    return count_text(value) if value == int(value) else f"{value:,.1f}"


# Bytes to the last one: here one more may matter.
_TEXTS: dict[Unit, Callable[[Any], str]] = {
    "bytes": lambda value: f"{value:,} B",
    "share": percent_text,
    "count": _count_text,
    "flag": lambda value: "yes" if value else "no",
    "text": str,
}


def _request_text(request: Request) -> str:
    return f"{request.size:,} byte{'' if request.size == 1 else 's'}, {_kind_text(request)}"


def _kind_text(request: Request) -> str:
    kind = "without pointers (noscan)" if request.noscan else "that may hold pointers (scan)"
    return kind + (f", aligned to {request.alignment:,} bytes" if request.alignment else "")


def _path_text(each: Explained, path: Path, form: str) -> str:
    title = cell_text(f"{each.spec.label}: {path.title}", form)
    quote = "`" if form == "markdown" else ""
    lines = [f"### {title}" if form == "markdown" else title, ""]
    for place, step in enumerate(path.steps, 1):
        names = ", ".join(f"{quote}{name}{quote}" for name in step.functions)
        text = (f"{names}: " if names else "") + cell_text(step.text + _comers(each, step), form)
        begin = f"{place}. " if form == "markdown" else f"{place:3}. "
        lines.append(textwrap.fill(text, _WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin)))
    return "\n".join(lines)


def _comers(each: Explained, step: Step) -> str:
    """Return which of the two allocations that were tried go no farther than this step."""
    values = each.explanation.values()
    tiers = [values.get(name) for name in ("first_tier", "second_tier")]
    said = {
        (True, False): " The first allocation ends here.",
        (False, True): " The second allocation ends here.",
        (True, True): " The first two allocations end here.",
    }
    first, second = (step.tier is not None and tier == step.tier for tier in tiers)
    return said.get((first, second), "")
