"""A comparison finds every difference, says where, and carries out the calls of a script in their place."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support import harness, random_rows, write_trace

from harness import conform as conformance
from harness.allocator import ALLOC, find
from harness.cli import cli
from harness.conform import Call, compare, read_script
from harness.errors import AllocatorError, HarnessError
from harness.trace import TraceReader

ROWS = np.dtype([("address", "<u8"), ("length", "<u8")])


class Counting:
    """A subject that numbers its allocations, and notes what was asked of it."""

    def __init__(self, name="counting", *, wrong_event=None, wrong_after=None):
        self.name = name
        self.log = []
        self.closed = False
        self._events = 0
        self._wrong_event = wrong_event
        self._wrong_after = wrong_after

    def replay(self, batch):
        numbers = np.arange(self._events, self._events + len(batch.op), dtype=np.uint64)
        answers = np.where(batch.op == ALLOC, numbers + np.uint64(4096), 0).astype(np.uint64)
        answers[numbers == self._wrong_event] += np.uint64(8)
        self._events += len(batch.op)
        self.log.append(("events", self._events))
        return answers

    def call(self, call):
        if call.name != "tidy":
            raise AllocatorError(f"there is no call {call.name!r}")
        self.log.append(("call", self._events))

    def state(self):
        self.log.append(("state", self._events))
        wrong = self._wrong_after is not None and self._events >= self._wrong_after
        return {
            "numbers": {"events": self._events + wrong},
            "rows": np.array([(0, 8), (8, 16 + 8 * wrong)], ROWS),
            "text": f"line\nevents {self._events + wrong}\n",
        }

    def close(self):
        self.closed = True


@pytest.fixture
def trace(tmp_path):
    return write_trace(tmp_path / "t.parquet", random_rows(1000))


def batches(trace):
    return TraceReader(trace).checked(batch_events=300)


def test_equal_subjects_agree(trace):
    report = compare(batches(trace), Counting(), Counting(), checkpoints=[250, 500])
    assert report.agrees
    assert report.events == 1000
    assert report.checkpoints == 4  # With the start and the end.
    assert report.aspects["addresses"].compared > 400
    assert report.aspects["rows"].compared == 8
    assert report.aspects["text"].compared == sum(len(f"line\nevents {n}\n") for n in (0, 250, 500, 1000))


def test_calls_come_between_the_events_and_checkpoints_after_the_calls_of_their_place(trace):
    model = Counting()
    calls = [Call(0, "tidy"), Call(600, "tidy"), Call(600, "checkpoint"), Call(1000, "tidy")]
    report = compare(batches(trace), model, Counting(), calls=calls, checkpoints=[600])
    assert report.calls == 3
    steps = [step for step in model.log if step[0] != "events"]
    assert steps == [
        ("state", 0),
        ("call", 0),
        ("call", 600),
        ("state", 600),
        ("state", 600),
        ("call", 1000),
        ("state", 1000),
    ]
    assert [count for kind, count in model.log if kind == "events"] == [300, 600, 900, 1000]


def test_an_address_that_differs_is_told_with_its_event(trace):
    event = int(np.flatnonzero(next(iter(batches(trace))).op == ALLOC)[40])
    report = compare(batches(trace), Counting(wrong_event=event), Counting())
    assert not report.agrees
    addresses = report.aspects["addresses"]
    assert addresses.differing == 1
    assert addresses.examples[0].startswith(f"event {event}, alloc of ")
    assert f"model {event + 4096 + 8:#x}, real {event + 4096:#x}" in addresses.examples[0]


def test_states_that_differ_are_told_with_their_checkpoint(trace):
    report = compare(batches(trace), Counting(wrong_after=500), Counting(), checkpoints=[250, 500])
    assert report.aspects["numbers"].differing == 2
    assert report.aspects["numbers"].examples[0] == "after event 500: events: model 501, real 500"
    assert report.aspects["rows"].examples[:2] == [
        "after event 500: only real: address 8, length 16",
        "after event 500: only in the model: address 8, length 24",
    ]
    assert report.aspects["text"].differing == len("events 500\n") + len("events 1000\n")
    assert report.aspects["text"].examples[0] == r"after event 500: model 'events 501\n', real 'events 500\n'"


def test_an_aspect_that_one_side_lacks_is_an_error(trace):
    model = Counting()
    model.state = dict
    with pytest.raises(AllocatorError, match="after event 0: only one side knows its"):
        compare(batches(trace), model, Counting())


def test_it_breaks_off_after_very_many_differences(trace):
    model = Counting()
    replay = model.replay
    model.replay = lambda batch: replay(batch) + np.uint64(1)
    report = compare(batches(trace), model, Counting(), checkpoints=range(1, 1000))
    assert report.gave_up
    assert report.events < 1100
    assert len(report.aspects["addresses"].examples) == 5


class TestScript:
    def test_lines_comments_and_blanks(self, tmp_path):
        path = tmp_path / "t.script"
        path.write_text("# start\n0 set limit 5\n\n  20 release  # all\n20 checkpoint\n")
        found = [(call.after_event, call.name, call.arguments) for call in read_script(str(path))]
        assert found == [(0, "set", ("limit", "5")), (20, "release", ()), (20, "checkpoint", ())]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("release\n", "t.script: line 1: found 'release', expected EVENTS-BEFORE-IT CALL ARGUMENTS"),
            ("x release\n", "line 1: found 'x release'"),
            ("-1 release\n", "line 1: found '-1 release'"),
            ("5 a\n4 b\n", "line 2: after event 4, expected at least 5"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path, text, message):
        path = tmp_path / "t.script"
        path.write_text(text)
        with pytest.raises(HarnessError, match=message):
            read_script(str(path))

    def test_one_that_is_missing_is_named(self, tmp_path):
        with pytest.raises(HarnessError, match=r"none\.script: the script cannot be read"):
            read_script(str(tmp_path / "none.script"))


class Entry:
    """An entry point that makes given subjects."""

    name = "ideal"
    value = "tests"

    def __init__(self, made):
        self._made = made

    def load(self):
        return lambda options, against, events: self._made


def registered(made):
    """Entry points of which one makes the given subjects, and none reads recordings."""
    return lambda group: [Entry(made)] if group == conformance.ENTRY_POINT_GROUP else []


@pytest.fixture
def subjects(monkeypatch):
    """Registers a model and a truth, as the backend ideal's."""

    def register(model, truth):
        monkeypatch.setattr(conformance, "entry_points", registered((model, truth)))
        return model, truth

    return register


