"""What `harness inspect` says: every number recomputed by hand from the rows."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SMALL, harness, random_rows, write_trace

from harness.allocator import ALLOC, CALLOC, FREE, GC, OP_NAMES, REALLOC, THREAD_END
from harness.errors import TraceError
from harness.inspection import Inspection, inspect
from harness.inspection_report import inspection_tables


def bin_of(value):
    """The bin's bounds, by the definition and not by the bits."""
    if value < 3:
        return value, value
    highest = 4
    while highest < value:
        highest *= 2
    return highest // 2 + 1, highest


def histogram(pairs):
    """Bounds -> (objects, bytes) of (value, weight) pairs."""
    bins = {}
    for value, weight in pairs:
        count, total = bins.get(bin_of(value), (0, 0))
        bins[bin_of(value)] = (count + 1, total + weight)
    return bins


def found(histogram):
    return {
        (each.lowest, each.highest): (each.objects, each.bytes) for each in histogram.bins if each.objects
    }


def by_hand(rows, times):
    """Sizes, lifetimes and what is alive at the end, recomputed naively."""
    sizes, born, lifetimes = [], {}, {"bytes": [], "events": [], "ns": []}
    allocated = 0
    for event, (op, _, object_, size) in enumerate(rows):
        if op in (ALLOC, CALLOC, REALLOC):
            sizes.append(size)
            allocated += size
            first = born[object_][1:] if op == REALLOC else (allocated, event, times[event])
            born[object_] = (size, *first)
        elif op == FREE:
            weight, before, birth, birth_ns = born.pop(object_)
            lifetimes["bytes"].append((allocated - before, weight))
            lifetimes["events"].append((event - birth, weight))
            lifetimes["ns"].append((times[event] - birth_ns, weight))
    return sizes, lifetimes, born


@st.composite
def traces(draw):
    """Rows of any ops, valid by construction, over a few objects; and times."""
    rows, live = [], set()
    actions = st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 40))
    for choice, number, power in draw(st.lists(actions)):
        size = (1 << power) - choice % 2
        if choice == 9:
            rows.append((THREAD_END if number % 2 else GC, number % 3, 0, 0))
        elif number not in live:
            rows.append((CALLOC if choice % 2 else ALLOC, number % 3, number, size))
            live.add(number)
        elif choice < 3:
            rows.append((REALLOC, choice, number, size))
        else:
            rows.append((FREE, choice % 3, number, 0))
            live.remove(number)
    gaps = draw(st.lists(st.integers(0, 1 << 40), min_size=len(rows), max_size=len(rows)))
    return rows, [sum(gaps[: i + 1]) for i in range(len(rows))]


@settings(max_examples=150, deadline=None)
@given(trace=traces())
def test_histograms_are_what_one_would_count_by_hand(tmp_path_factory, trace):
    rows, times = trace
    path = write_trace(tmp_path_factory.mktemp("inspect") / "t.parquet", rows, time_ns=times)
    inspection = inspect(path)
    sizes, lifetimes, alive = by_hand(rows, times)
    assert found(inspection.sizes_bytes) == histogram((size, size) for size in sizes)
    assert found(inspection.lifetimes_bytes) == histogram(lifetimes["bytes"])
    assert found(inspection.lifetimes_events) == histogram(lifetimes["events"])
    assert found(inspection.lifetimes_ns) == histogram(lifetimes["ns"])
    for each in (inspection.lifetimes_bytes, inspection.lifetimes_events, inspection.lifetimes_ns):
        assert each.alive_objects == len(alive) == inspection.end_live_objects
        assert each.alive_bytes == sum(size for size, *_ in alive.values()) == inspection.end_requested_bytes
    kinds = {name: sum(row[0] == op for row in rows) for op, name in OP_NAMES.items()}
    assert inspection.events_by_kind == kinds
    assert inspection.allocated_bytes == sum(sizes)
    assert inspection.duration_ns == (times[-1] - times[0] if times else None)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=60))
