"""Traces for the model of the Go heap, and kept runs of the real runtime over them.

Traces are made with integers only, so that every machine makes the same ones.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allocators.go import Go
from allocators.go.snapshot import Snapshot
from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, EventBatch
from harness.native._native import Checker

Row = tuple[int, int, int, int, bool]  # op, thread, object, size, noscan

# Around every rule that decides by size: tiny objects, classes, in-span bitmaps, headers, large objects.
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
    """A program whose objects die in any order; collect_every: events between explicit collections."""
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
        return generator.randrange(most // 20, most)
    octave = 0
    while generator.getrandbits(1) and least << octave < most:
        octave += 1
    return min(generator.randrange(least << octave, 2 * least << octave), most)


SHAPES: dict[str, Callable[[], list[Row]]] = {
    "tiny": lambda: churn(1, 40_000, boundary_size, noscan_of_256=180),
    "pareto": lambda: churn(2, 60_000, pareto_size),
    "four_ps": lambda: churn(3, 40_000, pareto_size, threads=4),
    "stopped": lambda: churn(4, 40_000, boundary_size, frees_of_256=118),
    "lazy": lambda: churn(6, 40_000, boundary_size, frees_of_256=118),
}

# Collections of the kept runs, and how the model is told of them.
GOLDEN: dict[str, dict[str, Any]] = {
    "tiny": {"gogc": "off"},
    "pareto": {"gogc": "off"},
    "four_ps": {"gogc": "off", "procs": 4},
    "stopped": {"collector": "stopped", "procs": 1},
    "lazy": {"collector": "lazy", "procs": 1},
}


def feed(model: Go, batch: EventBatch, stops: Sequence[int] = ()) -> np.ndarray:
    """Replay a batch; rows of samples."""
    return model.feed(batch, np.array(stops, np.int64))


def digest_of(batch: EventBatch) -> str:
    """Tells a trace that has changed from a model that has. How slots are chosen is of no account."""
    digest = hashlib.sha256()
    for column in batch._replace(slot=births_of(batch)):
        digest.update(column.tobytes())
    return digest.hexdigest()


def births_of(batch: EventBatch) -> np.ndarray:
    """The event at which each event's object was born; -1 for events without one."""
    births = np.zeros(int(batch.slot.max(initial=0)) + 1, np.int64)
    found = np.full(len(batch.op), -1)
    for i, (op, slot) in enumerate(zip(batch.op, batch.slot, strict=True)):
        if op in (ALLOC, CALLOC):
            births[slot] = i
        if op in (ALLOC, CALLOC, REALLOC, FREE):
            found[i] = births[slot]
    return found


@dataclass
class Golden:
    """A run of the real runtime: where it began, every answer, what it fed, how it ended."""

    digest: str
    start: Snapshot
    answers: np.ndarray
    scans: list[int]
    cycles: np.ndarray
    heap: dict[str, int]
    spans: np.ndarray

    def save(self, path: Path) -> None:
        """Write it."""
        np.savez_compressed(
            path,
            digest=np.array(self.digest),
            start=np.frombuffer(json.dumps(self.start.to_json()).encode(), np.uint8),
            address_steps=np.diff(self.answers.astype(np.int64), prepend=0),
            scans=np.array(self.scans, np.uint64),
            cycles=self.cycles,
            heap=np.frombuffer(json.dumps(self.heap).encode(), np.uint8),
            spans=self.spans,
        )

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read what save() wrote."""
        with np.load(path) as kept:
            return cls(
                str(kept["digest"]),
                Snapshot.from_json(json.loads(kept["start"].tobytes())),
                np.cumsum(kept["address_steps"]).astype(np.uint64),
                kept["scans"].tolist(),
                kept["cycles"],
                json.loads(kept["heap"].tobytes()),
                kept["spans"],
            )