class Wandering:
    """A model that comes to 10 of each, and a real thing that comes to something else each time."""

    model_name, truth_name = "the model", "the real one"

    def __init__(self, *real):
        self._real = list(real)
        self._runs = 0

    def model(self):
        return {"cycles": 10, "heap_system_bytes": 10 << 20}

    def run(self):
        self._runs += 1
        value = self._real[self._runs % len(self._real)]
        return {"cycles": value, "heap_system_bytes": value << 20}


@pytest.fixture
def wandering(monkeypatch):
    """Registers a real thing that does not repeat itself, as the backend ideal's."""

    def register(*real):
        monkeypatch.setattr(conformance, "entry_points", registered(Wandering(*real)))

    return register


@pytest.mark.parametrize(
    ("real", "within"),
    [((9, 11), True), ((10, 10), True), ((10.5, 12), True), ((10.6, 12), False), ((8, 9.5), False)],
)
def test_a_model_lies_within_the_spread_of_the_real_runs_widened_by_5_percent(real, within):
    assert conformance.Spread("cycles", 10, list(real)).within is within


def test_the_verb_prints_a_spread_where_the_real_thing_takes_another_course_each_time(
    trace, wandering, capsys
):
    wandering(9, 12)
    status, printed = run(capsys, "ideal", trace, "--runs", "4")
    assert status == 0
    assert printed.splitlines()[0].endswith("1,000 events, 4 runs of the real one")
    (row,) = (line for line in printed.splitlines() if line.startswith("heap system"))
    assert row.split() == [
        "heap",
        "system",
        "10.00",
        "MiB",
        "9.00",
        "MiB",
        "10.50",
        "MiB",
        "12.00",
        "MiB",
        "within",
    ]
    assert printed.splitlines()[-1] == "within the real runs, widened by 5%"