def test_quantiles_are_nearest_ranks(tmp_path_factory, sizes):
    rows = [(ALLOC, 0, i, size) for i, size in enumerate(sizes)]
    inspection = inspect(write_trace(tmp_path_factory.mktemp("inspect") / "t.parquet", rows))
    ordered = sorted(sizes)
    for share, quantile in (
        (50, inspection.median_size_bytes),
        (90, inspection.p90_size_bytes),
        (99, inspection.p99_size_bytes),
    ):
        exact = ordered[-(-len(sizes) * share // 100) - 1]
        assert quantile == exact if exact < 65_536 else exact * (1 - 2**-15) <= quantile <= exact
    assert inspection.mean_size_bytes == pytest.approx(sum(sizes) / len(sizes))
    assert inspection.largest_size_bytes == ordered[-1]


def test_state_is_carried_from_batch_to_batch(tmp_path):
    rows = random_rows(70_000)
    times = [17 * i for i in range(len(rows))]
    inspection = inspect(write_trace(tmp_path / "t.parquet", rows, time_ns=times))
    _, lifetimes, _ = by_hand(rows, times)
    assert found(inspection.lifetimes_bytes) == histogram(lifetimes["bytes"])
    assert found(inspection.lifetimes_ns) == histogram(lifetimes["ns"])
    assert inspection.duration_ns == times[-1]


def test_facts_of_a_small_trace(tmp_path):
    noscan = [True, False, True, False, False, False]
    inspection = inspect(write_trace(tmp_path / "t.parquet", SMALL, noscan=noscan))
    assert inspection.events == 6
    assert inspection.threads == 2
    assert inspection.remote_free_share == 0.5
    assert inspection.noscan_share == 0.5
    assert inspection.allocated_bytes == 40_132
    assert inspection.peak_requested_bytes == 40_124
    assert inspection.peak_requested_event == 2
    assert inspection.peak_live_objects == 3
    assert inspection.end_requested_bytes == 32
    assert inspection.mean_requested_bytes == (100 + 40_100 + 40_124 + 40_024 + 40_032 + 32) / 6
    assert inspection.median_size_bytes == 24
    assert inspection.metadata["source"] == {"program": "test"}
    assert inspection.duration_ns is None
    assert inspection.lifetimes_ns is None


def test_a_trace_without_events_has_no_means_and_no_quantiles(tmp_path):
    inspection = inspect(write_trace(tmp_path / "t.parquet", [], time_ns=[]))
    assert inspection.events == 0
    assert inspection.sizes_bytes.bins == []
    assert inspection.mean_size_bytes is inspection.median_size_bytes is inspection.duration_ns is None
    assert inspection.noscan_share is inspection.remote_free_share is None
    for form in ("table", "markdown"):
        assert "events" in inspection_tables(inspection, form)


def test_progress_counts_every_event(tmp_path):
    done = []
    inspect(write_trace(tmp_path / "t.parquet", random_rows(70_000)), done.append)
    assert sum(done) == 70_000
    assert len(done) > 1


def test_a_fault_is_reported_with_its_row(tmp_path):
    path = write_trace(tmp_path / "t.parquet", [(ALLOC, 0, 1, 8), (FREE, 0, 2, 0)])
    with pytest.raises(TraceError, match="row 1, column object: free of object 2"):
        inspect(path)


@pytest.fixture
def inspection(tmp_path):
    rows = random_rows(2_000)
    return inspect(write_trace(tmp_path / "t.parquet", rows, time_ns=range(len(rows))))


def test_json_holds_every_field(inspection):
    held = json.loads(inspection_tables(inspection, "json"))
    assert set(held) == {each.name for each in fields(Inspection)}
    assert sum(each["objects"] for each in held["sizes_bytes"]["bins"]) == held["events_by_kind"]["alloc"]


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_tables_show_units_shares_and_bars(inspection, form):
    text = inspection_tables(inspection, form)
    for part in ("2,000", "KiB", " %", "█", "alive at the end", "Lifetimes in time", "size: median"):
        assert part in text
    tables = [block.splitlines() for block in text.split("\n\n") if len(block.splitlines()) > 3]
    assert len(tables) == 6
    if form == "markdown":
        for table in tables:
            assert len({line.count("|") for line in table}) == 1


def test_rare_short_bins_are_one_row_that_loses_nothing(tmp_path):
    rows = [(ALLOC, 0, i, 1 + i % 2) for i in range(4)] + [(ALLOC, 0, 4 + i, 4096) for i in range(20_000)]
    text = inspection_tables(inspect(write_trace(tmp_path / "t.parquet", rows)), "markdown")
    sizes = text[text.index("### Sizes") : text.index("### Lifetimes in bytes")]
    shown = [[cell.strip() for cell in line.split("|")[1:3]] for line in sizes.splitlines() if " B " in line]
    assert shown[-1] == ["2 KiB", "4"]
    assert ["4 KiB", "20,000"] in [
        [cell.strip() for cell in line.split("|")[1:3]] for line in sizes.splitlines()
    ]
    assert "| 1 B" not in sizes


def test_a_bin_that_is_rare_but_heavy_keeps_its_row(tmp_path):
    rows = [(ALLOC, 0, 0, 1 << 20), (FREE, 0, 0, 0)]
    rows += [(ALLOC, 0, i, 1) for i in range(4_000)] + [(FREE, 0, i, 0) for i in range(4_000)]
    text = inspection_tables(inspect(write_trace(tmp_path / "t.parquet", rows)), "markdown")
    events = text[text.index("### Lifetimes in events") :].splitlines()
    assert [cell.strip() for cell in events[4].split("|")[1:6]] == ["1", "1", "0.0 %", "▏", "1.00 MiB"]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(5, "5 ns"), (999, "999 ns"), (1_500, "1.5 us"), (999_999_999, "1.00 s"), (5_000_000_000, "5.00 s")],
)
def test_durations_have_units_and_no_exponents(tmp_path, nanoseconds, text):
    rows = [(ALLOC, 0, 0, 1), (FREE, 0, 0, 0)]
    path = write_trace(tmp_path / "t.parquet", rows, time_ns=[0, nanoseconds])
    (line,) = [
        each for each in inspection_tables(inspect(path), "table").splitlines() if "first to last" in each
    ]
    assert line.endswith(f" {text}")


def test_the_verb_prints_tables_and_json(tmp_path):
    path = write_trace(tmp_path / "t.parquet", SMALL)
    assert "Sizes of requests" in harness("inspect", path).stdout
    assert json.loads(harness("inspect", path, "--format", "json").stdout)["events"] == 6
    missing = harness("inspect", str(tmp_path / "none.parquet"))
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
