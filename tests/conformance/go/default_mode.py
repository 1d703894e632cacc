"""The default mode, in which the real runtime takes another course each time: the model beside its spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from conformance.go.cases import RECORDED, Case, events_of, options_for
from conformance.go.shapes import LARGE
from conformance.go.toolchains import BUILDS, toolchain

from allocators.go.conformance import subjects
from harness.conform import Spread, compare_runs

MODE = "default"
PROCS = (1, 2)

# Random programs of 20 collections or more.
PROGRAMS = ("small", "boundaries", "growing", "aligned_words")
SOURCES = (*map(str, RECORDED), *PROGRAMS)


@dataclass(frozen=True)
class Quantity:
    """What whole runs of one program came to."""

    source: str
    build: str
    procs: int
    spread: Spread

    @property
    def row(self) -> tuple[str, ...]:
        """Return it as a line of a table."""
        found = self.spread
        text = _mib if found.name.endswith("_bytes") else "{:.0f}".format
        runs = (min(found.runs), statistics.median(found.runs), max(found.runs))
        name = Path(self.source).stem
        return (name, self.build, str(self.procs), *map(text, (found.model, *runs)), self.verdict)

    @property
    def verdict(self) -> str:
        """Say where the model lies, in percent beyond the nearest of the real runs."""
        found = self.spread
        if found.within:
            return "within"
        nearest = min(found.runs) if found.model < min(found.runs) else max(found.runs)
        return f"{found.model / nearest - 1:+.1%}"


HEADERS = ("program", "go", "Ps", "model", "real, least", "median", "most", "")


def judge(
    build: str, runs: int, sources: Iterable[str] = SOURCES, against: str | None = None
) -> list[Quantity]:
    """Run each program so often on 1 P and on 2, one run after the other: an idle P needs an idle core."""
    version, greentea = BUILDS[build]
    found = []
    for source in sources:
        events, _ = events_of(Case(source, MODE, build, 0, LARGE))
        for procs in PROCS:
            options = options_for(MODE) | {"greentea": greentea, "procs": procs}
            both = subjects(options, against or str(toolchain(version).go), events)
            assert not isinstance(both, tuple)
            found += [Quantity(source, build, procs, each) for each in compare_runs(both, runs).spreads]
    return found


def _mib(value: float) -> str:
    return f"{value / 2**20:.2f} MiB"