def test_the_verb_says_by_how_much_a_model_lies_outside(trace, wandering, capsys):
    wandering(20, 20)
    status, printed = run(capsys, "ideal", trace, "--runs", "2")
    assert status == 1
    (row,) = (line for line in printed.splitlines() if line.startswith("cycles"))
    assert row.endswith("-50% of the median")
    assert printed.splitlines()[-1] == "NOT within the real runs, widened by 5%"


def test_runs_as_csv_have_the_least_and_the_most(trace, wandering, capsys):
    wandering(9, 12)
    lines = run(capsys, "ideal", trace, "--runs", "2", "--format", "csv")[1].splitlines()
    assert lines[0] == "trace,model,real,what,compared,differing,model_value,real_least,real_most"
    assert lines[1].endswith("cycles,2,0,10,9,12")


def test_whole_runs_take_no_calls(trace, wandering):
    wandering(9, 12)
    with open(trace.replace(".parquet", ".script"), "w") as script:
        script.write("10 tidy\n")
    with pytest.raises(HarnessError, match="takes no calls between"):
        conformance.conform(trace, find("ideal")[0])


def run(capsys, *arguments):
    status = cli.main(["conform", *arguments], standalone_mode=False, prog_name="harness")
    return status, capsys.readouterr().out


def test_the_verb_ends_with_0_where_all_agrees(trace, subjects, capsys):
    made = subjects(Counting("the model"), Counting("the real one"))
    status, printed = run(capsys, "ideal", trace)
    assert status == 0
    assert printed.splitlines()[0].endswith("t.parquet: 1,000 events, compared at 22 moments")
    assert printed.splitlines()[1] == "the model against the real one"
    assert printed.splitlines()[-1] == "equal"
    assert all(subject.closed for subject in made)


def test_the_verb_ends_with_1_where_anything_differs(trace, subjects, capsys):
    subjects(Counting(wrong_event=7), Counting())
    status, printed = run(capsys, "ideal", trace)
    assert status == 1
    assert "first differences:\n  addresses: event 7, " in printed
    assert printed.splitlines()[-1] == "NOT EQUAL"


def test_the_script_beside_the_trace_is_carried_out(trace, subjects, capsys):
    (model, _) = subjects(Counting(), Counting())
    with open(trace.replace(".parquet", ".script"), "w") as script:
        script.write("10 tidy\n20 checkpoint\n")
    status, printed = run(capsys, "ideal", trace, "--checkpoints", "0")
    assert status == 0
    assert "compared at 3 moments, calls: 1" in printed
    assert ("call", 10) in model.log


def test_the_verb_prints_json_and_csv(trace, subjects, capsys):
    subjects(Counting(), Counting())
    (report,) = json.loads(run(capsys, "ideal", trace, "--format", "json")[1])
    assert report["agrees"] is True
    assert report["aspects"]["addresses"]["differing"] == 0
    lines = run(capsys, "ideal", trace, "--format", "csv")[1].splitlines()
    assert lines[0] == "trace,model,real,what,compared,differing"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("1001 tidy\n", "after event 1001, expected at most the trace's 1000"),
        ("5 sweep\n", "line 1: sweep: there is no call 'sweep'"),
    ],
)
def test_a_call_that_does_not_fit_is_an_error_with_its_line(trace, subjects, tmp_path, script, message):
    subjects(Counting(), Counting())
    path = tmp_path / "s.script"
    path.write_text(script)
    with pytest.raises(HarnessError, match=message):
        conformance.conform(trace, find("ideal")[0], script=str(path))


def test_a_backend_without_a_real_thing_says_which_have_one(trace):
    done = harness("conform", "ideal", trace)
    assert done.returncode == 2
    assert done.stderr == (
        "harness: ideal cannot be held against a real allocator; those that can: go, tcmalloc\n"
    )
