"""What events take in a real library: dearer paths take longer, and what goes wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocators.library import time_events
from harness.errors import AllocatorError
from harness.workloads import synthetic

WORKLOADS = {each.name: each for each in synthetic()}


def ns_per_event(library, name):
    workload = WORKLOADS[name]
    loop, whole = time_events(Path(library), workload.batches)
    assert 0 < loop < whole
    return (whole - loop) / workload.totals["events"]


def test_a_refill_takes_longer_than_a_hit_and_memory_of_the_systems_longer_than_both(tcmalloc_library):
    hits, refills, growing = (
        ns_per_event(tcmalloc_library, name) for name in ("hits", "refills", "growing heap")
    )
    assert 0.1 < hits < refills < growing


def test_a_process_that_fails_says_so(tcmalloc_library):
    with pytest.raises(AllocatorError, match="the driver's process ended with"):
        time_events(Path(tcmalloc_library), [])
