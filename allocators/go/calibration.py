"""What the costs of Go's paths are measured with: the model, and the real runtime timed.

On one P, so that what marks, sweeps and scavenges beside the program is part of its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.allocator import ALLOC, FREE, EventBatch
from harness.calibration import Measured
from harness.workloads import Workload

from .conformance import go_from, modelled_version, whole_start
from .runtime import RuntimeProcess, find_toolchain

# Nanoseconds; where a fit begins: clock.hpp, and single paths timed with Go 1.27.3 on an AMD EPYC.
GUESSES = {
    "mcache_hits": 12.0,
    "tiny_allocs": 8.0,
    "zero_size_allocations": 3.0,
    "trace.frees": 2.0,
    "trace.allocated_bytes": 0.025,
    "refills_from_central": 400.0,
    "refills_from_new_span": 350.0,
    "refills_from_new_os_memory": 2_000.0,
    "large_allocations": 1_200.0,
    "fresh_bytes": 0.4,
    "gc_cycles": 30_000.0,
    "gc_mark_bytes_scan": 0.25,
    "gc_mark_bytes_noscan": 0.08,
    "gc_sweep_spans": 120.0,
    "released_bytes_total": 0.15,
}

# A trace with fewer objects at once uses the same program: a build for each power of two would take longer
# than all the runs.
_TABLES = (1 << 13, 1 << 17)

_NO_STOPS = np.zeros(0, np.int64)


class Subject:
    """The model of the installed toolchain's runtime, and that runtime."""

    guesses: Mapping[str, float] = GUESSES

    def __init__(self) -> None:
        self._toolchain = find_toolchain()
        self.library = self._toolchain.version

    def counters(self, workload: Workload) -> Mapping[str, int]:
        """Return what the model counts."""
        _, start = whole_start(lambda: self._process(workload))
        options: dict[str, Any] = {
            "version": modelled_version(self._toolchain),
            "greentea": "on" if start.greentea else "off",
            "procs": 1,
            "clock": "cost",
        }
        model = go_from(start, options)
        for batch in workload.batches:
            model.feed(batch, _NO_STOPS)
        found: Mapping[str, int] = model.result()["counters"]
        return found

    def measure(self, workload: Workload) -> Measured:
        """Time the runtime in a fresh process.

        Its program first makes as many objects of no bytes, for which nothing is done, so that its tables are
        in memory; then it only forgets objects, which is the loop's own time; and then it does the work.
        """
        with self._process(workload) as process:
            process.replay_at_once(_emptied(batch) for batch in workload.batches)
            driver_ns = _processor_ns(process, [_forgotten(batch) for batch in workload.batches])
            ns = _processor_ns(process, workload.batches)
        return Measured(ns - driver_ns, driver_ns)

    def close(self) -> None:
        """Nothing to end: every run is a process of its own."""

    def _process(self, workload: Workload) -> RuntimeProcess:
        slots = max(int(batch.slot.max(initial=0)) + 1 for batch in workload.batches)
        return RuntimeProcess(
            self._toolchain,
            collector="default",
            slots=next((size for size in _TABLES if size >= slots), slots),
            capacity=workload.totals["events"],
        )


def _processor_ns(process: RuntimeProcess, batches: Sequence[EventBatch]) -> int:
    begin = process.processor_ns()
    process.replay_at_once(batches)
    return process.processor_ns() - begin


def _emptied(batch: EventBatch) -> EventBatch:
    nothing = np.zeros_like(batch.size)
    return batch._replace(op=np.where(batch.op == FREE, FREE, ALLOC).astype(np.uint8), size=nothing)


def _forgotten(batch: EventBatch) -> EventBatch:
    return batch._replace(op=np.full_like(batch.op, FREE))
