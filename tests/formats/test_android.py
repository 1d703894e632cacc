"""Android's memory_replay text is read, line by line, wherever a block of the file may end."""

from __future__ import annotations

import pytest

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC, THREAD_END
from harness.conversion import convert
from harness.errors import TraceError
from harness.formats import Reading
from harness.formats._formats import AndroidReader
from harness.trace import TraceReader

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


def test_times_are_the_begins_of_the_calls(tmp_path):
    text = "".join(
        f"{line} {1000 * number} {1000 * number + 50}\n" for number, line in enumerate(CALLS.splitlines())
    )
    expected = [(*row, 1000 * number) for number, row in enumerate(ROWS)]
    assert rows_of(converted(tmp_path, text)) == expected


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
    ("7: malloc 0x5 7 1 2 3", "expected the end of the line"),
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
