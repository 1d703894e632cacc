"""What holds after every event, whatever the program does.

Few sizes and repeated actions, so that objects meet in one span; GOGC so small that collections are many.
"""

import numpy as np
from go_support import batch_of, churn, feed
from hypothesis import given, settings
from hypothesis import strategies as st

from allocators.go import Go
from harness.allocator import ALLOC, FREE, GC, PARTS, SAMPLE_COLUMNS, THREAD_END

LIVE, DEAD, CENTRAL, TAIL, MAPPED = (
    SAMPLE_COLUMNS.index(name) for name in ("live", "dead", "central", "tail", "mapped")
)
SIZES = st.sampled_from([0, 1, 4, 7, 8, 12, 16, 24, 512, 520, 3000, 8192, 20_000, 32_768, 70_000, 600_000])

# An action: what, how often, of which size and kind, on which thread, which of the living.
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "allocate", "release", "collect", "end"]),
        st.integers(1, 40),
        SIZES,
        st.booleans(),
        st.integers(0, 3),
        st.integers(0, 1 << 16),
    ),
    min_size=1,
    max_size=25,
)
OPTIONS = st.fixed_dictionaries(
    {
        "gogc": st.sampled_from([1, 5, 100, "off"]),
        "memory_limit": st.sampled_from([5 << 20, 8 << 20, "off"]),
        "procs": st.sampled_from([1, 3]),
        "collector": st.sampled_from(["concurrent", "lazy", "stopped"]),
        "clock": st.sampled_from(["trace", "cost"]),
        "scavenge": st.sampled_from(["background", "growth", "off"]),
        "start": st.sampled_from(["bare", "snapshot"]),
    }
)


def rows_of(actions, *, release_all=False):
    """A trace that is valid by construction."""
    rows, live, names, running = [], [], 0, set()
    for kind, times, size, noscan, thread, choice in actions:
        if kind == "collect":
            rows.append((GC, thread, 0, 0, False))
        elif kind == "end" and thread in running:
            rows.append((THREAD_END, thread, 0, 0, False))
            running.discard(thread)
        for _ in range(times):
            if kind == "allocate":
                rows.append((ALLOC, thread, names, size, noscan))
                live.append(names)
                running.add(thread)
                names += 1
            elif kind == "release" and live:
                rows.append((FREE, thread, live.pop(choice % len(live)), 0, False))
                running.add(thread)
    if release_all:
        rows += [(FREE, 0, name, 0, False) for name in live]
        rows += [(GC, 0, 0, 0, False)] * 2
    return rows


@settings(deadline=None, max_examples=300)
@given(ACTIONS, OPTIONS)
def test_every_mapped_byte_has_one_holder_after_every_event(actions, options):
    batch = batch_of(rows_of(actions))
    # The loop itself throws where a part is negative, live is less than requested or the sum is wrong.
    samples = feed(Go(**options), batch, range(len(batch.op) + 1))
    assert (samples[:, : len(PARTS)].sum(axis=1) == samples[:, MAPPED]).all()


@settings(deadline=None, max_examples=50)
@given(ACTIONS, OPTIONS, st.integers(1, 50))
def test_any_split_into_batches_gives_the_same_samples(actions, options, size):
    batch = batch_of(rows_of(actions))
    whole = feed(Go(**options), batch, range(len(batch.op) + 1))
    model = Go(**options)
    rows = feed(model, batch.part(0, 0), [0]).tolist()
    for first in range(0, len(batch.op), size):
        piece = batch.part(first, first + size)
        rows += feed(model, piece, range(1, len(piece.op) + 1)).tolist()
    assert rows == whole.tolist()


def assert_apart_is_as_in_turn(rows, options, gaps_ns, stride):
    """Compares the quick way with the long one at every stride-th event, at the peak and at the end.

    An alignment of 16 changes nothing for a multiple of 16, but that its events go the long way.
    """
    batch = batch_of([(*row[:3], -(-row[3] // 16) * 16, row[4]) for row in rows])
    if gaps_ns:
        batch = batch._replace(time_ns=np.cumsum(np.resize(np.array(gaps_ns, np.int64), len(rows))))
    apart, in_turn = Go(**options), Go(**options)
    stops = range(0, len(rows) + 1, stride)
    expected = feed(in_turn, batch._replace(alignment=np.full(len(rows), 16, np.uint32)), stops)
    np.testing.assert_array_equal(feed(apart, batch, stops), expected)
    results = [model.result() for model in (apart, in_turn)]
    for result in results:
        del result["counters"]["alignments_met_by_size"]
    assert results[0] == results[1]


GAPS_NS = st.lists(st.integers(0, 3_000), max_size=5)


@settings(deadline=None, max_examples=150)
@given(ACTIONS, OPTIONS, GAPS_NS, st.integers(1, 400))
def test_births_and_deaths_apart_are_as_in_turn(actions, options, gaps_ns, stride):
    assert_apart_is_as_in_turn(rows_of(actions), options, gaps_ns, stride)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1 << 30),
    st.integers(80, 124),
    st.integers(1, 6),
    OPTIONS,
    GAPS_NS,
    st.integers(300, 9_000),
)
def test_births_and_deaths_apart_are_as_in_turn_for_thousands(
    seed, frees_of_256, threads, options, gaps_ns, stride
):
    sizes = [0, 1, 8, 12, 16, 24, 100, 500, 520, 3000, 8192, 40_000]
    rows = churn(seed, 9_000, lambda random: random.choice(sizes), frees_of_256=frees_of_256, threads=threads)
    assert_apart_is_as_in_turn(rows, options, gaps_ns, stride)


@settings(deadline=None, max_examples=50)
@given(ACTIONS, OPTIONS)
def test_when_all_is_released_two_collections_leave_nothing(actions, options):
    batch = batch_of(rows_of(actions, release_all=True))
    (end,) = feed(Go(**options), batch, [len(batch.op)])
    assert (end[LIVE], end[DEAD]) == (0, 0)


@settings(deadline=None, max_examples=30)
@given(ACTIONS, OPTIONS)
def test_classes_add_up_to_the_footprint(actions, options):
    batch = batch_of(rows_of(actions))
    model = Go(**options)
    (end,) = feed(model, batch, [len(batch.op)])
    rows = model.result()["classes"]
    assert len(rows) == 136
    for name, column in (("live", LIVE), ("dead", DEAD), ("tail", TAIL), ("central", CENTRAL)):
        assert sum(row[f"{name}_bytes"] for row in rows) == end[column]
