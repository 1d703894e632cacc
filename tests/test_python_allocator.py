"""An allocator in plain Python is driven as one in C++ is, and as the events say."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_ideal import PythonIdeal
from strategies import every_event, traces

from harness.allocator import (
    ALLOC,
    CALLOC,
    FREE,
    GC,
    REALLOC,
    THREAD_END,
    Allocator,
    EventBatch,
    Footprint,
    Request,
    find,
)
from harness.errors import AllocatorError


class PlainIdeal(Allocator):
    """No overhead at all, as allocators/ideal has it in C++."""

    def __init__(self):
        self.live = 0

    def allocate(self, request):
        self.live += request.size
        return request.size

    def release(self, block, thread):
        self.live -= block

    def footprint(self):
        return Footprint(live=self.live, mapped=self.live, metadata=0)


class Changeable(Allocator):
    """Has a limit, frees the dead at a collection, gives back memory where a thread ends, fails reallocs."""

    def __init__(self, limit_bytes):
        self.limit_bytes = limit_bytes
        self.live, self.dead, self.released, self.runtime = 0, 0, 100, 5000
        self.heard = []

    def allocate(self, request):
        self.heard.append(request)
        if self.live + self.dead + request.size > self.limit_bytes:
            return None
        self.live += request.size
        return [request.size]

    def reallocate(self, block, request):
        if request.zeroed or block[0] % 2:
            return super().reallocate(block, request)
        self.heard.append(request)
        self.live += request.size - block[0]
        block[0] = request.size
        return block

    def release(self, block, thread):
        self.heard.append((block[0], thread))
        self.live, self.dead = self.live - block[0], self.dead + block[0]

    def collect(self):
        self.heard.append("collect")
        self.dead, self.runtime = 0, 0
        self.released += 300

    def thread_end(self, thread):
        self.heard.append(thread)
        self.released = 0

    def footprint(self):
        parts = (self.live, self.dead, self.released, self.runtime)
        return Footprint(
            live=self.live, dead=self.dead, released=self.released, runtime=self.runtime, mapped=sum(parts)
        )


class CountingChangeable(Changeable):
    """The same with the two numbers, computed where they are read."""

    @property
    def mapped_bytes(self):
        return self.live + self.dead + self.released + self.runtime

    @property
    def committed_bytes(self):
        return self.live + self.dead + self.runtime


def as_told(allocator, batch, stops):
    """Samples and result of a replay that asks for a footprint after each event and keeps all of them."""
    blocks, held, failed = {}, {}, 0
    footprints, requested, samples = [allocator.footprint()], [0], []

    def sample():
        # From the state at the last stop on, which may have been at this event, too.
        since = footprints[sample.last :]
        sample.last = len(footprints) - 1
        committed = max(f.mapped - f.released for f in since)
        samples.append([*footprints[-1][:-1], -1, max(f.mapped for f in since), committed])

    sample.last = 0
    for row, (op, thread, slot, size, alignment, noscan) in enumerate(
        zip(*(column.tolist() for column in (batch[:6])), strict=True)
    ):
        for _ in range(stops.count(row)):
            sample()
        request = Request(size, alignment, bool(noscan), op == CALLOC, thread)
        if op in (ALLOC, CALLOC, REALLOC):
            old = blocks.get(slot)
            block = allocator.allocate(request) if old is None else allocator.reallocate(old, request)
            if block is None:
                failed += 1
            else:
                blocks[slot], held[slot] = block, size
        elif op == FREE:
            held.pop(slot, None)
            if slot in blocks:
                allocator.release(blocks.pop(slot), thread)
        elif op == GC:
            allocator.collect()
        elif op == THREAD_END:
            allocator.thread_end(thread)
        footprints.append(allocator.footprint())
        requested.append(sum(held.values()))
    for _ in range(stops.count(len(batch.op))):
        sample()
    committed = [f.mapped - f.released for f in footprints[1:]]
    peak = committed.index(max(committed)) if committed else 0
    return samples, {
        "committed_sum": sum(committed),
        "peak_mapped": max(f.mapped for f in footprints),
        "peak_committed": max(committed, default=0),
        "requested_at_peak_committed": requested[peak + 1] if committed else 0,
        "peak_committed_event": peak,
        "committed_at_peak_requested": committed[requested[1:].index(max(requested[1:]))] if committed else 0,
        "failed_allocations": failed,
        "peak_footprint": (footprints[peak + 1] if committed else Footprint())._asdict(),
        "end_footprint": footprints[-1]._asdict(),
    }


@pytest.mark.parametrize("kind", [PlainIdeal, PythonIdeal])
@given(batch=traces())
def test_samples_and_totals_are_those_of_the_native_allocator(kind, batch):
    plain, native = kind(), find("ideal")[0].create()
    stops = every_event(batch)
    np.testing.assert_array_equal(plain.feed(batch, stops), native.feed(batch, stops))
    assert plain.result() == native.result()


@pytest.mark.parametrize("kind", [Changeable, CountingChangeable])
@given(
    batch=traces(),
    limit_bytes=st.sampled_from((0, 100, 5000, 100_000, 1 << 40)),
    cuts=st.lists(st.integers(0, 2000), max_size=3),
    stops=st.lists(st.integers(0, 2000), max_size=6),
)
def test_every_event_counts_whatever_fails_and_wherever_the_trace_is_cut(
    kind, batch, limit_bytes, cuts, stops
):
    count = len(batch.op)
    stops = sorted({min(stop, count) for stop in stops})
    told = Changeable(limit_bytes)
    samples, result = as_told(told, batch, stops)
    allocator = kind(limit_bytes)
    bounds = [0, *sorted(min(cut, count) for cut in cuts), count]
    left, found = list(stops), []
    for first, last in pairwise(bounds):
        here = [stop - first for stop in left if stop <= last]
        left = left[len(here) :]
        found += allocator.feed(batch.part(first, last), np.array(here, np.int64)).tolist()
    assert found == samples
    assert allocator.result() | result == allocator.result()
    assert allocator.heard == told.heard


class Forgetful(PythonIdeal):
    """Says that it has mapped a page more than its footprint does."""

    def allocate(self, request):
        block = super().allocate(request)
        self.mapped_bytes += 4096
        return block

    def footprint(self):
        return Footprint(live=self.committed_bytes, mapped=self.committed_bytes)


@given(batch=traces().filter(lambda batch: (batch.op == ALLOC).any()))
def test_numbers_that_are_not_the_footprints_are_an_error(batch):
    first = int((batch.op <= CALLOC).argmax()) + 1
    with pytest.raises(
        AllocatorError, match=rf"after event {first}: mapped_bytes is \d+, but \d+ by the footprint"
    ):
        Forgetful().feed(batch, every_event(batch))


def four_events():
    """Two objects, of which one grows and the other dies."""
    return events([(ALLOC, 0, 100), (ALLOC, 1, 50), (REALLOC, 1, 70), (FREE, 0, 100)])


def events(rows):
    op, slot, size = (np.array(column) for column in zip(*rows, strict=True))
    zeros = np.zeros(len(rows))
    signed = np.where(op == FREE, -size, size)
    signed[op == REALLOC] = 20
    return EventBatch(
        op=op.astype(np.uint8),
        thread=zeros.astype(np.uint16),
        slot=slot.astype(np.uint32),
        size=size.astype(np.uint64),
        alignment=zeros.astype(np.uint32),
        noscan=zeros.astype(np.uint8),
        owner=zeros.astype(np.uint16),
        time_ns=np.zeros(0, np.int64),
        requested=np.cumsum(signed).astype(np.uint64),
    )


def test_bytes_that_are_those_requested_add_up_in_a_batch_of_any_length():
    count = 150_000
    sizes = np.random.default_rng(1).integers(0, 1000, count)
    batch = events([(ALLOC, slot, size) for slot, size in enumerate(sizes)] + [(FREE, 7, sizes[7])])
    whole, parts = find("ideal")[0].create(), find("ideal")[0].create()
    whole.feed(batch, np.zeros(0, np.int64))
    for first in range(0, count + 1, 1000):
        parts.feed(batch.part(first, first + 1000), np.zeros(0, np.int64))
    assert whole.result() == parts.result()
    assert whole.result()["committed_sum"] == int(batch.requested.sum())
    assert whole.result()["peak_committed_event"] == int(batch.requested.argmax())


@pytest.mark.parametrize("number", [-1, 1.5, None, 1 << 64])
def test_a_number_that_counts_no_bytes_is_an_error(number):
    allocator = PythonIdeal()
    allocator.release = lambda block, thread: setattr(allocator, "committed_bytes", number)
    with pytest.raises(
        AllocatorError, match=rf"committed_bytes is {number}, expected a whole number of bytes"
    ):
        allocator.feed(four_events(), np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("footprint", "said"),
    [
        (Footprint(live=-1, mapped=-1), "live is -1, expected a whole number of bytes, 0 or more"),
        (Footprint(live=1.0, mapped=1.0), "live is 1.0, expected a whole number of bytes, 0 or more"),
        (Footprint(live=1, released=9, mapped=1), "released is 9, expected at most mapped, 1"),
        ({"live": 1}, r"footprint\(\) returned dict, expected a harness.allocator.Footprint"),
    ],
)
def test_a_footprint_that_counts_no_bytes_is_an_error(footprint, said):
    allocator = PlainIdeal()
    allocator.footprint = lambda: footprint
    with pytest.raises(AllocatorError, match=said):
        allocator.feed(four_events(), every_event(four_events()))


def test_what_is_not_known_is_not_added_up():
    allocator = PlainIdeal()
    allocator.footprint = lambda: Footprint(live=None, central=5, mapped=500)
    (row,) = allocator.feed(four_events(), np.array([4])).tolist()
    assert row == [-1, 0, 0, 0, 5, 0, 0, 0, 0, 500, -1, 500, 500]


class Block:
    """Something that a weak reference can watch."""


class Watched(PlainIdeal):
    """Knows which of its blocks are still there; each knows its allocator, too."""

    def __init__(self):
        super().__init__()
        self.blocks = weakref.WeakValueDictionary()

    def allocate(self, request):
        block = Block()
        block.size, block.allocator = super().allocate(request), self
        self.blocks[request.size] = block
        return block

    def release(self, block, thread):
        super().release(block.size, thread)


def test_a_block_lives_until_its_release_and_all_go_with_their_allocator():
    allocator = Watched()
    blocks = allocator.blocks
    batch = four_events()
    allocator.feed(batch.part(0, 2), np.zeros(0, np.int64))
    assert set(blocks) == {100, 50}
    allocator.feed(batch.part(2), np.zeros(0, np.int64))
    assert set(blocks) == {70}
    del allocator
    gc.collect()
    assert not blocks


class Keeping(PlainIdeal):
    """Keeps what it was asked for."""

    def __init__(self):
        super().__init__()
        self.requests = []

    def allocate(self, request):
        self.requests.append(request)
        return super().allocate(request)


def test_a_request_that_was_kept_stays_as_it_is():
    allocator = Keeping()
    allocator.feed(four_events(), np.zeros(0, np.int64))
    assert [request.size for request in allocator.requests] == [100, 50, 70]
