"""One case of the suite: a random program or a recorded trace, through the model and the real Go runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from conformance.go.shapes import LARGE, SHAPES, SMALL, program
from conformance.go.toolchains import BUILDS, toolchain
from conformance.outcome import Outcome

from allocators.go import Go
from allocators.go.conformance import experiments_of, go_from, modelled_version, subjects
from allocators.go.runtime import RuntimeProcess, find_toolchain, slots_of
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
    "stopped": {"collector": "stopped", "procs": 1},
    "stopped, gogc 50": {"collector": "stopped", "gogc": 50, "procs": 1},
    "lazy": {"collector": "lazy", "procs": 1},
    "lazy, gogc 50": {"collector": "lazy", "gogc": 50, "procs": 1},
    "lazy, gogc 200": {"collector": "lazy", "gogc": 200, "procs": 1},
    "memory limit": {"collector": "stopped", "gogc": "off", "procs": 1},
}

# Events that a process is given at once.
PART_EVENTS = 1 << 16

# What takes the place of a limit: so much beyond twice what the program asks for at once.
LIMIT_ROOM_BYTES = 16 << 20

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
    events, count = events_of(case)
    options = options_for(case.mode) | {"greentea": greentea}
    stops = [(k + 1) * count // (CHECKPOINTS + 1) for k in range(CHECKPOINTS)]
    if case.mode == "memory limit":
        _compare_goals(options, Path(go), list(events()), stops, outcome)
        return
    made = subjects(options, go, events)
    assert isinstance(made, tuple)
    model, truth = made
    with closing(truth), closing(model):
        outcome.take(compare(events(), model, truth, checkpoints=stops))


def events_of(case: Case) -> tuple[Callable[[], Iterable[EventBatch]], int]:
    """Return what yields a case's events, again and again, and how many they are."""
    if case.recorded:
        reader = TraceReader(case.source)
        return partial(reader.checked, NOSCAN), reader.events
    batch = program(case.source, case.seed, case.allocations, case.mode == "explicit gc")
    return lambda: [batch], len(batch.op)


def options_for(mode: str) -> dict[str, Any]:
    """Return the model's options in a mode, or the default ones."""
    return {option.name: option.default for option in options_of(Go)} | MODES.get(mode, {})


def _compare_goals(
    options: dict[str, Any], go: Path, batches: list[EventBatch], stops: list[int], outcome: Outcome
) -> None:
    """Compare goal and trigger under a memory limit: the real ones, and those of a model that begins so.

    Not in lock step, since the limit also counts the memory that the real runtime takes for itself.
    """
    peak_bytes = max(int(batch.requested.max(initial=0)) for batch in batches)
    options["memory_limit"] = 2 * peak_bytes + LIMIT_ROOM_BYTES
    toolchain = find_toolchain(go)
    with RuntimeProcess(
        toolchain,
        collector="stopped",
        gogc="off",
        memory_limit=options["memory_limit"],
        experiments=experiments_of(toolchain, options["greentea"]),
        slots=slots_of(batches),
    ) as process:
        outcome.real = process.name
        states = [process.state()]
        for part in _cut(batches, stops):
            process.replay(part)
            outcome.events += len(part.op)
            if outcome.events in stops:
                states.append(process.state())
        outcome.compared["cycles"] = len(process.cycles())
    outcome.checkpoints = len(states)
    green = {"version": modelled_version(toolchain), "greentea": "on" if states[0].greentea else "off"}
    for number, state in enumerate(states):
        found = go_from(state.snapshot(), options | green).native.state()
        for name in ("goal", "trigger"):
            outcome.compared[name] = outcome.compared.get(name, 0) + 1
            if found[name] != state.scalars[name]:
                outcome.differing += 1
                outcome.examples.append(
                    f"{name} of state {number}: model {found[name]}, real {state.scalars[name]}"
                )


def _cut(batches: list[EventBatch], stops: list[int]) -> Iterator[EventBatch]:
    """Yield the events in parts that end at the stops, and are no longer than a process takes."""
    done = 0
    for batch in batches:
        edges = {stop - done for stop in stops if done < stop < done + len(batch.op)}
        edges |= {0, len(batch.op), *range(0, len(batch.op), PART_EVENTS)}
        for begin, end in pairwise(sorted(edges)):
            yield batch.part(begin, end)
        done += len(batch.op)
