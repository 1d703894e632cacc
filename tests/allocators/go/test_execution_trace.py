"""What an unmodified Go runtime wrote down of its spans is what the model has on the same events."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conformance.go.toolchains import RELEASES
from conformance.go.toolchains import toolchain as of_version
from go_support import batch_of, feed
from support import fails_with, harness

from allocators.go import Go
from allocators.go.execution_trace import ExecutionTrace
from harness.allocator import ALLOC, FREE, find
from harness.conform import conform
from harness.conversion import convert
from harness.errors import AllocatorError, TraceError
from harness.replay import Settings, replay
from harness.trace import TraceReader
from harness.waste import explain

# Lists, strings, buffers and large objects of which some live long; collects some twenty times.
PROGRAM = """
package main

import (
	"os"
	"runtime"
	"runtime/trace"
	"strconv"
)

type node struct {
	next *node
	data []byte
	name string
}

type wide struct {
	nodes [90]*node
	rest  [1000]int
}

var (
	kept  []*node
	names map[int]string
	wides []*wide
	last  []byte
)

func main() {
	file, err := os.Create(os.Args[1])
	if err != nil {
		panic(err)
	}
	if err := trace.Start(file); err != nil {
		panic(err)
	}
	for i := 0; i < 150000; i++ {
		one := &node{data: make([]byte, 10+i%700), name: strconv.Itoa(i)}
		if i%12 == 0 {
			one.next = &node{}
			kept = append(kept, one)
		}
		if i%5000 == 0 {
			names, wides = map[int]string{}, nil
		}
		if i%7 == 0 {
			names[i] = one.name
		}
		if i%600 == 0 {
			wides = append(wides, new(wide))
			last = make([]byte, 40000)
		}
	}
	runtime.GC()
	kept = append(kept, &node{})
	trace.Stop()
	file.Close()
}
"""


def recorded(toolchain, folder, procs):
    """Build the program, run it on so many Ps and return what it traced."""
    (folder / "main.go").write_text(PROGRAM)
    surroundings = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "", "GO111MODULE": "off"}
    built = [str(toolchain.go), "build", "-o", "program", "main.go"]
    subprocess.run(built, cwd=folder, check=True, env=surroundings)
    path = folder / f"{procs}.out"
    chosen = {"GODEBUG": "traceallocfree=1", "GOMAXPROCS": str(procs), "GOGC": "100"}
    subprocess.run([str(folder / "program"), str(path)], check=True, env=os.environ | chosen)
    return str(path)


@pytest.fixture(scope="module")
def one_p(toolchain, tmp_path_factory):
    """What the program traced on one P."""
    return recorded(toolchain, tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def report(one_p):
    return conform(one_p, find("go")[0])


def spread(report, name):
    (found,) = (each for each in report.spreads if each.name == name)
    return found.model, found.runs[0]


class TestOnOneP:
    def test_spans_are_the_runtimes_at_every_collection(self, report):
        assert report.agrees
        assert report.checkpoints >= 10
        model, real = spread(report, "mean_in_spans_bytes")
        assert abs(model - real) <= 0.01 * real

    def test_every_object_before_the_first_collection_is_in_its_slot(self, report):
        same, compared = spread(report, "allocations_in_the_same_slot_until_a_collection")
        assert same == compared > 1000

    def test_the_class_table_adds_up_to_the_totals(self, report):
        classes, _ = report.tables
        columns = [sum(row[k] for row in classes.rows) for k in (2, 3, 4, 5, 8, 9)]
        pairs = [
            spread(report, name) for name in ("spans_allocated", "spans_freed", "spans_in_use_at_the_end")
        ]
        assert columns == [number for model, real in pairs for number in (real, model)]

    def test_the_moments_are_all_collections_and_the_end(self, report):
        _, moments = report.tables
        assert len(moments.rows) == report.checkpoints
        assert moments.rows[0][0] == "collection 1"
        assert moments.rows[moments.shown - 1][0] == "the end"
        assert sorted(row[1] for row in moments.rows)[-1] == report.events

    def test_a_wrong_model_is_noticed(self, one_p):
        wrong = conform(one_p, find("go:greentea=off")[0])
        if wrong.model.startswith(("model of Go 1.26", "model of Go 1.27")):
            assert not wrong.agrees
            assert wrong.spreads[-1].model < conform(one_p, find("go")[0]).spreads[-1].model

    def test_a_model_that_sweeps_a_collection_too_late_is_noticed(self, one_p, monkeypatch):
        monkeypatch.setattr("allocators.go.execution_trace._Comparison._end_cycle", _never_ended)
        wrong = conform(one_p, find("go")[0])
        assert not wrong.agrees
        model, real = spread(wrong, "mean_spans_in_use")
        assert model > 1.02 * real

    @pytest.mark.parametrize("option", ["collector=lazy", "start=snapshot"])
    def test_what_the_trace_says_cannot_be_chosen(self, one_p, option):
        with pytest.raises(AllocatorError, match=f"a recording says .* leave out {option}"):
            conform(one_p, find(f"go:{option}")[0])

    def test_the_trace_need_not_be_this_versions(self, one_p):
        assert conform(one_p, find("go:version=1.24,greentea=auto")[0]).model.startswith("model of Go 1.24")


def _never_ended(self):
    """In place of what ends a cycle: only the next one's begin does."""
    self._marking = None


