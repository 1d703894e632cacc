"""The rules of the Go heap one by one: sizes, tiny blocks, Ps, triggers, time, options."""

import copy
import json

import numpy as np
import pytest
from go_support import batch_of, churn, feed, pareto_size

from allocators.go import SNAPSHOT_FOLDER, Go
from harness.allocator import ALLOC, CALLOC, FREE, GC, PARTS, REALLOC, SAMPLE_COLUMNS, THREAD_END, find
from harness.errors import AllocatorError

BASE = 0xC000000000
MINUTE_NS = 60 * 10**9


def batch_with(rows, *, alignment=None, time_ns=None):
    """Rows with an alignment or a time each."""
    batch = batch_of(rows)
    if alignment is not None:
        batch = batch._replace(alignment=np.array(alignment, np.uint32))
    if time_ns is not None:
        batch = batch._replace(time_ns=np.array(time_ns, np.int64))
    return batch


def heap_after(rows, **options):
    """Placements of each allocation (None: no memory), the last sample by name, and the model."""
    model = Go(**({"gogc": "off"} | options))
    model.native.record_placements(True)
    model.native.record_cycles(True)
    (sample,) = feed(model, batch_of(rows), [len(rows)])
    _, placed, has_address = model.native.take_placements()
    addresses = [int(a) if has else None for a, has in zip(placed, has_address, strict=True)]
    return addresses, dict(zip(SAMPLE_COLUMNS, sample.tolist(), strict=False)), model


def classes_of(model):
    """(class, noscan, live bytes) of every class that holds an object."""
    rows = model.result()["classes"]
    return [(row["class"], row["noscan"], row["live_bytes"]) for row in rows if row["live_bytes"]]


@pytest.mark.parametrize(
    ("size", "noscan", "size_class", "slot_bytes"),
    [
        (8, False, 1, 8),
        (1, False, 1, 8),
        (15, True, 2, 16),
        (16, True, 2, 16),
        (504, False, 26, 512),
        (505, False, 26, 512),
        (512, False, 26, 512),
        (513, False, 27, 576),
        (520, False, 27, 576),
        (512, True, 26, 512),
        (513, True, 27, 576),
        (568, False, 27, 576),
        (569, False, 28, 640),
        (576, True, 27, 576),
        (1016, False, 32, 1024),
        (1017, False, 33, 1152),
        (32752, False, 67, 32768),
        (32753, False, 67, 32768),
        (32760, False, 67, 32768),
        (32760, True, 67, 32768),
        (32761, False, 0, 32768),
        (32761, True, 0, 32768),
        (32768, True, 0, 32768),
        (32769, True, 0, 40960),
    ],
)
def test_an_object_takes_a_slot_of_the_class_that_go_gives_it(size, noscan, size_class, slot_bytes):
    _, sample, model = heap_after([(ALLOC, 0, 0, size, noscan)])
    assert classes_of(model) == [(size_class, noscan, slot_bytes)]
    assert sample["live"] == slot_bytes


def test_a_header_stands_before_scan_objects_without_a_bitmap():
    (small, larger, noscan), _, model = heap_after(
        [(ALLOC, 0, 0, 512, False), (ALLOC, 0, 1, 520, False), (ALLOC, 0, 2, 520, True)]
    )
    assert (small % 8192, larger % 8192, noscan % 8192) == (0, 8, 0)
    headers = {(row["class"], row["noscan"]): row["header_bytes"] for row in model.result()["classes"]}
    assert headers[27, False] == 8
    assert headers[27, True] == headers[26, False] == 0


def test_an_object_of_no_bytes_has_no_memory():
    rows = [(ALLOC, 0, 0, 0, True), (ALLOC, 0, 1, 0, False), (FREE, 0, 0, 0, False)]
    addresses, sample, model = heap_after(rows)
    assert addresses == [None, None]
    assert sample["mapped"] == sample["live"] == 0
    assert model.result()["failed_allocations"] == 0


