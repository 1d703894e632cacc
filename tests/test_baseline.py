"""A baseline's file: what it looks like, what it is of, and what is no baseline."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from gate_support import result, run

from harness import baseline
from harness.errors import HarnessError

PEAK, MEAN = "peak_committed_bytes", "mean_committed_bytes"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(folder, *results, **options):
    return baseline.make(str(folder / "base.json"), results, **options)


def test_a_file_has_a_number_a_line_and_its_keys_in_order(tmp_path):
    kept = made(tmp_path, result(run("b", peak_committed_bytes=5), run("a", options={"z": 1, "y": "x"})))
    text = baseline.to_json(kept)
    assert '\n      "peak_committed_bytes": 5\n' in text
    assert text.index('"a": {') < text.index('"b": {')
    assert text.index('"y": "x"') < text.index('"z": 1')
    assert text.endswith("}\n")


def test_another_number_is_another_line_and_nothing_else(tmp_path):
    texts = [
        baseline.to_json(made(tmp_path, result(run(peak_committed_bytes=peak, mean_committed_bytes=2.5))))
        for peak in (5, 6)
    ]
    lines = [(a, b) for a, b in zip(*(text.splitlines() for text in texts), strict=True) if a != b]
    assert [tuple(line.strip() for line in pair) for pair in lines] == [
        ('"peak_committed_bytes": 5', '"peak_committed_bytes": 6')
    ]


def test_what_is_saved_is_what_is_loaded(tmp_path):
    library = run("real", kind="library", measured_ns_per_event=3.25, peak_resident_bytes=7)
    several = [result(run(peak_committed_bytes=1 << 60), library)] * 2
    kept = made(tmp_path, *several, noscan="0.5", processor="a chip", chosen=(PEAK, "measured_ns_per_event"))
    baseline.save(kept)
    loaded = baseline.load(kept.path)
    assert baseline.to_json(loaded) == baseline.to_json(kept)
    runs = loaded.traces["a.parquet"].runs
    assert runs["model"].metrics == {PEAK: 1 << 60}
    assert runs["real"].metrics == {"measured_ns_per_event": [3.25, 3.25]}
    assert (runs["model"].processor, runs["real"].processor) == (None, "a chip")
    assert loaded.noscan == "0.5"


def test_traces_are_named_from_the_files_folder(tmp_path):
    path = str(tmp_path / "ci" / "base.json")
    assert baseline.named(str(tmp_path / "traces" / "a.parquet"), path) == "../traces/a.parquet"
    assert baseline.named("s3://bucket/a.parquet", path) == "s3://bucket/a.parquet"
    kept = baseline.Baseline(path, {})
    assert kept.located("../traces/a.parquet") == str(tmp_path / "traces" / "a.parquet")
    assert kept.located("s3://bucket/a.parquet") == "s3://bucket/a.parquet"


def test_what_a_run_does_not_know_is_left_out(tmp_path):
    kept = made(tmp_path, result(run(peak_committed_bytes=5, modelled_ns_per_event=None)))
    assert kept.traces["a.parquet"].runs["model"].metrics == {PEAK: 5}


def test_a_run_that_failed_makes_no_baseline(tmp_path):
    failed = replace(run(), failure="a.parquet: it crashed")
    with pytest.raises(HarnessError, match="it crashed"):
        made(tmp_path, result(failed))


def test_a_metric_that_there_is_not_makes_no_baseline(tmp_path):
    with pytest.raises(HarnessError, match="'speed' is no metric"):
        made(tmp_path, result(run()), chosen=("speed",))


def test_newer_traces_take_the_place_of_older_ones(tmp_path):
    old = made(tmp_path, result(run(), path=str(tmp_path / "a")), result(run(), path=str(tmp_path / "b")))
    new = made(tmp_path, result(run(), path=str(tmp_path / "b"), digest="sha256:2"))
    both = baseline.with_traces(old, new)
    assert {name: trace.digest for name, trace in both.traces.items()} == {"a": "sha256:1", "b": "sha256:2"}


def test_a_number_is_found_in_its_line(tmp_path):
    kept = made(
        tmp_path,
        result(run("m", peak_committed_bytes=1), run("n", peak_committed_bytes=2, mean_committed_bytes=3)),
        result(run("n", mean_committed_bytes=4), path="b.parquet"),
    )
    text = baseline.to_json(kept)
    names = list(kept.traces)
    for trace, label, metric, number in ((0, "n", PEAK, 2), (0, "n", MEAN, 3), (1, "n", MEAN, 4)):
        line = baseline.line_of(text, names[trace], label, metric)
        assert text.splitlines()[line - 1].strip().rstrip(",") == f'"{metric}": {number}'
    assert baseline.line_of(text, names[0], "n", "gc_cycles") is None


WRONG = {
    "nothing": ("", "it holds no JSON"),
    "half a file": ('{"schema": "harness-bas', "it holds no JSON"),
    "a list": ("[]", "found schema None, expected 'harness-baseline/1'"),
    "results": ('{"schema": "harness-run/1"}', "found schema 'harness-run/1'"),
    "no traces": ('{"schema": "harness-baseline/1", "noscan": null, "harness": "0"}', "'traces' is missing"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_baseline_is_said_in_one_line(tmp_path, text, message):
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(HarnessError, match=message) as raised:
        baseline.load(str(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


SPOILED = {
    "a number that is none": (("metrics", {PEAK: "5"}), f"{PEAK} is neither a number nor some"),
    "no number at all": (("metrics", {PEAK: []}), f"{PEAK} is neither a number nor some"),
    "another kind": (("kind", "toy"), "kind 'toy' is neither model nor library"),
    "no version": (("version", None), "version is no text"),
    "options that are none": (("options", [1]), "base.json: is no baseline that this version reads"),
}


@pytest.mark.parametrize(("change", "message"), SPOILED.values(), ids=SPOILED)
def test_a_spoiled_run_is_said_in_one_line(tmp_path, change, message):
    kept = made(tmp_path, result(run(peak_committed_bytes=5), path=str(tmp_path / "a.parquet")))
    content = json.loads(baseline.to_json(kept))
    content["traces"]["a.parquet"]["runs"]["model"][change[0]] = change[1]
    (tmp_path / "base.json").write_text(json.dumps(content))
    with pytest.raises(HarnessError, match=message):
        baseline.load(kept.path)


def test_a_baseline_of_another_version_is_none_unless_it_is_meant(tmp_path):
    kept = replace(made(tmp_path, result(run())), harness="0.0.1")
    baseline.save(kept)
    with pytest.raises(HarnessError, match=r"was written by harness 0\.0\.1"):
        baseline.load(kept.path)
    assert baseline.load(kept.path, any_version=True).harness == "0.0.1"
