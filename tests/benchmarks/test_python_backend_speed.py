"""A backend in plain Python beside a bare Python loop that calls an empty function for each of the same rows.

A ratio within one run is held, never a time. `pytest -s` shows the figures.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
from tabulate import tabulate

from harness.allocator import Allocator, EventBatch, Footprint
from harness.native._native import Checker, Generator

pytestmark = pytest.mark.slow

LIVE = {"10 k": 10_000, "100 k": 100_000}
EVENTS = 6_000_000
BATCH = 1 << 18
ROUNDS = 5
NO_STOPS = np.zeros(0, np.int64)


class Ideal(Allocator):
    """What allocators/ideal models, in Python."""

    def __init__(self):
        self.mapped_bytes = self.committed_bytes = 0

    def allocate(self, request):
        size = request.size
        self.mapped_bytes = self.committed_bytes = self.committed_bytes + size
        return size

    def release(self, block, thread):
        self.mapped_bytes = self.committed_bytes = self.committed_bytes - block

    def footprint(self):
        return Footprint(live=self.mapped_bytes, mapped=self.mapped_bytes)


def batches_of(live):
    """A canonical trace: log-normal sizes of mu 4.5 and sigma 1.5, exponential lifetimes; checked."""
    generator = Generator(
        live=live, seed=1, threads=1, remote_free=0.0, noscan=0.5, size_mu=4.5, size_sigma=1.5
    )
    checker = Checker(noscan_fraction=0.0, override_noscan=False)
    names = ("op", "thread", "object", "size", "alignment", "noscan", "time_ns")
    parts = (generator.next(BATCH) for _ in range(EVENTS // BATCH))
    return [EventBatch(*checker.check(*(part.get(name) for name in names))) for part in parts]


def empty():
    pass


def bare(batches):
    for batch in batches:
        columns = (batch.op, batch.thread, batch.slot, batch.size, batch.alignment, batch.noscan)
        for _op, _thread, _slot, _size, _alignment, _noscan in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            empty()


def replayed(batches):
    allocator = Ideal()
    for batch in batches:
        allocator.feed(batch, NO_STOPS)


def ns_of(loop, batches):
    """Of one event; of the processor's time, since others may hold it for a while."""
    begin = time.process_time()
    loop(batches)
    return (time.process_time() - begin) * 1e9 / sum(len(batch.op) for batch in batches)


def test_a_backend_in_python_has_half_the_rate_of_a_bare_loop(capsys):
    rows = []
    for name, live in LIVE.items():
        batches = batches_of(live)
        rounds = [(ns_of(bare, batches), ns_of(replayed, batches)) for _ in range(ROUNDS)]
        bare_ns, replayed_ns = (statistics.median(times) for times in zip(*rounds, strict=True))
        rows.append((name, bare_ns, replayed_ns, bare_ns / replayed_ns))
    with capsys.disabled():
        headers = ("objects live", "bare loop, ns an event", "replay, ns an event", "rate / bare loop's")
        print("\n" + tabulate(rows, headers, floatfmt=("", ".1f", ".1f", ".2f")))
    few, many = (rate for *_, rate in rows)
    assert few >= 0.5
    # Blocks of many objects lie in memory that the bare loop never touches, more of it than a cache holds.
    assert many >= 0.4
