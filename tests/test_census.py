"""A census: which spans stand at the peak, what they hold and which of them few objects pin."""

from __future__ import annotations

import numpy as np
import pytest
from python_ideal import PythonIdeal
from support import TRACES, random_rows, write_trace

from harness.allocator import ALLOC, FREE, Spec, find
from harness.replay import Settings, replay, survey
from harness.trace import TraceReader

MODELS = ["go", "go:start=snapshot", "go:gogc=50", "tcmalloc", "tcmalloc:start=bare,page_size=4KiB"]


def census_at_end(path, name):
    return survey(path, find(name), [TraceReader(path).events])[0]


@pytest.mark.parametrize(("name", "slots"), [("go:greentea=off", 336), ("tcmalloc:start=bare", 256)])
class TestASpanOf24ByteObjects:
    """One span holds them all: 336 slots in Go, whose last bytes tell the pointers, or 256 of 32 bytes."""

    def test_a_full_span_stands_in_the_last_tenth(self, tmp_path, name, slots):
        rows = [(ALLOC, 1, i, 24) for i in range(slots)]
        row = class_row(census_at_end(write_trace(tmp_path / "t.parquet", rows), name))
        assert row["occupancy_spans"] == [0] * 10 + [1]
        assert row["single_object_spans"] == 0

    def test_a_span_whose_objects_are_dead_but_one_is_that_ones(self, tmp_path, name, slots):
        rows = [(ALLOC, 1, i, 24) for i in range(slots)] + [(FREE, 1, i, 0) for i in range(1, slots)]
        census = census_at_end(write_trace(tmp_path / "t.parquet", rows), name)
        row = class_row(census)
        assert row["occupancy_spans"] == [0, 1] + [0] * 9
        assert (row["single_object_spans"], row["single_object_span_bytes"]) == (1, 8192)
        assert census.summary()["single_object_span_bytes"] == 8192
        assert census.summary()["thin_span_bytes_share"] == 1

    def test_half_a_span_is_half_full(self, tmp_path, name, slots):
        rows = [(ALLOC, 1, i, 24) for i in range(slots // 2)]
        summary = census_at_end(write_trace(tmp_path / "t.parquet", rows), name).summary()
        assert summary["span_occupancy_mean"] == slots // 2 / slots
        assert summary["thin_span_bytes_share"] == 0


def class_row(census):
    return next(row for row in census.class_rows() if row["spans"])


@pytest.mark.parametrize("name", MODELS)
def test_the_spans_of_a_class_hold_what_its_row_says(name, tmp_path):
    census = census_at_end(write_trace(tmp_path / "t.parquet", random_rows(20_000, live=3_000)), name)
    spans = census.spans
    live_bytes = spans["live_slots"] * spans["slot_bytes"]
    tail_bytes = np.where(spans["slots"] > 1, spans["bytes"] - spans["slots"] * spans["slot_bytes"], 0)
    free_bytes = spans["bytes"] - live_bytes - spans["dead_bytes"] - spans["runtime_bytes"]
    for number, row in enumerate(census.classes):
        of_class = spans["class_row"] == number
        assert int(of_class.sum()) == row["spans"] == sum(census.class_rows()[number]["occupancy_spans"])
        assert int(live_bytes[of_class].sum()) == row["live_bytes"]
        assert int(spans["dead_bytes"][of_class].sum()) == row["dead_bytes"]
        in_tiers = row["front_end_bytes"] + row["transfer_bytes"] + row["central_bytes"]
        assert int(free_bytes[of_class].sum()) == in_tiers + row["tail_bytes"]
        if name == "tcmalloc:start=bare,page_size=4KiB":  # Elsewhere some tails are the runtime's.
            assert int(tail_bytes[of_class].sum()) == row["tail_bytes"]


@pytest.mark.parametrize("name", MODELS)
def test_every_object_lies_in_a_span_that_is_large_enough(name, tmp_path):
    rows = [(ALLOC, 1, i, 16 + 97 * i) for i in range(1_000)] + [(FREE, 1, i, 0) for i in range(0, 1_000, 3)]
    census = census_at_end(write_trace(tmp_path / "t.parquet", rows), name)
    alive = [i for i in range(1_000) if i % 3]
    assert sorted(census.object_slot.tolist()) == alive
    sizes = 16 + 97 * census.object_slot.astype(np.int64)
    assert (sizes <= census.spans["slot_bytes"][census.object_span]).all()


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", MODELS)
def test_the_classes_add_up_to_the_footprint_of_the_peak(path, name):
    run = replay(str(path), find(name), Settings(census=True)).runs[0]
    peak = run.footprint["peak"]

    def summed(*names):
        return sum(row[f"{part}_bytes"] for part in names for row in run.classes)

    for part in ("live", "dead", "transfer", "central", "tail"):
        assert summed(part) == peak[part], part
    # Ps have free pages too, which are of no class.
    assert summed("front_end") <= peak["front_end"]
    assert name.startswith("go") or summed("front_end") == peak["front_end"]
    assert summed("rounding", "header") == run.summary["internal_waste_bytes"]


@pytest.mark.parametrize("name", ["go", "tcmalloc"])
@pytest.mark.parametrize("census", [False, True])
def test_what_classes_count_is_counted_over_the_whole_trace(name, census):
    path = next(path for path in TRACES if path.stem == "redis-server")
    run = replay(str(path), find(name), Settings(census=census)).runs[0]

    def counted(column):
        return sum(row[column] or 0 for row in run.classes)

    assert counted("spans_returned") == run.counters["spans_returned"]
    assert counted("lock_acquisitions") == run.counters.get("central_lock_acquisitions", 0)
    assert counted("spans_requested") == run.counters["spans_requested"]


def test_a_replay_without_a_census_says_nothing_of_spans(tmp_path):
    run = replay(write_trace(tmp_path / "t.parquet"), find("go")).runs[0]
    assert run.summary["span_occupancy_mean"] is run.summary["single_object_spans"] is None
    assert "occupancy_spans" not in run.classes[0]


def test_an_allocator_without_spans_has_none(tmp_path):
    run = replay(write_trace(tmp_path / "t.parquet"), find("ideal"), Settings(census=True)).runs[0]
    assert run.classes == []
    assert run.summary["span_occupancy_mean"] is None


def test_an_allocator_that_cannot_count_spans_is_replayed_once(tmp_path):
    made = []

    class Counted(PythonIdeal):
        def __init__(self):
            super().__init__()
            made.append(self)

    replay(write_trace(tmp_path / "t.parquet"), [Spec("counted", Counted, {})], Settings(census=True))
    assert len(made) == 1


def test_a_trace_without_events_has_no_spans(tmp_path):
    run = replay(write_trace(tmp_path / "t.parquet", []), find("go"), Settings(census=True)).runs[0]
    assert run.classes == []
    assert run.summary["thin_span_bytes_share"] is None


@pytest.mark.parametrize("batch_events", [7, 4096])
def test_batches_change_nothing(tmp_path, batch_events):
    path = write_trace(tmp_path / "t.parquet", random_rows(9_000))
    whole = replay(path, find("go"), Settings(census=True)).runs[0]
    assert replay(path, find("go"), Settings(census=True, batch_events=batch_events)).runs[0] == whole


def test_what_is_watched_ends_with_the_last_event_that_is_asked_for(tmp_path):
    path = write_trace(tmp_path / "t.parquet", random_rows(9_000))
    seen = []
    survey(path, find("go") + find("tcmalloc"), [10, 5_003], watch=lambda batch: seen.append(len(batch.op)))
    assert sum(seen) == 5_003
