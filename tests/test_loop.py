"""The loop for allocators in plain Python does what its twin in C++ does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from strategies import every_event, traces

from harness.allocator import Allocator, Footprint, find


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


@given(batch=traces())
def test_samples_and_totals_are_those_of_the_native_loop(batch):
    plain, native = PlainIdeal(), find("ideal")[0].create()
    stops = every_event(batch)
    np.testing.assert_array_equal(plain.feed(batch, stops), native.feed(batch, stops))
    assert plain.result() == native.result()
