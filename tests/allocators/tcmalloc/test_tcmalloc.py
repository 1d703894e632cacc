"""Options, start states and what a program can ask of the library beside a trace."""

from __future__ import annotations

import numpy as np
import pytest
from support import columns

from allocators.tcmalloc import Tcmalloc
from harness.allocator import ALLOC, CALLOC, FREE, REALLOC, THREAD_END, EventBatch, find
from harness.errors import AllocatorError
from harness.native._native import Checker

KIB = 1 << 10
MIB = 1 << 20


def feed(model, rows):
    """Feed rows of op, thread, object and size; returns the footprint after them."""
    raw = columns(rows)
    checker = Checker(noscan_fraction=0.0, override_noscan=False)
    names = ("op", "thread", "object", "size")
    model.feed(EventBatch(*checker.check(*(raw[name] for name in names), None, None, None)), np.array([0]))
    return footprint(model)


def feed_more(model, rows):
    """Feed rows that name slots of an earlier feed; a free says what size its object had."""
    count = len(rows)
    op, thread, slot, size = (np.array(column) for column in zip(*rows, strict=True))
    change = np.where(op == FREE, -size, size)
    batch = EventBatch(
        op=op.astype(np.uint8),
        thread=thread.astype(np.uint16),
        slot=slot.astype(np.uint32),
        size=size.astype(np.uint64),
        alignment=np.zeros(count, np.uint32),
        noscan=np.zeros(count, np.uint8),
        owner=np.zeros(count, np.uint16),
        time_ns=np.zeros(0, np.int64),
        requested=(footprint(model)["live"] + change.cumsum()).astype(np.uint64),
    )
    model.feed(batch, np.array([], np.int64))


def footprint(model):
    return model.result()["end_footprint"]


def counters(model):
    return model.result()["counters"]


def allocations(count, size, *, thread=0):
    return [(ALLOC, thread, name, size) for name in range(count)]


def frees(count, *, thread=0):
    return [(FREE, thread, name, 0) for name in range(count)]


class TestStart:
    def test_a_bare_heap_is_empty(self):
        start = footprint(Tcmalloc(start="bare"))
        # Three allocators of metadata objects take their first chunk of 128 KiB when they are made.
        assert start.pop("metadata") == 3 * 128 * KIB
        assert set(start.values()) == {0}

    @pytest.mark.parametrize(("version", "runtime"), [("2.10", 73_752), ("2.13", 73_752), ("2.14", 73_728)])
    def test_a_process_holds_what_it_allocated_before_main(self, version, runtime):
        start = footprint(Tcmalloc(version=version))
        assert start["runtime"] == runtime
        assert start["mapped"] == MIB
        assert start["live"] == 0

    @pytest.mark.parametrize(("version", "caches"), [("2.15", 2), ("2.16", 1)])
    def test_the_main_thread_has_a_cache_already(self, version, caches):
        model = Tcmalloc(version=version)
        feed(model, allocations(1, 100))
        assert counters(model)["thread_caches_created"] == caches


