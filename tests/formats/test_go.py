"""Go's execution traces: what real programs of real Go say, event for event, and what no bytes can do."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conformance.go.toolchains import toolchain as toolchain_of
from go_support import BOUNDARY_SIZES
from go_traces import (
    ALLOC,
    COUNT,
    EXACT,
    EXISTS,
    FREE,
    GC_ACTIVE,
    GC_BEGIN,
    GC_END,
    HEAP,
    SPAN,
    SPAN_ALLOC,
    SPAN_FREE,
    Wire,
    built,
    told_by_tool,
    traced,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from allocators.go import Go as GoModel
from harness import allocator, sites
from harness.conversion import convert
from harness.errors import AllocatorError, TraceError
from harness.formats import Reading, of_source
from harness.formats._formats import go_size_classes
from harness.formats.go import GoTrace
from harness.trace import RowChecker, TraceReader

# Which Go's own programs are traced: in CI the newest and the oldest that has a format of its own.
VERSIONS = ("1.24", "1.27")


def rows_of(trace):
    """All rows, as columns, checked as every row is."""
    checker = RowChecker(trace.path)
    batches = []
    for raw in trace.raw_batches():
        checker.check({name: raw[name] for name in trace.columns})
        batches.append(raw)
    return {name: np.concatenate([raw[name] for raw in batches]) for name in batches[0]} if batches else {}


def read(path, **reading):
    trace = GoTrace(str(path), Reading(**reading), keeps_spans=True)
    return trace, rows_of(trace)


def read_bytes(tmp_path, data, **reading):
    path = tmp_path / "trace.out"
    path.write_bytes(data)
    return read(path, **reading)


def listed(rows, *names):
    return list(zip(*(rows[name].tolist() for name in names), strict=True))


# ---- Real programs --------------------------------------------------------------------------------------


def needs_go(version):
    try:
        return toolchain_of(version)
    except AllocatorError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def newest():
    return needs_go(VERSIONS[-1])


@pytest.fixture(scope="module", params=VERSIONS)
def program(request, tmp_path_factory):
    return built(needs_go(request.param), tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module", params=[(1, ""), (4, "many")], ids=["1 P", "4 P"])
def recorded(request, program, tmp_path_factory):
    """A trace and what the program counted itself."""
    procs, mode = request.param
    trace = tmp_path_factory.mktemp("trace") / "trace.out"
    return trace, traced(program, trace, mode, procs=procs)


def test_events_are_as_many_as_gos_own_tool_finds_on_each_p(recorded, newest):
    path, _ = recorded
    told = told_by_tool(newest, path)
    trace, rows = read(path)
    counts = trace.counts()
    assert counts["allocations"] == sum(n for (name, _), n in told.items() if name == "HeapObjectAlloc")
    assert counts["free_events"] == sum(n for (name, _), n in told.items() if name == "HeapObjectFree")
    assert counts["objects_at_start"] == sum(n for (name, _), n in told.items() if name == "HeapObject")
    allocated = Counter(rows["thread"][rows["op"] == allocator.ALLOC].tolist())
    assert allocated == Counter(
        {
            p: told["HeapObjectAlloc", p] + told["HeapObject", p]
            for (name, p) in told
            if name in ("HeapObjectAlloc", "HeapObject")
        }
    )


def between_marks(trace, rows):
    """The allocations between the program's two marks, as a mask."""
    types = sites.decode(trace.sites, trace.path).types
    marks = [
        int(np.flatnonzero(rows["site"] == types.index(f"main.{name}"))[-1]) for name in ("Begin", "End")
    ]
    within = np.zeros(len(rows["op"]), bool)
    within[marks[0] + 1 : marks[1]] = True
    return within


