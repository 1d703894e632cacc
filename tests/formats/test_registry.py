"""Formats by entry point: a third party's works as ours do, a broken one does no harm. No bytes crash."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SMALL, write_trace

from harness import formats
from harness.conversion import convert
from harness.errors import HarnessError, TraceError
from harness.trace import TraceReader

BINARY = """
import numpy as np

from harness.errors import HarnessError


class Trace:
    columns = ["op", "thread", "object", "size"]
    unknown_columns = []
    metadata = {"source": {"program": "elsewhere"}, "frees": "collector"}
    sites = None
    losses = ["what the clock said"]
    repairs = {}

    def __init__(self, path):
        self.path = path

    def raw_batches(self):
        rows = np.fromfile(self.path, "<u8", offset=8).reshape(-1, 4)
        kinds = {"op": "u1", "thread": "u4", "object": "u8", "size": "u8"}
        yield {name: rows[:, i].astype(kind) for i, (name, kind) in enumerate(kinds.items())}


class Binary:
    suffixes = (".bin",)
    keeps_metadata = False

    def recognises(self, head):
        return head.startswith(b"BINTRACE")

    def read(self, path, reading):
        return Trace(path)

    def write(self, path, description):
        raise HarnessError(f"{path}: binary traces are only read")
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with a format of its own, and one whose module cannot be imported."""
    site = tmp_path / "site"
    (site / "elsewhere-1.dist-info").mkdir(parents=True)
    (site / "elsewhere-1.dist-info" / "METADATA").write_text("Name: elsewhere\nVersion: 1\n")
    (site / "elsewhere-1.dist-info" / "entry_points.txt").write_text(
        "[harness.formats]\nbinary = elsewhere:Binary\nbroken = no_such_module:Format\n"
    )
    (site / "elsewhere.py").write_text(BINARY)
    monkeypatch.syspath_prepend(str(site))


def test_ours_are_registered():
    assert {"csv", "jsonl", "parquet"} <= set(formats.names())


def test_a_third_partys_format_is_recognised_and_converted(installed, tmp_path):
    words = [word for row in SMALL for word in row]
    data = b"BINTRACE" + b"".join(word.to_bytes(8, "little") for word in words)
    (tmp_path / "t.bin").write_bytes(data)
    (tmp_path / "unnamed").write_bytes(data)
    for name in ("t.bin", "unnamed"):
        convert(str(tmp_path / name), str(tmp_path / "t.parquet"))
        metadata = TraceReader(str(tmp_path / "t.parquet")).metadata
        expected = TraceReader(write_trace(tmp_path / "expected.parquet", SMALL)).metadata
        assert metadata["digest"] == expected["digest"]
        assert metadata["source"] == {"program": "elsewhere"}
        assert metadata["frees"] == "collector"
        assert metadata["conversions"][0]["format"] == "binary"
        assert metadata["losses"] == ["what the clock said"]
    with pytest.raises(HarnessError, match="binary traces are only read"):
        convert(str(tmp_path / "t.parquet"), str(tmp_path / "out.bin"))


def test_a_format_that_cannot_be_loaded_stands_in_nobodys_way(installed, tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL)
    assert convert(path, str(tmp_path / "t.csv")).events == 6
    with pytest.raises(HarnessError, match=r"format broken \(no_such_module:Format\) cannot be loaded"):
        convert(path, str(tmp_path / "t.csv"), to_format="broken")
    with pytest.raises(HarnessError, match=r"belongs to no format.*cannot be loaded"):
        convert(path, str(tmp_path / "t.broken"))


TOKENS = {
    "csv": [
        b"op,thread,object,size\n",
        b"alloc,0,1,8\n",
        b"free,0,1,0\n",
        b",",
        b'"',
        b"\n",
        b"-1",
        b"\0",
        b"\xff",
    ],
    "jsonl": [
        b'{"op":"alloc","thread":0,"object":1,"size":8}\n',
        b'{"op":4,"thread":0,"object":1,"size":0}\n',
        b"{",
        b"}",
        b"[",
        b'"op"',
        b":",
        b"\n",
        b"null",
        b"1e999",
        b"\xff",
    ],
    "parquet": [b"PAR1", b"\0" * 8, b"\x15\x04"],
}


@pytest.mark.parametrize("name", TOKENS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_trace_or_a_one_line_fault(tmp_path_factory, name, data):
    pieces = data.draw(st.lists(st.sampled_from(TOKENS[name]) | st.binary(max_size=4)))
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "in").write_bytes(b"".join(pieces))
    fault = None
    try:
        convert(str(folder / "in"), str(folder / "out.parquet"), from_format=name)
    except TraceError as error:
        fault = str(error)
    assert (folder / "out.parquet").exists() == (fault is None)
    if fault is None:
        for _ in TraceReader(str(folder / "out.parquet")).checked():
            pass
    else:
        assert "\n" not in fault
