"""JSON Lines: round trips, what is tolerated, and one line for whatever is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SMALL, columns, random_rows, write_trace

from harness.conversion import convert
from harness.errors import TraceError
from harness.formats import Description
from harness.formats.jsonl import JsonLines, JsonLinesTrace
from harness.trace import TraceReader

ALL = {
    "alignment": [0, 16, 0, 0, 4096, 0],
    "noscan": [True, False, True, False, False, False],
    "time_ns": [-5, 0, 3, 2**62, 2**63 - 2, 2**63 - 1],
    "site": [0, 1, 2, 3, 2**32 - 1, 0],
}
GOOD = '{"op":"alloc","thread":0,"object":0,"size":8}\n'


def digest(path):
    return TraceReader(str(path)).metadata["digest"]


def read(path, text):
    """The rows of a file with this text, column by column."""
    path.write_text(text)
    batches = list(JsonLinesTrace(str(path)).raw_batches())
    return {name: [value for batch in batches for value in batch[name].tolist()] for name in batches[0]}


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "ndjson"])
@pytest.mark.parametrize("optional", [{}, ALL], ids=["required", "all columns"])
def test_parquet_to_json_lines_and_back_is_the_same(tmp_path, suffix, optional):
    path = write_trace(tmp_path / "t.parquet", SMALL, **optional)
    convert(path, str(tmp_path / f"t.{suffix}"))
    convert(str(tmp_path / f"t.{suffix}"), str(tmp_path / "back.parquet"))
    assert digest(tmp_path / "back.parquet") == digest(path)


def test_a_file_of_many_blocks_is_the_same(tmp_path):
    path = write_trace(tmp_path / "t.parquet", random_rows(100_000))
    convert(path, str(tmp_path / "t.jsonl.zst"))
    convert(str(tmp_path / "t.jsonl.zst"), str(tmp_path / "back.parquet"))
    assert digest(tmp_path / "back.parquet") == digest(path)


def test_every_line_is_an_object_of_its_own(tmp_path):
    convert(write_trace(tmp_path / "t.parquet", SMALL, **ALL), str(tmp_path / "t.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert lines[1] == {
        "op": "alloc",
        "thread": 7,
        "object": 1,
        "size": 40_000,
        "alignment": 16,
        "noscan": False,
        "time_ns": 0,
        "site": 1,
    }


SPELLINGS = {
    "other members and orders": [
        '{"size": 8, "op": "alloc", "x": {"y": [1]}, "object": 5, "thread": 2}',
        "",
        '  {"op": "free", "thread": 3, "object": 5, "size": 0, "x": null}',
    ],
    "ops by number": [
        '{"op": 1, "thread": 2, "object": 5, "size": 8}\r',
        '{"op": 4, "thread": 3, "object": 5, "size": 0}\r',
    ],
    "ops by name and by number": [
        '{"op": "alloc", "thread": 2, "object": 5, "size": 8}',
        '{"op": 4, "thread": 3, "object": 5, "size": 0}',
    ],
}


@pytest.mark.parametrize("lines", SPELLINGS.values(), ids=SPELLINGS)
def test_any_spelling_of_an_object_is_read(tmp_path, lines):
    assert read(tmp_path / "t.jsonl", "\n".join(lines)) == {
        "op": [1, 4],
        "thread": [2, 3],
        "object": [5, 5],
        "size": [8, 0],
    }


def test_an_empty_file_is_an_empty_trace(tmp_path):
    (tmp_path / "t.jsonl").write_text("")
    assert convert(str(tmp_path / "t.jsonl"), str(tmp_path / "t.parquet")).events == 0


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), st.booleans()), min_size=1
    ),
    mixed=st.booleans(),
)
def test_every_value_that_a_column_can_hold_comes_back_either_way(tmp_path_factory, values, mixed):
    """By Arrow's parser, and line by line where one op is a number among names."""
    path = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    sizes, times, flags = zip(*values, strict=True)
    with JsonLines().write(str(path), Description(("noscan", "time_ns"), {}, None)) as writer:
        writer.write(columns([(1, 0, size, size) for size in sizes], time_ns=times, noscan=flags))
    text = path.read_text()
    if mixed:
        text += '{"op":4,"thread":0,"object":1,"size":0,"noscan":false,"time_ns":0}\n'
        sizes, times, flags = (*sizes, 0), (*times, 0), (*flags, False)
    found = read(path, text)
    assert found["size"] == list(sizes)
    assert found["time_ns"] == list(times)
    assert found["noscan"] == list(flags)