def slot_bytes_of(trace, rows):
    """By row of an allocation, the size of its slot: that of the span which its address lies in."""
    events = trace.span_events()
    slots = {index: size for index, (size, *_) in enumerate(go_size_classes(), 1)}
    at = {}
    found = np.zeros(len(rows["op"]), np.uint64)
    event = 0
    for row in range(len(rows["op"])):
        while event < len(events["row"]) and events["row"][event] <= row:
            base, pages = int(events["address"][event]), int(events["pages"][event])
            for page in range(base // 8192, base // 8192 + pages):
                if events["is_free"][event]:
                    at.pop(page, None)
                else:
                    at[page] = (base, pages, int(events["span_class"][event]))
            event += 1
        if rows["op"][row] == allocator.ALLOC:
            _, pages, span_class = at[int(rows["address"][row]) // 8192]
            found[row] = slots.get(span_class >> 1, pages * 8192)
    return found


def joins_within(rows, within, slots):
    """How many of the allocations that count were put into a block that was there."""
    live = Counter()
    block_of = {}
    joins = 0
    for row, (op, thing) in enumerate(listed(rows, "op", "object")):
        if op == allocator.ALLOC and slots[row] == 16:
            block_of[thing] = int(rows["address"][row]) // 16
            joins += bool(live[block_of[thing]] and within[row])
            live[block_of[thing]] += 1
        elif op == allocator.FREE and thing in block_of:
            live[block_of.pop(thing)] -= 1
    return joins


def test_each_class_has_as_many_allocations_as_the_runtimes_statistics(recorded):
    path, counted = recorded
    trace, rows = read(path)
    within = between_marks(trace, rows) & (rows["op"] == allocator.ALLOC)
    slots = slot_bytes_of(trace, rows)
    found = Counter(slots[within].tolist())
    mallocs = {int(size): count for size, count in counted["mallocs"].items()}
    # Of tiny objects that share a block, the statistics by size count one.
    found[16] -= joins_within(rows, within, slots)
    assert {size: count for size, count in found.items() if size <= 32768} == mallocs
    assert within.sum() == counted["all_mallocs"]


def test_what_died_is_as_much_as_the_runtimes_statistics(recorded):
    path, counted = recorded
    trace, rows = read(path)
    # Both collections were begun by the program; what they found stands before them.
    collections = trace.collections()
    assert trace.metadata["source"]["collections"]["explicit"] == 4
    first, last = collections["row"][collections["is_explicit"] == 1][[1, 3]].tolist()
    freed = rows["op"][first:last] == allocator.FREE
    by_size = sum(counted["frees"].values())
    tiny = counted["all_frees"] - by_size
    assert by_size <= freed.sum() <= by_size + tiny


def test_types_tell_sizes_and_where_they_cannot_the_class_does(recorded):
    path, _ = recorded
    trace, rows = read(path)
    types = sites.decode(trace.sites, trace.path).types
    within = between_marks(trace, rows) & (rows["op"] == allocator.ALLOC)

    def allocated(name):
        mine = within & (rows["site"] == types.index(name))
        return Counter(listed({c: rows[c][mine] for c in ("size", "noscan")}, "size", "noscan"))

    for name, (size, noscan) in EXACT.items():
        assert allocated(name)[size, noscan] >= COUNT, name
    assert allocated("main.Odd") == {(80, False): COUNT, (240, False): COUNT}
    assert allocated("uint8")[1024, True] >= COUNT  # make([]byte, 1000)
    assert trace.metadata["sizes_known"]["exact"] > 0
    assert trace.metadata["sizes"] == "class"
    assert trace.metadata["frees"] == "collector"


def test_a_death_stands_before_the_collection_that_found_it(recorded):
    path, _ = recorded
    _, rows = read(path)
    # After a collection's row nothing dies before the next one's deaths: between them stand allocations.
    kinds = [op for op, following in pairwise([*rows["op"].tolist(), 0]) if op != following]
    assert kinds[0] == allocator.ALLOC
    for before, op in pairwise(kinds):
        assert (before, op) != (allocator.GC, allocator.FREE)
    assert (np.diff(rows["time_ns"]) >= 0).all()


def test_a_trace_is_converted_with_its_source_types_and_losses(recorded, tmp_path):
    path, _ = recorded
    target = str(tmp_path / "t.parquet")
    result = convert(str(path), target)
    reader = TraceReader(target)
    assert reader.events == result.events
    assert reader.has_noscan
    assert reader.metadata["frees"] == "collector"
    assert reader.metadata["source"]["format"].startswith("go 1.2")
    assert "main.Header" in sites.decode(reader.sites, target).types


def test_a_compressed_trace_is_recognised_and_the_same(recorded, tmp_path):
    path, _ = recorded
    compressed = tmp_path / "t.out.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes(), 1))
    assert of_source(str(compressed))[0] == "go"
    assert of_source(str(path))[0] == "go"
    _, expected = read(path)
    _, found = read(compressed)
    for name, column in expected.items():
        assert np.array_equal(column, found[name]), name


def test_marking_and_sweeping_in_a_stopped_world_makes_a_trace_too(program, tmp_path):
    for mode in (1, 2):
        path = tmp_path / f"{mode}.out"
        traced(program, path, procs=2, debug=f"gcstoptheworld={mode}")
        trace, rows = read(path)
        assert trace.counts()["free_events"] <= (rows["op"] == allocator.FREE).sum()


def test_a_trace_without_allocation_events_is_refused_with_the_remedy(program, tmp_path):
    path = tmp_path / "t.out"
    traced(program, path, debug="traceallocfree=0,x=1")
    traced_without = tmp_path / "without.out"
    data = path.read_bytes()
    traced_without.write_bytes(data)
    wire = Wire()
    del wire.data[16:]
    wire.batch(0, 0, bytes([50, 8, 1]))
    wire.events(0, 5, (GC_BEGIN, 1, 0))
    traced_without.write_bytes(wire.whole())
    for lenient in (False, True):
        with pytest.raises(
            TraceError, match=r"without\.out: holds no allocation events.*GODEBUG=traceallocfree=1"
        ):
            read(traced_without, lenient=lenient)


def test_the_generations_before_a_fault_are_kept_by_a_lenient_reader(program, tmp_path):
    path = tmp_path / "t.out"
    traced(program, path, "long")
    data = path.read_bytes()
    whole, rows = read(path)
    assert whole.counts()["generations"] > 1
    cut = read_bytes(tmp_path, data[:-100], lenient=True)
    assert "read up to a fault" in cut[0].losses[-1]
    assert len(cut[1]["op"]) > 0.9 * len(rows["op"])
    with pytest.raises(TraceError, match=r"byte \d+: found the end of the file within .*; --lenient goes on"):
        read_bytes(tmp_path, data[:-100])


TRACES = Path(__file__).parents[2] / "traces"


@pytest.mark.parametrize("path", sorted((TRACES / "go").glob("*.parquet")), ids=lambda path: path.stem)
def test_a_committed_trace_is_what_its_description_says(path):
    reader = TraceReader(str(path))
    known = reader.metadata["sizes_known"]
    collections = sum(int((batch.op == allocator.GC).sum()) for batch in reader.checked())
    assert collections == sum(reader.metadata["source"]["collections"].values())
    row = (
        f"| `go/{path.name}` | {reader.events:,} | {reader.metadata['source']['procs']} | {collections} | "
        f"{known['exact'] / sum(known.values()):.0%} | {path.stat().st_size / reader.events:.2f} |"
    )
    assert row.replace("%", " %") in (TRACES / "README.md").read_text()


# ---- Any bytes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(newest, tmp_path_factory):
    """A short real trace of the newest Go."""
    folder = tmp_path_factory.mktemp("small")
    traced(built(newest, folder), folder / "small.out", procs=2)
    return (folder / "small.out").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


def expect_rows_or_one_line(scratch, data, **reading):
    """Whatever the bytes are: rows that could be, or one line; of which a lenient reader has two."""
    fault = None
    try:
        read_bytes(scratch, data, **reading)
    except TraceError as raised:
        fault = str(raised)
    if fault is not None:
        path, _, told = fault.partition(".out: ")
        assert path == str(scratch / "trace")
        hopeless = told.startswith(("holds no allocation events", "holds no header", "found the format"))
        assert hopeless or (told.endswith("; --lenient goes on and counts it") and not reading["lenient"])
        assert "\n" not in fault


@settings(max_examples=60, deadline=None)
@given(at=st.integers(min_value=0))
def test_a_trace_cut_at_any_byte_is_one_line_or_what_is_whole(small, scratch, at):
    for lenient in (False, True):
        expect_rows_or_one_line(scratch, small[: at % len(small)], lenient=lenient)


@settings(max_examples=120, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(min_value=0), st.integers(1, 255)), min_size=1, max_size=6))
def test_flipped_bytes_are_one_line_or_a_mended_trace(small, scratch, flips):
    damaged = bytearray(small)
    for at, mask in flips:
        damaged[at % len(damaged)] ^= mask
    expect_rows_or_one_line(scratch, bytes(damaged), lenient=False)
    if damaged[:16] == small[:16]:
        expect_rows_or_one_line(scratch, bytes(damaged), lenient=True)


