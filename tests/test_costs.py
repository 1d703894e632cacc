"""From counts to nanoseconds: the sum, the tables that ship, and files of a user's own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support import harness, random_rows, write_trace

from harness import costs
from harness.allocator import find
from harness.errors import HarnessError
from harness.replay import Settings, replay

TABLE = costs.CostTable(
    library="slab 3",
    processor="abacus",
    date="2026-01-02",
    how="counted on fingers",
    low_ratio=0.8,
    high_ratio=1.25,
    ns={"hits": 2.0, "refills": 50.0, "trace.frees": 1.5},
)
TOTALS = {"events": 20, "frees": 8, "allocations": 12}


@pytest.fixture(autouse=True)
def configuration(tmp_path, monkeypatch):
    """No table of another test's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))


def test_a_modelled_time_is_counts_times_costs_over_the_traces_events():
    timing = costs.modelled({"hits": 10, "refills": 2, "others": 99}, TOTALS, TABLE)
    assert timing["ns_per_event"] == (10 * 2.0 + 2 * 50.0 + 8 * 1.5) / 20
    assert timing["kind"] == "modelled"
    assert timing["cost_table"] == "slab 3 on abacus, 2026-01-02"


def test_its_range_is_how_far_the_table_was_off():
    timing = costs.modelled({"hits": 10, "refills": 2}, TOTALS, TABLE)
    assert timing["low"] == timing["ns_per_event"] / 1.25
    assert timing["high"] == timing["ns_per_event"] / 0.8


def test_what_was_not_measured_is_none():
    timing = costs.modelled({"hits": 10, "refills": 2}, TOTALS, TABLE)
    assert timing["driver_ns_per_event"] is timing["ns_by_op"] is timing["latency_ns"] is None
    assert timing["repetitions"] == 0


def test_without_a_table_or_an_event_there_is_no_time():
    assert costs.modelled({"hits": 10}, TOTALS, None) is None
    assert costs.modelled({"hits": 0, "refills": 0}, {"events": 0, "frees": 0}, TABLE) is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("flushes", "path 'flushes' is not counted; the model counts hits, refills"),
        (
            "trace.thoughts",
            "path 'trace.thoughts' is not counted; the trace counts allocations, events, frees",
        ),
    ],
)
def test_a_path_that_nobody_counts_is_named(path, message):
    table = replace(TABLE, ns={**TABLE.ns, path: 1.0})
    with pytest.raises(HarnessError, match=message):
        costs.modelled({"hits": 1, "refills": 1}, TOTALS, table)


def test_a_counter_of_0_is_no_missing_one():
    assert costs.modelled({"hits": 0, "refills": 0}, {**TOTALS, "frees": 0}, TABLE)["ns_per_event"] == 0


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("costs") / "trace.parquet", random_rows(3_000))


@pytest.mark.parametrize("name", sorted(costs.shipped()))
def test_each_model_counts_every_path_of_the_table_that_ships(name, trace):
    (run,) = replay(trace, find(name), Settings(samples=1)).runs
    assert run.timing["cost_table"] == costs.shipped()[name].name
    assert run.timing["low"] < run.timing["ns_per_event"] < run.timing["high"]


def test_go_takes_longer_than_tcmalloc_and_ideal_has_no_time(trace):
    runs = {run.label: run for run in replay(trace, find("go") + find("tcmalloc") + find("ideal")).runs}
    assert runs["go"].timing["ns_per_event"] > runs["tcmalloc"].timing["ns_per_event"] > 1
    assert runs["ideal"].timing is None


def test_a_replay_in_parts_takes_as_long(trace):
    whole, parts = (
        replay(trace, find("go") + find("tcmalloc"), Settings(batch_events=size)).runs for size in (5_000, 7)
    )
    assert [run.timing for run in whole] == [run.timing for run in parts]


def test_a_table_survives_being_written_and_read(tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(costs.to_json({"slab": TABLE}))
    assert costs.read(path) == {"slab": TABLE}


def changed(**fields):
    table = json.loads(costs.to_json({"slab": TABLE}))
    table["models"]["slab"] |= fields
    return json.dumps(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it holds no JSON"),
        ("[]", "found schema None, expected 'harness-costs/1'"),
        ('{"schema": "harness-run/1"}', "found schema 'harness-run/1'"),
        ('{"schema": "harness-costs/1"}', "KeyError: 'models'"),
        (changed(ns={"hits": -1}), "path hits: -1.0 is no cost"),
        (changed(ns={"hits": float("nan")}), "path hits: nan is no cost"),
        (changed(ns={"hits": "few"}), "could not convert"),
        (changed(low_ratio=0), "are no range"),
        (changed(low_ratio=2, high_ratio=1), "are no range"),
    ],
)
def test_a_file_that_holds_no_table_is_one_line_and_status_2(tmp_path, trace, text, message):
    path = tmp_path / "costs.json"
    path.write_text(text)
    done = harness("replay", trace, "-a", "tcmalloc", "--costs", str(path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"harness: {path}: is no cost table")
    assert message in done.stderr


def test_a_file_that_is_not_there_is_one_line_and_status_2(tmp_path, trace):
    done = harness("replay", trace, "--costs", str(tmp_path / "none.json"))
    assert (done.returncode, done.stderr) == (
        2,
        f"harness: {tmp_path / 'none.json'}: cannot be read: No such file or directory\n",
    )


def test_a_file_is_used_and_named_and_what_it_lacks_is_what_ships(tmp_path, trace):
    own = replace(costs.shipped()["go"], library="go of my own")
    path = tmp_path / "costs.json"
    path.write_text(costs.to_json({"go": own}))
    timings = timings_of(trace, "--costs", str(path))
    assert timings["go"]["cost_table"].startswith("go of my own on ")
    assert timings["tcmalloc"]["cost_table"] == costs.shipped()["tcmalloc"].name


def test_what_was_calibrated_is_used_unless_the_default_is_asked_for(trace):
    doubled = costs.shipped()["go"]
    doubled = replace(doubled, library="mine", ns={path: 2 * ns for path, ns in doubled.ns.items()})
    costs.user_file().parent.mkdir(parents=True)
    costs.user_file().write_text(costs.to_json({"go": doubled}))
    own, default = timings_of(trace)["go"], timings_of(trace, "--costs", "default")["go"]
    assert own["ns_per_event"] == pytest.approx(2 * default["ns_per_event"])
    assert own["cost_table"].startswith("mine on ")
    assert default["cost_table"] == costs.shipped()["go"].name


def timings_of(trace, *arguments):
    done = harness("replay", trace, "-a", "go", "-a", "tcmalloc", "--format", "json", *arguments)
    assert done.stderr == ""
    (result,) = json.loads(done.stdout)["results"]
    return {run["allocator"]: run["timing"] for run in result["runs"]}


def test_more_of_a_path_never_takes_less_time():
    random = np.random.default_rng(1)
    for name, table in costs.shipped().items():
        paths = {path.removeprefix("trace."): int(random.integers(1, 1000)) for path in table.ns}
        totals = {**paths, "events": 1000}
        before = costs.modelled(paths, totals, table)["ns_per_event"]
        for path in table.ns:
            more = {path.removeprefix("trace."): 5_000}
            after = costs.modelled(paths | more, totals | more, table)["ns_per_event"]
            assert after >= before, (name, path)
