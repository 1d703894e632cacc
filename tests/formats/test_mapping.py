"""Tables with columns of any name: what --map says, what is understood without, how faults are told."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import SMALL, columns, fails_with, harness, random_rows, write_trace

from harness.allocator import ALLOC, CALLOC, FREE, GC, OP_NAMES, REALLOC, find
from harness.conversion import convert
from harness.errors import HarnessError, TraceError
from harness.formats import Reading
from harness.replay import replay
from harness.sites import Frame, decode
from harness.trace import TraceReader

# As a recorder of one's own may log: a realloc that moves, a free of null, an allocation that failed.
LOG = [
    {"kind": "malloc", "ptr": 0x7F0000001000, "old": None, "bytes": 100, "tid": 7, "t": 1.5, "why": "a"},
    {"kind": "calloc", "ptr": 0x7F0000002000, "old": None, "bytes": 64, "tid": 9, "t": 1.75, "why": "b"},
    {
        "kind": "realloc",
        "ptr": 0x7F0000003000,
        "old": 0x7F0000001000,
        "bytes": 200,
        "tid": 7,
        "t": 2,
        "why": "",
    },
    {"kind": "realloc", "ptr": 0x7F0000004000, "old": 0, "bytes": 8, "tid": 7, "t": 2.000000001, "why": ""},
    {"kind": "free", "ptr": 0, "old": None, "bytes": None, "tid": 7, "t": 3, "why": ""},
    {"kind": "malloc", "ptr": 0, "old": None, "bytes": 2**40, "tid": 7, "t": 3, "why": ""},
    {"kind": "free", "ptr": 0x7F0000003000, "old": None, "bytes": None, "tid": 9, "t": 4, "why": ""},
]
MAP = {
    "op": "kind",
    "object": "ptr",
    "old_object": "old",
    "size": "bytes",
    "thread": "tid",
    "time_s": "t",
}
ROWS = [
    (ALLOC, 7, 0, 100, 1_500_000_000),
    (CALLOC, 9, 1, 64, 1_750_000_000),
    (REALLOC, 7, 0, 200, 2_000_000_000),
    (ALLOC, 7, 2, 8, 2_000_000_001),
    (FREE, 9, 0, 0, 4_000_000_000),
]


def as_csv(path, log, separator=",", pointer=lambda number: f"{number:#x}"):
    cells = [list(log[0])] + [
        [
            "" if value is None else pointer(value) if name in ("ptr", "old") else f"{value}"
            for name, value in row.items()
        ]
        for row in log
    ]
    path.write_text("".join(separator.join(row) + "\n" for row in cells))


def as_jsonl(path, log):
    path.write_text(
        "".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in log)
    )


def as_table(log):
    return pa.table({name: [row[name] for row in log] for name in log[0]})


def as_parquet(path, log):
    pq.write_table(as_table(log), path)


def as_arrow(path, log):
    table = as_table(log)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def as_arrow_stream(path, log):
    table = as_table(log)
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
    ):
        writer.write_table(table)


WRITERS = {
    "t.csv": as_csv,
    "semicolon.csv": lambda path, log: as_csv(path, log, ";"),
    "t.tsv": lambda path, log: as_csv(path, log, "\t"),
    "decimal.csv": lambda path, log: as_csv(path, log, pointer=str),
    "hexadecimal.csv": lambda path, log: as_csv(path, log, pointer=lambda number: f"{number:012x}"),
    "t.jsonl": as_jsonl,
    "t.parquet": as_parquet,
    "t.arrow": as_arrow,
    "t.arrows": as_arrow_stream,
}


def rows_of(path):
    return [
        tuple(int(value) for value in row)
        for raw in TraceReader(str(path)).raw_batches()
        for row in zip(*raw.values(), strict=True)
    ]


def converted(tmp_path, source, mapping, lenient=False):
    """The rows that a file becomes, and what was said of it."""
    target = tmp_path / "out.parquet"
    result = convert(str(tmp_path / source), str(target), reading=Reading(lenient=lenient, columns=mapping))
    return rows_of(target), result.warnings


def from_text(tmp_path, text, mapping, lenient=False):
    (tmp_path / "log.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return converted(tmp_path, "log.csv", mapping, lenient)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("lenient", [False, True])
def test_a_log_of_any_make_becomes_the_same_trace(tmp_path, name, lenient):
    WRITERS[name](tmp_path / name, LOG)
    rows, warnings = converted(tmp_path, name, MAP, lenient)
    assert rows == ROWS
    assert warnings == [
        "left out: 1 allocation that failed",
        "left behind, for harness-trace/1 knows no such column: why",
    ]
    run = replay(str(tmp_path / "out.parquet"), find("ideal")).runs[0]
    assert "the trace: left out: 1 allocation that failed" in run.warnings


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.arrow", "t.arrows"])
def test_compression_makes_no_difference(tmp_path, name):
    WRITERS[name](tmp_path / name, LOG)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert converted(tmp_path, f"{name}.gz", MAP)[0] == ROWS


def test_the_verb_maps(tmp_path):
    as_csv(tmp_path / "log.csv", LOG)
    mapping = ",".join(f"{ours}={theirs}" for ours, theirs in MAP.items())
    done = harness("convert", "log.csv", "t.parquet", "--map", mapping, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "t.parquet") == ROWS
    fails_with(
        harness("convert", "log.csv", "t.parquet", "--map", "object=pointer", cwd=tmp_path),
        "log.csv: --map object=pointer: there is no column pointer and found kind, ptr, old, bytes, tid",
    )


def test_long_tables_are_read_a_batch_at_a_time(tmp_path):
    rows = random_rows(150_000, live=5_000)
    plain = columns(rows)
    table = pa.table(
        {
            "address": (plain["object"] + np.uint64(1)) * np.uint64(4096),
            "what": [OP_NAMES[op] for op in plain["op"].tolist()],
            "n": plain["size"],
            "who": [f"worker {thread}" for thread in plain["thread"].tolist()],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    pa.csv.write_csv(table, tmp_path / "t.csv")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    mapping = {"object": "address", "op": "what", "size": "n", "thread": "who"}
    convert(write_trace(tmp_path / "plain.parquet", rows), str(tmp_path / "expected.parquet"))
    expected = [(op, object_, size) for op, _, object_, size in rows_of(tmp_path / "expected.parquet")]
    for name in ("t.parquet", "t.arrow", "t.csv", "t.jsonl"):
        found, warnings = converted(tmp_path, name, mapping)
        assert [(op, object_, size) for op, _, object_, size in found] == expected
        assert warnings == ["threads have names: they were numbered in the order in which they appear"]


def test_objects_named_by_small_numbers_may_be_called_0(tmp_path):
    text = "op,id,size\nmalloc,0,8\nmalloc,1,9\nfree,0,\nmalloc,0,5\n"
    rows, warnings = from_text(tmp_path, text, {"object": "id"})
    assert rows == [(ALLOC, 0, 0, 8), (ALLOC, 0, 1, 9), (FREE, 0, 0, 0), (ALLOC, 0, 0, 5)]
    assert warnings == ["the file names no threads: every event stands on thread 0"]


def test_a_missing_thread_needs_no_map(tmp_path):
    rows, warnings = from_text(tmp_path, "op,object,size\nalloc,0x5000,8\n", {})
    assert rows == [(ALLOC, 0, 0, 8)]
    assert warnings == ["the file names no threads: every event stands on thread 0"]


OPS = {
    "malloc": ALLOC,
    "New": ALLOC,
    "+": ALLOC,
    "alloc": ALLOC,
    "aligned_alloc": ALLOC,
    "1": ALLOC,
    "calloc": CALLOC,
    " calloc ": CALLOC,
    "M": ALLOC,
    "mmap": ALLOC,
}
FREES = ["free", "delete", "delete[]", "dealloc", "-", "4", "F"]


@pytest.mark.parametrize("word", OPS)
def test_allocations_have_many_names(tmp_path, word):
    mapping = {"op.alloc": "M|mmap"}
    assert from_text(tmp_path, f"op,object,size\n{word},0x5000,8\n", mapping)[0] == [(OPS[word], 0, 0, 8)]


@pytest.mark.parametrize("word", FREES)
def test_frees_have_many_names(tmp_path, word):
    text = f"op,object,size\nmalloc,0x5000,8\n{word},0x5000,\nGC,,\n"
    assert from_text(tmp_path, text, {"op.free": "F"})[0][1:] == [(FREE, 0, 0, 0), (GC, 0, 0, 0)]


def test_what_numbers_mean_can_be_said(tmp_path):
    text = "op,object,size\n0,0x5000,8\n1,0x5000,0\n"
    rows, _ = from_text(tmp_path, text, {"op.alloc": "0", "op.free": "1"})
    assert [row[0] for row in rows] == [ALLOC, FREE]


TIMES = {
    ("time_ns", "12"): 12,
    ("time_us", "12.5"): 12_500,
    ("time_ms", "1e3"): 10**9,
    ("time_s", "1700000000.123456789"): 1_700_000_000_123_456_789,
    ("time_s", "0.12345678949"): 123_456_789,
    ("time_s", "-3"): -3 * 10**9,
}


@pytest.mark.parametrize(("unit", "text"), TIMES)
def test_a_time_is_exact_in_any_unit(tmp_path, unit, text):
    rows, _ = from_text(tmp_path, f"op,object,size,t\nnew,0x5000,8,{text}\n", {unit: "t"})
    assert rows == [(ALLOC, 0, 0, 8, TIMES[unit, text])]


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("s", tz="UTC"), pa.duration("ms")])
def test_points_in_time_know_their_own_unit(tmp_path, kind):
    table = pa.table({"op": ["new"], "object": [2**40], "size": [8], "at": pa.array([5], kind)})
    pq.write_table(table, tmp_path / "t.parquet")
    unit_ns = {"us": 10**3, "s": 10**9, "ms": 10**6}[kind.unit]
    assert converted(tmp_path, "t.parquet", {"time_ns": "at"})[0] == [(ALLOC, 0, 0, 8, 5 * unit_ns)]


def test_a_stack_in_one_text_is_a_site(tmp_path):
    text = (
        "op,object,size,stack\n"
        "new,0x5000,8,main (app.c:3);read_all;grow (libx.so)\n"
        "new,0x6000,8,main (app.c:3)\nnew,0x7000,8,\nnew,0x8000,8,main (app.c:3);read_all;grow (libx.so)\n"
    )
    rows, _ = from_text(tmp_path, text, {"site": "stack"})
    assert [row[-1] for row in rows] == [1, 2, 0, 1]
    sites = decode(TraceReader(str(tmp_path / "out.parquet")).sites, "out")
    assert sites.stack(0) == ()
    assert sites.stack(1) == (
        Frame("grow", module="libx.so"),
        Frame("read_all"),
        Frame("main", "app.c", 3),
    )
    assert sites.stack(2) == (Frame("main", "app.c", 3),)


def test_sites_by_number_flags_and_alignments_are_kept(tmp_path):
    text = "op,object,size,s,flag,al\nnew,0x5000,8,31,yes,64\nnew,0x6000,8,0,no,\n"
    rows, _ = from_text(tmp_path, text, {"site": "s", "noscan": "flag", "alignment": "al"})
    assert rows == [(ALLOC, 0, 0, 8, 64, 1, 31), (ALLOC, 0, 1, 8, 0, 0, 0)]


def test_what_pandas_makes_of_a_column_with_gaps_is_read(tmp_path):
    table = pa.table(
        {
            "op": ["malloc", "free"],
            "p": pa.array([20480.0, 20480.0]),
            "n": pa.array([16.0, float("nan")]),
            "thread": pa.array([1, None], pa.int8()).fill_null(2),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    rows, _ = converted(tmp_path, "t.parquet", {"object": "p", "size": "n"})
    assert rows == [(ALLOC, 1, 0, 16), (FREE, 2, 0, 0)]


def test_dictionaries_and_bytes_are_text(tmp_path):
    table = pa.table(
        {
            "kind": pa.array(["malloc", "free"]).dictionary_encode(),
            "ptr": pa.array([b"0xabc000", b"0xabc000"]),
            "size": pa.array(["8", None], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    rows, _ = converted(tmp_path, "t.parquet", {"op": "kind", "object": "ptr"})
    assert rows == [(ALLOC, 0, 0, 8), (FREE, 0, 0, 0)]


HEADER = "op,ptr,size,t\n"
GOOD = "malloc,0x5000,8,1\n"
BAD_CELLS = {
    "word": (
        "mmap,0x6000,8,2\n",
        "row 1, column op: found 'mmap', expected alloc, calloc, realloc, free, gc, thread_end or what such "
        "are called; say others with --map op.alloc=WORD",
    ),
    "address": ("malloc,here,8,2\n", "row 1, column ptr (object): found 'here', expected a whole number"),
    "size": ("malloc,0x6000,-8,2\n", "row 1, column size: found '-8', expected a whole number from 0"),
    "no size": ("malloc,0x6000,,2\n", "row 1, column size: found '', expected a whole number from 0"),
    "huge size": (
        "malloc,0x6000,99999999999999999999,2\n",
        "row 1, column size: found '99999999999999999999'",
    ),
    "fraction": ("malloc,0x6000,1.5,2\n", "row 1, column size: found '1.5', expected a whole number"),
    "time": ("malloc,0x6000,8,later\n", "row 1, column t (time_s): found 'later', expected a time, s"),
    "huge time": ("malloc,0x6000,8,1e999999999\n", "row 1, column t (time_s): found '1e999999999', expected"),
    "no time": ("malloc,0x6000,8,\n", "row 1, column t (time_s): found '', expected a time"),
    "too few values": ("malloc,0x6000\n", "row 1: found 2 values in 'malloc,0x6000', expected 4"),
    "not UTF-8": (b"mall\xff\xfec,0x6000,8,2\n", "row 1, column op: found 'mall\N{REPLACEMENT CHARACTER}"),
    "quote without end": ('"malloc,0x6000,8,2\n', "row 1: found 1 values in"),
    "a line without end": (
        "malloc,0x6000," + "8" * 10_000_000 + ",2\n",
        "line 3: found a line of more than 1,048,576 bytes",
    ),
}


@pytest.mark.parametrize(("line", "message"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_row_that_cannot_be_cast_is_told_or_dropped(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    text = HEADER.encode() + GOOD.encode() + line + b"free,0x5000,,3\n"
    mapping = {"object": "ptr", "time_s": "t"}
    with pytest.raises(TraceError) as caught:
        from_text(tmp_path, text, mapping)
    assert str(caught.value).startswith(f"{tmp_path / 'log.csv'}: {message}")
    assert "\n" not in str(caught.value)
    rows, warnings = from_text(tmp_path, text, mapping, lenient=True)
    assert rows == [(ALLOC, 0, 0, 8, 10**9), (FREE, 0, 0, 0, 3 * 10**9)]
    assert "dropped: 1 row that could not be read" in warnings


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        '{"op":',
        "[1]",
        "null",
        '{"op":"new"}',
        '{"op":"\\ud800","object":1,"size":1}',
        "[" * 100_000,
    ],
)
def test_a_line_of_json_lines_that_cannot_be_read_is_told_or_dropped(tmp_path, line):
    good = ['{"op":"new","object":20480,"size":8}', '{"op":"free","object":20480}']
    (tmp_path / "t.jsonl").write_text("\n".join([good[0], line, good[1]]))
    with pytest.raises(TraceError, match=r"t\.jsonl: row 1.*--lenient goes on"):
        converted(tmp_path, "t.jsonl", {"object": "object"})
    rows, warnings = converted(tmp_path, "t.jsonl", {"object": "object"}, lenient=True)
    assert rows == [(ALLOC, 0, 0, 8), (FREE, 0, 0, 0)]
    assert "dropped: 1 row that could not be read" in warnings


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_our_own_files_are_mended_row_by_row(tmp_path, name):
    """0 is a name in them, and columns of harness-trace/1 stay what they are."""
    path = write_trace(tmp_path / "whole.parquet", SMALL, time_ns=range(6))
    convert(path, str(tmp_path / "t.csv"))
    convert(path, str(tmp_path / "t.jsonl"))
    if name == "t.csv":
        (tmp_path / name).write_text((tmp_path / name).read_text() + "alloc,x,9,9,9\n")
    elif name == "t.jsonl":
        (tmp_path / name).write_text((tmp_path / name).read_text() + '{"op":"alloc","thread":null}\n')
    else:
        table = pq.read_table(path)
        bad = pa.table({"op": [99], "thread": [0], "object": [9], "size": [9], "time_ns": [9]})
        whole = [
            table.select(bad.column_names).cast(pa.schema([(n, pa.int64()) for n in bad.column_names])),
            bad,
        ]
        pq.write_table(pa.concat_tables(whole), tmp_path / name)
    with pytest.raises(TraceError, match="row 6"):
        converted(tmp_path, name, {})
    rows, warnings = converted(tmp_path, name, {}, lenient=True)
    assert rows == rows_of(path)
    assert warnings == ["dropped: 1 row that could not be read"]


FAULTS = {
    "a column that is not ours": (
        {"objct": "ptr"},
        "--map objct=ptr: found objct, expected one of op, thread, ",
    ),
    "a column that is not theirs": (
        {"object": "pointer"},
        "--map object=pointer: there is no column pointer and found op, ptr, size, t",
    ),
    "nothing said of the object": (
        {},
        "column object is missing; expected op, thread, object, size and found",
    ),
    "two times": (
        {"object": "ptr", "time_s": "t", "time_ns": "t"},
        "--map: found time_ns and time_s, expected one of them",
    ),
}


@pytest.mark.parametrize(("mapping", "message"), FAULTS.values(), ids=FAULTS)
def test_a_map_that_does_not_fit_is_one_line(tmp_path, mapping, message):
    with pytest.raises(TraceError) as caught:
        from_text(tmp_path, HEADER + GOOD, mapping)
    assert str(caught.value).startswith(f"{tmp_path / 'log.csv'}: {message}")


def test_a_missing_header_is_said(tmp_path):
    with pytest.raises(TraceError, match=r"line 1: found '0x5000' in the place of a column's name, expected"):
        from_text(tmp_path, GOOD * 3, {"object": "ptr"})


def test_a_byte_order_mark_and_quotes_are_no_part_of_names(tmp_path):
    text = '\ufeff"op" ; "ptr";"size"\r\n"malloc";"0x5000";"8"\r\n'
    assert from_text(tmp_path, text, {"object": "ptr"})[0] == [(ALLOC, 0, 0, 8)]


def test_a_name_that_two_columns_have_says_nothing(tmp_path):
    with pytest.raises(TraceError, match="column ptr stands 2 times, expected once"):
        from_text(tmp_path, "op,ptr,ptr,size\n", {"object": "ptr"})


def test_a_column_of_lists_is_refused(tmp_path):
    pq.write_table(pa.table({"op": [["malloc"]], "object": [1], "size": [1]}), tmp_path / "t.parquet")
    with pytest.raises(TraceError, match=r"column op: found type list<.*>, expected numbers or text"):
        converted(tmp_path, "t.parquet", {})


def test_a_realloc_that_moves_needs_the_old_address(tmp_path):
    text = "op,ptr,old,size\nmalloc,0x5000,,8\nrealloc,0x6000,0x5000,9\n"
    with pytest.raises(TraceError, match="row 1: found a realloc of 0x6000, which is not live"):
        from_text(tmp_path, text, {"object": "ptr"})
    rows, _ = from_text(tmp_path, text, {"object": "ptr", "old_object": "old"})
    assert rows == [(ALLOC, 0, 0, 8), (REALLOC, 0, 0, 9)]


def test_only_tables_are_mapped(tmp_path):
    (tmp_path / "t.txt").write_text("7: malloc 0x5 8\n")
    with pytest.raises(HarnessError, match="--map names columns, and the format android has none to name"):
        converted(tmp_path, "t.txt", {"object": "ptr"})


@pytest.mark.parametrize("cut", [9, 40, 200, -30])
@pytest.mark.parametrize("name", ["t.arrow", "t.arrows"])
def test_an_arrow_file_that_breaks_off_is_one_line(tmp_path, name, cut):
    WRITERS[name](tmp_path / name, LOG * 20)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:cut])
    if name == "t.arrow" and cut == -30:
        return  # Of the footer, which nobody reads.
    with pytest.raises(TraceError, match=rf"{name}: (byte|row) 0 or after: is damaged"):
        converted(tmp_path, name, MAP)


def test_arrow_files_are_only_read(tmp_path):
    with pytest.raises(HarnessError, match="Arrow files are only read"):
        convert(write_trace(tmp_path / "t.parquet"), str(tmp_path / "t.arrow"))


def test_an_arrow_message_that_claims_to_be_huge_is_one_line(tmp_path):
    as_arrow_stream(tmp_path / "t.arrows", LOG)
    data = bytearray((tmp_path / "t.arrows").read_bytes())
    # Of the second message: behind the first one's marker, its length, and its metadata of that length.
    second = 8 + int.from_bytes(data[4:8], "little")
    data[second + 4 : second + 8] = (2**31 - 8).to_bytes(4, "little")
    (tmp_path / "t.arrows").write_bytes(data)
    with pytest.raises(TraceError, match=r"t\.arrows: row 0 or after: is damaged"):
        converted(tmp_path, "t.arrows", MAP)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.arrows"])
def test_a_column_whose_name_is_no_text_is_one_line(tmp_path, name):
    WRITERS[name](tmp_path / name, LOG)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"why", b"w\xffy"))
    with pytest.raises(TraceError, match=rf"{name.replace('.', '[.]')}: .*is damaged"):
        converted(tmp_path, name, MAP)
