"""Traces for the model of the Go heap, made with integers only, so that every machine makes the same ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from harness.allocator import ALLOC, FREE, GC, EventBatch
from harness.native._native import Checker

Row = tuple[int, int, int, int, bool]  # op, thread, object, size, noscan

# Around every rule that decides by size: tiny and its alignments, classes, in-span bitmaps, headers, large objects.
BOUNDARY_SIZES = (
    *range(18),
    *(24, 33, 500, 504, 505, 511, 512, 513, 519, 520, 521, 1016, 1024, 1025),
    *(32744, 32752, 32753, 32760, 32761, 32767, 32768, 32769, 40961),
)


def batch_of(rows: Sequence[Row]) -> EventBatch:
    """Rows checked and renamed as the engine does it."""
    op, thread, objects, size, noscan = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    checked = Checker(noscan_fraction=0.0, override_noscan=False).check(
        np.array(op, np.uint8),
        np.array(thread, np.uint32),
        np.array(objects, np.uint64),
        np.array(size, np.uint64),
        None,
        np.array(noscan, np.uint8),
        None,
    )
    return EventBatch(*checked)


def churn(
    seed: int,
    allocations: int,
    size_of: Callable[[random.Random], int],
    *,
    noscan_of_256: int = 128,
    frees_of_256: int = 100,
    threads: int = 1,
    collect_every: int = 0,
) -> list[Row]:
    """A program that allocates, and lets objects die in any order; collect_every: events between explicit GCs."""
    generator = random.Random(seed)
    rows: list[Row] = []
    live: list[int] = []
    spare: list[int] = []
    thread = allocated = 0
    while allocated < allocations:
        if threads > 1 and generator.getrandbits(6) == 0:
            thread = generator.randrange(threads)
        if live and generator.getrandbits(8) < frees_of_256:
            at = generator.randrange(len(live))
            live[at], live[-1] = live[-1], live[at]
            spare.append(live.pop())
            rows.append((FREE, thread, spare[-1], 0, False))
        else:
            name = spare.pop() if spare else len(live)
            live.append(name)
            rows.append((ALLOC, thread, name, size_of(generator), generator.getrandbits(8) < noscan_of_256))
            allocated += 1
        if collect_every and len(rows) % collect_every == 0:
            rows.append((GC, thread, 0, 0, False))
    return rows


def boundary_size(generator: random.Random) -> int:
    """Half tiny, half around the rules that decide by size."""
    if generator.getrandbits(1):
        return generator.randrange(1, 20)
    return BOUNDARY_SIZES[generator.randrange(len(BOUNDARY_SIZES))]


def pareto_size(generator: random.Random, *, least: int = 12, most: int = 400_000) -> int:
    """Half of the objects in each octave above the last, up to `most` bytes; one in 512 anywhere up to it."""
    if generator.getrandbits(9) == 0:
        return generator.randrange(20_000, most)
    octave = 0
    while generator.getrandbits(1) and least << octave < most:
        octave += 1
    return min(generator.randrange(least << octave, 2 * least << octave), most)


SHAPES: dict[str, Callable[[], list[Row]]] = {
    "tiny": lambda: churn(1, 40_000, boundary_size, noscan_of_256=180),
    "pareto": lambda: churn(2, 60_000, pareto_size),
    "four_ps": lambda: churn(3, 40_000, pareto_size, threads=4),
}
PROCS = {"tiny": 1, "pareto": 1, "four_ps": 4}
