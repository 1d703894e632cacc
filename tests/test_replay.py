"""A replay gives the same bytes whatever the batches, the second time, and beside other allocators."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from python_ideal import PythonIdeal
from support import SMALL, TRACES, random_rows, write_trace

from harness.allocator import ALLOC, FREE, PARTS, REALLOC, SAMPLE_COLUMNS, Allocator, Footprint, Spec, find
from harness.errors import AllocatorError, TraceError
from harness.replay import Settings, replay, replay_all
from harness.results import TraceRuns
from harness.trace import Noscan, TraceReader

ALL = ("go", "tcmalloc", "ideal")


def runs(path, *texts, **settings):
    specs = [spec for text in texts for spec in find(text)]
    return replay(str(path), specs, Settings(**settings))


def as_json(result):
    return json.dumps(asdict(result))


@pytest.fixture(scope="module")
def random_trace(tmp_path_factory):
    rows = random_rows(3000)
    return write_trace(tmp_path_factory.mktemp("random") / "t.parquet", rows, time_ns=range(0, 3000 * 50, 50))


@pytest.mark.parametrize("batch_events", [1, 7, 65_536])
def test_batches_change_no_byte(random_trace, batch_events):
    whole = as_json(runs(random_trace, *ALL, samples=50))
    assert as_json(runs(random_trace, *ALL, samples=50, batch_events=batch_events)) == whole


def test_the_second_time_is_the_first(random_trace):
    assert as_json(runs(random_trace, *ALL)) == as_json(runs(random_trace, *ALL))


def test_an_allocator_is_not_disturbed_by_others(random_trace):
    beside = runs(random_trace, *ALL)
    for run in beside.runs:
        (alone,) = runs(random_trace, run.label).runs
        assert alone == run


def test_ideal_holds_what_is_requested(random_trace):
    (run,) = runs(random_trace, "ideal", samples=3000).runs
    assert run.samples["live"] == run.samples["requested"] == run.samples["mapped"]
    assert run.summary["fragmentation_peak_ratio"] == run.summary["fragmentation_mean"] == 1.0
    assert run.summary["overhead"] == 0


def test_samples_are_spread_over_the_trace_and_carry_the_peaks_between(random_trace):
    (every,) = runs(random_trace, "ideal", samples=10**9).runs
    (some,) = runs(random_trace, "ideal", samples=10, batch_events=7).runs
    assert every.samples["event"] == list(range(1, 3001))
    assert some.samples["event"] == list(range(300, 3001, 300))
    assert some.samples["time_ns"] == [50 * (event - 1) for event in some.samples["event"]]
    requested = np.array([0, *every.samples["requested"]])
    for begin, end, peak in zip(
        range(0, 3000, 300), some.samples["event"], some.samples["peak_requested"], strict=True
    ):
        assert peak == requested[begin : end + 1].max()
    assert some.samples["peak_requested"] == some.samples["peak_committed"]


@pytest.mark.parametrize("name", ALL)
def test_exact_totals_equal_a_recomputation_from_every_event(random_trace, name):
    (run,) = runs(random_trace, name, samples=10**9).runs
    requested = np.array(run.samples["requested"], object)
    committed = np.array(run.samples["mapped"], object) - np.array(run.samples["released"], object)
    summary = run.summary
    assert summary["peak_requested_bytes"] == max(requested)
    assert summary["peak_committed_bytes"] == max(committed)
    assert summary["peak_mapped_bytes"] == max(run.samples["mapped"])
    assert summary["mean_committed_bytes"] == sum(committed) / len(committed)
    assert summary["fragmentation_mean"] == sum(committed) / sum(requested)
    at = int(np.argmax(requested))
    assert summary["fragmentation_at_peak_requested"] == committed[at] / requested[at]
    at = int(np.argmax(committed))
    assert summary["fragmentation_at_peak_committed"] == committed[at] / requested[at]
    assert {part: run.samples[part][at] for part in PARTS} == {p: run.footprint["peak"][p] for p in PARTS}


@pytest.mark.parametrize("name", ALL)
def test_no_events_are_a_valid_trace(tmp_path, name):
    (run,) = runs(write_trace(tmp_path / "empty.parquet", []), name).runs
    assert run.summary["fragmentation_peak_ratio"] is None
    assert run.summary["peak_committed_bytes"] == run.summary["floor_committed_bytes"]
    assert run.samples["event"] == []


def test_a_fault_in_the_trace_stops_the_replay(tmp_path):
    path = write_trace(tmp_path / "bad.parquet", [*random_rows(100), (FREE, 0, 10**9, 0)])
    with pytest.raises(TraceError, match="row 100, column object: free of object 1000000000"):
        runs(path, *ALL, batch_events=7)


def test_several_traces_on_many_cores_give_what_they_give_one_after_the_other(
    tmp_path, random_trace, monkeypatch
):
    fault = write_trace(tmp_path / "fault.parquet", [(FREE, 0, 1, 0)])
    small = write_trace(tmp_path / "small.parquet", SMALL)
    paths = [str(random_trace), str(fault), str(small)]
    specs = [spec for name in ALL for spec in find(name)]
    outcomes = list(replay_all(paths, specs))
    monkeypatch.setattr("harness.replay._usable_cores", lambda: 8)
    at_once = list(replay_all(paths, specs))
    assert [str(outcome) for outcome in at_once] == [str(outcome) for outcome in outcomes]
    assert [type(outcome) for outcome in at_once] == [TraceRuns, TraceError, TraceRuns]


class Killed(PythonIdeal):
    """Ends its process, as the system does where memory is short."""

    def allocate(self, request):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_costs_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.replay._usable_cores", lambda: 8)
    paths = [str(write_trace(tmp_path / f"{name}.parquet", SMALL)) for name in "ab"]
    outcomes = list(replay_all(paths, [Spec("killed", Killed, {})]))
    assert [str(outcome).partition(": ")[0] for outcome in outcomes] == paths
    assert all("a process was killed" in str(outcome) for outcome in outcomes)


def test_what_was_assumed_of_noscan_is_a_warning(tmp_path):
    silent = write_trace(tmp_path / "silent.parquet")
    says = write_trace(tmp_path / "says.parquet", SMALL, noscan=[True] * 6)
    assert "no noscan column" in runs(silent, "ideal").runs[0].warnings[0]
    assert runs(says, "ideal").runs[0].warnings == []
    overridden = runs(says, "ideal", noscan=Noscan.parse("0.5")).runs[0].warnings
    assert "whatever its noscan column says" in overridden[0]


def test_what_go_cannot_do_as_a_c_program_asks_is_a_warning(tmp_path):
    rows = [(ALLOC, thread, thread, 20) for thread in range(10)] + [(REALLOC, 0, 0, 24)]
    path = write_trace(tmp_path / "t.parquet", rows, alignment=[64] + [0] * 10)
    (run,) = runs(path, "go").runs
    said = " ".join(run.warnings[1:])
    assert "go: it has no realloc: 1 were a new object" in said
    assert "10 sizes of objects with pointers were rounded up to whole words" in said
    assert "1 alignments above 8 rounded their sizes up" in said
    assert "10 threads shared 8 Ps" in said
    assert runs(path, "tcmalloc").runs[0].warnings == run.warnings[:1]


@pytest.mark.parametrize("name", ["go", "tcmalloc"])
def test_placements_are_one_row_an_allocation_or_moving_realloc(tmp_path, name):
    rows = [
        (ALLOC, 0, 0, 0),
        (ALLOC, 0, 1, 100),
        (REALLOC, 0, 1, 101),
        (REALLOC, 0, 1, 5000),
        (FREE, 0, 1, 0),
    ]
    path = write_trace(tmp_path / "t.parquet", rows)
    runs(path, name, placements=str(tmp_path / "p.parquet"))
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    kept = name == "tcmalloc"  # 101 bytes fit the slot of 100; Go has no realloc and makes a new object.
    assert table["event"] == ([0, 1, 3] if kept else [0, 1, 2, 3])
    assert (table["address"][0] is None) == (name == "go")
    assert None not in table["address"][1:]


def test_placements_of_a_failed_replay_leave_no_file(tmp_path):
    path = write_trace(tmp_path / "bad.parquet", [(ALLOC, 0, 0, 1), (FREE, 0, 9, 0)])
    with pytest.raises(TraceError):
        runs(path, "tcmalloc", placements=str(tmp_path / "p.parquet"))
    assert [p.name for p in tmp_path.iterdir()] == ["bad.parquet"]


class Leaky(Allocator):
    """Loses a byte of every object."""

    def __init__(self):
        self.live = 0

    def allocate(self, request):
        self.live += request.size
        return request.size

    def release(self, block, thread):
        self.live -= block

    def footprint(self):
        return Footprint(live=self.live, mapped=self.live + (self.live > 0))


def test_an_allocator_that_loses_a_byte_says_so(tmp_path):
    path = write_trace(tmp_path / "t.parquet")
    with pytest.raises(
        AllocatorError, match=r"leaky: after event \d: the footprint's parts add up to 100, not to mapped 101"
    ):
        replay(path, [Spec("leaky", Leaky, {})], Settings(samples=6))


class Failing(Allocator):
    """Fails at its n-th allocation."""

    def __init__(self, *, at: int = 1):
        self.left = at
        self.live = 0

    def allocate(self, request):
        self.left -= 1
        if not self.left:
            time.sleep(0.02)  # So that whoever does not wait for this one gets ahead.
            raise RuntimeError("out of order")
        self.live += request.size
        return request.size

    def release(self, block, thread):
        self.live -= block

    def footprint(self):
        return Footprint(live=self.live, mapped=self.live)


# Batches that are worth a thread each, and ones that are not.
@pytest.mark.parametrize("batch_events", [64, 2048])
class TestFaults:
    ROWS = tuple((ALLOC, 0, i, 8) for i in range(20_000))

    @pytest.mark.parametrize("step", [1, -1])
    def test_the_one_in_the_earliest_batch_is_told(self, tmp_path, batch_events, step):
        path = write_trace(tmp_path / "t.parquet", self.ROWS)
        late, early = Spec("late", Failing, {"at": 6200}), Spec("early", Failing, {"at": 5000})
        with pytest.raises(AllocatorError, match="early:at=5000: the allocator failed: out of order"):
            replay(path, [late, early][::step], Settings(batch_events=batch_events))

    def test_of_two_in_one_batch_the_first_allocators_is_told(self, tmp_path, batch_events):
        path = write_trace(tmp_path / "t.parquet", self.ROWS)
        specs = [Spec(name, Failing, {"at": at}) for name, at in (("first", 5003), ("second", 5001))]
        with pytest.raises(AllocatorError, match=r"^first"):
            replay(path, specs, Settings(batch_events=batch_events))

    @pytest.mark.parametrize(("at", "kind"), [(1000, AllocatorError), (19_000, TraceError)])
    def test_one_in_the_trace_counts_where_it_stands(self, tmp_path, batch_events, at, kind):
        rows = [*self.ROWS[:10_000], (FREE, 0, 10**9, 0), *self.ROWS[10_000:]]
        path = write_trace(tmp_path / "bad.parquet", rows)
        with pytest.raises(kind):
            replay(path, [Spec("failing", Failing, {"at": at})], Settings(batch_events=batch_events))

    def test_an_interruption_ends_every_thread(self, tmp_path, batch_events):
        path = write_trace(tmp_path / "t.parquet", self.ROWS)
        before = threading.active_count()

        def interrupt(events):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            replay(path, find("go") + find("ideal"), Settings(batch_events=batch_events), interrupt)
        assert threading.active_count() == before


class Full(Allocator):
    """Has no memory beyond its limit."""

    LIMIT = 1000

    def __init__(self):
        self.live = 0

    def allocate(self, request):
        if self.live + request.size > self.LIMIT:
            return None
        self.live += request.size
        return request.size

    def release(self, block, thread):
        self.live -= block

    def footprint(self):
        return Footprint(live=self.live, mapped=self.live)


def test_a_failed_allocation_leaves_the_program_with_what_it_had(tmp_path):
    rows = [(ALLOC, 0, 0, 600), (ALLOC, 0, 1, 600), (REALLOC, 0, 0, 5000), (FREE, 0, 1, 0), (FREE, 0, 0, 0)]
    (run,) = replay(
        write_trace(tmp_path / "t.parquet", rows), [Spec("full", Full, {})], Settings(samples=5)
    ).runs
    assert run.samples["live"] == [600, 600, 600, 600, 0]
    assert run.summary["failed_allocations"] == 2
    assert "2 allocations failed" in run.warnings[-1]


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
class TestCommittedTraces:
    def test_the_parts_add_up_at_every_sample(self, path):
        for run in runs(path, *ALL).runs:
            parts = np.array([run.samples[part] for part in PARTS])
            np.testing.assert_array_equal(parts.sum(axis=0), run.samples["mapped"])
            assert (parts >= 0).all()
            assert (np.array(run.samples["requested"]) <= np.array(run.samples["live"])).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ALL)
    def test_maxima_and_means_are_those_over_every_event(self, path, name):
        # A stop after every event: the loop throws where the parts do not add up, and all can be recomputed.
        allocator = find(name)[0].create()
        rows, asked = [], []
        for batch in TraceReader(str(path)).checked():
            rows.append(allocator.feed(batch, np.arange(1, len(batch.op) + 1)))
            asked.append(batch.requested.astype(np.int64))
        told, requested = np.concatenate(rows), np.concatenate(asked)
        parts = {column: told[:, i] for i, column in enumerate(SAMPLE_COLUMNS)}
        mapped, committed = parts["mapped"], parts["mapped"] - parts["released"]
        peak, most = int(committed.argmax()), int(requested.argmax())
        waste = {name: int(parts[name][peak]) for name in ("front_end", "transfer", "central", "tail")}
        expected = {
            "peak_requested_bytes": int(requested.max()),
            "peak_committed_bytes": int(committed.max()),
            "peak_mapped_bytes": int(mapped.max()),
            "mean_requested_bytes": int(requested.sum()) / len(requested),
            "mean_committed_bytes": int(committed.sum()) / len(committed),
            "end_requested_bytes": int(requested[-1]),
            "end_committed_bytes": int(committed[-1]),
            "fragmentation_peak_ratio": int(committed.max()) / int(requested.max()),
            "fragmentation_mean": int(committed.sum()) / int(requested.sum()),
            "fragmentation_at_peak_requested": int(committed[most]) / int(requested.max()),
            "fragmentation_at_peak_committed": int(committed[peak]) / int(requested[peak]),
            "waste_bytes": int(committed[peak] - requested[peak]),
            "internal_waste_bytes": int(parts["live"][peak] - requested[peak]),
            "external_waste_bytes": sum(waste.values()) + int(parts["page_heap"][peak]),
            "garbage_bytes": int(parts["dead"][peak]),
            "efficiency": int(requested[peak]) / int(committed[peak]),
        }
        summary = runs(path, name).runs[0].summary
        assert {metric: summary[metric] for metric in expected} == expected

    @pytest.mark.slow
    @pytest.mark.parametrize("batch_events", [1, 7])
    def test_batches_change_no_byte(self, path, batch_events):
        whole = as_json(runs(path, *ALL))
        assert as_json(runs(path, *ALL, batch_events=batch_events)) == whole

    def test_the_second_time_is_the_first(self, path):
        assert as_json(runs(path, *ALL)) == as_json(runs(path, *ALL))
