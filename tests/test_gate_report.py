"""What a check says: a table, Markdown that renders, JUnit XML that readers take, annotations for GitHub."""

from __future__ import annotations

import json
import re
from pathlib import Path

import junitparser
import pytest
import xmlschema
from gate_support import result, run
from markdown_it import MarkdownIt

from harness import baseline, gate, gate_report
from harness.errors import HarnessError

KIB = 1024
JUNIT = xmlschema.XMLSchema(str(Path(__file__).with_name("junit.xsd")))

BEFORE = {
    "mean_committed_bytes": 100 * KIB,
    "peak_committed_bytes": 200 * KIB,
    "waste_bytes": 50 * KIB,
    "failed_allocations": 0,
    "peak_requested_bytes": 90 * KIB,
    "internal_fragmentation": 0.125,
}
AFTER = {
    "mean_committed_bytes": 110 * KIB,
    "peak_committed_bytes": 180 * KIB,
    "waste_bytes": 51 * KIB,
    "failed_allocations": 0,
    "peak_requested_bytes": 91 * KIB,
    "internal_fragmentation": 0.25,
}


def checked(label="tcmalloc", path="traces/a.parquet", before=BEFORE, after=AFTER):
    kept = baseline.make("base.json", [result(run(label, **before), path=path)], chosen=tuple(BEFORE))
    return gate.check_runs(kept, [result(run(label, **after), path=path)]), baseline.to_json(kept)


@pytest.fixture
def found():
    return checked()[0]


def test_a_sentence_names_metric_allocator_trace_and_amount(found):
    (change,) = (change for change in found.regressions if change.row.unit == "bytes")
    assert gate_report.sentence(change) == (
        "traces/a.parquet: tcmalloc: mean_committed_bytes (mean committed) went from 100.00 KiB to "
        "110.00 KiB, +10.00 KiB (+10.0 %); 4.00 KiB worse is allowed"
    )


def test_the_table_has_what_changed_worst_first_and_counts_what_is_equal(found):
    lines = gate_report.check_text(found, "table").splitlines()
    assert lines[0] == (
        "base.json: 2 regressions, no warnings, 1 improvement, 2 other changes; 1 equal number"
    )
    rows = [re.split(r"\s{2,}", line) for line in lines if line.startswith("traces/")]
    assert [(row[2], row[-1]) for row in rows] == [
        ("internal_fragmentation", "regression"),
        ("mean_committed_bytes", "regression"),
        ("peak_committed_bytes", "improvement"),
        ("waste_bytes", "within threshold"),
        ("peak_requested_bytes", "not judged"),
    ]
    assert rows[0][3:-1] == ["12.5 %", "25.0 %", "+12.50 points", "+100.0 %", "0.05 points"]
    assert lines[-1] == (
        "Memory got worse by more than is allowed. If that is meant, accept it: "
        "harness check base.json --update"
    )


def test_better_memory_is_said_with_what_to_do():
    better = BEFORE | {"peak_committed_bytes": 100 * KIB}
    text = gate_report.check_text(checked(after=better)[0], "table")
    assert "no regressions, no warnings, 1 improvement; 5 equal numbers" in text
    assert text.endswith("To hold it there, make it the baseline: harness check base.json --update\n")


def test_no_change_is_one_line():
    text = gate_report.check_text(checked(after=BEFORE)[0], "table")
    assert text == "base.json: no regressions, no warnings, no improvements; 6 equal numbers\n"


def test_the_markdown_is_a_table_when_it_is_rendered(found):
    html = MarkdownIt("commonmark").enable("table").render(gate_report.check_text(found, "markdown"))
    tables = re.findall(r"<table>.*?</table>", html, re.S)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", table) for table in tables]
    assert [len(of_table) for of_table in cells] == [3 * 9, 2 * 9]
    assert cells[0][:3] == ["traces/a.parquet", "tcmalloc", "internal_fragmentation"]
    assert html.startswith("<h3>base.json: 2 regressions")
    assert "<details><summary>2 changes that fail nothing</summary>" in html


