"""Android's memory_replay text is read, line by line, wherever a block of the file may end, and written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from broken_support import expect_one_line_or_a_trace
from support import SMALL, write_trace

from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, THREAD_END
from harness.conversion import convert
from harness.errors import HarnessError, TraceError
from harness.formats import Reading
from harness.formats._formats import AndroidReader
from harness.trace import TraceReader, TraceWriter

CALLS = """\
12186: malloc 0x7fb42afac0 16
12186: calloc 0x7fb42afad0 2 16
12187: realloc 0x7fb42afb00 0x7fb42afac0 64
12186: memalign 0x7fb42b0000 4096 100
12186: realloc 0x0 0x7fb42afad0 0
12186: free 0x7fb42afb00
12187: thread_done 0x0
"""
ROWS = [
    (ALLOC, 12186, 0, 16, 0),
    (CALLOC, 12186, 1, 32, 0),
    (REALLOC, 12187, 0, 64, 0),
    (ALLOC, 12186, 2, 100, 4096),
    (FREE, 12186, 1, 0, 0),
    (FREE, 12186, 0, 0, 0),
    (THREAD_END, 12187, 0, 0, 0),
]


def converted(tmp_path, text, **reading):
    (tmp_path / "t.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    target = str(tmp_path / "t.parquet")
    convert(str(tmp_path / "t.txt"), target, reading=Reading(**reading))
    return target


def rows_of(path):
    reader = TraceReader(path)
    return [
        tuple(int(value) for value in row)
        for raw in reader.raw_batches()
        for row in zip(*raw.values(), strict=True)
    ]


def test_every_call_is_read(tmp_path):
    assert rows_of(converted(tmp_path, CALLS)) == ROWS


def with_times(begins):
    """The calls, each with its begin and an end 50 ns later; a thread's end has only one time."""
    return "".join(
        f"{line} {begin}\n" if "thread_done" in line else f"{line} {begin} {begin + 50}\n"
        for line, begin in zip(CALLS.splitlines(), begins, strict=True)
    )


def test_times_are_the_begins_of_the_calls(tmp_path):
    begins = [1000, 99_999_999, 100_000_000, 10**15, 10**16 + 7, 10**18, 2**63 - 51]
    expected = [(*row, begin) for row, begin in zip(ROWS, begins, strict=True)]
    assert rows_of(converted(tmp_path, with_times(begins))) == expected


def test_calls_of_threads_that_began_at_once_may_stand_the_wrong_way_round(tmp_path):
    target = converted(tmp_path, with_times([10, 9, 8, 20, 20, 19, 30]))
    assert [row[-1] for row in rows_of(target)] == [10, 10, 10, 20, 20, 20, 30]
    assert TraceReader(target).metadata["losses"] == [
        "replaced by the one before: 3 times of calls that began before those above them"
    ]


def test_a_line_without_times_among_others_takes_the_one_before(tmp_path):
    lines = with_times([1, 2, 3, 4, 5, 6, 7]).splitlines(keepends=True)
    first, *others = CALLS.splitlines(keepends=True)
    assert [row[-1] for row in rows_of(converted(tmp_path, "".join([first, *lines[1:]])))] == [
        0,
        *range(2, 8),
    ]
    assert [row[-1] for row in rows_of(converted(tmp_path, "".join([lines[0], *others])))] == [1] * 7


def test_times_behind_a_head_that_has_none_are_a_loss(tmp_path):
    quiet = "1: malloc 0x10 1\n1: free 0x10\n" * 10_000
    target = converted(tmp_path, quiet + with_times(range(7)))
    assert "time_ns" not in TraceReader(target).columns
    assert TraceReader(target).metadata["losses"] == [
        "left out: 7 lines' times, where the file's head has none"
    ]


@pytest.mark.parametrize("size", range(1, 40))
def test_a_block_may_end_anywhere(size):
    data = CALLS.encode()
    whole, parts = (AndroidReader(lenient=False, has_times=False) for _ in range(2))
    expected = whole.read(data)["address"].tolist()
    found = [parts.read(data[at : at + size])["address"].tolist() for at in range(0, len(data), size)]
    assert [address for part in found for address in part] == expected