def offsets(*sizes):
    """Where tiny objects of these sizes stand, as (block, offset)."""
    addresses, _, _ = heap_after([(ALLOC, 0, i, size, True) for i, size in enumerate(sizes)])
    return [((a - BASE) // 16, (a - BASE) % 16) for a in addresses]


def test_tiny_objects_share_a_block_and_are_aligned_by_their_size():
    assert offsets(1, 2, 4, 8) == [(0, 0), (0, 2), (0, 4), (0, 8)]
    assert offsets(1, 8, 1) == [(0, 0), (0, 8), (1, 0)]
    assert offsets(3, 3, 3, 3, 3, 1) == [(0, 0), (0, 3), (0, 6), (0, 9), (0, 12), (0, 15)]


def test_the_tiny_block_with_more_room_left_stays_the_current_one():
    # 12 leaves 4 bytes; 8 does not fit, and its block has more room: it becomes the current one.
    assert offsets(12, 8, 8) == [(0, 0), (1, 0), (1, 8)]
    # 8 leaves 8 bytes; 12 does not fit, and its block has less room: the old one stays.
    assert offsets(8, 12, 8) == [(0, 0), (1, 0), (0, 8)]
    # Room is judged by where the last object ends, 10, not by where the next would begin, 12.
    assert offsets(10, 12, 4) == [(0, 0), (1, 0), (0, 12)]


def test_a_tiny_block_lives_while_one_of_its_objects_does():
    rows = [(ALLOC, 0, i, 4, True) for i in range(4)]
    _, sample, _ = heap_after([*rows, *((FREE, 0, i, 0, True) for i in range(3))])
    assert (sample["live"], sample["dead"]) == (16, 0)
    _, sample, _ = heap_after([*rows, *((FREE, 0, i, 0, True) for i in range(4))])
    assert (sample["live"], sample["dead"]) == (0, 16)


def test_the_current_tiny_block_survives_a_collection_and_not_the_next():
    rows = [(ALLOC, 0, 0, 4, True), (FREE, 0, 0, 0, True), (GC, 0, 0, 0, False)]
    _, sample, _ = heap_after(rows)
    assert sample["dead"] == 16
    _, sample, _ = heap_after([*rows, (GC, 0, 0, 0, False)])
    assert sample["dead"] == 0


def test_a_dead_object_gives_nothing_back_before_a_collection():
    rows = [(ALLOC, 0, 0, 100, True), (FREE, 0, 0, 0, True)]
    _, sample, _ = heap_after(rows)
    assert (sample["live"], sample["dead"], sample["mapped"] - sample["released"]) == (0, 112, 8192)
    _, sample, _ = heap_after([*rows, (GC, 0, 0, 0, False)])
    assert sample["dead"] == sample["central"] == sample["tail"] == 0
    # The object's span and the work buffers' went back to the page heap, unscavenged.
    assert sample["page_heap"] == 8192 + 4 * 8192


def test_threads_are_dealt_out_to_ps_by_their_order_of_appearance():
    rows = [(ALLOC, thread, thread, 100, True) for thread in (5, 3, 9)]
    addresses, _, _ = heap_after(rows, procs=2)
    assert addresses[2] == addresses[0] + 112
    assert addresses[1] // 8192 != addresses[0] // 8192


def test_without_an_option_each_of_up_to_eight_threads_has_a_p():
    rows = [(ALLOC, thread, thread, 100, True) for thread in range(9)]
    pages = [address // 8192 for address in heap_after(rows)[0]]
    assert len(set(pages[:8])) == 8
    assert pages[8] == pages[0]


def test_a_thread_number_seen_again_after_its_end_is_a_new_thread():
    rows = [(ALLOC, 0, 0, 100, True), (THREAD_END, 0, 0, 0, False), (ALLOC, 0, 1, 100, True)]
    one_p, _, _ = heap_after(rows, procs=1)
    two_ps, _, _ = heap_after(rows, procs=2)
    assert one_p[1] == one_p[0] + 112
    assert two_ps[1] // 8192 != two_ps[0] // 8192


def test_an_alignment_rounds_the_request_up_to_a_multiple_of_it():
    model = Go(gogc="off")
    rows = [(ALLOC, 0, 0, 100, True), (ALLOC, 0, 1, 100, True), (ALLOC, 0, 2, 5, True)]
    feed(model, batch_with(rows, alignment=[64, 8, 16]))
    assert classes_of(model) == [(2, True, 16), (9, True, 112), (10, True, 128)]


def test_realloc_is_a_new_object_and_the_death_of_the_old():
    addresses, sample, model = heap_after([(ALLOC, 0, 0, 100, True), (REALLOC, 0, 0, 100, True)])
    assert classes_of(model) == [(9, True, 112)]
    assert sample["dead"] == 112
    assert addresses[1] == addresses[0] + 112


def test_every_allocation_is_served_by_one_tier():
    rows = churn(6, 30_000, pareto_size)
    counters = heap_after(rows, gogc=50)[2].result()["counters"]
    assert counters["mallocs"] == 30_000
    served = counters["front_end_hits"] + counters["refills"] + counters["large_allocations"]
    assert served == counters["mallocs"]
    refills = ("refills_from_central", "refills_from_new_span", "refills_from_new_os_memory")
    assert sum(counters[name] for name in refills) == counters["refills"]
    assert all(counters[name] > 0 for name in refills)


def test_calloc_is_an_allocation_as_any():
    assert heap_after([(CALLOC, 0, 0, 100, True)])[0] == heap_after([(ALLOC, 0, 0, 100, True)])[0]


def test_the_first_collection_begins_at_95_percent_of_the_minimum():
    # One slot of 8 KiB a span, so that the heap's live bytes are the objects'.
    rows = [(ALLOC, 0, i, 8192, True) for i in range(490)]
    assert heap_after(rows[:487], gogc=100)[2].native.state()["trigger"] == 3997696
    _, _, model = heap_after(rows, gogc=100, collector="stopped")
    assert [cycle[:2] for cycle in model.native.take_cycles()] == [[3997696, 3997696]]


@pytest.mark.parametrize(("gogc", "trigger"), [(100, 3997696), (50, 1998848), (200, 7995392)])
def test_the_minimum_scales_with_gogc(gogc, trigger):
    assert Go(gogc=gogc).native.state()["trigger"] == trigger


def test_with_gogc_off_only_the_trace_collects():
    rows = churn(1, 30_000, pareto_size)
    assert heap_after(rows)[2].result()["counters"]["gc_cycles"] == 0
    _, sample, model = heap_after([*rows, (GC, 0, 0, 0, False)])
    counters = model.result()["counters"]
    assert (counters["gc_cycles"], counters["gc_forced"]) == (1, 1)
    assert sample["dead"] <= 16


def test_a_memory_limit_collects_where_gogc_would_not():
    rows = churn(1, 60_000, pareto_size, frees_of_256=126)
    limit = 28 << 20
    free = heap_after(rows)[2].result()
    limited = heap_after(rows, memory_limit=limit)[2].result()
    assert free["counters"]["gc_cycles"] == 0
    assert limited["counters"]["gc_cycles"] > 0
    assert free["peak_committed"] > limit > limited["peak_committed"]


def test_a_limit_below_the_live_heap_still_lets_the_program_run():
    rows = churn(1, 30_000, pareto_size, frees_of_256=100)
    counters = heap_after(rows, memory_limit=1)[2].result()["counters"]
    assert 20 < counters["gc_cycles"] < 2000


def forced(times, rows, **options):
    """How many collections time alone has brought about."""
    model = Go(**options)
    feed(model, batch_with(rows, time_ns=times))
    return model.result()["counters"]["gc_forced"] - sum(row[0] == GC for row in rows)


def test_two_minutes_after_a_collection_comes_another():
    allocations = [(ALLOC, 0, i, 100, True) for i in range(3)]
    rows = [(GC, 0, 0, 0, False), *allocations]
    # The time of a collection is that of the event after it.
    assert forced([0, 1, 2, 2 * MINUTE_NS], rows) == 0
    assert forced([0, 1, 2, 2 * MINUTE_NS + 2], rows) == 1
    assert forced([0, 0, 2 * MINUTE_NS + 1, 4 * MINUTE_NS + 2], rows) == 2
    assert forced([0, 0, 1, 10 * MINUTE_NS], rows) == 4
    assert forced([0, 0, 1, 10 * MINUTE_NS], rows, gogc="off") == 0
    assert forced([0, 1, 10 * MINUTE_NS], allocations) == 0, "no collection before has set the clock"


def test_a_pause_of_years_is_as_long_as_its_last_day():
    rows = [(GC, 0, 0, 0, False), (ALLOC, 0, 0, 8, True), (ALLOC, 0, 1, 8, True)]
    assert forced([-(2**63), -(2**63), 2**63 - 1], rows) == 24 * 30 - 1


# Objects that, with their headers, fill a page each; the last one brings the heap to its first trigger.
TO_THE_TRIGGER = [(ALLOC, 0, i, 8184, False) for i in range(488)]
AFTER_IT = 700


def marking(*, die, time_ns=None, **options):
    """A model that has begun to mark 488 objects and goes on to allocate; `die`: the 488 are given up then.

    Returns (live at the start, marked) of each cycle that has ended, and the counters.
    """
    rows = list(TO_THE_TRIGGER)
    rows += [(FREE, 0, i, 0, False) for i in range(488)] if die else []
    rows += [(ALLOC, 0, 1000 + i, 8192, True) for i in range(AFTER_IT)]
    model = Go(**({"procs": 1} | options))
    model.native.record_cycles(True)
    times = None if time_ns is None else [0] * (len(rows) - AFTER_IT) + [time_ns] * AFTER_IT
    feed(model, batch_with(rows, time_ns=times))
    return [cycle[:2] for cycle in model.native.take_cycles()], model.result()["counters"]


def test_what_is_allocated_while_it_marks_stays_for_the_cycle():
    ((live, marked), *_), counters = marking(die=False)
    assert live == 488 * 8192
    assert counters["gc_assists"] > 1
    allocated_meanwhile = marked - live
    assert 20 * 8192 <= allocated_meanwhile < AFTER_IT * 8192
    ((live, marked), *_), _ = marking(die=False, collector="stopped")
    assert (live, marked) == (488 * 8192, 488 * 8192)


def test_what_dies_while_it_marks_is_found_dead_by_the_next_cycle():
    ((_, marked), *_), _ = marking(die=True)
    assert marked > 488 * 8192


def test_a_program_that_waits_is_marked_for_by_an_idle_p_and_by_itself_where_there_is_none():
    alone, helped = (marking(die=False, time_ns=10**9, procs=procs)[1] for procs in (1, 2))
    assert alone["gc_cycles"] > 0 < helped["gc_cycles"]
    assert helped["gc_assist_bytes"] < alone["gc_assist_bytes"]


def test_an_explicit_collection_ends_the_one_that_runs():
    rows = [*TO_THE_TRIGGER, (GC, 0, 0, 0, False)]
    counters = heap_after(rows, gogc=100)[2].result()["counters"]
    assert (counters["gc_cycles"], counters["gc_forced"]) == (2, 1)


def test_an_idle_p_sweeps_and_scavenges_while_time_passes():
    # A heap that dies; then one object of a new class an hour, at which the clock is looked at.
    small = [(ALLOC, 0, i, 8192, False) for i in range(4000)]
    dead = [(FREE, 0, i, 0, False) for i in range(4000)]
    hours = [(ALLOC, 0, i, 64 + 128 * i, True) for i in range(6)]
    rows = [*small, *dead, (GC, 0, 0, 0, False), *hours]
    hour_ns = 60 * MINUTE_NS
    times = [0] * 8001 + [hour_ns * i for i in range(6)]

    def released(**options):
        model = Go(procs=2, **options)
        (sample,) = feed(model, batch_with(rows, time_ns=times), [len(rows)])
        return dict(zip(SAMPLE_COLUMNS, sample.tolist(), strict=False))["released"]

    assert released() > released(scavenge="growth") + (8 << 20)


def test_growth_scavenges_what_the_goal_does_not_keep():
    # A heap that dies but for one object in eight; then objects that fit into no gap.
    small = [(ALLOC, 0, i, 8192, True) for i in range(4000)]
    deaths = [(FREE, 0, i, 0, True) for i in range(4000) if i % 8]
    large = [(ALLOC, 0, 10_000 + i, 1 << 20, True) for i in range(12)]
    rows = [*small, *deaths, *([(GC, 0, 0, 0, False)] * 2), *large]
    kept = heap_after(rows, scavenge="off", gogc=100)[2].result()
    given_back = heap_after(rows, gogc=100)[2].result()
    assert kept["counters"]["released_bytes_total"] == 0
    assert given_back["counters"]["released_bytes_total"] > 0
    assert given_back["end_footprint"]["released"] > kept["end_footprint"]["released"]
    assert given_back["end_footprint"]["mapped"] == kept["end_footprint"]["mapped"]


def test_an_allocation_that_no_heap_can_hold_fails_and_the_rest_goes_on():
    addresses, sample, model = heap_after([(ALLOC, 0, 0, 1 << 46, True), (ALLOC, 0, 1, 100, True)])
    assert addresses == [None, BASE]
    assert model.result()["failed_allocations"] == 1
    assert sample["live"] == 112


def test_large_runs_are_found_without_a_walk_over_the_heap():
    # 60 GiB, then spans that fit behind them only: a walk over 15,360 chunks for each would take minutes.
    rows = [(ALLOC, 0, 0, 60 << 30, True), *((ALLOC, 0, i, 1 << 20, True) for i in range(1, 20_000))]
    addresses, _, _ = heap_after(rows)
    assert addresses[1:] == [BASE + (60 << 30) + (i << 20) for i in range(19_999)]


def test_a_start_snapshot_is_the_runtimes_own():
    (sample,) = feed(Go(start="snapshot"), batch_of([(ALLOC, 0, 0, 5, True)]), [0])
    sample = dict(zip(SAMPLE_COLUMNS, sample.tolist(), strict=False))
    assert sample["live"] == sample["dead"] == sample["tail"] == 0
    assert sample["runtime"] > 0
    assert sum(sample[name] for name in PARTS) == sample["mapped"] >= 4 << 20


def test_an_object_in_a_tiny_block_of_the_start_is_live_while_it_lives():
    allocations = [(ALLOC, 0, i, 1, True) for i in range(64)]
    deaths = [(FREE, 0, i, 0, True) for i in range(64)]
    batch = batch_of([*allocations, *deaths, *([(GC, 0, 0, 0, False)] * 2)])
    samples = feed(Go(start="snapshot", gogc="off"), batch, range(len(batch.op) + 1))
    assert samples[64, SAMPLE_COLUMNS.index("live")] >= 64
    assert samples[-1, SAMPLE_COLUMNS.index("live")] == samples[-1, SAMPLE_COLUMNS.index("dead")] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version": "1.21"}, "version=1.21"),
        ({"gogc": -1}, "gogc=-1"),
        ({"procs": 0}, "procs=0"),
        ({"version": "1.24", "greentea": "on"}, "greentea=on needs version 1.25"),
        ({"snapshot": "x.json"}, "start=snapshot"),
        ({"start": "snapshot", "snapshot": "/does/not/exist"}, "cannot be read"),
        ({"start": "snapshot", "greentea": "off"}, "set greentea=on"),
        ({"collector": "never"}, "concurrent, lazy, stopped"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options, said):
    with pytest.raises(AllocatorError) as caught:
        Go(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["1.22", "1.23", "1.24", "1.25", "1.26", "1.27"])
def test_each_version_has_a_start_of_its_own(version):
    model = Go(start="snapshot", version=version)
    (sample,) = feed(model, batch_of([(ALLOC, 0, 0, 100, True)]), [1])
    assert sample[SAMPLE_COLUMNS.index("runtime")] > 100_000
    assert model.native.state()["trigger"] < 4 << 20


def test_a_version_without_a_start_says_what_to_name(monkeypatch, tmp_path):
    monkeypatch.setattr("allocators.go.SNAPSHOT_FOLDER", tmp_path)
    with pytest.raises(AllocatorError, match=r"no start snapshot of Go 1.27 .* snapshot=PATH"):
        Go(start="snapshot")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": "other"}', '{"schema": "harness-go-heap/1", "spans": 3}']
)
def test_a_file_that_is_no_snapshot_is_named(text, tmp_path):
    path = tmp_path / "start.json"
    path.write_text(text)
    with pytest.raises(AllocatorError, match=r"start\.json is no snapshot"):
        Go(start="snapshot", snapshot=str(path))


def test_a_snapshot_that_contradicts_itself_is_refused(tmp_path):
    fields = json.loads((SNAPSHOT_FOLDER / "go1.27.json").read_text())
    changes = [
        ("none of its span class 200", lambda f: f["spans"][0].__setitem__(3, 200)),
        ("none of its span class", lambda f: f["spans"][0].__setitem__(4, 5)),
        ("lies in no chunk", lambda f: f["spans"][0].__setitem__(0, 8192)),
        ("there is none", lambda f: f["central"][20][0].append(8192)),
        ("136 span classes", lambda f: f["central"].append([[], []])),
        ("pages are taken", lambda f: f["chunks"][0][1].__setitem__(7, 1)),
        ("during a sweep", lambda f: f["scalars"].__setitem__("sweep_done", 0)),
    ]
    for said, change in changes:
        changed = copy.deepcopy(fields)
        change(changed)
        path = tmp_path / "start.json"
        path.write_text(json.dumps(changed))
        with pytest.raises(AllocatorError, match=said):
            Go(start="snapshot", snapshot=str(path))


def test_options_are_read_from_the_command_line():
    (spec,) = find("go:gogc=off,memory_limit=64MiB,procs=4,version=1.25,collector=lazy")
    assert spec.options["memory_limit"] == 64 << 20
    assert spec.create().version == "1.25"
