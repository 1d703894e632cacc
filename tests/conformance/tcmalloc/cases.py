"""One case of the suite: a random program or a recorded trace, through the model and the real library."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from conformance.outcome import Outcome
from conformance.tcmalloc.shapes import LARGE_SHAPES, SHAPES, program

from allocators.library import LibraryProcess, find_tcmalloc
from allocators.tcmalloc import Tcmalloc
from allocators.tcmalloc.conformance import modelled_release, subjects
from harness.allocator import EventBatch, options_of
from harness.conform import Call, compare
from harness.errors import HarnessError
from harness.trace import TraceReader

RECORDED = sorted((Path(__file__).parents[3] / "traces").glob("*.parquet"))

# States are compared at so many moments of a trace, beside its start and its end.
CHECKPOINTS = 12

# Shapes whose programs touch their pages: some of every way in which a page is touched or given back.
TOUCHING = (
    "mixed",
    "growing_vectors",
    "aligned",
    "zeroed",
    "large_objects",
    "central_spans",
    "waves",
    "releases",
    "aggressive_decommit",
    "producer_consumer",
)
TOUCHES = ("none", "first", "whole")


@dataclass(frozen=True)
class Case:
    """What to run; its text is what the suite's option --case takes."""

    source: str  # A shape's name, or the path of a trace.
    seed: int = 0  # Of a trace: how many objects a transfer moves.
    touch: str = "off"

    def __str__(self) -> str:
        return f"{self.source},{self.seed},{self.touch}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """Return the case that its text names; ValueError where it names none."""
        source, _, rest = text.partition(",")
        seed, _, touch = rest.partition(",")
        if source not in SHAPES | LARGE_SHAPES and not Path(source).exists():
            raise ValueError(f"{source!r} is neither a shape ({', '.join(SHAPES)}) nor a trace")
        return cls(source, int(seed or 0), touch or "off")

    @property
    def row(self) -> str:
        """The row of the table that counts it."""
        name = Path(self.source).stem if self.source.endswith(".parquet") else self.source
        return name if self.touch == "off" else f"touched pages: {self.touch}"


def random_cases(traces: int) -> list[Case]:
    """Return so many programs, of every shape as many, the first seed of every shape first."""
    names = list(SHAPES)
    return [Case(names[number % len(names)], number // len(names)) for number in range(traces)]


def recorded_cases(batches: Sequence[int] = (32, 512)) -> list[Case]:
    """Return the committed traces, each with the library's and the documented transfer batch."""
    return [Case(str(path), batch) for path in RECORDED for batch in batches]


def touching_cases() -> list[Case]:
    """Return one program of each touching shape, by every policy."""
    return [Case(shape, 1, touch) for shape in TOUCHING for touch in TOUCHES]


def run(case: Case, against: str | None = None) -> Outcome:
    """Run a case and say what differs; HarnessError becomes the outcome's error."""
    start = time.monotonic()
    outcome = Outcome(case)
    try:
        _compare(case, against, outcome)
    except HarnessError as error:
        outcome.error = str(error)
    outcome.seconds = time.monotonic() - start
    return outcome


def _compare(case: Case, against: str | None, outcome: Outcome) -> None:
    batches: Iterable[EventBatch]
    calls: list[Call] = []
    if case.source in SHAPES | LARGE_SHAPES:
        made = program(case.source, case.seed, _minor(against))
        batches, calls, options, events = [made.events], made.calls, made.options, len(made.events.op)
    else:
        reader = TraceReader(case.source)
        batches, options, events = reader.checked(), {"transfer_num_objects": case.seed}, reader.events
    defaults = {option.name: option.default for option in options_of(Tcmalloc)}
    model, truth = subjects(defaults | options | {"touch": case.touch}, against)
    stops = [(k + 1) * events // (CHECKPOINTS + 1) for k in range(CHECKPOINTS)]
    with closing(truth), closing(model):
        report = compare(batches, model, truth, calls=calls, checkpoints=stops)
    outcome.take(report)


@cache
def _minor(against: str | None) -> int:
    with LibraryProcess(find_tcmalloc(against), {}) as library:
        return int(modelled_release(library.version).removeprefix("2."))
