"""Numbers carry units that people read, and tables align."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from harness import comparison_report, metrics, report
from harness.comparison import Side, compare
from harness.results import Environment, Run, TraceRuns, to_json

PARTS = dict.fromkeys(
    ("live", "dead", "front_end", "transfer", "central", "tail", "page_heap", "released", "runtime"), 0
)


def a_run(label, peak):
    summary = dict.fromkeys([row[1] for row in (*report._SUMMARY, *report._RESIDENT)], None)
    summary |= {
        "peak_committed_bytes": peak,
        "waste_bytes": peak - 512,
        "internal_waste_bytes": 0,
        "internal_fragmentation": 0.0,
        "front_end_hit_rate": None,
    }
    parts = PARTS | {"live": 512, "page_heap": peak - 512, "mapped": peak, "metadata": None}
    return Run(
        allocator=label,
        label=label,
        description="An allocator.",
        version="1",
        kind="model",
        options={},
        summary=summary,
        footprint={"floor": parts, "peak": parts, "end": parts},
        counters={},
        classes=[],
        samples={},
        warnings=["one note"],
    )


TRACE = {
    "path": "t.parquet",
    "synthetic": True,
    "events": 3,
    "allocations": 2,
    "frees": 1,
    "remote_frees": 1,
    "threads": 2,
    "peak_live_objects": 2,
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536 * 1024, "1.50 MiB"),
        (3 << 30, "3.00 GiB"),
        (5 << 40, "5.00 TiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_bytes_carry_a_unit(value, text):
    assert report.bytes_text(value) == text


def test_what_is_unknown_is_a_dash():
    assert report.percent_text(None) == report.ratio_text(None) == report.count_text(None) == "-"


def test_allocators_stand_side_by_side_and_align():
    text = report.comparison([TraceRuns(TRACE, [a_run("a", 1024), a_run("b", 4096)])], Environment(), "table")
    lines = text.splitlines()
    assert lines[0].startswith("t.parquet (synthetic): 3 events, 2 allocations, 1 frees (100.0 % on another")
    table = lines[2 : lines.index("", 2)]
    assert table[0].split() == ["a", "b"]
    assert len({len(line.rstrip()) for line in table[1:2]} | {len(table[1])}) == 1
    (peak,) = (line for line in table if line.startswith("peak committed"))
    assert peak.split() == ["peak", "committed", "1.00", "KiB", "4.00", "KiB"]
    assert len(peak) == len(table[1])
    (page_heap,) = (line for line in table if "page heap" in line)
    assert page_heap.startswith("· page heap")
    assert "50.0 %" in page_heap
    assert "87.5 %" in page_heap
    assert "central" not in text  # A tier that holds nothing anywhere has no row.
    assert text.count("note: one note") == 1


TIMING = {
    "kind": "measured",
    "ns_per_event": 20.0,
    "low": 19.0,
    "high": 25.5,
    "repetitions": 3,
    "driver_ns_per_event": 4.0,
    "ns_by_op": {"alloc": 30.0, "free": 12.0},
    "latency_ns": {"p50": 10.0, "p99.9": 2500.0},
    "cost_table": None,
}
MODELLED = TIMING | {"kind": "modelled", "driver_ns_per_event": None, "ns_by_op": None, "latency_ns": None}
SAMPLES = {
    "mapped": [1000, 3000],
    "released": [0, 0],
    "peak_committed": [1000, 3000],
    "peak_requested": [500, 700],
}


def printed(*runs):
    return report.comparison([TraceRuns(TRACE, list(runs))], Environment(), "table")


def row_of(text, heading):
    (row,) = (line for line in text.splitlines() if line.startswith(heading))
    return row.removeprefix(heading).split("  ")


def cells_of(text, heading):
    return [cell.strip() for cell in row_of(text, heading) if cell.strip()]


def test_time_says_of_every_cell_whether_it_was_measured_or_modelled():
    text = printed(
        a_run("a", 1024), replace(a_run("b", 1024), timing=TIMING), replace(a_run("c", 1024), timing=MODELLED)
    )
    assert cells_of(text, "ns an event") == ["-", "20.0 ns (measured)", "20.0 ns (modelled)"]
    assert cells_of(text, "· least and most") == ["-", "19.0 to 25.5", "19.0 to 25.5"]
    assert cells_of(text, "· driver's own, taken off") == ["-", "4.0 ns", "-"]
    assert cells_of(text, "· alloc alone") == ["-", "30.0 ns", "-"]
    assert cells_of(text, "· latency, p99.9") == ["-", "2,500.0 ns", "-"]
    assert "ns an event" not in printed(a_run("a", 1024))


def test_resident_memory_has_rows_where_anybody_knows_it():
    known = a_run("b", 1024)
    known.summary["peak_resident_bytes"] = 4096
    assert cells_of(printed(a_run("a", 1024), known), "resident: peak") == ["-", "4.00 KiB"]
    assert "resident" not in printed(a_run("a", 1024))


def test_a_failed_run_is_a_column_and_a_line():
    broken = a_run("b", 1024)
    broken = replace(
        broken,
        failure="b: it was ended by SIGSEGV",
        summary=dict.fromkeys(broken.summary),
        footprint=dict.fromkeys(broken.footprint, dict.fromkeys((*PARTS, "mapped", "metadata"))),
    )
    text = printed(a_run("a", 1024), broken)
    assert text.splitlines()[4].split() == ["model", "failed"]
    assert cells_of(text, "peak committed") == ["1.00 KiB", "-"]
    assert "\n\nfailed: b: it was ended by SIGSEGV\n" in text


def test_a_model_stands_beside_what_it_models_with_the_difference():
    model = replace(a_run("a", 3000), samples=SAMPLES, timing=MODELLED)
    real = replace(
        a_run("b", 3000),
        models="a",
        samples=SAMPLES | {"mapped": [1500, 3000], "peak_committed": [1500, 3000]},
        timing=TIMING | {"ns_per_event": 25.0},
    )
    text = printed(model, real).partition("a beside what it models")[2]
    assert cells_of(text, "peak committed, over samples")[-1] == "equal"
    assert cells_of(text, "mean committed, over samples")[-1] == "-11.11 %"
    assert cells_of(text, "ns an event, modelled and measured") == ["20.0 ns", "25.0 ns", "-20.00 %"]
    assert "beside what it models" not in printed(model, replace(real, failure="b: it crashed"))


def test_csv_has_a_column_for_each_number_of_time_and_for_a_failure():
    runs = [replace(a_run("a", 1024), timing=TIMING), replace(a_run("b", 1024), failure="b: it crashed")]
    header, first, second = report.comparison_csv([TraceRuns(TRACE, runs)]).splitlines()
    names = header.split(",")
    assert first.split(",")[names.index("timing.ns_by_op.alloc")] == "30.0"
    assert first.split(",")[names.index("timing.kind")] == "measured"
    assert second.split(",")[names.index("failure")] == "b: it crashed"


def test_csv_rows_may_differ_in_columns():
    assert report.rows_csv([{"a": 1}, {"b": 2}]) == "a,b\n1,\n,2\n"


# What a path, an option's value or a library's name may hold, and what each form would take for its own.
NAMES = ["100%_a&b#c$d{e}~f^g\\h<i>", "a|b`c*d[e](f)", "_a_ ~~b~~", "a\nb\tc\x1b[31m", 'say "a, b"', "größe"]


def named(name):
    """Two results, of a trace and of allocators of that name, that do not agree."""
    runs = [
        replace(a_run(name, peak), warnings=[f"{name}: a note"], counters={"refills": peak})
        for peak in (1024, 2048)
    ]
    classes = [dict.fromkeys(CLASS_COLUMNS, 0) | {"noscan": None, "slot_bytes": 16}]
    runs[1] = replace(runs[1], failure=f"{name}: it crashed", classes=classes)
    trace = TRACE | {"path": name, "digest": None}
    return [TraceRuns(trace, [run]) for run in runs]


CLASS_COLUMNS = [column.name for column in metrics.CLASS_COLUMNS]


def written(name, verb, form):
    a, b = named(name)
    if verb == "replay":
        return (
            report.comparison_csv([a, b]) if form == "csv" else report.comparison([a, b], Environment(), form)
        )
    return comparison_report.comparison(compare(Side(name, [a]), Side(f"{name} 2", [b])), form)


BOTH = pytest.mark.parametrize("verb", ["replay", "compare"])
ANY_NAME = pytest.mark.parametrize("name", NAMES)


@BOTH
@ANY_NAME
def test_in_markdown_a_name_is_text_and_stays_in_its_cell(name, verb):
    text = written(name, verb, "markdown")
    shown = re.sub(r"[\x00-\x1f]+", " ", name)
    bare = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)
    assert bare.count(shown) >= 2
    for block in text.split("\n\n"):
        rows = [re.split(r"(?<!\\)\|", line) for line in block.splitlines() if line.startswith("|")]
        assert len({len(row) for row in rows}) <= 1
    assert not re.search(r"(?<!\\)[`*\[<]|(?<!\\)~~|[\x00-\x09\x0b-\x1f]", text)


@BOTH
@ANY_NAME
def test_in_latex_a_name_is_text(name, verb):
    text = written(name, verb, "latex")
    commands = (r"\begin{tabular}", r"\end{tabular}", r"\toprule", r"\midrule", r"\bottomrule", "\\\\\n")
    for command in commands:
        text = text.replace(command, "\n")
    text = re.sub(r"^\{[lr]+\}$", "", text, flags=re.M)
    text = re.sub(r"\\(textbackslash|textasciitilde|\^|ensuremath)\{[<>]?\}|\\[&%$#_{}]", "", text)
    # What is left of LaTeX's own is what parts the cells of a table.
    assert not re.search(r"[\\%$#_{}~^<>]|[\x00-\x09\x0b-\x1f]", text), text
    assert len({line.count("&") for line in text.splitlines() if "&" in line}) <= 2


@BOTH
@ANY_NAME
def test_csv_and_json_give_a_name_back(name, verb):
    rows = list(csv.DictReader(io.StringIO(written(name, verb, "csv"), newline="")))
    assert {row["trace" if verb == "replay" else "trace_a"] for row in rows} == {name}
    if verb == "replay":
        assert [row["peak_committed_bytes"] for row in rows] == ["1024", "2048"]
        found = json.loads(to_json(named(name), Environment(), samples=False))["results"][0]
        assert (found["trace"]["path"], found["runs"][0]["label"]) == (name, name)
    else:
        assert json.loads(written(name, verb, "json"))["traces"][0]["pairs"][0]["a"]["label"] == name


@BOTH
@ANY_NAME
def test_in_a_table_a_name_breaks_no_line(name, verb):
    text = written(name, verb, "table")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    ruler = next(line for line in text.splitlines() if line.startswith("-----"))
    heading = text.splitlines()[text.splitlines().index(ruler) - 1]
    assert len(heading.rstrip()) <= len(ruler)


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_size_classes_have_a_table_in_every_form(form):
    rows = [
        {"class": 1, "object_bytes": 8, "max_waste": 0.875},
        {"class": 2, "object_bytes": 16, "max_waste": 0.4},
    ]
    text = report.class_table(rows, form)
    share = r"87.50 \%" if form == "latex" else "87.50 %"
    assert share in text
    assert "object (B)" in text


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([8], "█" * 24),
        ([1, 8], "▁" * 12 + "█" * 12),
        ([0, 0, 0], "▁" * 24),
        (range(1, 9), "".join(bar * 3 for bar in "▁▂▃▄▅▆▇█")),
        ([*[1] * 47, 8], "▁" * 23 + "█"),
        ([*[0] * 9, 5, *[0] * 38], "▁" * 4 + "▅" + "▁" * 19),
    ],
)
def test_bars_show_the_most_in_each_stretch_of_the_trace(values, bars):
    assert report.sparkline(list(values), 8) == bars


@pytest.mark.parametrize(("values", "highest"), [([], 8), ([1, None], 8), ([0, 0], 0)])
def test_there_are_no_bars_of_what_is_unknown_or_nothing(values, highest):
    assert report.sparkline(values, highest) == "-"


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_bars_of_all_allocators_have_one_scale(form):
    large = replace(a_run("a", 4000), samples=SAMPLES | {"peak_committed": [2000, 4000]})
    small = replace(a_run("b", 1000), samples=SAMPLES | {"peak_committed": [500, 1000]})
    unknown = replace(
        a_run("c", 1000), samples={name: [None, None] for name in SAMPLES} | {"peak_requested": [500, 700]}
    )
    text = report.comparison([TraceRuns(TRACE, [large, small, unknown])], Environment(), form)
    rows = {
        line.strip("| ").split("  ")[0].split(" |")[0]: line.replace("|", " ").split()[4:]
        for line in text.splitlines()
        if "over the trace" in line
    }
    assert rows == {
        "requested over the trace": ["▁" * 12 + "▂" * 12] * 3,
        "committed over the trace": ["▄" * 12 + "█" * 12, "▁" * 12 + "▂" * 12, "-"],
    }


@pytest.mark.parametrize(
    "text", [report.comparison_csv, lambda runs: report.comparison(runs, Environment(), "latex")]
)
def test_bars_are_for_people_who_read_a_terminal_or_a_page(text):
    assert "█" not in text([TraceRuns(TRACE, [replace(a_run("a", 3000), samples=SAMPLES)])])


def test_without_samples_there_are_no_rows_of_bars():
    assert "over the trace" not in printed(a_run("a", 1024))
