"""Records that name objects by address become rows; what no program can have done is told or mended."""

from __future__ import annotations

import numpy as np
import pytest
from support import SMALL, columns, write_trace

from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, THREAD_END, find
from harness.conversion import convert
from harness.errors import TraceError
from harness.formats import Reading
from harness.formats._formats import AddressBook, Recorder, RecordFault
from harness.formats.addresses import in_words
from harness.replay import replay
from harness.trace import TraceReader, TraceWriter


def booked(records, lenient=False, unit="line"):
    """Rows (op, object, size), and the counts that are not 0, of records (op, address, old address, size)."""
    book = AddressBook(lenient=lenient, unit=unit)
    op, address, old, size = zip(*records, strict=True)
    rows = book.rows(
        op=np.array(op, np.uint8),
        thread=np.zeros(len(op), np.uint32),
        address=np.array(address, np.uint64),
        old_address=np.array(old, np.uint64),
        size=np.array(size, np.uint64),
        place=np.arange(1, len(op) + 1, dtype=np.uint64),
    )
    found = [
        tuple(int(value) for value in row)
        for row in zip(rows["op"], rows["object"], rows["size"], strict=True)
    ]
    return found, {name: count for name, count in book.counts().items() if count}


def test_an_object_keeps_its_slot_wherever_a_realloc_moves_it():
    found, counts = booked(
        [
            (ALLOC, 0x10, 0, 5),
            (CALLOC, 0x20, 0, 6),
            (REALLOC, 0x30, 0x10, 50),
            (FREE, 0x30, 0, 0),
            (GC, 0, 0, 0),
        ]
    )
    assert found == [(ALLOC, 0, 5), (CALLOC, 1, 6), (REALLOC, 0, 50), (FREE, 0, 0), (GC, 0, 0)]
    assert not counts


def test_the_lowest_free_slot_is_taken_next():
    found, _ = booked(
        [*((ALLOC, at, 0, 1) for at in (1, 2, 3)), (FREE, 2, 0, 0), (FREE, 1, 0, 0), (ALLOC, 9, 0, 1)]
    )
    assert found[-1] == (ALLOC, 0, 1)


def test_realloc_of_null_allocates_and_to_nothing_frees():
    found, counts = booked([(REALLOC, 0x10, 0, 5), (REALLOC, 0, 0x10, 0), (ALLOC, 0x10, 0, 1)])
    assert found == [(ALLOC, 0, 5), (FREE, 0, 0), (ALLOC, 0, 1)]
    assert not counts


def test_what_failed_and_frees_of_null_are_left_out():
    found, counts = booked(
        [(ALLOC, 0, 0, 99), (FREE, 0, 0, 0), (ALLOC, 8, 0, 1), (REALLOC, 0, 8, 99), (FREE, 8, 0, 0)]
    )
    assert found == [(ALLOC, 0, 1), (FREE, 0, 0)]
    assert counts == {"failed_allocations": 2, "null_frees": 1}


IMPOSSIBLE = [
    ([(FREE, 0x10, 0, 0)], "unknown_frees", [], "free of 0x10, which is not live"),
    (
        [(ALLOC, 8, 0, 1), (FREE, 8, 0, 0), (FREE, 8, 0, 0)],
        "unknown_frees",
        [(ALLOC, 0, 1), (FREE, 0, 0)],
        "line 3: found a free",
    ),
    ([(REALLOC, 8, 16, 3)], "unknown_reallocations", [(ALLOC, 0, 3)], "realloc of 0x10, which is not live"),
    (
        [(ALLOC, 8, 0, 1), (ALLOC, 8, 0, 2)],
        "unseen_frees",
        [(ALLOC, 0, 1), (FREE, 0, 0), (ALLOC, 0, 2)],
        "line 2: found an allocation at 0x8, where an object lives",
    ),
    (
        [(ALLOC, 8, 0, 1), (ALLOC, 9, 0, 2), (REALLOC, 9, 8, 3)],
        "unseen_frees",
        [(ALLOC, 0, 1), (ALLOC, 1, 2), (FREE, 1, 0), (REALLOC, 0, 3)],
        "line 3: found an allocation at 0x9",
    ),
    ([(ALLOC, 8, 0, 2**47)], "impossible_sizes", [], "found 140737488355328 bytes"),
    (
        [(ALLOC, 8, 0, 2**47 - 1), (ALLOC, 9, 0, 1)],
        "impossible_sizes",
        [(ALLOC, 0, 2**47 - 1)],
        "line 2: found 1 bytes where 140737488355327 are live",
    ),
]