FAULTS = [
    ("7: mlloc 0x5 7", "expected malloc, calloc, realloc, memalign, free or thread_done"),
    ("7: malloc 0x5", "expected a decimal number"),
    ("x: malloc 0x5 7", "expected a decimal number"),
    ("7: malloc 0x5 99999999999999999999", "a number is too large"),
    ("7: calloc 0x5 9999999999 9999999999", "the size is too large"),
    ("7: malloc 0x5 7 1", "expected a decimal number"),
    ("7: malloc 0x5 7 1 2 3", "expected the end of the line"),
    ("7: thread_done 0x0 1 2", "expected the end of the line"),
    ("7: malloc 0x12345678123456789 7", "a number is too large"),
    ("4294967296: malloc 0x5 7", "a number is too large"),
    ("7: malloced 0x5 7", "expected malloc, calloc, realloc, memalign, free or thread_done"),
    ("7: malloc 0x5 7" + " " * (1 << 20), "a line has at most 1048576 bytes"),
    ("7: malloc 0x5 7" + "0" * 10_000_000, "a line has at most 1048576 bytes"),
]


@pytest.mark.parametrize(("line", "expected"), FAULTS, ids=[text for _, text in FAULTS])
def test_a_bad_line_is_told_with_its_number_or_dropped(tmp_path, line, expected):
    text = f"{CALLS}{line}\n{CALLS.replace('0x7', '0x8')}"
    with pytest.raises(TraceError, match=rf"t\.txt: line 8: found '.*', {expected}; --lenient goes on"):
        converted(tmp_path, text)
    target = converted(tmp_path, text, lenient=True)
    assert TraceReader(target).metadata["losses"] == ["dropped: 1 line that could not be read"]
    assert len(rows_of(target)) == 2 * len(ROWS)