@settings(max_examples=100, deadline=None)
@given(rest=st.binary(max_size=300))
def test_any_bytes_behind_a_header_are_one_line_or_rows(scratch, rest):
    for version in (23, 25, 26):
        expect_rows_or_one_line(scratch, Wire(version).whole() + rest, lenient=False)
        expect_rows_or_one_line(scratch, Wire(version).whole() + rest, lenient=True)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", "holds no header"),
        (b"go 1.26 tr", "holds no header"),
        (
            b"go 1.21 trace\0\0\0",
            "the format of Go 1.21, which has no allocation events; expected .* 1.23 or",
        ),
        (b"go 1.99 trace\0\0\0", "the format of Go 1.99, expected one from 1.22 to 1.26"),
    ],
)
def test_another_header_is_told(tmp_path, head, expected):
    with pytest.raises(TraceError, match=expected):
        read_bytes(tmp_path, head)


# ---- Byte by byte ---------------------------------------------------------------------------------------

# Numbers of events: a span of 16 KiB at 32 MiB, of class 48 scan; objects count eight bytes, spans pages.
CLASS_48_SCAN = 5 << 2
CLASS_16_NOSCAN = (2 << 2) | 2
LARGE_SCAN = 0
MANUAL = 1
PAGE = 1024  # An object at the begin of page 1.