def test_a_name_that_is_not_of_characters_can_be_written():
    found, text = checked(path="traces/\udcff.parquet")
    for written in (gate_report.check_text(found, "table"), gate_report.check_text(found, "markdown")):
        assert "traces/?.parquet" in written
        written.encode()
    text.encode()


@pytest.mark.parametrize("label", ["a|b", "<b>x</b>", "`x`", "*x*", "x:path=/lib/_y_.so", "line\nbreak"])
def test_names_of_any_characters_stand_in_the_rendered_table(label):
    html = (
        MarkdownIt("commonmark").enable("table").render(gate_report.check_text(checked(label)[0], "markdown"))
    )
    shown = label.replace("\n", " ").replace("<", "&lt;").replace(">", "&gt;")
    assert f"<td>{shown}</td>" in re.sub(r'<td style="text-align:left">', "<td>", html)


def test_a_comment_stays_within_what_github_takes():
    many = [result(run("go", **{name: 1 << 40 for name in BEFORE}), path=f"{i}.parquet") for i in range(500)]
    kept = baseline.make("base.json", many, chosen=tuple(BEFORE))
    for each in many:
        each.runs[0].summary["waste_bytes"] = 1 << 41
    text = gate_report.check_text(gate.check_runs(kept, many), "markdown")
    assert len(text) < 65_536
    assert "and 300 more" in text


def test_junit_is_what_its_readers_take(found, tmp_path):
    found.faults.append(HarnessError("b.parquet: no such file"))
    text = gate_report.check_junit(found)
    JUNIT.validate(text)
    (tmp_path / "junit.xml").write_text(text)
    suites = list(junitparser.JUnitXml.fromfile(str(tmp_path / "junit.xml")))
    assert [(suite.name, suite.tests, suite.failures, suite.errors) for suite in suites] == [
        ("traces/a.parquet", 6, 2, 0),
        ("base.json", 1, 0, 1),
    ]
    case = next(case for case in suites[0] if case.name == "mean_committed_bytes")
    assert case.classname == "traces/a.tcmalloc"
    (failure,) = case.result
    assert failure.message.startswith("traces/a.parquet: tcmalloc: mean_committed_bytes")
    assert "+10.00 KiB (+10.0 %)" in failure.message


@pytest.mark.parametrize("label", ['<&">', "\x00\x1f", "\ud800", "tcmalloc:version=2.10"])
def test_junit_is_valid_whatever_the_names_are(label):
    text = gate_report.check_junit(checked(label)[0])
    JUNIT.validate(text.encode("utf-8").decode())


def test_junit_that_is_none_is_noticed(found):
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        JUNIT.validate(gate_report.check_junit(found).replace('tests="6"', 'tests="some"'))


def test_json_has_every_number_unrounded(found):
    content = json.loads(gate_report.check_json(found))
    assert content["schema"] == "harness-check/1"
    assert content["status"] == 1
    numbers = {change["metric"]: (change["before"], change["after"]) for change in content["changes"]}
    assert numbers == {name: (BEFORE[name], AFTER[name]) for name in BEFORE}


def test_annotations_stand_at_the_numbers_line():
    found, text = checked()
    lines = list(gate_report.github_annotations(found, text))
    assert [line.split()[0] for line in lines] == ["::error", "::error", "::notice"]
    match = re.match(
        r"::error file=base\.json,line=(\d+),title=tcmalloc%3A mean_committed_bytes::(.*)", lines[1]
    )
    assert '"mean_committed_bytes": 102400' in text.splitlines()[int(match[1]) - 1]
    assert match[2].endswith("+10.00 KiB (+10.0 %25); 4.00 KiB worse is allowed")


def test_a_fault_is_an_annotation_of_one_line(found):
    found.faults.append(HarnessError("b.parquet: no\nsuch file"))
    assert list(gate_report.github_annotations(found, ""))[-1] == (
        "::error file=base.json,title=not compared::b.parquet: no such file"
    )
