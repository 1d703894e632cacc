"""`harness convert`: canonical traces, and parts of a trace that behave as they did within the whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import HARNESS, SMALL, columns, harness, random_rows, write_trace

from harness.allocator import ALLOC, CALLOC, FREE, GC, OP_NAMES, REALLOC, THREAD_END
from harness.conversion import convert
from harness.errors import HarnessError, TraceError
from harness.trace import BATCH_EVENTS, TraceReader, TraceWriter


def rows_of(path):
    """Rows as dicts of Python values."""
    reader = TraceReader(str(path))
    return [
        dict(zip(raw, values, strict=True))
        for raw in reader.raw_batches()
        for values in zip(*(column.tolist() for column in raw.values()), strict=True)
    ]


def digest(path):
    return TraceReader(str(path)).metadata["digest"]


def totals(path):
    trace = TraceReader(str(path)).checked()
    for _ in trace:
        pass
    return trace.totals()


@st.composite
def traces(draw):
    """Rows of any ops over a few objects and threads, valid by construction, with every optional column."""
    rows, live = [], set()
    actions = st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 2), st.integers(0, 300))
    for choice, number, thread, size in draw(st.lists(actions, max_size=60)):
        if choice == 9:
            rows.append((THREAD_END if number % 4 else GC, thread, 0, 0))
        elif number not in live:
            rows.append((CALLOC if choice % 2 else ALLOC, thread, number * 10**9, size))
            live.add(number)
        elif choice < 3:
            rows.append((REALLOC, thread, number * 10**9, size))
        else:
            rows.append((FREE, thread, number * 10**9, 0))
            live.remove(number)
    count = len(rows)
    each = {"min_size": count, "max_size": count}
    gaps = draw(st.lists(st.sampled_from([0, 1, 10**9]), **each))
    optional = {
        "alignment": draw(st.lists(st.sampled_from([0, 1, 16, 4096]), **each)),
        "noscan": draw(st.lists(st.booleans(), **each)),
        "time_ns": [sum(gaps[: i + 1]) - 5 for i in range(count)],
        "site": draw(st.lists(st.integers(0, 9), **each)),
    }
    return rows, optional


class Program:
    """What a program holds while its trace goes by: a naive model to compare cuts with."""

    def __init__(self):
        self.objects = {}  # Name -> what is asked for and by whom, in order of allocation.
        self.incarnations = {}  # Thread number -> how often it has ended.

    def step(self, row, name):
        thread = (row["thread"], self.incarnations.get(row["thread"], 0))
        if row["op"] in (ALLOC, CALLOC):
            self.objects[name] = {
                "thread": thread,
                "op": row["op"],
                "noscan": row["noscan"],
                **{column: row[column] for column in ("size", "alignment", "site")},
            }
        elif row["op"] == REALLOC:
            self.objects[name] |= {column: row[column] for column in ("size", "alignment", "site")}
        elif row["op"] == FREE:
            del self.objects[name]
        elif row["op"] == THREAD_END:
            self.incarnations[row["thread"]] = thread[1] + 1


def held(program):
    """What is held, in order; threads without their past, but apart where they were apart."""
    numbers = {}
    return [
        each | {"thread": (each["thread"][0], numbers.setdefault(each["thread"], len(numbers)))}
        for each in program.objects.values()
    ]


def write(folder, trace):
    rows, optional = trace
    return write_trace(folder / "whole.parquet", rows, **optional)


@settings(max_examples=100, deadline=None)
@given(trace=traces())
def test_canonical_is_canonical(tmp_path_factory, trace):
    folder = tmp_path_factory.mktemp("convert")
    path = write(folder, trace)
    convert(path, str(folder / "once.parquet"))
    convert(str(folder / "once.parquet"), str(folder / "twice.parquet"))
    assert digest(folder / "once.parquet") == digest(folder / "twice.parquet")
    assert totals(folder / "once.parquet") == totals(path)
    for before, after in zip(rows_of(path), rows_of(folder / "once.parquet"), strict=True):
        for column in ("op", "thread", "time_ns", "site"):
            assert before[column] == after[column]
        if before["op"] in (ALLOC, CALLOC, REALLOC):
            assert after["size"] == before["size"]
            assert after["alignment"] == (before["alignment"] if before["alignment"] >= 8 else 0)
        else:
            assert after["size"] == after["alignment"] == after["noscan"] == 0


@settings(max_examples=150, deadline=None)
@given(trace=traces(), window=st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_a_cut_holds_at_its_beginning_what_the_program_held_and_goes_on_alike(
    tmp_path_factory, trace, window
):
    folder = tmp_path_factory.mktemp("convert")
    convert(write(folder, trace), str(folder / "whole.parquet"))
    whole = rows_of(folder / "whole.parquet")
    first, end = (min(bound, len(whole)) for bound in sorted(window))
    result = convert(str(folder / "whole.parquet"), str(folder / "cut.parquet"), events=(first, end))
    cut = rows_of(folder / "cut.parquet")
    before, part = Program(), Program()
    for row in whole[:first]:
        before.step(row, row["object"])
    prologue = len(cut) - (end - first)
    for row in cut[:prologue]:
        assert row["op"] in (ALLOC, CALLOC, THREAD_END)
        assert row["time_ns"] == whole[min(first, len(whole) - 1)]["time_ns"]
        part.step(row, row["object"])
    assert held(part) == held(before)
    assert result.alive_at_cut == len(before.objects)
    # From here on both do the same to the same objects.
    names = dict(zip(before.objects, part.objects, strict=True))
    for row, same in zip(whole[first:end], cut[prologue:], strict=True):
        if row["op"] in (ALLOC, CALLOC):
            names[row["object"]] = same["object"]
        if row["op"] not in (GC, THREAD_END):
            assert names[row["object"]] == same["object"]
        assert {**row, "object": 0} == {**same, "object": 0}
        before.step(row, row["object"])
        part.step(same, same["object"])
        assert held(part) == held(before)
    totals(folder / "cut.parquet")


@settings(max_examples=100, deadline=None)
@given(trace=traces(), threads=st.sets(st.integers(0, 2), min_size=1))
def test_threads_keep_their_objects_and_what_becomes_of_them(tmp_path_factory, trace, threads):
    folder = tmp_path_factory.mktemp("convert")
    path = write(folder, trace)
    result = convert(path, str(folder / "part.parquet"), threads=sorted(threads))
    expected, kept, seen, dropped = [], set(), set(), 0
    for row in rows_of(path):
        op, thread, name = row["op"], row["thread"], row["object"]
        if op in (ALLOC, CALLOC) and thread in threads:
            kept.add(name)
        taken = name in kept if op in (ALLOC, CALLOC, REALLOC, FREE) else op == GC
        if op == THREAD_END:
            # The end of another thread stays where that thread has freed, resized or collected before.
            taken = thread in threads or thread in seen
            seen.discard(thread)
        elif taken:
            seen.add(thread)
        if op == FREE:
            kept.discard(name)
            dropped += not taken
        if taken:
            expected.append((op, thread, row["size"], row["time_ns"]))
    found = [
        (row["op"], row["thread"], row["size"], row["time_ns"]) for row in rows_of(folder / "part.parquet")
    ]
    assert found == expected
    assert result.frees_dropped == dropped
    totals(folder / "part.parquet")


@settings(max_examples=60, deadline=None)
@given(trace=traces(), window=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_a_window_of_time_is_the_window_of_its_events(tmp_path_factory, trace, window):
    folder = tmp_path_factory.mktemp("convert")
    path = write(folder, trace)
    times = [row["time_ns"] for row in rows_of(path)]
    first_s, end_s = sorted(window)
    if not times or times[-1] - times[0] < first_s * 10**9:
        return
    first, end = (sum(time - times[0] < bound * 10**9 for time in times) for bound in (first_s, end_s))
    convert(path, str(folder / "time.parquet"), time_s=(first_s, end_s))
    convert(path, str(folder / "events.parquet"), events=(first, end))
    by_time, by_events = rows_of(folder / "time.parquet"), rows_of(folder / "events.parquet")
    prologue = len(by_time) - (end - first)
    for row in by_time[:prologue]:
        assert row["time_ns"] == times[0] + first_s * 10**9
    assert [{**row, "time_ns": 0} for row in by_time] == [{**row, "time_ns": 0} for row in by_events]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """More events than three batches hold."""
    rows = random_rows(3 * BATCH_EVENTS + 1_000, live=2_000)
    path = tmp_path_factory.mktemp("convert") / "long.parquet"
    return write_trace(path, rows, time_ns=[10**6 * i for i in range(len(rows))])


@pytest.mark.parametrize("window", [(0, None), (None, None), (0, 3 * BATCH_EVENTS + 1_000), (None, 10**12)])
def test_a_cut_of_everything_is_the_whole(tmp_path, long, window):
    result = convert(long, str(tmp_path / "cut.parquet"), events=window)
    assert digest(tmp_path / "cut.parquet") == digest(long)
    assert result.alive_at_cut == result.frees_dropped == 0
    convert(long, str(tmp_path / "all.parquet"), threads=[0, 1, 2])
    assert digest(tmp_path / "all.parquet") == digest(long)


@pytest.mark.parametrize(
    ("first", "end"),
    [
        (BATCH_EVENTS, 2 * BATCH_EVENTS),
        (BATCH_EVENTS - 1, BATCH_EVENTS + 1),
        (50, 60),
        (BATCH_EVENTS + 30_000, 2 * BATCH_EVENTS + 30_000),
        (BATCH_EVENTS + 5_000, BATCH_EVENTS + 5_000),
        (3 * BATCH_EVENTS + 1_000, None),
    ],
)
def test_a_cuts_totals_are_those_of_the_window(tmp_path, long, first, end):
    convert(long, str(tmp_path / "cut.parquet"), events=(first, end))
    cut = totals(tmp_path / "cut.parquet")
    requested, live, frees = [], [], 0
    held, objects = 0, 0
    batches = TraceReader(long).checked()
    steps = (
        step for batch in batches for step in zip(batch.op.tolist(), batch.requested.tolist(), strict=True)
    )
    for event, (op, requested_bytes) in enumerate(steps):
        if event == first:
            requested.append(held)
            live.append(objects)
        held = requested_bytes
        objects += 1 if op == ALLOC else -1
        if event >= first and (end is None or event < end):
            requested.append(held)
            live.append(objects)
            frees += op == FREE
    if not requested:
        requested, live = [held], [objects]
    assert cut["peak_requested_bytes"] == max(requested)
    assert cut["peak_live_objects"] == max(live)
    assert cut["end_requested_bytes"] == requested[-1]
    assert cut["end_live_objects"] == live[-1]
    assert cut["frees"] == frees
    assert cut["events"] == live[0] + len(requested) - 1


def test_windows_and_threads_work_together(tmp_path, long):
    end = 2 * BATCH_EVENTS + 5_000
    convert(long, str(tmp_path / "a.parquet"), events=(1_000, end))
    convert(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), threads=[1])
    convert(long, str(tmp_path / "c.parquet"), events=(1_000, end), threads=[1])
    assert digest(tmp_path / "b.parquet") == digest(tmp_path / "c.parquet")
    convert(long, str(tmp_path / "d.parquet"), events=(500, end), time_s=(1.0, 200.0))
    expected = [row["size"] for row in rows_of(tmp_path / "a.parquet")]
    assert [row["size"] for row in rows_of(tmp_path / "d.parquet")] == expected


def test_a_cut_stops_reading_where_it_ends(tmp_path, long):
    progress = []
    result = convert(long, str(tmp_path / "cut.parquet"), events=(0, 10), progress=progress.append)
    assert result.events == 10
    assert result.source_events == sum(progress) == BATCH_EVENTS


def test_a_thread_that_has_ended_is_not_mistaken_for_a_later_one(tmp_path):
    rows = [
        (ALLOC, 5, 0, 10),
        (THREAD_END, 5, 0, 0),
        (ALLOC, 5, 1, 20),
        (ALLOC, 6, 2, 30),
        (FREE, 5, 0, 0),
    ]
    path = write_trace(tmp_path / "t.parquet", rows)
    convert(path, str(tmp_path / "cut.parquet"), events=(4, None))
    found = [(row["op"], row["thread"], row["size"]) for row in rows_of(tmp_path / "cut.parquet")]
    assert found == [(ALLOC, 5, 10), (THREAD_END, 5, 0), (ALLOC, 5, 20), (ALLOC, 6, 30), (FREE, 5, 0)]


def test_other_types_names_and_orders_are_made_canonical(tmp_path):
    rows = random_rows(3_000)
    plain = columns(rows, noscan=[i % 3 == 0 for i in range(3_000)], time_ns=range(3_000))
    odd = pa.table(
        {
            "size": plain["size"].astype(np.int32),
            "comment": ["x"] * 3_000,
            "time_ns": plain["time_ns"].astype(np.uint16),
            "op": [OP_NAMES[op] for op in plain["op"].tolist()],
            "noscan": plain["noscan"].astype(np.int8),
            "object": plain["object"].astype(np.int16),
            "thread": plain["thread"].astype(np.int64),
        }
    )
    pq.write_table(odd, tmp_path / "odd.parquet")
    write_trace(tmp_path / "plain.parquet", rows, noscan=plain["noscan"], time_ns=range(3_000))
    convert(str(tmp_path / "plain.parquet"), str(tmp_path / "plain2.parquet"))
    result = convert(str(tmp_path / "odd.parquet"), str(tmp_path / "odd2.parquet"))
    assert digest(tmp_path / "odd2.parquet") == digest(tmp_path / "plain2.parquet")
    assert result.warnings == ["left behind, for harness-trace/1 knows no such column: comment"]


def test_unique_ids_become_slots_that_are_reused(tmp_path):
    unique, slots, of_slot = [], [], {}
    for number, row in enumerate(random_rows(5_000)):
        if row[0] == ALLOC:
            of_slot[row[2]] = 2**63 + number
        unique.append((row[0], row[1], of_slot[row[2]], row[3]))
        slots.append(row)
    path = str(tmp_path / "unique.parquet")
    with TraceWriter(path, source={}, object_ids="unique") as writer:
        writer.write(columns(unique))
    convert(path, str(tmp_path / "slots.parquet"))
    assert digest(tmp_path / "slots.parquet") == digest(write_trace(tmp_path / "t.parquet", slots))
    assert TraceReader(str(tmp_path / "slots.parquet")).metadata["object"] == "slot"


def test_metadata_and_sites_stay_and_say_what_was_done(tmp_path):
    path = str(tmp_path / "t.parquet")
    with TraceWriter(
        path,
        source={"program": "server", "page_size_bytes": 4096},
        synthetic=True,
        frees="collector",
        sites=b"c2l0ZXM=",
        optional=("site",),
        extra={"weather": "fine"},
    ) as writer:
        writer.write(columns(SMALL, site=[1, 2, 3, 0, 5, 0]))
    before = TraceReader(path).metadata
    convert(path, str(tmp_path / "a.parquet"), events=(1, 5), threads=[7, 9])
    convert(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"))
    reader = TraceReader(str(tmp_path / "b.parquet"))
    for key in ("source", "synthetic", "frees", "sizes", "weather"):
        assert reader.metadata[key] == before[key]
    assert reader.sites == b"c2l0ZXM="
    cut, again = reader.metadata["conversions"]
    assert cut == {
        "from": "t.parquet",
        "format": "parquet",
        "digest": before["digest"],
        "events": [1, 5],
        "threads": [7, 9],
    }
    assert again["from"] == "a.parquet"
    assert reader.metadata["events"] == reader.events == 5


def test_an_empty_trace_stays_empty(tmp_path):
    path = write_trace(tmp_path / "t.parquet", [])
    assert convert(path, str(tmp_path / "a.parquet")).events == 0
    assert convert(path, str(tmp_path / "b.parquet"), events=(0, 5)).events == 0
    assert TraceReader(str(tmp_path / "b.parquet")).events == 0


BAD_REQUESTS = {
    "beyond the end": ({"events": (7, None)}, "--events begins at 7, and the trace ends after 6 events"),
    "no times": ({"time_s": (0.0, 1.0)}, "--time needs a column time_ns"),
    "backwards": ({"events": (5, 3)}, "--events 5:3 ends before it begins"),
    "negative": ({"events": (-5, 3)}, "--events: found -5, expected a number from 0 up"),
    "not a number": ({"time_s": (float("nan"), None)}, "--time: found nan, expected a number from 0 up"),
    "no thread": ({"threads": []}, "--threads: found none"),
    "thread out of range": ({"threads": [2**32]}, "--threads: found 4294967296"),
    "unknown source format": ({"from_format": "xml"}, "format xml is unknown; known are "),
    "unknown target format": ({"to_format": "xml"}, "format xml is unknown"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_what_cannot_be_asked_for_is_one_line_and_leaves_the_target(tmp_path, arguments, message):
    path = write_trace(tmp_path / "t.parquet", SMALL)
    target = tmp_path / "out.parquet"
    target.write_text("before")
    with pytest.raises(HarnessError) as caught:
        convert(path, str(target), **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert target.read_text() == "before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.parquet", "t.parquet"]


def test_a_time_beyond_the_end_is_one_line(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL, time_ns=range(6))
    with pytest.raises(HarnessError, match="--time begins at 1 s"):
        convert(path, str(tmp_path / "out.parquet"), time_s=(1.0, None))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl.gz"])
def test_a_fault_in_the_input_leaves_an_existing_output_untouched(tmp_path, suffix):
    path = write_trace(tmp_path / "t.parquet", [*random_rows(BATCH_EVENTS + 10), (FREE, 0, 10**6, 0)])
    target = tmp_path / f"out.{suffix}"
    target.write_text("before")
    with pytest.raises(TraceError, match=f"row {BATCH_EVENTS + 10}, column object: free of object 1000000"):
        convert(path, str(target))
    assert target.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_value_that_does_not_fit_is_named(tmp_path):
    table = pa.table(columns(SMALL)).set_column(1, "thread", pa.array([7, 7, 9, 9, -1, 7]))
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TraceError) as caught:
        convert(str(tmp_path / "t.parquet"), str(tmp_path / "out.parquet"))
    assert str(caught.value).endswith(
        "row 4, column thread: found -1, expected a whole number from 0 to 4,294,967,295"
    )


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("size", pa.array([1.5] * 6), "column size: found type double, expected uint64"),
        ("op", pa.array(["alloc", "mmap"] * 3), "row 1, column op: found 'mmap', expected alloc, calloc"),
        ("size", pa.array([1, None] * 3), "row 1, column size: found null, expected a whole number"),
        ("noscan", pa.array([0, 1, 2, 0, 0, 0]), "row 2, column noscan: found 2, expected true or false"),
    ],
)
def test_a_column_of_no_use_is_one_line(tmp_path, name, values, message):
    table = pa.table({**columns(SMALL), name: values})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TraceError) as caught:
        convert(str(tmp_path / "t.parquet"), str(tmp_path / "out.parquet"))
    assert message in str(caught.value)


def test_a_trace_can_replace_itself(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL)
    before = digest(path)
    convert(path, path)
    assert digest(path) == before


def test_threads_that_do_not_occur_are_warned_of(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL)
    result = convert(path, str(tmp_path / "out.parquet"), threads=[9, 11])
    assert "thread 11 does not occur in what was read" in result.warnings
    assert "2 frees of other threads' objects were left out" in result.warnings


def test_the_content_decides_the_format_and_then_the_name(tmp_path):
    path = Path(write_trace(tmp_path / "t.parquet", SMALL))
    convert(str(path), str(tmp_path / "t.csv"))
    misnamed = path.rename(tmp_path / "t.jsonl")
    assert convert(str(misnamed), str(tmp_path / "a.parquet")).events == 6
    (tmp_path / "t.csv").rename(tmp_path / "events.txt")
    assert convert(str(tmp_path / "events.txt"), str(tmp_path / "b.parquet")).events == 6
    assert digest(tmp_path / "a.parquet") == digest(tmp_path / "b.parquet")
    (tmp_path / "noise.log").write_text("no trace at all\n")
    with pytest.raises(HarnessError, match=r"noise.log: its format was not recognised; name it with --from "):
        convert(str(tmp_path / "noise.log"), str(tmp_path / "c.parquet"))
    with pytest.raises(HarnessError, match=r"out.log: its suffix belongs to no format; name it with --to "):
        convert(str(misnamed), str(tmp_path / "out.log"))
    with pytest.raises(TraceError, match=r"none.csv: no such file"):
        convert(str(tmp_path / "none.csv"), str(tmp_path / "c.parquet"))


def test_the_verb_pipes_through_standard_input_and_output(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL)
    out = harness("convert", path, "-", "--to", "csv")
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines()[:2] == ["op,thread,object,size", "alloc,7,0,100"]
    back = harness("convert", "-", str(tmp_path / "back.parquet"), input=out.stdout)
    assert back.returncode == 0, back.stderr
    assert digest(tmp_path / "back.parquet") == digest(path)
    with open(path, "rb") as stream:
        done = subprocess.run(
            [*HARNESS, "convert", "-", "-", "--to", "jsonl"], stdin=stream, capture_output=True, check=False
        )
    assert json.loads(done.stdout.splitlines()[2]) == {"op": "alloc", "thread": 9, "object": 2, "size": 24}


def test_the_verb_cuts(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL, time_ns=[i * 10**9 for i in range(6)])
    for option, value, events in (("--events", "1:3", 3), ("--time", "1.0:3.0", 3), ("--threads", "9", 2)):
        done = harness("convert", path, str(tmp_path / "cut.parquet"), option, value)
        assert done.returncode == 0, done.stderr
        assert TraceReader(str(tmp_path / "cut.parquet")).events == events
    failed = harness("convert", path, str(tmp_path / "cut.parquet"), "--events", "9:")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