def heap(kind=CLASS_48_SCAN, pages=1, page=1):
    return (SPAN_ALLOC, page, pages, kind)


def ops(rows):
    return [allocator.OP_NAMES[op] for op in rows["op"].tolist()]


def test_objects_that_existed_come_first_by_address(tmp_path):
    wire = Wire()
    wire.events(
        0, 10, (SPAN, 1, 1, CLASS_48_SCAN), (EXISTS, PAGE + 12, 0), (EXISTS, PAGE, 0), (ALLOC, PAGE + 6, 0)
    )
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert [address - HEAP - 8192 for address in rows["address"].tolist()] == [0, 96, 48]
    assert trace.metadata["source"]["objects_at_start"] == 2
    assert rows["size"].tolist() == [48, 48, 48]


def test_a_stack_may_come_and_go_before_what_exists_is_told(tmp_path):
    wire = Wire()
    stack = (heap(kind=1, pages=4, page=91), (SPAN_FREE, 91), heap(kind=1, pages=4, page=95))
    exists = ((SPAN, 1, 1, CLASS_48_SCAN), (SPAN, 95, 4, 1), (EXISTS, PAGE, 0), (ALLOC, PAGE + 6, 0))
    wire.events(0, 10, *stack, *exists)
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert ops(rows) == ["alloc", "alloc"]
    assert trace.metadata["source"]["objects_at_start"] == 1


