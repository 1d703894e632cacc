"""Two results side by side: who is paired with whom, what differs, which way is better, and how it prints."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from support import fails_with, harness, random_rows, write_trace

from harness import comparison_report
from harness.comparison import Side, compare
from harness.errors import HarnessError
from harness.results import Run, TraceRuns

PARTS = ("live", "dead", "front_end", "transfer", "central", "tail", "page_heap", "released", "runtime")


def a_run(label="a", *, peak=1024, timing=None, kind="model", classes=(), **summary):
    parts = dict.fromkeys(PARTS, 0) | {"live": 512, "page_heap": peak - 512, "mapped": peak, "metadata": None}
    return Run(
        allocator=label.partition(":")[0],
        label=label,
        description="An allocator.",
        version="1",
        kind=kind,
        options={},
        summary={"peak_requested_bytes": 512, "peak_committed_bytes": peak, **summary},
        footprint={"floor": parts, "peak": parts, "end": parts},
        counters={"refills": 7, "bytes_copied": peak},
        classes=list(classes),
        warnings=[],
        timing=timing,
    )


def a_trace(name="t", digest="sha256:0", **totals):
    return {"path": f"{name}.parquet", "digest": digest, "events": 3, **totals}


def results(*runs, **trace):
    return [TraceRuns(a_trace(**trace), list(runs))]


def compared(a, b, **options):
    return compare(Side("A", a), Side("B", b), **options)


def rows_of(a, b, **options):
    (traces,) = compared(results(a), results(b), **options).traces
    (pair,) = traces.pairs
    return {(row.section, row.name): row for row in pair.rows}


def labels(a, b):
    (traces,) = compared(results(*map(a_run, a)), results(*map(a_run, b))).traces
    return [(pair.a.label, pair.b.label) for pair in traces.pairs], traces.only_in_a, traces.only_in_b


@pytest.mark.parametrize(
    ("a", "b", "pairs", "only_in_a", "only_in_b"),
    [
        (["go", "ideal"], ["ideal", "go"], [("go", "go"), ("ideal", "ideal")], [], []),
        (["go", "ideal"], ["go:gogc=50", "ideal"], [("go", "go:gogc=50"), ("ideal", "ideal")], [], []),
        (["go"], ["tcmalloc"], [("go", "tcmalloc")], [], []),
        (["go", "ideal"], ["tcmalloc", "ideal"], [("ideal", "ideal")], ["go"], ["tcmalloc"]),
        (
            ["go", "ideal"],
            ["go:gogc=1", "go:gogc=2", "ideal"],
            [("ideal", "ideal")],
            ["go"],
            ["go:gogc=1", "go:gogc=2"],
        ),
        (["go", "go"], ["go"], [("go", "go")], ["go"], []),
    ],
    ids=["labels", "the only one of its name", "one run each", "others", "a guess", "twice"],
)
def test_runs_are_paired(a, b, pairs, only_in_a, only_in_b):
    assert labels(a, b) == (pairs, only_in_a, only_in_b)


def test_nothing_to_pair_is_a_fault_that_names_what_there_is():
    with pytest.raises(HarnessError, match="no two runs to compare: A has go, ideal, B has tcmalloc"):
        compared(results(a_run("go"), a_run("ideal")), results(a_run("tcmalloc")))


def test_different_traces_are_refused_unless_it_is_meant():
    a, b = results(a_run(), name="x"), results(a_run(), name="y", digest="sha256:1")
    with pytest.raises(HarnessError, match=r"different traces: x.parquet \(sha256:0\) in A and y.parquet"):
        compared(a, b)
    (traces,) = compared(a, b, different_traces=True).traces
    assert (traces.a["path"], traces.b["path"]) == ("x.parquet", "y.parquet")


def test_one_trace_under_another_name_is_the_same():
    found = compared(results(a_run(), name="x"), results(a_run(), name="y"))
    assert len(found.traces) == 1


def test_without_a_digest_the_totals_say_which_trace_it_is():
    one, other = ({"digest": None, "events": 3, "frees": frees} for frees in (1, 2))
    assert len(compared(results(a_run(), **one), results(a_run(), **one)).traces) == 1
    with pytest.raises(HarnessError, match="without a digest"):
        compared(results(a_run(), **one), results(a_run(), **other))


def test_a_trace_that_one_side_has_is_named():
    both, one = results(a_run()), results(a_run(), name="y", digest="sha256:1")
    found = compared([*both, *one], both)
    assert (len(found.traces), found.only_in_a, found.only_in_b) == (1, ["y.parquet"], [])


def test_lower_is_better_for_memory_and_higher_for_efficiency():
    rows = rows_of(a_run(efficiency=0.5), a_run(peak=2048, efficiency=0.75))
    peak = rows["summary", "peak_committed_bytes"]
    assert (peak.difference, peak.change, peak.verdict) == (1024, 1.0, "worse")
    assert rows["summary", "efficiency"].verdict == "better"
    assert rows["peak", "page_heap"].verdict == "worse"
    assert rows["summary", "peak_requested_bytes"].verdict == "~"
    assert rows["counters", "bytes_copied"].verdict == ""
    assert rows["counters", "bytes_copied"].unit == "bytes"


def test_a_counter_that_is_a_metric_too_has_one_row():
    rows = rows_of(a_run(refills=7), a_run(refills=8))
    assert [section for section, name in rows if name == "refills"] == ["summary"]


def test_what_nobody_knows_has_no_row_and_what_one_knows_no_verdict():
    rows = rows_of(a_run(peak_resident_bytes=None), a_run(peak_resident_bytes=None))
    assert ("summary", "peak_resident_bytes") not in rows
    row = rows_of(a_run(peak_resident_bytes=None), a_run(peak_resident_bytes=1))[
        "summary", "peak_resident_bytes"
    ]
    assert (row.difference, row.change, row.verdict) == (None, None, "")


def test_a_change_from_nothing_is_no_percentage():
    row = rows_of(a_run(garbage_bytes=0), a_run(garbage_bytes=5))["summary", "garbage_bytes"]
    assert (row.difference, row.change, row.verdict) == (5, None, "worse")


def measured(ns, low, high, kind="measured"):
    timing = {"kind": kind, "ns_per_event": ns, "low": low, "high": high, "cost_table": None}
    return a_run(kind="library", timing=timing, **{f"{kind}_ns_per_event": ns})


@pytest.mark.parametrize(
    ("other", "verdict"),
    [((11.5, 10.5, 12.0), "~"), ((13.0, 12.5, 14.0), "worse"), ((8.0, 7.0, 8.9), "better")],
)
def test_a_measured_time_differs_where_the_spreads_do_not_touch(other, verdict):
    rows = rows_of(measured(10.0, 9.0, 11.0), measured(*other))
    assert rows["summary", "measured_ns_per_event"].verdict == verdict


def test_a_modelled_time_differs_or_does_not():
    rows = rows_of(measured(10.0, 9.0, 11.0, "modelled"), measured(10.1, 9.1, 11.1, "modelled"))
    assert rows["summary", "modelled_ns_per_event"].verdict == "worse"


def a_class(slot_bytes, waste_bytes, *, noscan=None, number=1):
    return {"class": number, "slot_bytes": slot_bytes, "noscan": noscan, "waste_bytes": waste_bytes}


def test_size_classes_are_compared_by_size_the_largest_difference_first():
    rows = rows_of(
        a_run(classes=[a_class(16, 10, number=2), a_class(32, 100, number=3), a_class(0, 5, number=0)]),
        a_run(classes=[a_class(16, 11, number=1), a_class(48, 50, number=3), a_class(0, 5, number=0)]),
        classes=True,
    )
    found = [
        (name, row.a, row.b, row.verdict) for (section, name), row in rows.items() if section == "classes"
    ]
    assert found == [
        ("32", 100, 0, ""),
        ("48", 0, 50, ""),
        ("16", 10, 11, "worse"),
        ("own span", 5, 5, "~"),
    ]


def test_what_else_differs_is_a_note():
    a = measured(10.0, 9.0, 11.0)
    b = replace(a, version="2", options={"gogc": 50}, warnings=["a: own", "every object holds pointers"])
    (traces,) = compared(results(a), results(b)).traces
    assert traces.pairs[0].notes == [
        "measured once, so that a small difference may be chance: the memory of a",
        "versions differ: 1 and 2",
        "defaults differ: gogc",
        "of the second alone: every object holds pointers",
    ]


def printed(a, b, form="table", **options):
    return comparison_report.comparison(compared(results(*a), results(*b)), form, **options)


def test_equal_numbers_are_left_out_and_counted():
    text = printed([a_run()], [a_run(peak=2048)])
    assert "peak requested" not in text
    (peak,) = (line for line in text.splitlines() if line.startswith("peak committed"))
    assert peak.split() == [
        "peak",
        "committed",
        "1.00",
        "KiB",
        "2.00",
        "KiB",
        "+1.00",
        "KiB",
        "+100.0",
        "%",
        "worse",
    ]
    assert "10 equal numbers are left out (--all shows them)" in text
    text = printed([a_run()], [a_run(peak=2048)], everything=True)
    (requested,) = (line for line in text.splitlines() if line.startswith("peak requested"))
    assert requested.split()[-3:] == ["0", "B", "~"]
    assert "left out" not in text


def test_no_difference_is_one_line():
    assert "a: no difference in 14 numbers" in printed([a_run()], [a_run()])


def test_who_has_no_partner_is_said():
    assert "without a partner, only in A: b" in printed([a_run(), a_run("b")], [a_run()])


def test_csv_and_json_have_every_number_as_it_is():
    rows = list(csv.DictReader(io.StringIO(printed([a_run()], [a_run(peak=2048)], "csv"))))
    assert len(rows) == 14
    (peak,) = (row for row in rows if row["name"] == "peak_committed_bytes")
    assert (peak["a"], peak["b"], peak["difference"], peak["change"]) == ("1024", "2048", "1024", "1.0")
    found = json.loads(printed([a_run()], [a_run(peak=2048)], "json"))
    assert found["schema"] == "harness-compare/1"
    (pair,) = found["traces"][0]["pairs"]
    assert [row["name"] for row in pair["rows"]] == [row["name"] for row in rows]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("compare") / "small.parquet", random_rows(3000))


@pytest.fixture(scope="module")
def folder(trace, tmp_path_factory):
    """A run directory, and a JSON file of another run, of one trace."""
    folder = tmp_path_factory.mktemp("compared")
    assert harness("replay", trace, "--save", "before", cwd=folder).returncode == 0
    allocators = ["-a", "go:gogc=50", "-a", "tcmalloc"]
    done = harness("replay", trace, *allocators, "--format", "json", "--output", "after.json", cwd=folder)
    assert done.returncode == 0
    return folder


def test_a_run_directory_is_compared_with_a_file(folder):
    done = harness("compare", "before", "after.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "go against go:gogc=50" in done.stdout
    assert "tcmalloc: no difference" in done.stdout
    assert "without a partner, only in before: ideal" in done.stdout


def test_two_allocators_are_compared_on_traces_as_their_kept_results_are(folder, trace):
    done = harness("compare", "go", "go:gogc=50", "--trace", trace, "--format", "json")
    assert done.returncode == 0, done.stderr
    kept = json.loads(harness("compare", "before", "after.json", "--format", "json", cwd=folder).stdout)
    assert json.loads(done.stdout)["traces"][0]["pairs"] == kept["traces"][0]["pairs"][:1]


def test_every_file_behind_trace_is_a_trace(trace, tmp_path):
    other = write_trace(tmp_path / "other.parquet", random_rows(1000, seed=2))
    done = harness("compare", "ideal", "tcmalloc", "--trace", trace, other, "--format", "json")
    assert [each["a"]["path"] for each in json.loads(done.stdout)["traces"]] == [trace, other]


def test_tables_of_size_classes_are_compared(trace):
    options = "tcmalloc:transfer_num_objects=32"
    done = harness("compare", "tcmalloc", options, "--trace", trace, "--classes")
    assert done.returncode == 0, done.stderr
    assert "waste by size of slot:" in done.stdout


def test_a_bad_trace_does_not_lose_the_good_ones_comparison(trace):
    done = harness("compare", "ideal", "tcmalloc", "--trace", trace, "gone.parquet")
    fails_with(done, "gone.parquet: no such file")
    assert "ideal against tcmalloc" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["before"], "what to compare is missing: two results (harness compare before.json after.json)"),
        (["before", "after.json", "before"], "found 3 things to compare, expected two results"),
        (["before", "gone.json"], "gone.json: cannot be read: no such file"),
        (["before", "go:gogc=50"], "go:gogc=50 is an allocator: say on which trace, with --trace TRACE"),
        (["before", "after.json", "--costs", "default"], "--noscan and --costs are for a replay"),
        (["before", "go", "--trace", "t"], "with --trace A and B are allocators, not files"),
        (["go", "go:gogc=1|2", "--trace", "t"], "go:gogc=1|2 are 2 allocators; A and B are one each"),
        (["go", "gone", "--trace", "t"], "'gone' is no allocator"),
    ],
)
def test_wrong_usage_is_one_line(folder, arguments, message):
    fails_with(harness("compare", *arguments, cwd=folder), message)


def test_results_of_different_traces_are_one_line(folder, tmp_path):
    other = write_trace(tmp_path / "other.parquet", random_rows(1000, seed=2))
    done = harness("replay", other, "-a", "ideal", "--format", "json")
    (tmp_path / "other.json").write_text(done.stdout)
    arguments = ["compare", "before", str(tmp_path / "other.json")]
    fails_with(harness(*arguments, cwd=folder), "different traces", other, "--different-traces")
    done = harness(*arguments, "--different-traces", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"against another trace, {other}: 1,000 events" in done.stdout
