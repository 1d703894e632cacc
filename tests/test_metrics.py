"""The formulas, on footprints of ten bytes, without native code."""

from __future__ import annotations

import pytest

from harness import metrics

PARTS = {
    "live": 600,
    "dead": 50,
    "front_end": 100,
    "transfer": 20,
    "central": 30,
    "tail": 10,
    "page_heap": 90,
    "released": 80,
    "runtime": 20,
    "mapped": 1000,
    "metadata": None,
}


TRACE = {
    "events": 4,
    "allocations": 3,
    "reallocations": 1,
    "frees": 2,
    "remote_frees": 1,
    "peak_requested_bytes": 500,
    "end_requested_bytes": 10,
    "requested_sum": 1000,
}
RESULT = {
    "committed_sum": 1500,
    "peak_mapped": 1000,
    "peak_committed": 920,
    "committed_at_peak_requested": 700,
    "requested_at_peak_committed": 460,
    "failed_allocations": 0,
    "peak_footprint": PARTS,
    "end_footprint": PARTS,
    "counters": {"front_end_hits": 3},
}


def moment(parts=PARTS, *, requested=500, floor_committed=0):
    floor = dict.fromkeys(PARTS, 0) | {"mapped": floor_committed}
    result = RESULT | {"peak_footprint": parts, "requested_at_peak_committed": requested}
    return metrics.summary(TRACE, result, floor)


def test_a_moment_is_made_of_its_parts():
    at_peak = moment(floor_committed=20)
    assert at_peak["internal_waste_bytes"] == 100
    assert at_peak["internal_fragmentation"] == pytest.approx(100 / 600)
    assert at_peak["external_waste_bytes"] == 100 + 20 + 30 + 10 + 90
    assert at_peak["garbage_bytes"] == 50
    assert at_peak["waste_bytes"] == 920 - 500
    assert at_peak["overhead"] == pytest.approx(420 / 500)
    assert at_peak["overhead_above_floor"] == pytest.approx(400 / 500)
    assert at_peak["efficiency"] == pytest.approx(500 / 920)


def test_waste_is_internal_and_external_and_garbage_and_runtime():
    at_peak = moment()
    parts = (at_peak[f"{name}_bytes"] for name in ("internal_waste", "external_waste", "garbage"))
    assert sum(parts) + PARTS["runtime"] == at_peak["waste_bytes"]


def test_a_part_that_is_unknown_leaves_what_needs_it_unknown():
    at_peak = moment(PARTS | {"front_end": None})
    assert at_peak["external_waste_bytes"] is None
    assert at_peak["waste_bytes"] == 420


def test_a_ratio_over_nothing_is_nothing():
    assert metrics.ratio(5, 0) is None
    assert metrics.ratio(None, 5) is None
    assert moment(requested=0)["overhead"] is None


def test_the_tiers_share_every_allocation():
    counters = {
        "front_end_hits": 4,
        "refills_from_transfer": 1,
        "refills_from_central": 2,
        "refills_from_new_span": 1,
        "refills_from_new_os_memory": 1,
        "large_allocations": 2,
        "large_allocations_from_new_os_memory": 1,
        "reallocations_in_place": 3,
    }
    trace = TRACE | {"allocations": 10, "reallocations": 4}
    told = metrics.summary(trace, RESULT | {"counters": counters}, PARTS)
    names = ("transfer", "central", "new_span", "new_os_memory")
    shares = [told["front_end_hit_rate"], *(told[f"tier_share_{name}"] for name in names)]
    assert shares == [pytest.approx(count / 11) for count in (4, 1, 2, 2, 2)]


def test_counts_that_an_allocator_does_not_keep_are_unknown():
    told = metrics.summary(TRACE, RESULT, PARTS)
    assert told["refills"] is told["gc_cycles"] is told["os_calls"] is told["span_return_rate"] is None
    assert told["central_locks_per_1000_events"] is None


def test_locks_are_told_for_every_1000_events():
    go = metrics.summary(TRACE, RESULT | {"counters": {"heap_lock_acquisitions": 2}}, PARTS)
    tcmalloc = metrics.summary(TRACE, RESULT | {"counters": {"page_heap_lock_acquisitions": 3}}, PARTS)
    assert go["page_heap_locks_per_1000_events"] == 500
    assert tcmalloc["page_heap_locks_per_1000_events"] == 750


def test_headroom_is_what_the_goal_lies_above_what_was_marked():
    gauges = {"gc_goal_bytes": 900, "gc_marked_bytes": 400}
    told = metrics.summary(TRACE, RESULT | {"peak_gauges": gauges}, PARTS)
    assert (told["gc_goal_bytes"], told["gc_headroom_bytes"]) == (900, 500)
    without_goal = metrics.summary(TRACE, RESULT | {"peak_gauges": gauges | {"gc_goal_bytes": None}}, PARTS)
    assert without_goal["gc_headroom_bytes"] is None