def test_a_free_is_a_death_before_the_collection_that_found_it(tmp_path):
    wire = Wire()
    wire.events(
        3,
        10,
        heap(),
        (ALLOC, PAGE, 0),
        (ALLOC, PAGE + 6, 0),
        (GC_BEGIN, 1, 0),
        (ALLOC, PAGE + 12, 0),
        (GC_END, 2),
        (ALLOC, PAGE + 18, 0),
        (FREE, PAGE),
        (ALLOC, PAGE, 0),
        (GC_BEGIN, 3, 0),
        (FREE, PAGE + 6),  # Still of the first collection: the second has not ended.
        (GC_END, 4),
        (FREE, PAGE + 12),
    )
    _, rows = read_bytes(tmp_path, wire.whole())
    assert ops(rows) == [
        *("alloc", "alloc", "free", "free", "gc"),
        *("alloc", "alloc", "alloc", "free", "gc"),
    ]
    assert rows["time_ns"].tolist() == [2, 3, 4, 4, 4, 5, 7, 9, 10, 10]
    assert set(rows["thread"].tolist()) == {3}


def test_what_is_found_by_a_sweep_that_was_under_way_died_at_the_start(tmp_path):
    wire = Wire()
    wire.events(0, 10, (SPAN, 1, 1, CLASS_48_SCAN), (EXISTS, PAGE, 0), (ALLOC, PAGE + 6, 0), (FREE, PAGE))
    _, rows = read_bytes(tmp_path, wire.whole())
    assert ops(rows) == ["alloc", "free", "alloc"]


def test_a_collection_under_way_at_the_start_has_its_row(tmp_path):
    wire = Wire()
    wire.events(
        0, 10, (GC_ACTIVE, 1), (SPAN, 1, 1, CLASS_48_SCAN), (EXISTS, PAGE, 0), (GC_END, 2), (FREE, PAGE)
    )
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert ops(rows) == ["alloc", "free", "gc"]
    assert trace.collections()["is_explicit"].tolist() == [0]


def test_only_a_call_of_runtime_gc_is_explicit(tmp_path):
    wire = Wire()
    wire.batch(
        0, 0, bytes([4, 5]) + numbers_of(7, b"runtime.GC") + bytes([5]) + numbers_of(8, b"runtime.mallocgc")
    )
    wire.batch(0, 0, bytes([2, 3, 1, 1, 9, 7, 8, 1, 3, 2, 1, 9, 8, 7, 1]))
    wire.events(0, 10, (GC_BEGIN, 1, 1), (GC_END, 2), (GC_BEGIN, 3, 2), (GC_END, 4))
    trace, _ = read_bytes(tmp_path, wire.whole())
    assert trace.collections()["is_explicit"].tolist() == [1, 0]


def numbers_of(id, text):
    return bytes([id, len(text)]) + text


def test_a_stopped_world_sweeps_before_a_collection_ends(tmp_path):
    wire = Wire()
    wire.events(
        *(0, 10),
        heap(),
        (GC_BEGIN, 1, 0),
        (GC_END, 2),
        (ALLOC, PAGE, 0),  # Younger than the first collection, so that only the second can have found it.
        (GC_BEGIN, 3, 0),
        (FREE, PAGE),
        (GC_END, 4),
        (ALLOC, PAGE, 0),
    )
    _, rows = read_bytes(tmp_path, wire.whole())
    assert ops(rows) == ["gc", "alloc", "free", "gc", "alloc"]


def test_a_thread_whose_times_run_ahead_waits_for_the_other(tmp_path):
    wire = Wire()
    wire.events(0, 10, heap(), (ALLOC, PAGE, 0), (GC_BEGIN, 1, 0), (GC_END, 2))
    # Machine 2 allocates the slot that machine 1 freed, and machine 1's times are late by more than that.
    wire.events(2, 20, (ALLOC, PAGE, 0), (ALLOC, PAGE + 6, 0))
    wire.events(1, 30, (FREE, PAGE))
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert listed(rows, "op", "thread") == [(1, 0), (4, 1), (5, 0), (1, 2), (1, 2)]
    assert trace.metadata["source"]["reordered"] == {"waited": 1}


