"""What events take in a real library: dearer paths take longer, and what goes wrong is said."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from allocators.library import time_events
from harness.errors import AllocatorError
from harness.workloads import synthetic

WORKLOADS = {each.name: each for each in synthetic()}


def ns_per_event(library, name):
    """The median of several: another program's minute on the machine must not decide it."""
    workload = WORKLOADS[name]
    times = [time_events(Path(library), workload.batches) for _ in range(5)]
    return median((whole - loop) / workload.totals["events"] for loop, whole in times)


def test_a_refill_takes_longer_than_a_hit_and_memory_of_the_systems_longer_than_both(tcmalloc_library):
    hits, refills, growing = (
        ns_per_event(tcmalloc_library, name) for name in ("hits", "refills", "growing heap")
    )
    assert 0.1 < hits < refills < growing


def test_a_process_that_fails_says_so(tcmalloc_library):
    with pytest.raises(AllocatorError, match="the driver's process ended with"):
        time_events(Path(tcmalloc_library), [])