class TestOptions:
    def test_the_command_line_reaches_them_all(self):
        text = (
            "tcmalloc:version=2.10,transfer_num_objects=32,start=bare,release_rate=0,aggressive_decommit=true,"
            "max_total_thread_cache_bytes=1MiB,heap_limit_mb=64,heap_base=1073741824"
        )
        (spec,) = find(text)
        model = spec.create()
        assert model.version == "gperftools 2.10"
        assert len(model.size_classes()) == 85
        assert model.properties()["tcmalloc.max_total_thread_cache_bytes"] == MIB
        assert model.properties()["tcmalloc.aggressive_memory_decommit"] == 1

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"transfer_num_objects": 0}, "transfer_num_objects=0 lies outside 1 to 2147483647"),
            ({"heap_base": 1 << 30 | 4096}, "heap_base=1073745920 is no multiple of 8192"),
            ({"heap_base": 0}, "heap_base=0 lies outside"),
            ({"page_size": 12 << 10}, "page_size=12288 is none of 4KiB, 8KiB, 16KiB"),
            ({"heap_limit_mb": -1}, "heap_limit_mb=-1 lies outside"),
            ({"release_rate": float("nan")}, "release_rate=nan is no rate"),
            ({"release_rate": -1.0}, "release_rate=-1.0 is no rate"),
            ({"max_total_thread_cache_bytes": -1}, "max_total_thread_cache_bytes=-1 lies outside"),
        ],
    )
    def test_a_value_that_fits_nothing_is_named(self, option, message):
        with pytest.raises(AllocatorError, match=message):
            Tcmalloc(**option)

    def test_a_heap_limit_makes_allocations_fail(self):
        model = Tcmalloc(heap_limit_mb=20)
        assert feed(model, allocations(20, MIB))["mapped"] <= 20 * MIB
        assert model.result()["failed_allocations"] > 0

    def test_more_than_the_address_space_fails(self):
        model = Tcmalloc()
        before = footprint(model)
        assert feed(model, [(ALLOC, 0, 0, 1 << 46)]) == before
        assert model.result()["failed_allocations"] == 1

    def test_a_terabyte_costs_the_model_no_memory(self):
        assert feed(Tcmalloc(), [(ALLOC, 0, 0, 1 << 40)])["live"] == 1 << 40


class TestTiers:
    def test_a_freed_object_is_the_next_one(self):
        model = Tcmalloc()
        model.native.record_placements(True)
        feed(model, [(ALLOC, 0, 0, 64), (ALLOC, 0, 1, 64), (FREE, 0, 1, 0), (ALLOC, 0, 2, 64)])
        _, addresses, _ = model.native.take_placements()
        assert addresses[1] == addresses[2] != addresses[0]

    def test_a_list_grows_slowly(self):
        model = Tcmalloc(start="bare")
        feed(model, allocations(10, 64))
        # 1, 2, 3 and 4 objects at a time.
        assert counters(model)["refills"] == 4
        assert counters(model)["refilled_objects"] == 10

    def test_an_ended_thread_leaves_nothing_behind(self):
        model = Tcmalloc(start="bare")
        rows = [*allocations(1000, 64, thread=1), *frees(1000, thread=1)]
        assert feed(model, rows)["front_end"] > 0
        model = Tcmalloc(start="bare")
        end = feed(model, [*rows, (THREAD_END, 1, 0, 0)])
        assert end["front_end"] == 0
        assert counters(model)["thread_caches_deleted"] == 1

    def test_the_refills_name_their_source(self):
        model = Tcmalloc(transfer_num_objects=2)
        feed(model, [*allocations(5000, 64), *frees(5000), *allocations(5000, 64, thread=1)])
        now = counters(model)
        assert now["refills"] == sum(now[name] for name in now if name.startswith("refills_from_"))
        assert now["refills_from_transfer"] > 0

    def test_nothing_is_returned_before_two_gibibytes_are_freed(self):
        half = 1 << 29
        rounds = [row for name in range(3) for row in ((ALLOC, 0, name, half), (FREE, 0, name, 0))]
        # Growth counts as a free: two rounds make 1.5 GiB, three make 2 GiB and what the start had freed.
        assert feed(Tcmalloc(), rounds[:4])["released"] == 0
        assert feed(Tcmalloc(), rounds)["released"] > half