def test_a_free_that_never_comes_is_put_in(tmp_path):
    wire = Wire()
    wire.events(0, 10, heap(), (ALLOC, PAGE, 0), (GC_BEGIN, 1, 0), (GC_END, 2), (ALLOC, PAGE, 0))
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert ops(rows) == ["alloc", "free", "gc", "alloc"]
    assert trace.repairs == {"unseen_frees": 1}


def test_a_batch_that_begins_sets_the_times_before_it_right(tmp_path):
    wire = Wire()
    wire.batch(0, 10, bytes([10, 0, 0, 1, SPAN_ALLOC, 1, 1, 1, CLASS_48_SCAN, ALLOC, 100, *b"\x80\x08", 0]))
    wire.batch(0, 50, bytes([ALLOC, 1, *b"\x86\x08", 0]))
    _, rows = read_bytes(tmp_path, wire.whole())
    assert rows["time_ns"].tolist() == [40, 41]


def test_tiny_objects_of_a_block_die_together_and_fit_into_it(tmp_path):
    wire = Wire()
    wire.types((1, 8, 0, "int64"), (2, 16, 0, "[2]int64"))
    wire.events(
        0,
        10,
        heap(CLASS_16_NOSCAN),
        (ALLOC, PAGE, 0),
        (ALLOC, PAGE, 0),
        (ALLOC, PAGE + 1, 1),
        (ALLOC, PAGE + 2, 0),
        (ALLOC, PAGE + 4, 2),
        (GC_BEGIN, 1, 0),
        (GC_END, 2),
        (FREE, PAGE),
    )
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert ops(rows) == ["alloc"] * 5 + ["free"] * 3 + ["gc"]
    assert sorted(rows["object"][5:8].tolist()) == [0, 1, 2]
    # Two of unknown sizes in eight bytes, an int64; a block with one; what is no tiny object.
    assert rows["size"][:5].tolist() == [4, 4, 8, 16, 16]
    assert trace.metadata["sizes_known"] == {"exact": 2, "class": 3}


def test_elements_tell_the_size_where_one_number_of_them_fits(tmp_path):
    wire = Wire()
    wire.types((1, 40, 8, "T"), (2, 8, 8, "*T"), (3, 30000, 8, "Big"))
    wire.events(
        *(0, 10),
        heap(),
        (ALLOC, PAGE, 1),
        (ALLOC, PAGE + 6, 2),
        heap(10 << 2, page=2),  # 128 bytes: three of 40.
        (ALLOC, 2 * PAGE, 1),
        heap(LARGE_SCAN, 8, page=3),  # 65,536 bytes: two of 30,000.
        (ALLOC, 3 * PAGE, 3),
    )
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert rows["size"].tolist() == [40, 48, 120, 60000]
    assert [sites.decode(trace.sites, "").type_of(site) for site in rows["site"].tolist()] == [
        "T",
        "*T",
        "T",
        "Big",
    ]


def test_spans_and_collections_are_told_with_the_rows_before_them(tmp_path):
    wire = Wire()
    wire.events(
        *(0, 10),
        (SPAN, 9, 4, MANUAL),
        heap(),
        (ALLOC, PAGE, 0),
        (GC_BEGIN, 1, 0),
        (GC_END, 2),
        (FREE, PAGE),
        (SPAN_FREE, 1),
        heap(CLASS_16_NOSCAN, page=2),
        (ALLOC, 2 * PAGE, 0),
    )
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert ops(rows) == ["alloc", "free", "gc", "alloc"]
    spans = trace.span_events()
    assert listed(spans, "row", "is_free", "address", "pages", "span_class") == [
        (0, 0, HEAP + 9 * 8192, 4, 2**32 - 1),
        (0, 0, HEAP + 8192, 1, 10),
        (3, 1, HEAP + 8192, 1, 10),
        (3, 0, HEAP + 2 * 8192, 1, 5),
    ]
    assert trace.collections()["row"].tolist() == [2]


