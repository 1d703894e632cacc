"""What a replay leaves on disk is whole, and comes back as it was; what is no result is one line."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import fails_with, harness, random_rows, write_trace

from harness import results
from harness.allocator import find
from harness.errors import HarnessError
from harness.replay import Settings, replay
from harness.results import Environment


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("results") / "small.parquet", random_rows(2000))


@pytest.fixture(scope="module")
def found(trace):
    """The same trace twice, and a label twice: what only an index tells apart."""
    specs = [spec for text in ("go", "ideal", "ideal") for spec in find(text)]
    return [replay(trace, specs, Settings(samples=samples)) for samples in (10, 30)]


def test_a_run_directory_holds_everything(found, tmp_path):
    environment = Environment(seconds=1.5)
    results.save(str(tmp_path / "run"), found, environment)
    assert results.load(str(tmp_path / "run")) == (found, environment)


@pytest.mark.parametrize("samples", [True, False])
def test_a_json_file_holds_samples_where_they_were_asked_for(found, tmp_path, samples):
    file = tmp_path / "run.json"
    file.write_text(results.to_json(found, Environment(), samples=samples))
    loaded, _ = results.load(str(file))
    bare = [replace(each, runs=[replace(run, samples={}) for run in each.runs]) for each in found]
    assert loaded == (found if samples else bare)


def test_a_column_that_one_run_has_is_not_given_to_another(found, tmp_path):
    first, *others = found[0].runs
    more = replace(first, samples=first.samples | {"gc_goal_bytes": [None, *range(9)]})
    mixed = [replace(found[0], runs=[more, *others])]
    results.save(str(tmp_path / "run"), mixed, Environment())
    loaded, _ = results.load(str(tmp_path / "run"))
    assert loaded == mixed
    assert "gc_goal_bytes" not in loaded[0].runs[1].samples


def test_the_samples_are_a_long_table_that_others_can_read(found, trace, tmp_path):
    results.save(str(tmp_path / "run"), found, Environment())
    rows = pq.read_table(tmp_path / "run" / results.SAMPLES_FILE).to_pylist()
    assert len(rows) == 3 * 10 + 3 * 30
    assert rows[0]["trace"] == trace
    assert [row["run"] for row in rows[:30]] == ["go"] * 10 + ["ideal"] * 20
    last = found[1].runs[2].samples
    assert rows[-1]["event"] == 2000
    assert {name: rows[-1][name] for name in last} == {name: values[-1] for name, values in last.items()}


def test_replay_saves_what_it_prints(trace, tmp_path):
    done = harness("replay", trace, "--samples", "7", "--save", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    names = ["run.json", "samples.parquet", "tables.txt"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    assert (tmp_path / "run" / "tables.txt").read_text() == done.stdout
    printed = json.loads(harness("replay", trace, "--format", "json").stdout)
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    for each in (printed, saved):
        del each["environment"]
        for run in each["results"][0]["runs"]:
            del run["classes"]  # These are those of the fullest sample, and here are fewer.
    assert saved == printed
    (loaded,), _ = results.load(str(tmp_path / "run"))
    assert [len(run.samples["mapped"]) for run in loaded.runs] == [7, 7, 7]


def test_what_is_there_is_not_touched_and_said_before_the_work(trace, tmp_path):
    (tmp_path / "run").mkdir()
    done = harness("replay", "gone.parquet", "--save", "run", cwd=tmp_path)
    fails_with(done, "run: is there already; remove it or choose another name")
    fails_with(harness("replay", trace, "--save", "no/run", cwd=tmp_path), "no/run: cannot be written", "no")
    assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_a_directory_that_came_meanwhile_is_not_replaced(found, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(HarnessError, match="is there already"):
        results.save(str(tmp_path / "run"), found, Environment())
    assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_a_directory_that_cannot_be_finished_does_not_appear(found, tmp_path):
    with pytest.raises(HarnessError, match="cannot be written"):
        results.save(str(tmp_path / "run"), found, Environment(), {"no/such/folder.txt": ""})
    assert list(tmp_path.iterdir()) == []


def a_result():
    run = {name: {} for name in ("options", "summary", "footprint", "counters")}
    run |= {name: "a" for name in ("allocator", "label", "description", "version", "kind")}
    trace = {"path": "t.parquet", "digest": None, "events": 0}
    environment = {"harness": "0", "python": "3", "platform": "p", "processor": "x", "cores": 2}
    return {
        "schema": results.SCHEMA,
        "results": [{"trace": trace, "runs": [run | {"classes": [], "warnings": []}]}],
        "environment": environment | {"seconds": 0.0, "replay_events_per_second": None},
    }


def without(*path):
    found = a_result()
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(found)


def with_value(value, *path):
    found = a_result()
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(found)


BAD = {
    "not JSON": ("peak committed", "is no result, or not a whole one"),
    "truncated": (json.dumps(a_result())[:-40], "is no result, or not a whole one"),
    "binary": (b"\xff\xfe\x00", "is no result, or not a whole one"),
    "a trace": (b"PAR1...", "is a Parquet file, expected a result"),
    "a list": ("[]", "found schema None, expected 'harness-run/1'"),
    "another version": (
        with_value("harness-run/2", "schema"),
        "found schema 'harness-run/2', expected 'harness-run/1'",
    ),
    "no results": (without("results"), "results is missing"),
    "no environment": (without("environment"), "environment is of another type"),
    "no processor": (without("environment", "processor"), "environment.processor is missing"),
    "no digest": (without("results", 0, "trace", "digest"), "results[0].trace.digest is missing"),
    "no summary": (without("results", 0, "runs", 0, "summary"), "results[0].runs[0].summary is missing"),
    "a number for a run": (with_value(3, "results", 0, "runs", 0), "results[0].runs[0] is of another type"),
    "text for a number": (
        with_value("many", "results", 0, "runs", 0, "counters", "refills"),
        "results[0].runs[0].counters is of another type",
    ),
}


def test_what_the_bad_ones_are_made_of_is_good(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(a_result()))
    (loaded,), environment = results.load(str(tmp_path / "run.json"))
    assert loaded.runs[0].samples == {}
    assert environment.processor == "x"


def test_what_a_later_version_adds_is_left_out(tmp_path):
    (tmp_path / "run.json").write_text(with_value(1, "results", 0, "runs", 0, "added_later"))
    (loaded,), _ = results.load(str(tmp_path / "run.json"))
    assert loaded.runs[0].label == "a"


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_file_that_is_no_result_is_said(tmp_path, content, message):
    file = tmp_path / "run.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(HarnessError) as fault:
        results.load(str(file))
    assert message in str(fault.value)
    assert str(fault.value).startswith(f"{file}: ")


@pytest.mark.parametrize(("name", "message"), [("gone.json", "no such file"), ("", "holds no run.json")])
def test_a_place_that_holds_no_result_is_said(tmp_path, name, message):
    with pytest.raises(HarnessError, match=message):
        results.load(os.path.join(tmp_path, name))


@pytest.mark.parametrize("damage", ["truncated", "of another run"])
def test_samples_that_do_not_fit_are_said(found, tmp_path, damage):
    results.save(str(tmp_path / "run"), found, Environment())
    samples = tmp_path / "run" / results.SAMPLES_FILE
    if damage == "truncated":
        samples.write_bytes(samples.read_bytes()[:-20])
    else:
        results.save(str(tmp_path / "other"), found[:1], Environment())
        Path(tmp_path / "other" / results.SAMPLES_FILE).rename(samples)
    with pytest.raises(HarnessError, match="does not hold the samples"):
        results.load(str(tmp_path / "run"))