BAD = {
    "missing member in the first line": (
        '{"op":"alloc","thread":0,"size":8}\n',
        "column object is missing; expected op, thread, object, size and found op, thread, size",
    ),
    "missing member later": (
        GOOD + '{"op":"alloc","thread":0,"object":1}\n',
        "row 1, column size: found nothing, expected a whole number from 0 to",
    ),
    "null": (
        GOOD + '{"op":"alloc","thread":0,"object":1,"size":null}\n',
        "row 1, column size: found nothing, expected a whole number from 0 to",
    ),
    "member that begins later": (
        GOOD + '{"op":"alloc","thread":0,"object":1,"size":8,"site":3}\n',
        "row 1, column site: found 3, expected nothing, as in row 0",
    ),
    "unknown op": (
        GOOD + GOOD.replace("alloc", "mmap"),
        "row 1, column op: found 'mmap', expected alloc, calloc, realloc, free, gc, thread_end",
    ),
    "negative size": (
        GOOD + GOOD.replace("8}", "-8}"),
        "row 1, column size: found -8, expected a whole number from 0 to 18,446,744,073,709,551,615",
    ),
    "huge number": (
        GOOD.replace("8}", "18446744073709551616}"),
        "row 0, column size: found 18446744073709551616, expected a whole number from 0 to",
    ),
    "number of ten thousand digits": (GOOD.replace("8}", "8" * 10_000 + "}"), "row 0: found "),
    "fraction": (GOOD.replace("8}", "8.5}"), "row 0, column size: found 8.5, expected a whole number"),
    "text for a number": (GOOD.replace("8}", '"8"}'), "row 0, column size: found '8', expected"),
    "flag for a number": (GOOD.replace("8}", "true}"), "row 0, column size: found True, expected"),
    "number for a flag": (
        GOOD.replace("8}", '8,"noscan":1}'),
        "row 0, column noscan: found 1, expected true or false",
    ),
    "no JSON": (GOOD + "alloc 0 0 8\n", "row 1: found b'alloc 0 0 8', which is no JSON: "),
    "breaks off": (GOOD + GOOD[:20], 'row 1: found b\'{"op":"alloc","threa\', which is no JSON: '),
    "no object": (GOOD + "[1, 2]\n", "row 1: found [1, 2], expected an object"),
    "nested without end": (GOOD + "[" * 100_000 + "\n", "row 1: found "),
    "a row that no program could produce": (
        GOOD + GOOD,
        "row 1, column object: alloc of object 0, which is live",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_fault_is_one_line_with_file_row_and_column(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        convert(str(path), str(tmp_path / "out.parquet"))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


def test_rows_are_counted_across_blocks(tmp_path):
    good = "".join(GOOD.replace('"object":0', f'"object":{i}') for i in range(60_000))
    (tmp_path / "bad.jsonl").write_text(good + GOOD.replace("alloc", "mmap"))
    with pytest.raises(TraceError, match="row 60000, column op: found 'mmap'"):
        convert(str(tmp_path / "bad.jsonl"), str(tmp_path / "out.parquet"))


def test_a_line_without_end_does_not_fill_the_memory(tmp_path):
    (tmp_path / "bad.jsonl").write_text(GOOD + '{"op":"' + "a" * (18 << 20))
    with pytest.raises(
        TraceError, match=r"found a line of more than 16,777,216 bytes, expected a line an event"
    ):
        convert(str(tmp_path / "bad.jsonl"), str(tmp_path / "out.parquet"))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_truncated_compression_is_one_line(tmp_path, suffix):
    convert(write_trace(tmp_path / "t.parquet", random_rows(20_000)), str(tmp_path / f"t.jsonl.{suffix}"))
    path = tmp_path / f"bad.jsonl.{suffix}"
    path.write_bytes((tmp_path / f"t.jsonl.{suffix}").read_bytes()[:-500])
    with pytest.raises(TraceError) as caught:
        convert(str(path), str(tmp_path / "out.parquet"))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("row", ["null", "nullnull}[", "[]", "7", "{}, {}", "true"])
def test_a_row_that_is_no_object_is_one_line(tmp_path, row):
    (tmp_path / "in.jsonl").write_text(f'{{"op":"alloc","thread":0,"object":1,"size":8}}\n{row}')
    with pytest.raises(TraceError, match="row 1: found"):
        convert(str(tmp_path / "in.jsonl"), str(tmp_path / "out.parquet"))
    assert not (tmp_path / "out.parquet").exists()
