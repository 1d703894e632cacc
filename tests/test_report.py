"""Numbers carry units that people read, and tables align."""

from __future__ import annotations

import pytest

from harness import report
from harness.results import Environment, Run, TraceRuns

PARTS = dict.fromkeys(
    ("live", "dead", "front_end", "transfer", "central", "tail", "page_heap", "released", "runtime"), 0
)


def a_run(label, peak):
    summary = dict.fromkeys([row[1] for row in (*report._SUMMARY, *report._RESIDENT)], None)
    summary |= {
        "peak_committed_bytes": peak,
        "waste_bytes": peak - 512,
        "internal_waste_bytes": 0,
        "internal_fragmentation": 0.0,
        "front_end_hit_rate": None,
    }
    parts = PARTS | {"live": 512, "page_heap": peak - 512, "mapped": peak, "metadata": None}
    return Run(
        allocator=label,
        label=label,
        description="An allocator.",
        version="1",
        kind="model",
        options={},
        summary=summary,
        footprint={"floor": parts, "peak": parts, "end": parts},
        counters={},
        classes=[],
        samples={},
        warnings=["one note"],
    )


TRACE = {
    "path": "t.parquet",
    "synthetic": True,
    "events": 3,
    "allocations": 2,
    "frees": 1,
    "remote_frees": 1,
    "threads": 2,
    "peak_live_objects": 2,
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536 * 1024, "1.50 MiB"),
        (3 << 30, "3.00 GiB"),
        (5 << 40, "5.00 TiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_bytes_carry_a_unit(value, text):
    assert report.bytes_text(value) == text


def test_what_is_unknown_is_a_dash():
    assert report.percent_text(None) == report.ratio_text(None) == report.count_text(None) == "-"


def test_allocators_stand_side_by_side_and_align():
    text = report.comparison([TraceRuns(TRACE, [a_run("a", 1024), a_run("b", 4096)])], Environment(), "table")
    lines = text.splitlines()
    assert lines[0].startswith("t.parquet (synthetic): 3 events, 2 allocations, 1 frees (100.0 % on another")
    table = lines[2 : lines.index("", 2)]
    assert table[0].split() == ["a", "b"]
    assert len({len(line.rstrip()) for line in table[1:2]} | {len(table[1])}) == 1
    (peak,) = (line for line in table if line.startswith("peak committed"))
    assert peak.split() == ["peak", "committed", "1.00", "KiB", "4.00", "KiB"]
    assert len(peak) == len(table[1])
    (page_heap,) = (line for line in table if "page heap" in line)
    assert page_heap.startswith("· page heap")
    assert "50.0 %" in page_heap
    assert "87.5 %" in page_heap
    assert "central" not in text  # A tier that holds nothing anywhere has no row.
    assert text.count("note: one note") == 1


def test_csv_rows_may_differ_in_columns():
    assert report.rows_csv([{"a": 1}, {"b": 2}]) == "a,b\n1,\n,2\n"