class TestTheVerb:
    def test_it_prints_totals_classes_moments_and_why_they_may_differ(self, one_p):
        done = harness("conform", "go", one_p)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{one_p}: ")
        assert "what a Go runtime wrote down of itself" in done.stdout
        assert "spans by class, since the trace began" in done.stdout
        assert "note: sweeping: " in done.stdout
        assert done.stdout.endswith("within 2% of the recording\n")

    @pytest.mark.parametrize("form", ["markdown", "latex"])
    def test_other_formats_print(self, one_p, form):
        done = harness("conform", "go", one_p, "--format", form)
        assert done.returncode == 0
        assert "in use, mean" in done.stdout

    def test_json_has_every_row(self, one_p, report):
        (found,) = json.loads(harness("conform", "go", one_p, "--format", "json").stdout)
        assert found["agrees"] is True
        assert [len(table["rows"]) for table in found["tables"]] == [len(each.rows) for each in report.tables]

    def test_csv_has_the_totals(self, one_p):
        lines = harness("conform", "go", one_p, "--format", "csv").stdout.splitlines()
        assert any(",mean_in_spans_bytes,1,0," in line for line in lines)

    @pytest.mark.parametrize(
        "more", [["--against", "go"], ["--script", "s"], ["--noscan", "all"]], ids=lambda more: more[0]
    )
    def test_a_recording_is_its_own_truth(self, one_p, more):
        fails_with(harness("conform", "go", one_p, *more), "its own truth: leave out")

    def test_another_allocator_does_not_read_it(self, one_p):
        fails_with(harness("conform", "tcmalloc", one_p), "harness convert")

    @pytest.mark.parametrize("kept", [10, 3000, 0.5, -1])
    def test_a_trace_that_breaks_off_is_one_line(self, one_p, tmp_path, kept):
        whole = Path(one_p).read_bytes()
        path = tmp_path / "cut.out"
        path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
        fails_with(harness("conform", "go", str(path)), str(path))


def test_on_two_ps_spans_are_the_runtimes_and_slots_are_only_told(toolchain, tmp_path):
    report = conform(recorded(toolchain, tmp_path, 2), find("go")[0])
    # Two Ps need two cores, which a busy machine has not: then sweeping is late.
    for name in ("mean_in_spans_bytes", "most_in_spans_bytes"):
        model, real = spread(report, name)
        assert abs(model - real) <= 0.1 * real
    by_name = {each.name: each for each in report.spreads}
    assert by_name["allocations_in_the_same_slot_until_a_collection"].margin is None
    assert any("several Ps" in text for text in report.notes)


