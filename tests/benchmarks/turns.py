"""Allocators take turns on a trace, so that a busy minute of the machine meets all, and their ratios stand.

A turn is a context, in which the allocator begins and ends, that gives what is to be timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.bare import Bare
from benchmarks.canonical import NO_STOPS

from harness.allocator import EventBatch, find

Turn = Callable[[], AbstractContextManager[Callable[[], None]]]


def of_model(name: str, batches: Sequence[EventBatch]) -> Turn:
    """Return the turn of a model, which replays the batches in this process."""

    @contextmanager
    def turn() -> Iterator[Callable[[], None]]:
        allocator = find(name)[0].create()

        def run() -> None:
            for batch in batches:
                allocator.feed(batch, NO_STOPS)

        yield run

    return turn


def of_real(program: Path, events: Path) -> Turn:
    """Return the turn of a real malloc, in a process of its own."""

    @contextmanager
    def turn() -> Iterator[Callable[[], None]]:
        with Bare(program, events) as bare:
            bare.start()
            yield bare.run

    return turn


def take(turns: Mapping[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Have each take a turn in each round; return the seconds of all rounds, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            with turn() as run:
                begin = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begin)
    return seconds


class Clock:
    """Passes on to pytest-benchmark what was timed before."""

    __name__ = "seconds of turns"

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def let_pass(self, seconds: float) -> None:
        """Go on by so much."""
        self._now += seconds
