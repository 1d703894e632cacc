"""From verdicts to text: a table, Markdown for a pull request, JUnit XML, JSON, annotations for GitHub.

Computes nothing; the numbers and verdicts are those of gate.py.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Literal

from harness.baseline import line_of, named
from harness.comparison_report import TEXTS, change_text, difference_text, points_text
from harness.errors import HarnessError
from harness.gate import Change, Verdict, Verdicts
from harness.report import cell_text, metric_heading, prose, table

SCHEMA = "harness-check/1"

# In the order in which they are told.
_VERDICTS: dict[Verdict, str] = {
    "regression": "regression",
    "warning": "warning",
    "improvement": "improvement",
    "worse": "within threshold",
    "better": "within threshold",
    "changed": "not judged",
    "~": "~",
}
_COMMANDS: dict[Verdict, str] = {"regression": "error", "warning": "warning", "improvement": "notice"}
_HEADINGS = ["trace", "allocator", "metric", "before", "after", "difference", "change", "allowed", "verdict"]

# GitHub takes comments of 65,536 characters; a row has some 150.
_ROWS_OF_MARKDOWN = 200


def sentence(change: Change) -> str:
    """Return one change as a sentence that names metric, allocator, trace and amount."""
    row, text = change.row, TEXTS[change.row.unit]
    heading = metric_heading(row.name)
    share = f" ({change_text(row)})" if change_text(row) else ""
    by_chance = "" if change.probability is None else f"; by chance alone: p = {change.probability:.3f}"
    return (
        f"{change.trace}: {change.label}: {row.name} ({heading}) went from {text(row.a)} to {text(row.b)}, "
        f"{difference_text(row)}{share}; {_allowed_text(change)} worse is allowed{by_chance}"
    )


def check_text(verdicts: Verdicts, form: Literal["table", "markdown"]) -> str:
    """Return what a check found for people to read, and what they should do."""
    parts = [prose(form, _headline(verdicts)) if form == "table" else f"### {_escaped(_headline(verdicts))}"]
    loud = _ordered(verdicts, "regression", "warning", "improvement")
    quiet = _ordered(verdicts, "worse", "better", "changed", "~")
    if form == "table":
        loud, quiet = [*loud, *quiet], []
    if loud:
        parts += _table(loud, form)
    if quiet:
        parts.append(f"<details><summary>{_counted(len(quiet), 'change')} that fail nothing</summary>")
        parts += [*_table(quiet, form), "</details>"]
    parts += [prose(form, f"note: {note}") for note in verdicts.notes]
    parts += [prose(form, f"not compared: {_line(fault)}") for fault in verdicts.faults]
    parts += [prose(form, advice) for advice in _advice(verdicts)]
    return _encodable("\n\n".join(parts) + "\n")


def check_json(verdicts: Verdicts) -> str:
    """Return every number, equal ones too, as JSON."""
    changes = [
        {
            "trace": change.trace,
            "allocator": change.label,
            "metric": change.row.name,
            "unit": change.row.unit,
            "better": change.row.better,
            "before": change.row.a,
            "after": change.row.b,
            "difference": change.row.difference,
            "change": change.row.change,
            "threshold": asdict(change.threshold),
            "allowed": change.allowed,
            "probability": change.probability,
            "verdict": change.verdict,
        }
        for change in verdicts.changes
    ]
    found = {
        "schema": SCHEMA,
        "baseline": verdicts.baseline,
        "new_traces": verdicts.new_traces,
        "status": verdicts.status,
        "changes": changes,
        "notes": verdicts.notes,
        "faults": [_line(fault) for fault in verdicts.faults],
    }
    return json.dumps(found, indent=1) + "\n"


def check_junit(verdicts: Verdicts) -> str:
    """Return JUnit XML: a suite a trace, a case a number, a failure a regression, an error what failed."""
    suites = ET.Element("testsuites", {"name": "harness check"})
    of_trace: dict[str, list[Change]] = {}
    for change in verdicts.changes:
        of_trace.setdefault(change.trace, []).append(change)
    for trace, changes in of_trace.items():
        failures = sum(change.verdict == "regression" for change in changes)
        suite = _suite(suites, trace, tests=len(changes), failures=failures, errors=0)
        for change in changes:
            # To a reader of JUnit the last point ends a package; there is no other in the name.
            package, name = (text.replace(".", "_") for text in (trace, change.label))
            whose = f"{package.removesuffix('_parquet')}.{name}"
            case = ET.SubElement(suite, "testcase", _attributes(classname=whose, name=change.row.name))
            if change.verdict == "regression":
                told = sentence(change)
                failure = ET.SubElement(case, "failure", _attributes(type="regression", message=told))
                failure.text = _xml_text(told)
            elif change.verdict != "equal":
                out = ET.SubElement(case, "system-out")
                out.text = _xml_text(f"{_VERDICTS[change.verdict]}: {sentence(change)}")
    if verdicts.faults:
        count = len(verdicts.faults)
        suite = _suite(suites, verdicts.baseline, tests=count, failures=0, errors=count)
        for number, fault in enumerate(verdicts.faults, 1):
            name = f"not compared: {number}"
            case = ET.SubElement(suite, "testcase", _attributes(classname=verdicts.baseline, name=name))
            ET.SubElement(case, "error", _attributes(type="error", message=_line(fault)))
    ET.indent(suites, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def github_annotations(verdicts: Verdicts, baseline_text: str) -> Iterator[str]:
    """Yield GitHub's workflow commands, which mark the lines of the baseline; `baseline_text` is its content.

    The commands are described in GitHub's documentation, "Workflow commands for GitHub Actions".
    """
    # GitHub shows ten of a kind, so that the greatest stand first.
    for verdict, command in _COMMANDS.items():
        for change in _ordered(verdicts, verdict):
            name = named(change.trace, verdicts.baseline)
            line = line_of(baseline_text, name, change.kept_label, change.row.name)
            title = f"{change.label}: {change.row.name}"
            yield _command(command, verdicts.baseline, line, title, sentence(change))
    for fault in verdicts.faults:
        yield _command("error", verdicts.baseline, None, "not compared", _line(fault))


def _headline(verdicts: Verdicts) -> str:
    counts = Counter(change.verdict for change in verdicts.changes)
    told = [
        _counted(counts["regression"], "regression"),
        _counted(counts["warning"], "warning"),
        _counted(counts["improvement"], "improvement"),
    ]
    others = (
        len(verdicts.changes)
        - counts["equal"]
        - sum(counts[verdict] for verdict in ("regression", "warning", "improvement"))
    )
    if others:
        told.append(f"{_counted(others, 'other change')}")
    if verdicts.faults:
        told.append(f"{len(verdicts.faults)} not compared")
    return f"{verdicts.baseline}: {', '.join(told)}; {_counted(counts['equal'], 'equal number')}"


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _advice(verdicts: Verdicts) -> Iterator[str]:
    """Say what to do."""
    if any(change.label != change.kept_label for change in verdicts.changes):
        return  # Other options were tried, and the baseline's are meant to stay.
    command = f"harness check {verdicts.baseline} --update"
    if verdicts.new_traces:
        command += " --new-traces"
    if verdicts.regressions:
        yield f"Memory got worse by more than is allowed. If that is meant, accept it: {command}"
    elif verdicts.improvements and not verdicts.faults:
        yield f"Memory got better. To hold it there, make it the baseline: {command}"


def _ordered(verdicts: Verdicts, *which: Verdict) -> list[Change]:
    """Return changes of some verdicts in this order, the largest share of the number before first."""
    return [
        change
        for verdict in which
        for change in sorted(verdicts.those(verdict), key=lambda change: -abs(change.row.change or 0))
    ]


def _table(changes: Sequence[Change], form: str) -> list[str]:
    shown = changes[:_ROWS_OF_MARKDOWN] if form == "markdown" else changes
    parts = [table([_cells(change) for change in shown], _HEADINGS, form, left=3, words=1)]
    if len(shown) < len(changes):
        parts.append(f"and {len(changes) - len(shown)} more")
    return parts


def _cells(change: Change) -> list[str]:
    row, text = change.row, TEXTS[change.row.unit]
    numbers = [text(row.a), text(row.b), difference_text(row), change_text(row)]
    is_judged = row.better is not None and change.threshold.severity != "ignore"
    allowed = _allowed_text(change) if is_judged else ""
    return [change.trace, change.label, row.name, *numbers, allowed, _VERDICTS[change.verdict]]


def _allowed_text(change: Change) -> str:
    return (points_text if change.row.unit == "share" else TEXTS[change.row.unit])(change.allowed)


def _line(fault: HarnessError) -> str:
    return " ".join(str(fault).split())


def _escaped(text: str) -> str:
    return prose("markdown", text)


def _suite(parent: ET.Element, name: str, **counts: int) -> ET.Element:
    numbers = {key: str(count) for key, count in counts.items()}
    return ET.SubElement(parent, "testsuite", {**_attributes(name=name), **numbers, "time": "0"})


def _attributes(**texts: str) -> dict[str, str]:
    return {name: _xml_text(text) for name, text in texts.items()}


def _xml_text(text: str) -> str:
    """Return text without what XML 1.0 has no way to write: control characters, halves of surrogates."""
    return _encodable(cell_text(text, "table"))


def _encodable(text: str) -> str:
    """Return text that can be written: a file's name need not be of characters."""
    return text.encode("utf-8", "replace").decode()


def _command(command: str, file: str, line: int | None, title: str, message: str) -> str:
    properties = {"file": file, **({} if line is None else {"line": str(line)}), "title": title}
    listed = ",".join(
        f"{name}={_quoted(value).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
    )
    return f"::{command} {listed}::{_quoted(message)}"


def _quoted(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
