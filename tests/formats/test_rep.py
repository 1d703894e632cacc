"""Traces of CS:APP's malloc lab are read as its driver does, and written with a header that counts them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from broken_support import expect_one_line_or_a_trace
from support import write_trace

from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, THREAD_END, find
from harness.conversion import convert
from harness.errors import HarnessError, TraceError
from harness.formats import Reading, of_source
from harness.replay import replay
from harness.trace import TraceReader

NO_THREADS = "the format knows no threads: every call stands under thread 0"


def converted(tmp_path, text, **reading):
    (tmp_path / "t.rep").write_text(text)
    target = str(tmp_path / "t.parquet")
    result = convert(str(tmp_path / "t.rep"), target, reading=Reading(**reading))
    return rows_of(target), [warning for warning in result.warnings if warning != NO_THREADS]


def rows_of(path):
    return [
        tuple(int(raw[name][row]) for name in ("op", "object", "size"))
        for raw in TraceReader(path).raw_batches()
        for row in range(len(raw["op"]))
    ]


# What the README of the lab's traces shows.
README = "20000\n3\n8\n1\na 0 512\na 1 128\nr 0 640\na 2 128\nf 1\nr 0 768\nf 0\nf 2\n"
README_ROWS = [
    (ALLOC, 0, 512),
    (ALLOC, 1, 128),
    (REALLOC, 0, 640),
    (ALLOC, 2, 128),
    (FREE, 1, 0),
    (REALLOC, 0, 768),
    (FREE, 0, 0),
    (FREE, 2, 0),
]


@pytest.mark.parametrize("text", [README, README.replace("\n", "\r\n"), README.rstrip(), README + "\n\n"])
def test_operations_are_read(tmp_path, text):
    assert converted(tmp_path, text) == (README_ROWS, [])
    (tmp_path / "t.rep").rename(tmp_path / "unnamed")
    assert of_source(str(tmp_path / "unnamed"))[0] == "rep"


def test_what_has_no_block_is_null_as_in_the_driver(tmp_path):
    text = "0\n3\n9\n0\nf -1\nr 0 10\nr 0 20\nr 0 0\nf 0\na 1 5\nr 1 0\na 1 6\nr 2 0\n"
    assert converted(tmp_path, text)[0] == [
        (ALLOC, 0, 10),
        (REALLOC, 0, 20),
        (FREE, 0, 0),
        (ALLOC, 0, 5),
        (FREE, 0, 0),
        (ALLOC, 0, 6),
    ]


def test_what_is_left_out_is_named(tmp_path):
    text = "0\n1\n3\n0\na 0 10\nw 0 4\nf 0\nf 0\na 0 5\n"
    rows, losses = converted(tmp_path, text)
    assert rows == [(ALLOC, 0, 10), (FREE, 0, 0)]
    assert losses == [
        "left out: 2 lines behind as many as the header counts",
        "left out: 1 write to a block",
    ]


FAULTS = [
    ("0\n1\n1\n0\nb 0 5\n", "line 5: found 'b 0 5', expected a ID SIZE, r ID SIZE or f ID"),
    ("0\n1\n1\n0\na 0\n", "line 5: found 'a 0', expected a decimal number"),
    ("0\n1\n1\n0\na 1 5\n", "line 5: found 'a 1 5', expected an id below 1, as the second line says"),
    ("0\n1\n1\n0\nf 0 5\n", "line 5: found 'f 0 5', expected the end of the line"),
    ("0\n1\n1\n0\nf 0\n", "line 5: found a free of 0, which is not live"),
    ("0\n1\n2\n0\na 0 1\na 0 2\n", "line 6: found an allocation at 0, where an object lives"),
    (
        "0\n2\n3\n0\na 0 1\n",
        "line 6: found 'the end of the file', expected 3 operations, as the third line says",
    ),
    ("0\n1\n", "line 3: found 'the end of the file', expected a header of four numbers"),
    ("0\n1\n1 1\n", "line 3: found '1 1', expected the end of the line"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_a_fault_is_told_with_its_line(tmp_path, text, message):
    (tmp_path / "t.rep").write_text(text)
    with pytest.raises(TraceError) as caught:
        convert(str(tmp_path / "t.rep"), str(tmp_path / "t.parquet"))
    assert message in str(caught.value)


def test_a_lenient_reader_mends_and_counts(tmp_path):
    text = "0\n2\n9\n0\na 0 1\na 0 2\nf 1\nx\na 1 3\n"
    rows, losses = converted(tmp_path, text, lenient=True)
    assert rows == [(ALLOC, 0, 1), (FREE, 0, 0), (ALLOC, 0, 2), (ALLOC, 1, 3)]
    assert losses == [
        "dropped: 1 free of what was not live",
        "put in: 1 free, of an address given out anew",
        "dropped: 2 lines that could not be read",
    ]


def test_broken_files_are_one_line_or_a_trace(tmp_path):
    strict, lenient = expect_one_line_or_a_trace(tmp_path, "rep", README.encode())
    assert lenient > strict > 0


def test_a_trace_is_written_with_an_id_for_each_allocation(tmp_path):
    rows = [
        (ALLOC, 3, 0, 10),
        (CALLOC, 3, 1, 20),
        (FREE, 4, 0, 0),
        (ALLOC, 3, 0, 30),
        (REALLOC, 3, 1, 40),
        (REALLOC, 3, 0, 0),
        (GC, 3, 0, 0),
        (THREAD_END, 4, 0, 0),
    ]
    source = write_trace(
        tmp_path / "t.parquet",
        rows,
        alignment=[64, *[0] * 7],
        noscan=[False] * 8,
        time_ns=range(8),
        site=[0] * 8,
    )
    result = convert(source, str(tmp_path / "t.rep"))
    assert (tmp_path / "t.rep").read_text() == (
        "1\n4\n7\n1\na 0 10\na 1 20\nf 0\na 2 30\nr 1 40\nf 2\na 3 0\n"
    )
    assert result.warnings[1:] == [
        "rep: left behind: which objects hold no pointers",
        "rep: left behind: the times",
        "rep: left behind: the allocation sites",
        "rep: left out: 1 explicit collection",
        "rep: left out: 1 end of a thread",
        "rep: made a malloc: 1 calloc",
        "rep: left out: 1 alignment",
        "rep: put under one thread with the rest: 1 call of another thread",
    ]


TRACES = sorted((Path(__file__).parents[2] / "traces").glob("*.parquet"))


@pytest.mark.parametrize("source", TRACES, ids=[path.stem for path in TRACES])
def test_the_way_out_and_back_keeps_what_a_program_asked_for(tmp_path, source):
    convert(str(source), str(tmp_path / "t.rep"))
    convert(str(tmp_path / "t.rep"), str(tmp_path / "back.parquet"))
    before, after = (
        {
            name: np.concatenate([raw[name][raw["op"] < GC] for raw in TraceReader(path).raw_batches()])
            for name in ("op", "size")
        }
        for path in (str(source), str(tmp_path / "back.parquet"))
    )
    before["op"][before["op"] == CALLOC] = ALLOC
    assert all((before[name] == after[name]).all() for name in before)
    peaks = [
        replay(path, find("ideal")).runs[0].summary["peak_requested_bytes"]
        for path in (str(source), str(tmp_path / "back.parquet"))
    ]
    assert peaks[0] == peaks[1]


def test_no_file_is_left_where_lines_cannot_be_kept(tmp_path, monkeypatch):
    source = write_trace(tmp_path / "t.parquet", [(ALLOC, 0, 0, 1)])
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(
        HarnessError, match=r"t\.rep: lines cannot be kept in .*: No space left on device; TMPDIR"
    ):
        convert(source, str(tmp_path / "t.rep"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
