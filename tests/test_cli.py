"""The command line as a user runs it: tables, files, exit status, and one line for whatever is wrong."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os

import pytest
from support import SMALL, fails_with, harness, random_rows, write_trace
from test_trace import BAD_FILES, BAD_ROWS, bad_file

from harness.allocator import FREE


@pytest.fixture
def trace(tmp_path):
    return write_trace(tmp_path / "small.parquet", random_rows(2000))


def test_replay_prints_the_allocators_side_by_side(trace):
    done = harness("replay", trace)
    assert done.returncode == 0, done.stderr
    heading = done.stdout.splitlines()[2].split()
    assert heading == ["go", "tcmalloc", "ideal"]
    assert "gperftools" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_a_report_names_every_allocator(trace, form):
    done = harness(
        "replay", trace, "--format", form, "-a", "ideal", "-a", "tcmalloc:transfer_num_objects=32|512"
    )
    assert done.returncode == 0
    for label in ("ideal", "tcmalloc:transfer_num_objects=32", "tcmalloc"):
        assert label.replace("_", r"\_" if form == "latex" else "_") in done.stdout


def test_the_librarys_own_statistics_follow_the_table_where_they_are_asked_for(trace):
    text = harness("replay", trace, "--stats-text").stdout
    heading = "tcmalloc: its own statistics at the end of the trace\n\n" + "-" * 48 + "\nMALLOC: "
    assert heading in text
    assert text.count("its own statistics") == 1
    assert "its own statistics" not in harness("replay", trace).stdout
    runs = json.loads(harness("replay", trace, "--stats-text", "--format", "json").stdout)["results"][0][
        "runs"
    ]
    texts = {run["allocator"]: run.get("stats_text") for run in runs}
    assert texts["tcmalloc"] in text + "\n"
    assert texts["go"] is texts["ideal"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-a", "ideal"], "none of these allocators prints statistics; those that do: tcmalloc"),
        (["--format", "csv"], "--stats-text has no place in csv"),
    ],
)
def test_statistics_that_nobody_can_print_are_one_line(trace, arguments, message):
    fails_with(harness("replay", trace, "--stats-text", *arguments), message)


def test_json_holds_everything(trace, tmp_path):
    done = harness("replay", trace, "--format", "json", "--json-samples", "--samples", "10")
    found = json.loads(done.stdout)
    assert found["schema"] == "harness-run/1"
    (result,) = found["results"]
    assert result["trace"]["events"] == 2000
    assert result["trace"]["digest"].startswith("sha256:")
    for run in result["runs"]:
        assert len(run["samples"]["mapped"]) == 10
        assert run["footprint"]["peak"]["mapped"] >= run["summary"]["peak_committed_bytes"]
    assert (
        "samples"
        not in json.loads(harness("replay", trace, "--format", "json").stdout)["results"][0]["runs"][0]
    )


def test_csv_has_one_row_a_run(trace):
    done = harness("replay", trace, trace, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["allocator"] for row in rows] == ["go", "tcmalloc", "ideal"] * 2
    assert rows[0]["option.gogc"] == "100"


def test_output_goes_to_a_file_whole_or_not_at_all(trace, tmp_path):
    assert harness("replay", trace, "-a", "ideal", "--output", str(tmp_path / "out.txt")).stdout == ""
    assert "ideal" in (tmp_path / "out.txt").read_text()
    fails_with(
        harness("replay", trace, "-a", "ideal", "--output", str(tmp_path / "no" / "out")), "cannot be written"
    )


def test_no_events_are_a_valid_empty_table(tmp_path):
    done = harness("replay", write_trace(tmp_path / "empty.parquet", []))
    assert done.returncode == 0, done.stderr
    assert "0 events" in done.stdout


@pytest.mark.parametrize(("kind", "message"), BAD_FILES.items(), ids=BAD_FILES)
def test_a_file_that_is_no_trace_is_one_line_and_status_2(tmp_path, kind, message):
    path = bad_file(tmp_path, kind)
    fails_with(harness("replay", path), path, message)


@pytest.mark.parametrize(("rows", "optional", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_row_that_cannot_be_is_one_line_and_status_2(tmp_path, rows, optional, message):
    path = write_trace(tmp_path / "bad.parquet", rows, **optional)
    fails_with(harness("replay", path), path, message)


def test_a_file_that_may_not_be_read_is_one_line(trace):
    os.chmod(trace, 0)
    fails_with(harness("replay", trace, preexec_fn=give_up_roots_eyes), trace, "permission denied")


def give_up_roots_eyes():
    """Take from a root process the capabilities by which root reads what it may not (linux/capability.h)."""
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_an_unknown_allocator_is_one_line(trace):
    fails_with(
        harness("replay", trace, "-a", "gone"),
        "'gone' is no allocator; there are glibc, go, ideal, jemalloc,",
    )


def test_an_unknown_option_lists_the_right_ones(trace):
    fails_with(
        harness("replay", trace, "-a", "go:gcog=1"),
        "go has no option 'gcog'",
        "gogc",
        "memory_limit",
        "procs",
    )


def test_a_bad_trace_does_not_lose_the_good_ones_result(tmp_path, trace):
    bad = write_trace(tmp_path / "bad.parquet", [*SMALL, (FREE, 0, 1, 0)])
    done = harness("replay", bad, trace, "--format", "json")
    fails_with(done, bad, "row 6, column object: free of object 1")
    assert [result["trace"]["path"] for result in json.loads(done.stdout)["results"]] == [trace]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay"], "Missing argument"),
        (["replai", "x"], "No such command 'replai'"),
        (["replay", "x", "--frmat", "json"], "No such option"),
        (["replay", "x", "--noscan", "2"], "--noscan 2: expected all, none or a fraction"),
        (["replay", "x", "y", "--placements", "p"], "--placements needs one trace and one allocator"),
        (["classes", "ideal"], "ideal has no size classes; those that have: go, tcmalloc"),
        (["record"], "what to run is missing"),
        (["convert", "x", "y", "--events", "5"], "--events 5: expected A:B"),
        (["convert", "x", "y", "--threads", "a"], "--threads a: expected numbers"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message):
    fails_with(harness(*arguments), message)


def test_list_says_what_there_is_with_its_options():
    done = harness("list")
    assert done.returncode == 0
    for word in ("go", "tcmalloc", "ideal", "gogc", "transfer_num_objects"):
        assert word in done.stdout
    listed = {entry["name"]: entry for entry in json.loads(harness("list", "--format", "json").stdout)}
    assert {option["name"]: option["default"] for option in listed["go"]["options"]}["gogc"] == 100


@pytest.mark.parametrize(
    ("name", "classes"), [("go", 67), ("tcmalloc", 87), ("tcmalloc:transfer_num_objects=32", 85)]
)
def test_classes_prints_every_class(name, classes):
    rows = json.loads(harness("classes", name, "--format", "json").stdout)
    assert len(rows) == classes
    assert harness("classes", name).stdout.count("\n") >= classes
