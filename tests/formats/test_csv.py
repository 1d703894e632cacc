"""CSV: round trips, what is tolerated, and one line for whatever is not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SMALL, columns, random_rows, write_trace

from harness.conversion import convert
from harness.errors import TraceError
from harness.formats import Description
from harness.formats.csv import Csv, CsvTrace
from harness.trace import TraceReader

HEADER = "op,thread,object,size\n"
ALL = {
    "alignment": [0, 16, 0, 0, 4096, 0],
    "noscan": [True, False, True, False, False, False],
    "time_ns": [-5, 0, 3, 2**62, 2**63 - 2, 2**63 - 1],
    "site": [0, 1, 2, 3, 2**32 - 1, 0],
}


def digest(path):
    return TraceReader(str(path)).metadata["digest"]


def read(path, text):
    """The rows of a CSV file with this text, column by column."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    batches = list(CsvTrace(str(path)).raw_batches())
    return {name: [value for batch in batches for value in batch[name].tolist()] for name in batches[0]}


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.zst"])
@pytest.mark.parametrize("optional", [{}, ALL], ids=["required", "all columns"])
def test_parquet_to_csv_and_back_is_the_same(tmp_path, suffix, optional):
    path = write_trace(tmp_path / "t.parquet", SMALL, **optional)
    convert(path, str(tmp_path / f"t.{suffix}"))
    convert(str(tmp_path / f"t.{suffix}"), str(tmp_path / "back.parquet"))
    assert digest(tmp_path / "back.parquet") == digest(path)


def test_a_file_of_many_blocks_is_the_same(tmp_path):
    path = write_trace(tmp_path / "t.parquet", random_rows(150_000))
    convert(path, str(tmp_path / "t.csv.zst"))
    convert(str(tmp_path / "t.csv.zst"), str(tmp_path / "back.parquet"))
    assert digest(tmp_path / "back.parquet") == digest(path)


def test_the_text_is_plain(tmp_path):
    convert(write_trace(tmp_path / "t.parquet", SMALL[:2], noscan=[True, False]), str(tmp_path / "t.csv"))
    assert (tmp_path / "t.csv").read_text() == (
        "op,thread,object,size,noscan\nalloc,7,0,100,true\nalloc,7,1,40000,false\n"
    )


def test_what_csv_cannot_hold_is_said(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL)
    assert convert(path, str(tmp_path / "t.csv")).warnings == [
        "csv holds no metadata: what the trace says of its source stays behind"
    ]
    convert(str(tmp_path / "t.csv"), str(tmp_path / "back.parquet"))
    source = TraceReader(str(tmp_path / "back.parquet")).metadata["source"]
    assert source == {"program": "unknown", "file": "t.csv"}


def test_columns_may_stand_in_any_order_quoted_and_among_others(tmp_path):
    text = '\ufeff"size",comment,op,object,thread\r\n"8","a, b",alloc,0x7f00,1\r\n\r\n0,,free,32512,"2"\r\n'
    assert read(tmp_path / "t.csv", text) == {
        "op": [1, 4],
        "thread": [1, 2],
        "object": [0x7F00, 0x7F00],
        "size": [8, 0],
    }
    assert CsvTrace(str(tmp_path / "t.csv")).unknown_columns == ["comment"]


@pytest.mark.parametrize("flags", [("true", "false"), ("1", "0"), ("True", "False")])
def test_ops_may_be_numbers_and_flags_have_several_spellings(tmp_path, flags):
    text = "op,thread,object,size,noscan\n" + "".join(f"{op},0,0,8,{flags[op % 2]}\n" for op in range(1, 7))
    found = read(tmp_path / "t.csv", text)
    assert found["op"] == [1, 2, 3, 4, 5, 6]
    assert found["noscan"] == [0, 1, 0, 1, 0, 1]


def test_a_header_alone_is_an_empty_trace(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER)
    assert convert(str(tmp_path / "t.csv"), str(tmp_path / "t.parquet")).events == 0


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)),
        min_size=1,
    )
)
def test_every_number_that_a_column_can_hold_comes_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    threads, objects, times = zip(*values, strict=True)
    rows = [(1, thread, name, name) for thread, name in zip(threads, objects, strict=True)]
    with Csv().write(str(path), Description(("time_ns",), {}, None)) as writer:
        writer.write(columns(rows, time_ns=times))
    found = read(path, path.read_bytes())
    assert found["thread"] == list(threads)
    assert found["object"] == found["size"] == list(objects)
    assert found["time_ns"] == list(times)


