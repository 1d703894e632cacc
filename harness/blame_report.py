"""From blamed waste to text: who wastes most, who called them, and what nobody is to blame for.

Computes nothing but shares and units; the numbers are those of blame.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.blame import NOBODY, Blamed, Group
from harness.report import bytes_text, count_text, percent_text, prose, rows_csv, table
from harness.sites import Frame, Stack, is_wrapper, plain_name

# Callers beside the frame to blame, and so much of a name: a line of a terminal has room for no more.
_CALLERS = 3
_NAME_CHARACTERS = 60

_NOBODY = "no object to blame"

Found = Sequence[tuple[Mapping[str, Any], Sequence[Blamed]]]


def blame_text(found: Found, form: str, top: int) -> str:
    """Return traces, each with its runs' blamed waste, in one of the formats of the command line."""
    if form == "json":
        return json.dumps([_trace_dict(trace, runs) for trace, runs in found], indent=1) + "\n"
    if form == "csv":
        return rows_csv([row for trace, runs in found for run in runs for row in _csv_rows(trace, run)])
    return "\n\n".join(_run_text(trace, run, form, top) for trace, runs in found for run in runs) + "\n"


def _trace_dict(trace: Mapping[str, Any], runs: Sequence[Blamed]) -> dict[str, Any]:
    return {
        "trace": {"path": trace["path"], "digest": trace["digest"]},
        "runs": [
            {
                "allocator": each.run.allocator,
                "label": each.run.label,
                "by": each.by,
                "waste_bytes": each.waste_bytes,
                "groups": [_numbers(group) | {"stack": _frames(group.stack)} for group in each.groups],
                "no_object_to_blame": each.nobody,
            }
            for each in runs
        ],
    }


def _numbers(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "sites": group.sites,
        "objects": group.objects,
        "requested_bytes": group.requested_bytes,
        "rounding_bytes": group.rounding_bytes,
        "pinned_bytes": group.pinned_bytes,
        "waste_bytes": group.waste_bytes,
        "share": group.share,
    }


def _frames(stack: Stack) -> list[dict[str, Any]]:
    return [frame._asdict() for frame in stack]


def _csv_rows(trace: Mapping[str, Any], found: Blamed) -> list[dict[str, Any]]:
    head = {"trace": trace["path"], "allocator": found.run.label}
    rows = [
        head | _numbers(group) | {"stack": "; ".join(str(frame) for frame in group.stack)}
        for group in found.groups
    ]
    nothing = dict.fromkeys(("sites", "objects", "requested_bytes", "rounding_bytes", "pinned_bytes"), 0)
    share = found.nobody_bytes / found.waste_bytes if found.waste_bytes else None
    rows.append(
        head | {"name": _NOBODY} | nothing | {"waste_bytes": found.nobody_bytes, "share": share, "stack": ""}
    )
    return rows


def _run_text(trace: Mapping[str, Any], found: Blamed, form: str, top: int) -> str:
    run, groups = found.run, found.groups[:top]
    committed = run.summary["peak_committed_bytes"]
    head = (
        f"{trace['path']}: {run.label} wastes {bytes_text(found.waste_bytes)} of {bytes_text(committed)} "
        f"committed at its peak"
    )
    texts = [prose(form, head), _groups_table(found, groups, form)]
    more = found.groups[len(groups) :]
    if more:
        rest = bytes_text(sum(group.waste_bytes for group in more))
        texts.append(prose(form, f"and {len(more):,} more with {rest} (--top)"))
    if found.nobody:
        named = ", ".join(
            f"{bytes_text(held)} {NOBODY[name]}"
            for name, held in sorted(found.nobody.items(), key=lambda item: -item[1])
        )
        texts.append(prose(form, f"{_NOBODY}: {named}"))
    return "\n\n".join(texts)


def _groups_table(found: Blamed, groups: Sequence[Group], form: str) -> str:
    has_stacks = any(len(group.stack) > 1 for group in groups)
    cells = [
        [
            _group_name(group, found.by),
            count_text(group.objects),
            bytes_text(group.requested_bytes),
            bytes_text(group.rounding_bytes),
            bytes_text(group.pinned_bytes),
            bytes_text(group.waste_bytes),
            percent_text(group.share),
            *([_callers(group, found.by)] if has_stacks else []),
        ]
        for group in groups
    ]
    share = found.nobody_bytes / found.waste_bytes if found.waste_bytes else None
    nobody = [_NOBODY, "", "", "", "", bytes_text(found.nobody_bytes), percent_text(share)]
    cells.append([*nobody, *([""] if has_stacks else [])])
    headings = [found.by, "objects", "requested", "rounding", "pinned", "waste", "share"]
    if has_stacks:
        headings.append("called by")
    return table(cells, headings, form, left=1, words=1 if has_stacks else 0)


def _group_name(group: Group, by: str) -> str:
    if not group.stack or by == "module":
        return _cut(group.name)
    frame = group.stack[0]
    return _short(frame if by == "site" else frame._replace(line=None))


def _callers(group: Group, by: str) -> str:
    """Return the next frames out, those that only pass requests on and the C library's left out."""
    outer = [frame for frame in group.stack[1:] if not is_wrapper(frame)]
    if by == "module":
        outer = [frame for frame in outer if frame.module != group.stack[0].module] or outer
    more = " < ..." if len(outer) > _CALLERS else ""
    return " < ".join(_short(frame) for frame in outer[:_CALLERS]) + more


def _short(frame: Frame) -> str:
    place = frame._replace(file=frame.file and frame.file.rsplit("/", 1)[-1]).location()
    name = _cut(plain_name(frame.function))
    return f"{name} ({place})" if place else name


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 3] + "..."
