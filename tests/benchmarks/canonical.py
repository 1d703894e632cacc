"""The traces on which speed is measured: log-normal sizes, exponential lifetimes, half of all objects noscan.

Every benchmark makes its trace here, so that their figures can be held beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.allocator import EventBatch
from harness.generation import generate
from harness.native._native import Generator
from harness.trace import BATCH_EVENTS, RawColumns, RowChecker

# Where this variable is set there is time for the largest trace, and memory.
FULL = "HARNESS_BENCHMARKS_FULL"

NO_STOPS = np.zeros(0, np.int64)

_SEED = 1
_NOSCAN = 0.5
_SIZE_MU, _SIZE_SIGMA = 4.5, 1.5
_LEAST_EVENTS = 4_000_000


class Canonical(NamedTuple):
    """A trace that climbs to so many live objects and stays around that."""

    live: int
    threads: int = 1
    remote_free: float = 0.0

    @property
    def events(self) -> int:
        """Enough for a steady state: the climb is a quarter of them at most."""
        return max(_LEAST_EVENTS, 4 * self.live)

    def raw_batches(self, batch_events: int = BATCH_EVENTS) -> Iterator[RawColumns]:
        """Yield the trace as a reader yields a file's columns."""
        generator = Generator(seed=_SEED)
        generator.begin_phase(
            live=self.live,
            threads=self.threads,
            remote_free=self.remote_free,
            noscan=_NOSCAN,
            size_mu=_SIZE_MU,
            size_sigma=_SIZE_SIGMA,
            sizes=[],
            weights=[],
            live_weights=[],
            lifetimes="exponential",
            short_lived=0.0,
            short_life=0.0,
        )
        for first in range(0, self.events, batch_events):
            yield generator.next(min(batch_events, self.events - first))

    def batches(self, batch_events: int = BATCH_EVENTS) -> list[EventBatch]:
        """Return the trace, checked."""
        checker = RowChecker(str(self))
        return [checker.check(raw) for raw in self.raw_batches(batch_events)]

    def write(self, path: Path) -> Path:
        """Write the trace as `harness generate` does."""
        generate(
            str(path),
            seed=_SEED,
            live=self.live,
            events=self.events,
            threads=self.threads,
            remote_free=self.remote_free,
            noscan=_NOSCAN,
            size_mu=_SIZE_MU,
            size_sigma=_SIZE_SIGMA,
        )
        return path