def test_every_metric_of_the_summary_is_defined_once():
    names = [metric.name for group in metrics.GROUPS.values() for metric in group]
    assert len(set(names)) == len(names)
    assert list(metrics.summary(TRACE, RESULT, PARTS)) == names


def test_fragmentation_is_a_ratio_of_sums_and_of_maxima():
    summary = metrics.summary(TRACE, RESULT, floor=PARTS)
    assert summary["fragmentation_mean"] == 1.5
    assert summary["fragmentation_peak_ratio"] == 920 / 500
    assert summary["fragmentation_at_peak_requested"] == 700 / 500
    assert summary["fragmentation_at_peak_committed"] == 2.0
    assert summary["mean_committed_bytes"] == 375
    assert summary["front_end_hit_rate"] == 0.75
    assert summary["remote_free_rate"] == 0.5


def test_classes_share_their_waste():
    empty = {"spans": 1, "spans_requested": 4, "spans_returned": 1, "allocations": 1}
    empty |= {"header_bytes": 0, "dead_bytes": 0, "transfer_bytes": 0}
    rows = [
        empty
        | {
            "live_bytes": 64,
            "requested_bytes": 60,
            "front_end_bytes": 10,
            "central_bytes": 0,
            "tail_bytes": 2,
        },
        empty
        | {
            "live_bytes": 32,
            "requested_bytes": 32,
            "front_end_bytes": 0,
            "central_bytes": 48,
            "tail_bytes": 0,
        },
        empty
        | {"spans": 0, "allocations": 0}
        | {"live_bytes": 0, "requested_bytes": 0, "front_end_bytes": 0, "central_bytes": 0, "tail_bytes": 0},
    ]
    shared = metrics.with_shares(rows)
    assert [row["waste_bytes"] for row in shared] == [16, 48]
    assert [row["waste_share"] for row in shared] == [0.25, 0.75]
    assert shared[0]["rounding_bytes"] == 4
    assert shared[0]["span_return_rate"] == 0.25


def test_what_is_asked_at_samples_gives_a_mean_in_place_of_a_sum():
    summary = metrics.summary(
        TRACE, RESULT | {"committed_sum": None, "mean_committed_bytes": 400.0}, floor=PARTS
    )
    assert summary["mean_committed_bytes"] == 400
    assert summary["fragmentation_mean"] == 400 / 250


def test_the_kernels_count_and_the_time_have_names_of_their_own():
    resident = {"floor": 1, "peak": 3, "end": 2}
    result = RESULT | {"resident": resident, "timing": {"kind": "measured", "ns_per_event": 12.5}}
    summary = metrics.summary(TRACE, result, floor=PARTS)
    assert {name: summary[f"{name}_resident_bytes"] for name in resident} == resident
    assert summary["measured_ns_per_event"] == 12.5
    assert summary["modelled_ns_per_event"] is None


def test_of_what_failed_only_the_trace_is_known():
    nothing = dict.fromkeys(PARTS)
    result = {**metrics.UNKNOWN_RESULT, "peak_footprint": nothing, "end_footprint": nothing}
    known = {name for name, value in metrics.summary(TRACE, result, nothing).items() if value is not None}
    assert known == {
        "peak_requested_bytes",
        "mean_requested_bytes",
        "end_requested_bytes",
        "remote_free_rate",
    }


def test_committed_bytes_over_samples_need_every_sample():
    assert metrics.over_samples({"mapped": [10, 30], "released": [0, 10]}) == {
        "peak_committed_bytes": 20,
        "mean_committed_bytes": 15,
    }
    for samples in ({"mapped": [10, 30], "released": [0, None]}, {"mapped": [], "released": []}):
        assert set(metrics.over_samples(samples).values()) == {None}


def test_over_time_the_most_between_two_samples_counts_where_it_is_known():
    samples = {"mapped": [10, 30, None], "released": [0, 10, 5], "peak_committed": [25, None, None]}
    assert metrics.committed_over_time(samples) == [25, 20, None]


def test_occupancy_is_weighed_by_the_bytes_of_spans_and_one_object_apart():
    def spans(slot_bytes, counts, single_bytes):
        return {
            "slot_bytes": slot_bytes,
            "span_bytes": 800,
            "occupancy_spans": counts,
            "single_object_span_bytes": single_bytes,
        }

    of_many, of_two = [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3], [0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 5]
    classes = [
        spans(8, of_many, 800),  # A hundred slots: one object is 1 %.
        spans(400, of_two, 3200),  # Two: it is half.
        spans(0, [0] * 10 + [7], 0),  # Each object has a span of its own.
        {"slot_bytes": 8, "span_bytes": 800},  # No census was taken.
    ]
    everything, single = metrics.occupancy_bytes(classes)
    assert everything == [800, 1600, 0, 0, 0, 3200, 0, 0, 0, 0, 6400]
    assert single == [0, 800, 0, 0, 0, 3200, 0, 0, 0, 0, 0]
