"""One case of the suite: a random program or a recorded trace, through the model and the real Go runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conformance.go.shapes import LARGE, SHAPES, SMALL, program
from conformance.go.toolchains import BUILDS, toolchain
from conformance.outcome import Outcome

from allocators.go import Go
from allocators.go.conformance import subjects
from harness.allocator import EventBatch, options_of
from harness.conform import compare
from harness.errors import HarnessError
from harness.trace import Noscan, TraceReader

RECORDED = sorted((Path(__file__).parents[3] / "traces").glob("*.parquet"))

# States are compared at so many moments of a trace, beside its start and its end.
CHECKPOINTS = 12

# Half of a recorded trace's objects are taken to have no pointers: C programs do not say.
NOSCAN = Noscan.parse("0.5")

# What the model is told in each mode. The real runtime is set up accordingly (allocators/go/conformance.py).
MODES: dict[str, dict[str, Any]] = {
    "gc off": {"gogc": "off"},
    "gc off, several Ps": {"gogc": "off"},
    "explicit gc": {"gogc": "off", "procs": 1},
    "stopped": {"sweep": "stopped", "procs": 1},
    "stopped, gogc 50": {"sweep": "stopped", "gogc": 50, "procs": 1},
    "lazy": {"sweep": "lazy", "procs": 1},
    "lazy, gogc 50": {"sweep": "lazy", "gogc": 50, "procs": 1},
    "lazy, gogc 200": {"sweep": "lazy", "gogc": 200, "procs": 1},
}

# Programs with several threads, and all others.
THREADED = ("threads", "many_threads")

# Go 1.22 and 1.23 are held against their runtimes in these modes only.
OLD_MODES = ("gc off", "gc off, several Ps", "explicit gc")


@dataclass(frozen=True)
class Case:
    """What to run; its text is what the suite's option --case takes."""

    source: str  # A shape's name, or the path of a trace.
    mode: str
    build: str
    seed: int = 0
    allocations: int = SMALL  # Of a shape.

    def __str__(self) -> str:
        return f"{self.source};{self.mode};{self.build};{self.seed};{self.allocations}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """Return the case that its text names; ValueError where it names none."""
        source, mode, build, seed, allocations = [*text.split(";"), "0", str(SMALL)][:5]
        if source not in SHAPES and not Path(source).exists():
            raise ValueError(f"{source!r} is neither a shape ({', '.join(SHAPES)}) nor a trace")
        if mode not in MODES or build not in BUILDS:
            raise ValueError(f"{text!r}: modes are {', '.join(MODES)}; builds {', '.join(BUILDS)}")
        return cls(source, mode, build, int(seed), int(allocations))

    @property
    def row(self) -> str:
        """The row of the table that counts it."""
        return self.mode

    @property
    def recorded(self) -> bool:
        """Whether it is a recorded trace."""
        return self.source.endswith(".parquet")


def fits(source: str, mode: str) -> bool:
    """Whether a program is run in a mode: those with threads on several Ps, others on one."""
    if mode == "gc off, several Ps":
        return source in THREADED or source.endswith(".parquet")
    return source not in THREADED or mode != "gc off"


def cases(builds: Iterable[str], seeds: int, sources: Iterable[str] | None = None) -> list[Case]:
    """Return every shape, by so many seeds, and every recorded trace, in every mode of the builds.

    One seed in three makes a program of 300,000 allocations.
    """
    names = [*SHAPES, *map(str, RECORDED)] if sources is None else list(sources)
    return [
        Case(source, mode, build, seed, LARGE if seed % 3 == 2 else SMALL)
        for build in builds
        for mode in (OLD_MODES if build in ("1.22", "1.23") else MODES)
        for source in names
        for seed in range(1 if source.endswith(".parquet") else seeds)
        if fits(source, mode)
    ]


def run(case: Case, against: str | None = None) -> Outcome:
    """Run a case and say what differs; HarnessError becomes the outcome's error.

    ``against``: a `go` in the place of the build's.
    """
    start = time.monotonic()
    outcome = Outcome(case)
    try:
        _compare(case, against, outcome)
    except HarnessError as error:
        outcome.error = str(error)
    outcome.seconds = time.monotonic() - start
    return outcome


def _compare(case: Case, against: str | None, outcome: Outcome) -> None:
    version, greentea = BUILDS[case.build]
    go = against or str(toolchain(version).go)
    events: Callable[[], Iterable[EventBatch]]
    if case.recorded:
        reader = TraceReader(case.source)
        events, count = partial(reader.checked, NOSCAN), reader.events
    else:
        batch = program(case.source, case.seed, case.allocations, case.mode == "explicit gc")
        events, count = lambda: [batch], len(batch.op)

    options = {option.name: option.default for option in options_of(Go)}
    options |= MODES[case.mode] | {"greentea": greentea}
    model, truth = subjects(options, go, events)
    stops = [(k + 1) * count // (CHECKPOINTS + 1) for k in range(CHECKPOINTS)]
    with closing(truth), closing(model):
        outcome.take(compare(events(), model, truth, checkpoints=stops))
