"""Traces on disk: what is written is read, and a fault is one line with file, row and column."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import SMALL, columns, random_rows, write_trace

from harness.allocator import ALLOC, CALLOC, FREE, GC, OP_NAMES, REALLOC, THREAD_END
from harness.errors import TraceError
from harness.trace import COLUMNS, AtomicOutput, Noscan, TraceReader, TraceWriter

SLOT_REST = 2048  # events.hpp


def checked(path, **options):
    trace = TraceReader(str(path)).checked(**options)
    batches = list(trace)
    return trace.totals(), batches


def test_what_is_written_is_read(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL, time_ns=range(6), noscan=[True, False] * 3)
    reader = TraceReader(path)
    (raw,) = reader.raw_batches()
    for name, values in columns(SMALL, time_ns=range(6), noscan=[True, False] * 3).items():
        np.testing.assert_array_equal(raw[name], values)
    assert reader.metadata["schema"] == "harness-trace/1"
    assert reader.metadata["noscan"] == "known"
    assert reader.events == 6


def test_the_row_of_a_free_carries_what_its_object_asked_for(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL, noscan=[True, False, False, False, False, True])
    totals, (batch,) = checked(path)
    assert batch.size.tolist() == [100, 40_000, 24, 100, 8, 40_000]
    assert batch.noscan.tolist() == [1, 0, 0, 1, 0, 0]
    assert batch.owner.tolist() == [0, 0, 1, 0, 1, 0]
    assert batch.requested.tolist() == [100, 40_100, 40_124, 40_024, 40_032, 32]
    assert totals["remote_frees"] == 1
    assert totals["peak_requested_bytes"] == 40_124
    assert totals["peak_requested_event"] == 2
    assert totals["end_live_objects"] == 2


def test_ops_may_be_a_dictionary_of_names(tmp_path):
    table = pa.table(columns(SMALL))
    names = pa.array([OP_NAMES[op] for op, *_ in SMALL]).dictionary_encode()
    pq.write_table(table.set_column(0, "op", names), tmp_path / "named.parquet")
    (raw,) = TraceReader(str(tmp_path / "named.parquet")).raw_batches()
    assert raw["op"].tolist() == [op for op, *_ in SMALL]


def test_the_digest_is_of_the_content_and_not_of_its_batches(tmp_path):
    rows = random_rows(1000)
    whole = TraceReader(write_trace(tmp_path / "whole.parquet", rows)).metadata["digest"]
    with TraceWriter(str(tmp_path / "parts.parquet"), source={}) as writer:
        for i in range(0, len(rows), 7):
            writer.write(columns(rows[i : i + 7]))
    assert TraceReader(str(tmp_path / "parts.parquet")).metadata["digest"] == whole
    other = write_trace(tmp_path / "other.parquet", [*rows, (ALLOC, 0, 10**6, 1)])
    assert TraceReader(other).metadata["digest"] != whole


def test_a_file_that_fails_half_way_does_not_appear(tmp_path):
    path = write_trace(tmp_path / "t.parquet")
    before = Path(path).read_bytes()
    with pytest.raises(KeyError), TraceWriter(path, source={}) as writer:
        writer.write(columns(SMALL) | {"size": columns(SMALL)["missing"]})
    assert Path(path).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_a_folder_that_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(TraceError, match=r"cannot be written: there is no such folder"):
        AtomicOutput(str(tmp_path / "missing" / "t.parquet"))


@given(
    ids=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50, unique=True),
    order=st.randoms(use_true_random=False),
)
def test_sparse_ids_are_renamed_to_dense_slots(tmp_path_factory, ids, order):
    rows = [(ALLOC, 0, i, 16) for i in ids]
    freed = ids[:]
    order.shuffle(freed)
    rows += [(FREE, 0, i, 0) for i in freed] + [(ALLOC, 0, i, 16) for i in ids]
    path = write_trace(tmp_path_factory.mktemp("ids") / "t.parquet", rows)
    _, (batch,) = checked(path)
    slots = batch.slot.tolist()
    count = len(ids)
    assert sorted(slots[:count]) == sorted(slots[count : 2 * count]) == list(range(count))
    assert sorted(slots[2 * count :]) == list(range(count, 2 * count))  # The others rest.
    of_id = dict(zip(ids, slots[:count], strict=True))
    assert slots[count : 2 * count] == [of_id[i] for i in freed]


def test_ids_on_both_sides_of_the_direct_tables_end_are_found(tmp_path):
    ids = [2**15, 2**16 - 1, 2**16, 2**16 + 1, 2**16 + 15, 2**16 + 16, 2**16 + 17, 0]
    rows = [(ALLOC, 0, i, 8) for i in ids] + [(FREE, 0, i, 0) for i in reversed(ids)]
    totals, _ = checked(write_trace(tmp_path / "t.parquet", rows))
    assert totals["end_live_objects"] == 0


def test_addresses_as_ids_live_and_die_in_any_number(tmp_path):
    random = np.random.default_rng(1)
    rows, live = [], []
    for i in range(20_000):
        if live and random.random() < 0.49:
            rows.append((FREE, 0, live.pop(int(random.integers(len(live)))), 0))
        else:
            live.append(0x7F00_0000_0000 + 16 * i)
            rows.append((ALLOC, 0, live[-1], 32))
    totals, _ = checked(write_trace(tmp_path / "t.parquet", rows))
    assert totals["end_live_objects"] == len(live)


def test_a_slot_rests_and_then_the_last_that_did_is_given_first(tmp_path):
    """An allocation and a free in turn: each slot comes again when as many others have been freed."""
    rows = [row for i in range(3 * SLOT_REST) for row in ((ALLOC, 0, i, 8), (FREE, 0, i, 0))]
    totals, batches = checked(write_trace(tmp_path / "t.parquet", rows))
    slots = np.concatenate([batch.slot for batch in batches])[::2]
    assert slots.tolist() == [i % (SLOT_REST + 1) for i in range(3 * SLOT_REST)]
    assert (totals["peak_live_objects"], totals["end_live_objects"]) == (1, 0)


class PlainChecker:
    """What the checker makes of valid rows, in the plainest way."""

    def __init__(self):
        self.objects, self.threads, self.seen = {}, {}, 0
        self.free_slots, self.resting_slots, self.free_threads = [], deque(), []
        self.slots = self.numbers = self.remote_frees = self.peak_live = 0

    def check(self, op, thread_id, object_id, size, alignment, noscan):
        if thread_id not in self.threads:
            number = self.free_threads.pop() if self.free_threads else self.numbers
            self.numbers = max(self.numbers, number + 1)
            self.threads[thread_id] = (number, self.seen)
            self.seen += 1
        thread = self.threads[thread_id]
        known = (0, 0, 0, (0, 0))  # Slot, size, noscan, owner.
        if op in (ALLOC, CALLOC):
            slot = self.free_slots.pop() if self.free_slots else self.slots
            self.slots = max(self.slots, slot + 1)
            known = self.objects[object_id] = (slot, size, noscan, thread)
            self.peak_live = max(self.peak_live, len(self.objects))
        elif op == REALLOC:
            slot, _, *rest = self.objects[object_id]
            known = self.objects[object_id] = (slot, size, *rest)
        elif op == FREE:
            known = self.objects.pop(object_id)
            self.resting_slots.append(known[0])
            if len(self.resting_slots) > SLOT_REST:
                self.free_slots.append(self.resting_slots.popleft())
            self.remote_frees += known[3] != thread
        elif op == THREAD_END:
            del self.threads[thread_id]
            self.free_threads.append(thread[0])
        requested = sum(size for _, size, *_ in self.objects.values())
        aligned = alignment if op in (ALLOC, CALLOC, REALLOC) and alignment >= 8 else 0
        return (op, thread[0], known[0], known[1], aligned, known[2], known[3][0], requested)


@given(
    draws=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**20)), max_size=300),
    ids=st.lists(
        st.one_of(st.integers(0, 40), st.integers(65_500, 67_000), st.integers(0, 2**64 - 1)),
        min_size=1,
        max_size=12,
        unique=True,
    ),
    batch_events=st.sampled_from([1, 5, 10_000]),
)
def test_rows_come_out_as_the_plainest_checker_gives_them(tmp_path_factory, draws, ids, batch_events):
    # Threads that share a place among the known ones.
    threads = (0, 1, 1024, 1025, 2**32 - 1)
    draws = [(choice, which, threads[size % len(threads)], size) for choice, which, size in draws]
    check_as_the_plainest(tmp_path_factory.mktemp("plain") / "t.parquet", draws, ids, batch_events)


@pytest.mark.parametrize("batch_events", [997, 65_536])
@pytest.mark.parametrize("threads", [1, 7])
@pytest.mark.parametrize("odd", [0, 0.01, 0.3])
def test_thousands_of_rows_come_out_as_the_plainest_checker_gives_them(tmp_path, odd, threads, batch_events):
    random = np.random.default_rng(threads)
    count = 12_000
    choices = np.where(random.random(count) < odd, random.integers(8, 10, count), 0)
    ids = [*random.choice(65_536, 90, replace=False).tolist(), *range(10**12, 10**12 + 10)]
    # Runs of one thread's rows, among others that change.
    thread = np.repeat(random.integers(0, threads, count // 100), 100) * (random.random(count) < 0.999)
    which, sizes = random.integers(0, len(ids) - 10 * (odd == 0), count), random.integers(0, 2**20, count)
    draws = list(zip(choices.tolist(), which.tolist(), thread.tolist(), sizes.tolist(), strict=True))
    check_as_the_plainest(tmp_path / "t.parquet", draws, ids, batch_events)


def check_as_the_plainest(path, draws, ids, batch_events):
    """Check rows of every kind, as (choice, number of the id, thread, size) draw them, both ways."""
    plain, live, rows, optional, expected = PlainChecker(), set(), [], [], []
    for choice, which, thread, size in draws:
        object_id = ids[which % len(ids)]
        if choice == 9:
            row = (THREAD_END if size % 2 else GC, thread, 0, 0)
        elif object_id in live:
            row = (REALLOC, thread, object_id, size) if choice == 8 else (FREE, thread, object_id, 0)
        else:
            row = (CALLOC if choice == 8 else ALLOC, thread, object_id, size)
        live ^= {object_id} if row[0] in (ALLOC, CALLOC, FREE) else set()
        rows.append(row)
        optional.append(((0, 4, 8, 64)[which % 4], choice % 2))
        expected.append(plain.check(*row, *optional[-1]))
    alignment, noscan = zip(*optional, strict=True) if optional else ((), ())
    path = write_trace(
        path,
        rows,
        alignment=alignment,
        noscan=[bool(flag) for flag in noscan],
        time_ns=range(len(rows)),
    )
    totals, batches = checked(path, batch_events=batch_events)
    names = ("op", "thread", "slot", "size", "alignment", "noscan", "owner", "requested")
    found = [row for b in batches for row in zip(*(getattr(b, n).tolist() for n in names), strict=True)]
    assert found == expected
    requested = [row[-1] for row in expected]
    assert totals["peak_requested_bytes"] == max(requested, default=0)
    if any(requested):
        assert totals["peak_requested_event"] == requested.index(max(requested))
    assert totals["requested_sum"] == sum(requested)
    assert totals["allocated_bytes"] == sum(size for op, _, _, size in rows if op != FREE)
    assert totals["remote_frees"] == plain.remote_frees
    assert totals["threads"] == plain.seen
    assert totals["peak_live_objects"] == plain.peak_live
    assert totals["end_live_objects"] == len(live)


def test_a_batch_keeps_its_rows_for_as_long_as_one_of_its_columns_lives(tmp_path):
    path = write_trace(tmp_path / "t.parquet", random_rows(40_000))
    trace = TraceReader(path).checked(batch_events=4000)
    kept = [(batch.size, batch.size.copy()) for batch in trace]
    del trace
    for column, copy in kept:
        np.testing.assert_array_equal(column, copy)


def test_a_thread_seen_again_after_its_end_is_a_new_thread(tmp_path):
    rows = [(ALLOC, 5, 0, 8), (THREAD_END, 5, 0, 0), (ALLOC, 5, 1, 8), (FREE, 6, 0, 0)]
    totals, (batch,) = checked(write_trace(tmp_path / "t.parquet", rows))
    assert totals["threads"] == 3
    assert batch.thread.tolist() == [0, 0, 0, 1]


def test_a_free_by_the_heir_of_a_threads_number_is_remote(tmp_path):
    # The checker gives the ended thread's dense number to the next thread, which is another one all the same.
    rows = [(ALLOC, 5, 0, 8), (THREAD_END, 5, 0, 0), (FREE, 6, 0, 0)]
    totals, (batch,) = checked(write_trace(tmp_path / "t.parquet", rows))
    assert batch.thread.tolist() == [0, 0, 0]
    assert totals["remote_frees"] == 1


def test_realloc_keeps_its_object(tmp_path):
    rows = [(ALLOC, 0, 3, 10), (REALLOC, 1, 3, 30), (FREE, 0, 3, 0)]
    totals, (batch,) = checked(write_trace(tmp_path / "t.parquet", rows))
    assert batch.requested.tolist() == [10, 30, 0]
    assert batch.size.tolist() == [10, 30, 30]
    assert totals["reallocations"] == 1
    assert totals["remote_frees"] == 0


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_a_fraction_of_the_objects_is_noscan_and_always_the_same(tmp_path, fraction):
    path = write_trace(tmp_path / "t.parquet", [(ALLOC, 0, i, 8) for i in range(4000)])
    flags = [
        np.concatenate([b.noscan for b in checked(path, noscan=Noscan(fraction, True), batch_events=size)[1]])
        for size in (7, 4000)
    ]
    np.testing.assert_array_equal(*flags)
    assert abs(flags[0].mean() - fraction) < 0.03


BAD_ROWS = {
    "unknown op": ([(9, 0, 0, 8)], {}, "row 0, column op: found 9, expected 1 alloc"),
    "no op": ([(0, 0, 0, 8)], {}, "row 0, column op: found 0, expected 1 alloc"),
    "double free": (
        [(ALLOC, 0, 4, 8), (FREE, 0, 4, 0), (FREE, 0, 4, 0)],
        {},
        "row 2, column object: free of object 4, which is not live",
    ),
    "free of unknown": ([(FREE, 0, 77, 0)], {}, "row 0, column object: free of object 77, which is not live"),
    "realloc of unknown": ([(REALLOC, 0, 77, 8)], {}, "row 0, column object: realloc of object 77"),
    "allocation over a live id": (
        [(ALLOC, 0, 4, 8), (ALLOC, 0, 4, 8)],
        {},
        "row 1, column object: alloc of object 4, which is live",
    ),
    "2^63-byte request": ([(ALLOC, 0, 0, 2**63)], {}, "row 0, column size: found 9223372036854775808 bytes"),
    "more than the address space in all": (
        [(ALLOC, 0, i, 2**46) for i in range(3)],
        {},
        "row 1, column size: with these 70368744177664 bytes",
    ),
    "alignment that is no power of two": (
        [(ALLOC, 0, 0, 8)],
        {"alignment": [24]},
        "row 0, column alignment: found 24, expected a power of two",
    ),
    "clock going back": (
        [(ALLOC, 0, 0, 8), (FREE, 0, 0, 0)],
        {"time_ns": [5, 4]},
        "row 1, column time_ns: found 4 after 5",
    ),
    "too many threads": (
        [(GC, i, 0, 0) for i in range(65_536)],
        {},
        "row 65535, column thread: more than 65,535 threads alive",
    ),
}


@pytest.mark.parametrize(("rows", "optional", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("batch_events", [1, 65_536])
def test_a_row_that_no_program_could_produce_is_named(tmp_path, rows, optional, message, batch_events):
    path = write_trace(tmp_path / "bad.parquet", rows, **optional)
    with pytest.raises(TraceError) as caught:
        checked(path, batch_events=batch_events)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(("rows", "optional", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_row_is_named_behind_thousands_of_good_ones(tmp_path, rows, optional, message):
    good = [(ALLOC, 0, 1000, 8), (FREE, 0, 1000, 0)] * 3000
    row = int(re.match(r"row (\d+)", message)[1])
    columns = {name: [0] * len(good) + values for name, values in optional.items()}
    path = write_trace(
        tmp_path / "bad.parquet",
        good + rows + good,
        **{name: values + values[-1:] * len(good) for name, values in columns.items()},
    )
    with pytest.raises(TraceError) as caught:
        checked(path)
    expected = re.sub(r"row \d+", f"row {row + len(good)}", message)
    assert str(caught.value).startswith(f"{path}: {expected}")


def bad_file(tmp_path, kind):
    path = tmp_path / f"{kind.replace(' ', '-')}.parquet"
    table = pa.table(columns(SMALL))
    match kind:
        case "missing":
            pass
        case "not Parquet":
            path.write_text("op,thread,object,size\n")
        case "empty file":
            path.write_bytes(b"")
        case "truncated":
            write_trace(path, random_rows(5000))
            path.write_bytes(path.read_bytes()[:-2000])
        case "folder":
            path.mkdir()
        case "missing column":
            pq.write_table(table.drop_columns("object"), path)
        case "wrong type":
            pq.write_table(table.set_column(3, "size", table["size"].cast(pa.float64())), path)
        case "null":
            pq.write_table(table.set_column(3, "size", pa.array([1, 2, None, 4, 5, 6], pa.uint64())), path)
        case "unknown name of an op":
            names = pa.array(["alloc", "mmap", "free", "free", "free", "free"]).dictionary_encode()
            pq.write_table(table.set_column(0, "op", names), path)
        case "other schema":
            pq.write_table(
                table.replace_schema_metadata({"harness.trace": '{"schema": "harness-trace/9"}'}), path
            )
        case "damaged page":
            write_trace(path, random_rows(5000))
            data = bytearray(path.read_bytes())
            data[200:2000] = b"\xff" * 1800
            path.write_bytes(bytes(data))
    return str(path)


BAD_FILES = {
    "missing": "no such file",
    "not Parquet": "is not a whole Parquet file",
    "empty file": "is not a whole Parquet file",
    "truncated": "is not a whole Parquet file",
    "folder": "is a directory",
    "missing column": "column object is missing",
    "wrong type": "column size: found type double, expected uint64",
    "null": "row 2, column size: found null",
    "unknown name of an op": "row 1, column op: found 'mmap', expected alloc, calloc",
    "other schema": "found schema 'harness-trace/9', expected 'harness-trace/1'",
    "damaged page": "row 0 or after: ",
}


@pytest.mark.parametrize(("kind", "message"), BAD_FILES.items(), ids=BAD_FILES)
def test_a_file_that_is_no_trace_is_one_line(tmp_path, kind, message):
    path = bad_file(tmp_path, kind)
    with pytest.raises(TraceError) as caught:
        checked(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text


def test_every_column_of_the_format_has_a_type():
    assert list(COLUMNS) == ["op", "thread", "object", "size", "alignment", "noscan", "time_ns", "site"]
