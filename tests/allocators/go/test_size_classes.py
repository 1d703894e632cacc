"""The size-class table, computed from its rule, against the one in Go's own source."""

import json
import re
from pathlib import Path

import pytest

from allocators.go import Go

GOLDEN = Path(__file__).parents[2] / "golden" / "go" / "sizeclasses.json"

# Slots of one-page spans, (noscan, scan), without and with green tea's mark bits; scan has a pointer bitmap.
ONE_PAGE_SLOTS = {
    2: ((512, 504), (504, 496)),
    6: ((128, 126), (126, 124)),
    14: ((42, 42), (42, 41)),
    26: ((16, 15), (15, 15)),
}


def table_of(goroot):
    """Rows of the comment in sizeclasses.go: class, object and span bytes, objects, tail, max waste in %."""
    source = next(
        path
        for path in (
            goroot / "src/internal/runtime/gc/sizeclasses.go",
            goroot / "src/runtime/sizeclasses.go",
        )
        if path.exists()
    ).read_text()
    rows = re.findall(r"^// +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+)% +\d+$", source, re.MULTILINE)
    return [[*map(int, row[:5]), float(row[5])] for row in rows]


def model_table():
    return [
        [
            row["class"],
            row["object_bytes"],
            row["span_bytes"],
            row["objects"],
            row["tail_waste_bytes"],
            round(row["max_waste"] * 100, 2),
        ]
        for row in Go().size_classes()
    ]


def test_the_table_is_that_of_the_golden_file():
    golden = json.loads(GOLDEN.read_text())
    assert len(golden["classes"]) == 67
    assert model_table() == golden["classes"]


def test_the_table_is_that_of_the_installed_go(toolchain):
    assert model_table() == table_of(toolchain.goroot)


@pytest.mark.parametrize("version", ["1.22", "1.23", "1.24", "1.25", "1.26", "1.27"])
def test_every_version_has_the_same_classes(version):
    columns = ("class", "object_bytes", "span_bytes", "objects")
    rows = [[row[name] for name in columns] for row in Go(version=version).size_classes()]
    assert rows == [row[:4] for row in model_table()]


@pytest.mark.parametrize(("size_class", "slots"), ONE_PAGE_SLOTS.items())
def test_reserves_at_the_end_of_a_span_take_slots(size_class, slots):
    for greentea, (noscan, scan) in zip(("off", "on"), slots, strict=True):
        row = Go(greentea=greentea).size_classes()[size_class - 1]
        assert (row["noscan_objects"], row["scan_objects"]) == (noscan, scan)


def test_larger_objects_leave_no_reserve():
    for row in Go().size_classes():
        if row["object_bytes"] > 512:
            assert row["scan_objects"] == row["noscan_objects"] == row["objects"]
