"""Waste explained: the parts are the whole, words say the main cause, what cannot be explained is refused."""

from __future__ import annotations

import json
import re

import pytest
from support import TRACES, harness, random_rows, write_trace

from harness.allocator import ALLOC, FREE, find
from harness.errors import AllocatorError
from harness.replay import Settings, replay
from harness.waste import CAUSES, explain


def explained(path, name, **options):
    spec = find(name)[0]
    run = replay(str(path), [spec], Settings(census=True, **options)).runs[0]
    return explain(run, spec.factory.WASTE_REMEDIES)


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["go", "go:start=snapshot", "tcmalloc", "tcmalloc:page_size=32KiB"])
def test_causes_and_rows_add_up_to_the_waste_of_the_summary(path, name):
    found = explained(path, name)
    whole = found.run.summary["waste_bytes"]
    assert found.waste_bytes == whole
    assert sum(found.causes.values()) == whole
    assert sum(row.waste_bytes for row in found.rows) == whole
    for cause in CAUSES:
        assert sum(row.causes.get(cause, 0) for row in found.rows) == found.causes[cause]
    assert found.rows == sorted(found.rows, key=lambda row: -row.waste_bytes)


def first_class(found):
    return next(row for row in found.rows if row.row is not None)


def test_slots_too_large_are_told_with_the_size_that_takes_them(tmp_path):
    rows = [(ALLOC, 1, i, 1_025) for i in range(6_000)]
    found = explained(write_trace(tmp_path / "t.parquet", rows), "tcmalloc:start=bare")
    assert first_class(found).words.endswith("objects of 1,025 B in the mean take slots of 1,152 B")


def test_garbage_is_told_as_dead_objects(tmp_path):
    rows = [(ALLOC, 1, i, 64) for i in range(1_280)] + [(FREE, 1, i, 0) for i in range(1_000)]
    rows += [(ALLOC, 1, 2_000, 1 << 20)]  # So that the heap is fullest now.
    found = explained(write_trace(tmp_path / "t.parquet", rows), "go")
    assert first_class(found).words.startswith("1,000 objects dead and not yet swept")
    assert "of the waste is garbage that no sweep has reached: a lower GOGC" in found.advice


def test_spans_that_few_objects_keep_are_counted(tmp_path):
    # A span holds 128 objects of 128 B; all but one of each die, and then the heap grows.
    rows = [(ALLOC, 1, i, 128) for i in range(6_400)]
    rows += [(FREE, 1, i, 0) for i in range(6_400) if i % 128]
    rows += [(ALLOC, 1, 10_000, 4 << 20)]
    found = explained(
        write_trace(tmp_path / "t.parquet", rows), "tcmalloc:start=bare,max_total_thread_cache_bytes=512KiB"
    )
    words = next(row.words for row in found.rows if row.row and row.row["slot_bytes"] == 128)
    assert re.search("free slots? in 50 spans, which are 1% in use, 50 of them for one object alone", words)


def test_a_run_without_a_census_is_refused(tmp_path):
    run = replay(
        write_trace(tmp_path / "t.parquet", random_rows(20_000)), find("go"), Settings(samples=3)
    ).runs[0]
    with pytest.raises(AllocatorError, match="was the run made with a census"):
        explain(run)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("waste") / "t.parquet", random_rows(5_000))


class TestTheCommand:
    def test_the_table_says_the_whole_its_causes_and_a_reason_for_each_class(self, path):
        printed = harness("waste", path, "-a", "go", "--top", "3").stdout
        assert printed.startswith(f"{path}: go wastes ")
        assert "cause " in printed
        assert "GOGC" in printed
        rows = printed[printed.index("class ") :].splitlines()[2:5]
        assert all(re.search(r" %  [a-z0-9]", row) for row in rows)
        assert "more with" in printed

    def test_json_holds_every_row_in_bytes(self, path):
        trace = json.loads(harness("waste", path, "--format", "json").stdout)[0]
        assert [run["label"] for run in trace["runs"]] == ["go", "tcmalloc"]
        for run in trace["runs"]:
            assert sum(row["waste_bytes"] for row in run["rows"]) == run["waste_bytes"]

    @pytest.mark.parametrize("form", ["markdown", "csv", "latex"])
    def test_other_formats_print(self, path, form):
        done = harness("waste", path, "--format", form)
        assert done.returncode == 0
        assert "rounding" in done.stdout

    def test_what_cannot_be_explained_costs_nothing_else(self, path, tmp_path):
        missing = str(tmp_path / "missing.parquet")
        done = harness("waste", missing, path, "-a", "go", "-a", "ideal")
        assert done.returncode == 2
        assert done.stdout.startswith(f"{path}: go wastes ")
        first, second = done.stderr.splitlines()
        assert first.startswith(f"harness: {missing}: ")
        assert second.startswith("harness: ideal: its waste cannot be explained")

    def test_an_allocator_without_classes_is_one_line(self, path):
        done = harness("waste", path, "-a", "ideal")
        assert done.returncode == 2
        assert done.stderr == (
            "harness: ideal: its waste cannot be explained: it does not tell what its size classes hold\n"
        )