class TestVersions:
    @pytest.mark.parametrize(("version", "takes_the_lower"), [("2.16", True), ("2.17", False)])
    def test_of_large_spans_of_one_length_the_returned_or_the_normal_one_is_taken(
        self, version, takes_the_lower
    ):
        model = Tcmalloc(version=version)
        model.native.record_placements(True)
        # The smaller blocks keep the two apart.
        feed(model, [(ALLOC, 0, name, size) for name, size in enumerate([2 * MIB, 300 * KIB] * 2)])
        feed_more(model, [(FREE, 0, 0, 2 * MIB)])
        model.release_free_memory()
        feed_more(model, [(FREE, 0, 2, 2 * MIB), (ALLOC, 0, 0, 2 * MIB)])
        _, addresses, _ = model.native.take_placements()
        assert addresses[-1] == addresses[0 if takes_the_lower else 2]

    @pytest.mark.parametrize(
        ("version", "size", "moves"),
        [
            ("2.17", 512, False),  # At least half of 1,024.
            ("2.17", 511, True),
            ("2.18", 512, True),
            ("2.17", 960, False),
            ("2.18", 960, True),  # A class of its own.
            ("2.18", 961, False),
            ("2.17", 100, True),
            ("2.18", 1025, True),
        ],
    )
    def test_realloc_moves_by_the_rule_of_its_version(self, version, size, moves):
        model = Tcmalloc(version=version)
        model.native.record_placements(True)
        feed(model, [(ALLOC, 0, 0, 1000), (REALLOC, 0, 0, size)])
        events, _, _ = model.native.take_placements()
        assert len(events) == 1 + moves

    @pytest.mark.parametrize(("version", "live"), [("2.17", 1280), ("2.18", 1152)])
    def test_a_block_that_grows_a_little_gets_a_quarter_more_up_to_2_17(self, version, live):
        end = feed(Tcmalloc(version=version), [(ALLOC, 0, 0, 1024), (REALLOC, 0, 0, 1025)])
        assert end["live"] == live


class TestBesideATrace:
    def test_free_memory_is_returned(self):
        model = Tcmalloc()
        feed(model, [*allocations(10, MIB), *frees(10)])
        assert footprint(model)["page_heap"] > 10 * MIB
        model.release_free_memory()
        assert footprint(model)["page_heap"] == 0
        assert footprint(model)["released"] > 10 * MIB

    def test_what_was_returned_in_excess_counts_for_the_next_call(self):
        model = Tcmalloc()
        feed(model, [*allocations(1, 4 * MIB), *frees(1)])
        model.release_to_system(MIB)
        released = footprint(model)["released"]
        assert released > 4 * MIB  # The smallest large span, as a whole.
        model.release_to_system(3 * MIB)
        assert footprint(model)["released"] == released

    def test_an_idle_thread_has_no_cache(self):
        model = Tcmalloc(start="bare")
        feed(model, [*allocations(1000, 64), *frees(1000)])
        assert footprint(model)["front_end"] > 0
        model.mark_thread_idle(0)
        assert footprint(model)["front_end"] == 0

    def test_properties_can_be_set_by_either_name(self):
        model = Tcmalloc()
        model.set_property("tcmalloc.max_total_thread_cache_bytes", MIB)
        model.set_property("aggressive_memory_decommit", 1)
        assert model.properties()["tcmalloc.max_total_thread_cache_bytes"] == MIB
        assert model.properties()["tcmalloc.aggressive_memory_decommit"] == 1

    @pytest.mark.parametrize("name", ["min_per_thread_cache_bytes", "no_such_property"])
    def test_a_property_that_the_version_lacks_is_named(self, name):
        with pytest.raises(AllocatorError, match=f"gperftools 2.15 has no property '{name}' to set"):
            Tcmalloc(version="2.15").set_property(name, 1)

    def test_the_minimum_of_a_thread_came_with_2_16(self):
        Tcmalloc(version="2.16").set_property("min_per_thread_cache_bytes", 64 * KIB)

    @pytest.mark.parametrize(("version", "caches"), [("2.10", 1), ("2.11", 0)])
    def test_a_temporarily_idle_thread_kept_its_cache_up_to_2_10(self, version, caches):
        model = Tcmalloc(version=version, start="bare")
        feed(model, [*allocations(100, 64), *frees(100)])
        model.mark_thread_temporarily_idle(0)
        assert footprint(model)["front_end"] == 0
        assert f"{caches:12d}              Thread heaps in use" in model.stats_text()

    def test_a_thread_that_is_started_costs_the_main_thread_a_block(self):
        model = Tcmalloc(transfer_num_objects=32)
        before = footprint(model)["runtime"]
        model.start_thread(304)
        assert footprint(model)["runtime"] == before + 320