@pytest.mark.slow
@pytest.mark.parametrize("version", [version for version in RELEASES if version != "1.22"])
def test_every_version_that_writes_such_traces_agrees(version, tmp_path):
    try:
        of = of_version(version)
    except AllocatorError as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    report = conform(recorded(of, tmp_path, 1), find("go")[0])
    assert report.agrees, report.spreads


class TestTheImportedTrace:
    @pytest.fixture
    def path(self, one_p, tmp_path):
        path = str(tmp_path / "t.parquet")
        convert(one_p, path)
        return path

    def test_it_says_what_it_does_not_know(self, path):
        metadata = TraceReader(path).metadata
        assert (metadata["frees"], metadata["sizes"]) == ("collector", "class")
        assert metadata["sizes_known"]["exact"] > 0
        assert metadata["sizes_known"]["class"] > 0

    def test_go_collects_where_the_program_did(self, path, report):
        run = replay(path, find("go"), Settings(samples=10)).runs[0]
        assert run.label == "go:gogc=off"
        assert run.counters["gc_cycles"] == run.counters["gc_forced"] == report.checkpoints - 1
        assert run.summary["peak_requested_bytes"] is None
        assert any("exact" in text for text in run.warnings)

    def test_its_waste_is_explained_but_for_rounding(self, path):
        found = explain(replay(path, find("go"), Settings(census=True)).runs[0])
        assert found.causes["rounding"] is None
        assert found.waste_bytes > 0

    def test_a_collector_that_decides_for_itself_finds_nothing_between(self, path):
        ours, own = (replay(path, find(text)).runs[0] for text in ("go", "go:gogc=100"))
        assert own.counters["gc_cycles"] > ours.counters["gc_cycles"]
        committed = [run.summary["peak_committed_bytes"] for run in (ours, own)]
        assert committed[1] > 0.95 * committed[0]


class TestRecordedCycles:
    """The model collects when it is told to, and at no other time."""

    def rows(self, count, first=0):
        return [(ALLOC, 0, name, 1000, True) for name in range(first, first + count)]

    def cycles(self, go):
        return dict(go.native.result()["counters"])["gc_cycles"]

    def test_nothing_else_begins_one(self):
        go = Go(procs=1)
        go.native.begin_recorded_cycle()
        go.native.end_recorded_cycle(sweeps=True)
        feed(go, batch_of(self.rows(30_000)))
        assert self.cycles(go) == 1
        other = Go(procs=1)
        feed(other, batch_of(self.rows(30_000)))
        assert self.cycles(other) > 1

    def test_who_died_before_one_is_gone_after_it_and_who_is_born_in_it_is_not(self):
        go = Go(procs=1)
        go.native.begin_recorded_cycle()
        go.native.end_recorded_cycle(sweeps=True)
        before = [*self.rows(800), *((FREE, 0, name, 0, False) for name in range(800))]
        born = [*self.rows(400), *((FREE, 0, name, 0, False) for name in range(400))]
        feed(go, batch_of(before))
        go.native.begin_recorded_cycle()
        feed(go, batch_of(born))
        go.native.end_recorded_cycle(sweeps=True)
        assert go.native.state()["heap_marked"] >= 400 * 1024
        assert dict(go.native.state())["total_free"] == 800 * 1024

    def test_without_an_end_it_marks_on(self):
        go = Go(procs=1)
        go.native.begin_recorded_cycle()
        feed(go, batch_of(self.rows(30_000)))
        assert self.cycles(go) == 1
        go.native.begin_recorded_cycle()
        assert self.cycles(go) == 2


def test_a_file_of_another_kind_is_not_taken_for_one(tmp_path):
    reader = ExecutionTrace()
    assert reader.recognises(b"go 1.26 trace\0\0\0...")
    assert not reader.recognises(b"PAR1")
    assert not reader.recognises(b"")
    path = tmp_path / "t.out"
    path.write_bytes(b"PAR1")
    with pytest.raises(TraceError):
        conform(str(path), find("go")[0])