NUMBERS = [
    "0",
    "7",
    "1234567",
    "12345678",
    "123456789",
    "123456789012345",
    "1234567890123456",
    str(2**64 - 1),
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("behind", ["", " ", "\r", "x", "5"])
def test_numbers_of_any_length_are_read_and_end_where_they_end(number, behind):
    # Whatever the next line has in front, it is not this number's.
    reader = AndroidReader(lenient=True, has_times=False)
    read = reader.read(f"1: malloc 0x10 {number}{behind}\n5: free 0x10\n12345678: free 0x10\n".encode())
    whole = int(number + behind) if behind == "5" else int(number)
    bad = behind == "x" or whole >= 2**64
    assert reader.bad_lines == bad
    assert read["size"].tolist() == [0, 0] if bad else [whole, 0, 0]


@pytest.mark.parametrize("digits", range(1, 17))
def test_addresses_of_any_length_are_read(digits):
    address = "fedcba9876543210"[:digits]
    for written in (address, address.upper()):
        read = AndroidReader(lenient=False, has_times=False).read(
            f"1: free 0x{written}\n3: free 0x1\n".encode()
        )
        assert read["address"].tolist() == [int(address, 16), 1]


@pytest.mark.parametrize("character", [chr(number) for number in range(1, 256) if number != 10])
def test_only_hexadecimal_digits_are_taken_for_such(character):
    line = f"1: free 0x12{character}34\n".encode("latin-1")
    reader = AndroidReader(lenient=True, has_times=False)
    found = reader.read(line + b"1: free 0x1\n")["address"].tolist()
    is_digit = character in "0123456789abcdefABCDEF"
    assert found[0] == (int(f"12{character}34", 16) if is_digit else 1)


TRACES = sorted((Path(__file__).parents[2] / "traces").glob("*.parquet"))


@pytest.mark.parametrize("source", TRACES, ids=[path.stem for path in TRACES])
def test_the_way_out_and_back_changes_nothing_of_a_recorded_trace(tmp_path, source):
    convert(str(source), str(tmp_path / "canonical.parquet"))  # A recorder may number slots otherwise.
    convert(str(source), str(tmp_path / "t.android"))
    convert(str(tmp_path / "t.android"), str(tmp_path / "t.parquet"))
    before, after = (
        TraceReader(str(tmp_path / name)).metadata for name in ("canonical.parquet", "t.parquet")
    )
    assert after["digest"] == before["digest"]
    assert "losses" not in after


EVERYTHING = [
    (ALLOC, 0, 0, 10, 0),
    (ALLOC, 7, 1, 0, 64),
    (CALLOC, 7, 2, 100, 32),
    (REALLOC, 7, 0, 1 << 46, 0),
    (REALLOC, 0, 2, 5, 4096),
    (GC, 0, 0, 0, 0),
    (FREE, 0, 1, 0, 0),
    (ALLOC, 0, 1, 1, 1 << 31),
    (THREAD_END, 7, 0, 0, 0),
]


def test_what_calls_cannot_say_is_named(tmp_path):
    source = str(tmp_path / "t.parquet")
    op, thread, slot, size, alignment = (np.array(column) for column in zip(*EVERYTHING, strict=True))
    with TraceWriter(source, source={}, optional=("alignment", "noscan", "time_ns", "site")) as writer:
        writer.write(
            {
                "op": op.astype(np.uint8),
                "thread": thread.astype(np.uint32),
                "object": slot.astype(np.uint64),
                "size": size.astype(np.uint64),
                "alignment": alignment.astype(np.uint32),
                "noscan": np.zeros(len(op), bool),
                "time_ns": np.arange(-3, len(op) - 3),
                "site": np.zeros(len(op), np.uint32),
            }
        )
    result = convert(source, str(tmp_path / "t.android"))
    assert result.warnings == [
        "android holds no metadata: what the trace says of its source stays behind",
        "android: left behind: which objects hold no pointers",
        "android: left behind: the allocation sites",
        "android: left out: 1 explicit collection",
        "android: left out: 2 alignments of callocs and reallocs",
    ]
    text = (tmp_path / "t.android").read_text()
    assert (
        text
        == """\
4194304: malloc 0x10000 10 -3 -3
7: memalign 0x10040 64 0 -2 -2
7: calloc 0x10060 1 100 -1 -1
7: realloc 0x100d0 0x10000 70368744177664 0 0
4194304: realloc 0x400000011000 0x10060 5 1 1
4194304: free 0x10040 3 3
4194304: memalign 0x400080000000 2147483648 1 4 4
7: thread_done 0x0 5
"""
    )
    convert(str(tmp_path / "t.android"), str(tmp_path / "back.parquet"))
    kept = [(*row, time) for time, row in enumerate(EVERYTHING, -3) if row[0] != GC]
    kept = [(*row[:4], row[4] if row[0] == ALLOC else 0, row[5]) for row in kept]
    assert rows_of(str(tmp_path / "back.parquet")) == kept


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([(ALLOC, 4_194_304, 0, 1)], "found thread 4194304, expected one below 4194304"),
        (
            [row for slot in range(65_536) for row in ((ALLOC, 0, 0, 2**47 - 1), (FREE, 0, 0, 0))],
            "more than 2^63 bytes allocated in all",
        ),
    ],
)
def test_what_the_format_has_no_numbers_for_is_refused_and_leaves_no_file(tmp_path, rows, text):
    source = write_trace(tmp_path / "t.parquet", rows)
    with pytest.raises(
        HarnessError, match=re.escape(f"t.android: {text}") if "thread" in text else re.escape(text)
    ):
        convert(source, str(tmp_path / "t.android"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_a_compressed_file_is_written_and_recognised(tmp_path):
    source = write_trace(tmp_path / "t.parquet", SMALL)
    for suffix in (".gz", ".zst"):
        convert(source, str(tmp_path / f"t.android{suffix}"))
        (tmp_path / f"t.android{suffix}").rename(tmp_path / "unnamed")
        convert(str(tmp_path / "unnamed"), str(tmp_path / "back.parquet"))
        assert [row[:4] for row in rows_of(str(tmp_path / "back.parquet"))] == [
            row[:4] for row in rows_of(source)
        ]


def test_broken_files_are_one_line_or_a_trace(tmp_path):
    strict, lenient = expect_one_line_or_a_trace(tmp_path, "android", with_times(range(7)).encode())
    assert lenient > strict > 0