@pytest.mark.parametrize(("records", "kind", "rows", "text"), IMPOSSIBLE)
def test_what_no_program_can_have_done_is_told_with_its_place_or_mended(records, kind, rows, text):
    with pytest.raises(RecordFault, match=text):
        booked(records)
    assert booked(records, lenient=True) == (rows, {kind: 1})


def test_a_clock_that_goes_back_is_told_or_stands_still():
    def times(lenient):
        book = AddressBook(lenient=lenient, unit="record")
        zeros = np.zeros(3, np.uint64)
        addresses = np.array([8, 9, 10], np.uint64)
        rows = book.rows(
            op=np.full(3, ALLOC, np.uint8),
            thread=np.zeros(3, np.uint32),
            address=addresses,
            old_address=zeros,
            size=zeros,
            place=addresses,
            time_ns=np.array([5, 3, 7], np.int64),
        )
        return rows["time_ns"].tolist(), book.counts()["clock_steps_back"]

    with pytest.raises(RecordFault, match="record 9: found the time 3 ns after 5"):
        times(lenient=False)
    assert times(lenient=True) == ([5, 5, 7], 1)


@pytest.mark.parametrize(
    ("kind", "count", "text"),
    [
        ("unknown_frees", 1, "dropped: 1 free of what was not live"),
        ("bad_lines", 2000, "dropped: 2,000 lines that could not be read"),
        ("lost_pages", 3, "lost pages: 3"),
    ],
)
def test_repairs_are_said_in_words(kind, count, text):
    assert in_words(kind, count) == text


def test_our_own_traces_are_mended_too_and_their_runs_say_so(tmp_path):
    with TraceWriter(str(tmp_path / "bad.parquet"), source={}) as writer:
        writer.write(columns([(FREE, 0, 7, 0), *SMALL, (ALLOC, 0, 2**64 - 1, 5), (THREAD_END, 0, 0, 0)]))
    target = str(tmp_path / "good.parquet")
    with pytest.raises(TraceError, match="row 0, column object"):
        convert(str(tmp_path / "bad.parquet"), target)
    result = convert(str(tmp_path / "bad.parquet"), target, reading=Reading(lenient=True))
    assert result.warnings == ["dropped: 1 free of what was not live"]
    assert TraceReader(target).metadata["losses"] == result.warnings
    assert "the trace: dropped: 1 free of what was not live" in replay(target, find("ideal")).runs[0].warnings


def test_lenient_changes_nothing_of_a_trace_without_fault(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL)
    digests = set()
    for lenient in (False, True):
        target = str(tmp_path / f"{lenient}.parquet")
        assert not convert(path, target, reading=Reading(lenient=lenient)).warnings
        digests.add(TraceReader(target).metadata["digest"])
    assert len(digests) == 1


# Values of op that stand in no trace: address_book.hpp.
BEGIN = 128


def partly_booked(records, recorder):
    """Rows (op, object, size) and the counts that are not 0, of records (op, thread, address, old, size)."""
    book = AddressBook(lenient=False, unit="line", recorder=recorder)
    op, thread, address, old, size = zip(*records, strict=True)
    rows = book.rows(
        op=np.array(op, np.uint8),
        thread=np.array(thread, np.uint32),
        address=np.array(address, np.uint64),
        old_address=np.array(old, np.uint64),
        size=np.array(size, np.uint64),
        place=np.arange(1, len(op) + 1, dtype=np.uint64),
    )
    found = [
        tuple(int(value) for value in row)
        for row in zip(rows["op"], rows["object"], rows["size"], strict=True)
    ]
    return found, {name: count for name, count in book.counts().items() if count}


