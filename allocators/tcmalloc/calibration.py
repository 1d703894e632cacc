"""What the costs of TCMalloc's paths are measured with: the model, and the installed libtcmalloc timed.

The library runs as it is installed, with its own settings, in a process for each run (library/timing).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from allocators.library import LibraryProcess, find_tcmalloc, time_events
from harness.calibration import Measured
from harness.workloads import Workload

from . import Tcmalloc, modelled_release

# Nanoseconds; where a fit begins. From timing single paths of gperftools 2.10 on an AMD EPYC.
GUESSES = {
    "front_end_hits": 2.5,
    "trace.frees": 1.0,
    "trace.reallocations": 15.0,
    "refills": 40.0,
    "refilled_objects": 1.5,
    "central_fetches": 40.0,
    "flushes": 40.0,
    "flushed_objects": 1.5,
    "spans_requested": 150.0,
    "spans_returned": 100.0,
    "large_allocations": 40.0,
    "thread_cache_scavenges": 500.0,
    "thread_caches_created": 20_000.0,  # The first also begins the heap.
    "page_heap_growths": 5_000.0,
    "page_faults": 1_000.0,
    "reallocation_copied_bytes": 0.05,
}

# The library's default, which the environment may change (gperftools: kDefaultTransferNumObjecs).
_TRANSFER_NUM_OBJECTS = 32

_NO_STOPS = np.zeros(0, np.int64)


class Subject:
    """The model of the installed library, and that library."""

    guesses: Mapping[str, float] = GUESSES

    def __init__(self) -> None:
        self._path = find_tcmalloc()
        with LibraryProcess(self._path, {}) as process:
            self.library = f"gperftools {process.version}"
            self._options: dict[str, Any] = {
                "version": modelled_release(process.version),
                "page_size": process.page_size,
                "alignment": process.alignment,
                "transfer_num_objects": _TRANSFER_NUM_OBJECTS,
            }

    def counters(self, workload: Workload) -> Mapping[str, int]:
        """Return what the model counts."""
        model = Tcmalloc(**self._options)
        for batch in workload.batches:
            model.feed(batch, _NO_STOPS)
        found: Mapping[str, int] = model.result()["counters"]
        return found

    def measure(self, workload: Workload) -> Measured:
        """Time the library in a fresh process."""
        driver_ns, ns = time_events(self._path, workload.batches)
        return Measured(ns - driver_ns, driver_ns)

    def close(self) -> None:
        """Nothing to end: every run is a process of its own."""