def test_bytes_that_a_realloc_copies_are_counted_where_the_block_moves():
    model = Tcmalloc(version="2.10")
    feed(model, [(ALLOC, 0, 0, 1000), (REALLOC, 0, 0, 1001), (REALLOC, 0, 0, 5000), (REALLOC, 0, 0, 100)])
    found = counters(model)
    assert found["reallocations_in_place"] == 1
    assert found["reallocation_copied_bytes"] == 1024 + 100


class TestTouchedPages:
    """A block of 1 MiB has 256 pages of 4 KiB."""

    @pytest.mark.parametrize(("touch", "pages"), [("none", 0), ("first", 1), ("whole", 256)])
    @pytest.mark.parametrize("op", [ALLOC, CALLOC])
    def test_a_block_has_those_that_the_program_or_calloc_wrote(self, touch, pages, op):
        model = Tcmalloc(touch=touch)
        before = model.touched_resident_bytes()
        feed(model, [(op, 0, 0, MIB)])
        assert model.touched_resident_bytes() - before == (256 if op == CALLOC else pages) * 4 * KIB

    def test_a_new_span_has_those_in_which_an_object_begins(self):
        model = Tcmalloc(touch="none", start="bare", transfer_num_objects=32)
        feed(model, [(ALLOC, 0, 0, 3072)])  # 5 objects in 16 KiB begin in all four pages.
        assert model.touched_resident_bytes() == 16 * KIB
        feed_more(model, [(ALLOC, 0, 1, 32 * KIB)])  # One object a span.
        assert model.touched_resident_bytes() == 20 * KIB

    def test_a_moving_realloc_writes_what_it_copies(self):
        model = Tcmalloc(touch="none")
        before = model.touched_resident_bytes()
        feed(model, [(ALLOC, 0, 0, MIB), (REALLOC, 0, 0, 4 * MIB)])
        assert model.touched_resident_bytes() - before == MIB

    def test_what_goes_back_is_no_longer_in_memory(self):
        model = Tcmalloc(touch="whole")
        before = model.touched_resident_bytes()
        feed(model, [(ALLOC, 0, 0, MIB), (FREE, 0, 0, 0)])
        assert model.touched_resident_bytes() == before + MIB
        model.release_free_memory()
        assert model.touched_resident_bytes() == before
        assert counters(model)["touched_resident_bytes"] == before
        assert counters(model)["peak_touched_resident_bytes"] == before + MIB

    def test_a_page_fault_is_counted_each_time_that_the_library_writes_where_no_memory_is(self):
        model = Tcmalloc(start="bare", transfer_num_objects=32)
        feed(model, [(ALLOC, 0, 0, 3072)])  # Objects begin in four pages.
        assert counters(model)["page_faults"] == 4
        feed_more(model, [(FREE, 0, 0, 3072), (ALLOC, 0, 0, 3072)])
        assert counters(model)["page_faults"] == 4
        feed_more(model, [(ALLOC, 0, 1, MIB), (REALLOC, 0, 1, 4 * MIB)])
        assert counters(model)["page_faults"] == 4 + 256
        feed_more(model, [(FREE, 0, 1, 4 * MIB)])
        model.release_free_memory()
        feed_more(model, [(ALLOC, 0, 1, MIB), (REALLOC, 0, 1, 4 * MIB)])
        assert counters(model)["page_faults"] == 4 + 256 + 256

    def test_page_faults_are_pages_touched_where_nothing_else_is_written(self):
        model = Tcmalloc(touch="none")
        feed(model, [*allocations(3000, 100), *((ALLOC, 0, 3000 + i, 40 * KIB) for i in range(50))])
        assert counters(model)["page_faults"] * 4 * KIB == model.touched_resident_bytes()

    def test_they_are_counted_only_where_it_is_asked_for(self):
        model = Tcmalloc()
        feed(model, [(ALLOC, 0, 0, MIB)])
        assert "touched_resident_bytes" not in counters(model)
        with pytest.raises(AllocatorError, match="touch=off counts no pages"):
            model.touched_resident_bytes()
