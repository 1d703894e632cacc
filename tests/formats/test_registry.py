"""Formats by entry point: a third party's works as ours do, a broken one does no harm. No bytes crash."""

from __future__ import annotations

import json
import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SMALL, columns, harness, write_trace

from harness import formats
from harness.conversion import convert
from harness.errors import HarnessError, TraceError
from harness.trace import TraceReader

ROOT = Path(__file__).parent.parent.parent

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


def ours():
    """The formats of this distribution, by name."""
    return {
        entry.name: formats.named(entry.name)
        for entry in distribution("alloc-harness").entry_points
        if entry.group == formats.ENTRY_POINT_GROUP
    }


def writes(form, folder):
    """Whether a format can be written."""
    description = formats.Description((), {}, None)
    try:
        with form.write(str(folder / f"t{form.suffixes[0]}"), description) as sink:
            sink.write(columns(SMALL))
    except HarnessError:
        return False
    return True


def test_the_table_of_formats_in_the_documentation_is_the_registrys(tmp_path):
    page = (ROOT / "docs" / "how-to" / "convert.md").read_text()
    table = re.findall(r"^\| `([\w-]+)` \|[^|]*\| (in(?:, out)?) \|", page, re.M)
    expected = {name: "in, out" if writes(form, tmp_path) else "in" for name, form in ours().items()}
    assert dict(table) == expected
    assert len(table) == len(expected)


def test_list_names_them_with_what_they_are():
    listed = {
        row["format"]: row for row in json.loads(harness("list", "--formats", "--format", "json").stdout)
    }
    assert set(listed) == set(formats.names())
    assert listed["csv"] == {
        "format": "csv",
        "description": "Comma-separated values.",
        "suffixes": ".csv .tsv",
        "map": "yes",
    }
    assert all(row["description"] for row in listed.values())
    assert "Apache Parquet." in harness("list", "--formats").stdout


@pytest.fixture
def arena(tmp_path, monkeypatch):
    """The example of the page on plugins, as an installed distribution."""
    page = (ROOT / "docs" / "reference" / "plugins.md").read_text()
    (module,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    site = tmp_path / "site"
    (site / "arena-1.dist-info").mkdir(parents=True)
    (site / "arena-1.dist-info" / "METADATA").write_text("Name: arena\nVersion: 1\n")
    (entries,) = re.findall(
        r'^```toml\n\[project.entry-points."(harness.formats)"\]\n(.*?)^```', page, re.M | re.S
    )
    (site / "arena-1.dist-info" / "entry_points.txt").write_text("[{}]\n{}".format(*entries).replace('"', ""))
    (site / "your_package.py").write_text(module)
    monkeypatch.syspath_prepend(str(site))


LOG = "0.5 + 0x7f00 64\n0.75 + 0x8000 8\n1.5 - 0x7f00\n"


def test_the_example_of_the_documentation_reads_its_log(arena, tmp_path):
    (tmp_path / "log").write_text(LOG)
    result = convert(str(tmp_path / "log"), str(tmp_path / "t.parquet"))
    (rows,) = TraceReader(str(tmp_path / "t.parquet")).raw_batches()
    assert rows["op"].tolist() == [1, 1, 4]
    assert rows["size"].tolist() == [64, 8, 0]
    assert rows["time_ns"].tolist() == [500_000_000, 750_000_000, 1_500_000_000]
    assert result.warnings == ["the arena's log names no threads"]


@pytest.mark.parametrize(
    ("line", "message", "repair"),
    [
        (
            "2.5 * 0x7f00",
            r"line 4: found b'2.5 \* 0x7f00', expected TIME \+ ADDRESS SIZE",
            "dropped: 1 line that could not be read",
        ),
        (
            "2.5 - 0x7f00",
            "line 4: found a free of 0x7f00, which is not live",
            "dropped: 1 free of what was not",
        ),
        ("0.1 - 0x8000", "line 4: found the time 100000000 ns after", "replaced by the one before: 1 time"),
    ],
)
def test_the_example_of_the_documentation_tells_faults_and_mends_them(arena, tmp_path, line, message, repair):
    (tmp_path / "log.arena").write_text(f"{LOG}{line}\n")
    with pytest.raises(TraceError, match=rf"log\.arena: {message}.*; --lenient goes on"):
        convert(str(tmp_path / "log.arena"), str(tmp_path / "t.parquet"))
    result = convert(
        str(tmp_path / "log.arena"), str(tmp_path / "t.parquet"), reading=formats.Reading(lenient=True)
    )
    assert any(warning.startswith(repair) for warning in result.warnings)


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