BAD = {
    "empty": ("", "column op is missing; expected op, thread, object, size and found no column at all"),
    "missing column": (
        "op,thread,object\nalloc,0,0\n",
        "column size is missing; expected op, thread, object, size and found op, thread, object",
    ),
    "column twice": ("op,thread,object,size,op\n", "column op stands 2 times, expected once"),
    "too few values": (
        HEADER + "alloc,0,0,8\nalloc,0,1\n",
        "row 1: found 3 values in 'alloc,0,1', expected 4",
    ),
    "too many values": (
        HEADER + "alloc,0,0,8,9\n",
        "row 0: found 5 values in 'alloc,0,0,8,9', expected 4",
    ),
    "too few values, not UTF-8": (HEADER.encode() + b"alloc,0,\xc3\n", "row 0: found 3 values in 'alloc,0,"),
    "unknown op": (
        HEADER + "alloc,0,0,8\nmmap,0,1,8\n",
        "row 1, column op: found 'mmap', expected alloc, calloc, realloc, free, gc, thread_end",
    ),
    "negative size": (
        HEADER + "alloc,0,0,-8\n",
        "row 0, column size: found '-8', expected a whole number from 0 to 18,446,744,073,709,551,615",
    ),
    "huge number": (
        HEADER + "alloc,0,0,8\nalloc,0,99999999999999999999,8\n",
        "row 1, column object: found '99999999999999999999', expected a whole number from 0 to",
    ),
    "fraction": (HEADER + "alloc,0,0,8.5\n", "row 0, column size: found '8.5', expected a whole number"),
    "nothing": (
        HEADER + "alloc,0,0,8\nalloc,,1,8\n",
        "row 1, column thread: found '', expected a whole number",
    ),
    "text for a flag": (
        "op,thread,object,size,noscan\nalloc,0,0,8,maybe\n",
        "row 0, column noscan: found 'maybe', expected true or false",
    ),
    "thread beyond 32 bits": (
        HEADER + "alloc,4294967296,0,8\n",
        "row 0, column thread: found '4294967296', expected a whole number from 0 to 4,294,967,295",
    ),
    "not UTF-8": (HEADER.encode() + b"alloc,0,0,\xff\n", "row 0 or after: is damaged: "),
    "quote without end": (HEADER + 'alloc,0,0,"8\n', "row 0, column size: found '8\\n', expected"),
    "a line without end": (
        HEADER + "alloc,0,0," + "8" * (2 << 20) + "\n",
        "row 0 or after: found a row of more than 1,048,576 bytes, expected a line an event",
    ),
    "a row that no program could produce": (
        HEADER + "alloc,0,0,8\nfree,0,1,0\n",
        "row 1, column object: free of object 1, which is not live",
    ),
    "a size beyond the address space": (
        HEADER + "alloc,0,0,9223372036854775808\n",
        "row 0, column size: found 9223372036854775808 bytes, expected less than 2^47",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_fault_is_one_line_with_file_row_and_column(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TraceError) as caught:
        convert(str(path), str(tmp_path / "out.parquet"))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


def test_rows_are_counted_across_blocks(tmp_path):
    good = "".join(f"alloc,0,{i},8\n" for i in range(150_000))
    for bad, message in (("alloc,0,1\n", ": found 3 values"), ("alloc,0,1,x\n", ", column size: found 'x'")):
        (tmp_path / "bad.csv").write_text(HEADER + good + bad)
        with pytest.raises(TraceError, match=f"row 150000{message}"):
            convert(str(tmp_path / "bad.csv"), str(tmp_path / "out.parquet"))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-500], lambda data: data[:5_000] + b"\0" * 400 + data[5_400:]]
)
@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_damaged_compression_is_one_line(tmp_path, damage, suffix):
    convert(write_trace(tmp_path / "t.parquet", random_rows(20_000)), str(tmp_path / f"t.csv.{suffix}"))
    path = tmp_path / f"bad.csv.{suffix}"
    path.write_bytes(damage((tmp_path / f"t.csv.{suffix}").read_bytes()))
    with pytest.raises(TraceError) as caught:
        convert(str(path), str(tmp_path / "out.parquet"))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


def test_compression_is_seen_in_the_content_and_not_in_the_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(gzip.compress((HEADER + "alloc,0,0,8\n").encode()))
    assert convert(str(tmp_path / "t.csv"), str(tmp_path / "a.parquet")).events == 1
    (tmp_path / "plain.csv.gz").write_text(HEADER + "alloc,0,0,8\n")
    assert convert(str(tmp_path / "plain.csv.gz"), str(tmp_path / "b.parquet")).events == 1


def test_a_folder_and_a_missing_file_are_one_line(tmp_path):
    for path, reason in ((tmp_path, "is a directory"), (tmp_path / "none.csv", "no such file")):
        with pytest.raises(TraceError, match=reason):
            convert(str(path), str(tmp_path / "out.parquet"), from_format="csv")
    with pytest.raises(TraceError, match="cannot be written"):
        convert(write_trace(Path(tmp_path / "t.parquet")), str(tmp_path / "none" / "t.csv"))
