"""What must hold of the model whatever a program does and however the library is set up."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import every_event, traces

from allocators.tcmalloc import Tcmalloc
from harness.allocator import FREE, PARTS, REALLOC, SAMPLE_COLUMNS, Bytes

# A machine that is busy with something else is no fault of the model.
at_any_speed = settings(deadline=None)

# Small batches, small limits and eager releases reach every tier in a short trace.
options = st.fixed_dictionaries(
    {
        "version": st.sampled_from([f"2.{minor}" for minor in range(10, 19)]),
        "transfer_num_objects": st.sampled_from([2, 32, 512]),
        "start": st.sampled_from(["process", "bare"]),
        "release_rate": st.sampled_from([0.0, 1.0, 10.0]),
        "max_total_thread_cache_bytes": st.sampled_from([Bytes(0), Bytes(32 << 20)]),
        "aggressive_decommit": st.booleans(),
        "heap_limit_mb": st.sampled_from([0, 0, 12, 16]),
    }
)


def column(samples, name):
    return samples[:, SAMPLE_COLUMNS.index(name)]


def feed(model, events):
    return model.feed(events, every_event(events))


@at_any_speed
@given(events=traces(), chosen=options)
def test_every_byte_belongs_to_one_part_after_every_event(events, chosen):
    samples = feed(Tcmalloc(**chosen), events)
    parts = np.stack([column(samples, name) for name in PARTS])
    assert (parts >= 0).all()
    np.testing.assert_array_equal(parts.sum(axis=0), column(samples, "mapped"))
    assert (column(samples, "dead") == 0).all()


@at_any_speed
@given(events=traces(), chosen=options, data=st.data())
def test_any_split_into_batches_gives_the_same_samples(events, chosen, data):
    cut = data.draw(st.integers(0, len(events.op)))
    model = Tcmalloc(**chosen)
    pieces = [feed(model, events.part(0, cut)), feed(model, events.part(cut, len(events.op)))]
    np.testing.assert_array_equal(np.concatenate(pieces), feed(Tcmalloc(**chosen), events))


@at_any_speed
@given(events=traces(), chosen=options)
def test_an_exchange_does_what_allocate_and_release_do(events, chosen):
    # Where touched pages are counted, every event goes the long way.
    exchanging, counting = Tcmalloc(**chosen), Tcmalloc(**chosen, touch="none")
    np.testing.assert_array_equal(feed(exchanging, events), feed(counting, events))
    expected = counting.result()
    for name in ("touched_resident_bytes", "peak_touched_resident_bytes"):
        del expected["counters"][name]
    assert exchanging.result() == expected


@at_any_speed
@given(events=traces(releases_all=True), chosen=options)
def test_releasing_everything_leaves_nothing_live(events, chosen):
    model = Tcmalloc(**chosen)
    model.feed(events, np.array([], np.int64))
    result = model.result()
    assert result["end_footprint"]["live"] == 0
    assert all(row["live_objects"] == 0 for row in result["classes"])


@at_any_speed
@given(events=traces(), chosen=options)
def test_the_same_run_twice_gives_the_same_bytes(events, chosen):
    first, second = Tcmalloc(**chosen), Tcmalloc(**chosen)
    assert feed(first, events).tobytes() == feed(second, events).tobytes()
    assert first.result() == second.result()


@at_any_speed
@given(events=traces(), chosen=options)
def test_classes_add_up_to_the_footprint(events, chosen):
    model = Tcmalloc(**chosen)
    model.feed(events, np.array([], np.int64))
    result = model.result()
    for part_name in ("live", "front_end", "transfer", "central", "tail"):
        total = sum(row[f"{part_name}_bytes"] for row in result["classes"])
        assert total == result["end_footprint"][part_name], part_name


@at_any_speed
@given(events=traces(), chosen=options)
def test_no_two_objects_overlap(events, chosen):
    model = Tcmalloc(**chosen)
    model.native.record_placements(True)
    model.feed(events, np.array([], np.int64))
    events_placed, addresses, has_address = (column.tolist() for column in model.native.take_placements())
    placed = {
        event: address if has else None
        for event, address, has in zip(events_placed, addresses, has_address, strict=True)
    }
    starts, sizes = {}, {}
    for number, (op, slot, size, alignment) in enumerate(
        zip(events.op, events.slot, events.size.tolist(), events.alignment.tolist(), strict=True)
    ):
        failed = placed.get(number, 0) is None
        if op == FREE or (failed and op != REALLOC):
            starts.pop(slot, None)
        elif number in placed and not failed:
            starts[slot], sizes[slot] = placed[number], size
            assert placed[number] % max(alignment, 8) == 0
        elif op == REALLOC and not failed:
            sizes[slot] = size  # It stays where it is.
    extents = sorted((start, sizes[slot]) for slot, start in starts.items())
    for (start, size), (following, _) in itertools.pairwise(extents):
        assert start + max(size, 1) <= following