@pytest.mark.parametrize(("records", "kind", "rows", "text"), IMPOSSIBLE)
def test_what_a_recorder_may_miss_is_counted_and_no_fault(records, kind, rows, text):
    partial = [(op, 0, address, old, size) for op, address, old, size in records]
    if kind == "impossible_sizes":
        with pytest.raises(RecordFault, match=text):
            partly_booked(partial, Recorder.PARTIAL)
    else:
        assert partly_booked(partial, Recorder.PARTIAL) == (rows, {kind: 1})


def test_from_its_begin_on_a_realloc_leaves_its_address_to_others():
    found, counts = partly_booked(
        [
            (ALLOC, 1, 8, 0, 10),
            (BEGIN, 1, 8, 0, 0),
            (ALLOC, 2, 8, 0, 11),
            (FREE, 2, 8, 0, 0),
            (ALLOC, 2, 8, 0, 12),
            (REALLOC, 1, 16, 8, 99),
            (FREE, 2, 8, 0, 0),
            (FREE, 1, 16, 0, 0),
        ],
        Recorder.WHOLE,
    )
    rows = [(ALLOC, 0, 10), (ALLOC, 1, 11), (FREE, 1, 0), (ALLOC, 1, 12), (REALLOC, 0, 99)]
    assert found == [*rows, (FREE, 1, 0), (FREE, 0, 0)]
    assert not counts


@pytest.mark.parametrize(
    ("end", "rows"),
    [
        ((REALLOC, 1, 8, 8, 99), [(REALLOC, 0, 99), (FREE, 0, 0)]),
        ((REALLOC, 1, 0, 8, 99), [(FREE, 0, 0)]),
        ((ALLOC, 1, 16, 0, 5), [(ALLOC, 1, 5)]),
        ((FREE, 1, 16, 0, 0), [(FREE, 0, 0)]),
    ],
    ids=["in place", "that fails", "whose end is missing, within its thread", "whose end is missing"],
)
def test_a_realloc_that_began(end, rows):
    found, _ = partly_booked(
        [(ALLOC, 1, 8, 0, 10), (BEGIN, 1, 8, 0, 0), end, (FREE, 1, 8, 0, 0)], Recorder.PARTIAL
    )
    assert found == [(ALLOC, 0, 10), *rows, *([(FREE, 0, 0)] if end[0] == ALLOC else [])]


def test_a_realloc_whose_end_is_missing_ends_its_object_where_its_address_is_anothers():
    found, counts = partly_booked(
        [(ALLOC, 1, 8, 0, 10), (BEGIN, 1, 8, 0, 0), (ALLOC, 2, 8, 0, 11), (FREE, 1, 8, 0, 0)],
        Recorder.PARTIAL,
    )
    assert found == [(ALLOC, 0, 10), (ALLOC, 1, 11), (FREE, 0, 0)]
    assert not counts
    found, counts = partly_booked(
        [(ALLOC, 1, 8, 0, 10), (BEGIN, 1, 8, 0, 0), (ALLOC, 2, 8, 0, 11), (BEGIN, 1, 24, 0, 0)],
        Recorder.PARTIAL,
    )
    assert (found[-1], counts) == ((FREE, 0, 0), {"unseen_frees": 1})


def test_frees_told_late_are_of_the_first_object_of_their_address():
    records = [
        *((ALLOC, 1, 8, 0, size) for size in (10, 11, 12)),
        (FREE, 1, 8, 0, 0),
        (REALLOC, 1, 16, 8, 99),
        *((FREE, 1, address, 0, 0) for address in (8, 16)),
    ]
    rows = [
        (ALLOC, 0, 10),
        (ALLOC, 1, 11),
        (ALLOC, 2, 12),
        (FREE, 0, 0),
        (REALLOC, 1, 99),
        (FREE, 2, 0),
        (FREE, 1, 0),
    ]
    for recorder in (Recorder.LATE_FREES, Recorder.LATE_REALLOCS):
        assert partly_booked(records, recorder) == (rows, {"late_frees": 2})