def test_types_are_the_same_sites_in_every_generation(tmp_path):
    wire = Wire()
    wire.types((1, 48, 8, "T"))
    wire.events(0, 10, heap(), (ALLOC, PAGE, 1))
    wire.end()
    wire.experiment(bytes([0]) + bytes([5, *b"\x81\x20", 48, 8, 1]) + b"T")
    wire.events(0, 100, (ALLOC, PAGE + 6, 5))
    _, rows = read_bytes(tmp_path, wire.whole())
    assert rows["site"].tolist() == [1, 1]


FAULTS = [
    ((ALLOC, PAGE + 6 * 200, 0), "an object at 0xc000004580, which lies in no span", "unknown_spans"),
    ((ALLOC, PAGE, 77), "an object of type 77, which its generation does not tell", "unknown_types"),
    ((ALLOC, PAGE, 1), "an object of type plain in a span of the other kind", "pointer_contradictions"),
    ((FREE, PAGE), "the free of 0xc000002000, where no object lives", "unknown_frees"),
    ((SPAN_FREE, 7), "the free of a span at page 7, where none is", "bad_spans"),
    ((SPAN_ALLOC, 7, 2, CLASS_48_SCAN), "a span of 2 pages of kind and class 20", "bad_spans"),
    ((SPAN_ALLOC, 7, 1, 300), "a span of 1 pages of kind and class 300", "bad_spans"),
    ((EXISTS, PAGE + 6, 0), "an object that exists after others were allocated", "late_starts"),
    ((99, 1), "an event of type 99", "damaged_batches"),
]


@pytest.mark.parametrize(("event", "expected", "repair"), FAULTS, ids=[expected for _, expected, _ in FAULTS])
def test_an_event_that_cannot_be_is_told_with_its_byte_or_counted(tmp_path, event, expected, repair):
    wire = Wire()
    wire.types((1, 48, 0, "plain"))
    at = len(wire.data)
    wire.events(0, 10, heap(), event)
    with pytest.raises(
        TraceError, match=rf"trace\.out: byte {at}: found {expected}.*expected.*; --lenient goes"
    ):
        read_bytes(tmp_path, wire.whole())
    trace, _ = read_bytes(tmp_path, wire.whole(), lenient=True)
    assert trace.repairs == {repair: 1}


def test_go_1_23_may_leave_out_spans_without_objects(tmp_path):
    wire = Wire(23)
    wire.events(
        0, 10, (SPAN_FREE, 7), heap(MANUAL), heap(), (ALLOC, PAGE, 0), (SPAN_FREE, 1), (ALLOC, PAGE + 6, 0)
    )
    trace, rows = read_bytes(tmp_path, wire.whole())
    assert len(rows["op"]) == 2
    assert trace.metadata["source"]["reordered"]["untold_spans"] == 3


# ---- Size classes ---------------------------------------------------------------------------------------


def test_size_classes_are_the_models():
    model = [(row["object_bytes"], row["span_bytes"] // 8192) for row in GoModel().size_classes()]
    assert [(size, pages) for size, pages, *_ in go_size_classes()] == model


@pytest.mark.parametrize("noscan", [True, False])
def test_the_largest_request_of_a_class_is_where_the_model_takes_the_next(noscan):
    classes = go_size_classes()
    for size in BOUNDARY_SIZES:
        if not (16 if noscan else 1) <= size <= 32760 or (not noscan and size % 8):
            continue
        expected = next(
            slot
            for slot, _, noscan_most, scan_most in classes
            if (noscan_most if noscan else scan_most) >= size
        )
        numbers = {
            number.name: number.value
            for number in GoModel().explain(size, alignment=0, noscan=noscan).numbers
        }
        assert numbers["slot_bytes"] == expected, size
