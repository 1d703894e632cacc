"""What is fuzzed: for every registered format some small files of it, how they are read, what may fail.

A format that has no target here makes test_fuzz.py fail.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from go_traces import sample
from goldens import golden
from support import SMALL, write_trace

from harness.conversion import convert

# What a reader of any format may say of a file as a whole, where no place is to blame.
WHOLE_FILE = (
    r"is damaged|is not a whole|is a directory|was not recognised|is missing|expected one|stands \d+ times|"
    r"found type|holds no|metadata key|has \d+ rows|found no call|heaptrack interpreted"
)


@dataclass(frozen=True)
class Target:
    """How one format is fuzzed."""

    seeds: Callable[[Path], Sequence[bytes]]  # Whole files, made in a folder if need be.
    # What Reading.columns says, chosen by the input.
    mappings: Sequence[Mapping[str, str]] = ({},)
    # A lenient reader of lines goes on whatever they hold; what it may still refuse is a head that is none.
    refused_when_lenient: str | None = None
    tokens: Sequence[bytes] = field(default=())


MAPPED = {"op": "kind", "object": "ptr", "old_object": "old", "size": "bytes", "thread": "tid", "time_s": "t"}
SITES = {"object": "ptr", "site": "stack", "time_us": "t", "op.alloc": "M", "op.free": "F"}

_ROWS = [
    {"kind": "malloc", "ptr": 0x7F0000001000, "old": None, "bytes": 100, "tid": 7, "t": 1.5},
    {"kind": "calloc", "ptr": 0x7F0000002000, "old": None, "bytes": 64, "tid": 9, "t": 1.75},
    {"kind": "realloc", "ptr": 0x7F0000003000, "old": 0x7F0000001000, "bytes": 200, "tid": 7, "t": 2},
    {"kind": "free", "ptr": 0x7F0000003000, "old": None, "bytes": None, "tid": 9, "t": 4},
]
_STACKS = "op,ptr,size,stack,t\nM,0x5000,8,main (a.c:3);grow,1\nF,0x5000,,,2.5\ngc,,,,3\n"
_WORDS = (b"malloc", b"calloc", b"realloc", b"free", b"alloc", b"gc", b"thread_end", b"0x", b"(nil)", b"nan")


def _csv(folder: Path) -> list[bytes]:
    header = ",".join(_ROWS[0])
    lines = [",".join("" if cell is None else str(cell) for cell in row.values()) for row in _ROWS]
    mapped = "\n".join([header, *lines, ""])
    return [_ours(folder, "csv"), mapped.encode(), mapped.replace(",", ";").encode(), _STACKS.encode()]


def _json_lines(folder: Path) -> list[bytes]:
    rows = [{name: cell for name, cell in row.items() if cell is not None} for row in _ROWS]
    mapped = "".join(json.dumps(row) + "\n" for row in rows)
    return [_ours(folder, "jsonl"), mapped.encode()]


def _parquet(folder: Path) -> list[bytes]:
    pq.write_table(pa.Table.from_pylist(_ROWS), folder / "mapped.parquet")
    return [
        Path(write_trace(folder / "t.parquet", SMALL)).read_bytes(),
        Path(write_trace(folder / "o.parquet", SMALL, time_ns=range(6), noscan=[True] * 6)).read_bytes(),
        (folder / "mapped.parquet").read_bytes(),
    ]


def _arrow(folder: Path) -> list[bytes]:
    mapped = pa.Table.from_pylist(_ROWS)
    words = pa.table(
        {name: mapped[name].cast(pa.string()).dictionary_encode() for name in mapped.column_names}
    )
    made = []
    for table, new, codec in (
        (mapped, pa.ipc.new_file, None),
        (mapped, pa.ipc.new_stream, "zstd"),
        (words, pa.ipc.new_stream, None),
    ):
        sink = io.BytesIO()
        with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
        made.append(sink.getvalue())
    return made


def _memray(folder: Path) -> list[bytes]:
    import memray

    path = folder / "capture.bin"
    with memray.Tracker(path):
        kept = [bytearray(number * 1_000) for number in range(1, 20)]
        del kept[::2]
    whole = path.read_bytes()
    is_compressed = whole.startswith(b"\x04\x22\x4d\x18")
    plain = pa.CompressedInputStream(pa.BufferReader(whole), "lz4").read() if is_compressed else whole
    return [whole, plain.rstrip(b"\0")]


def _ours(folder: Path, suffix: str) -> bytes:
    path = write_trace(folder / "ours.parquet", SMALL, time_ns=range(6), noscan=[True] * 6, site=range(6))
    convert(path, str(folder / f"ours.{suffix}"))
    return (folder / f"ours.{suffix}").read_bytes()


def _text(*constants: str) -> Callable[[Path], list[bytes]]:
    """Seeds that are texts in a test of their format: `module.NAME`."""
    return lambda folder: [golden(constant) for constant in constants]


# A recorder's file without a call in it is none; what heaptrack interpreted names no objects.
_NOTHING_TO_READ = r"damaged|found no call|heaptrack interpreted"

_TABLE = {"mappings": ({}, MAPPED, SITES)}

TARGETS: dict[str, Target] = {
    "csv": Target(
        _csv, **_TABLE, refused_when_lenient=r"is missing|--map|line 1|stands|damaged", tokens=_WORDS
    ),
    "jsonl": Target(
        _json_lines,
        **_TABLE,
        refused_when_lenient=r"is missing|--map|stands|damaged",
        tokens=(*_WORDS, b"null", b"{}"),
    ),
    "parquet": Target(_parquet, **_TABLE),
    "arrow": Target(_arrow, **_TABLE),
    "memray": Target(_memray),
    "go": Target(
        lambda folder: [sample(version) for version in (23, 25, 26)],
        refused_when_lenient=r"holds no|expected one|damaged",
    ),
    "android": Target(_text("test_android.CALLS"), refused_when_lenient=r"damaged", tokens=_WORDS),
    "bpftrace": Target(_text("test_bpftrace.PRINTED"), refused_when_lenient=_NOTHING_TO_READ, tokens=_WORDS),
    "heaptrack": Target(_text("test_heaptrack.RAW"), refused_when_lenient=_NOTHING_TO_READ, tokens=_WORDS),
    "ltrace": Target(_text("test_ltrace.CALLED"), refused_when_lenient=_NOTHING_TO_READ, tokens=_WORDS),
    "mtrace": Target(_text("test_mtrace.CALLED"), refused_when_lenient=_NOTHING_TO_READ, tokens=_WORDS),
    "valgrind": Target(_text("test_valgrind.LOG"), refused_when_lenient=_NOTHING_TO_READ, tokens=_WORDS),
}
