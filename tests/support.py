"""What several tests share: small traces made of rows, and the command line run as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.allocator import ALLOC, FREE
from harness.trace import COLUMNS, TraceWriter

Row = tuple[int, int, int, int]  # op, thread, object, size

# Two threads, three objects, one freed by the other thread.
SMALL: list[Row] = [
    (ALLOC, 7, 0, 100),
    (ALLOC, 7, 1, 40_000),
    (ALLOC, 9, 2, 24),
    (FREE, 9, 0, 0),
    (ALLOC, 9, 0, 8),
    (FREE, 7, 1, 0),
]

TRACES = sorted((Path(__file__).parent.parent / "traces").glob("*.parquet"))


def columns(rows: Sequence[Row], **optional: Sequence[Any]) -> dict[str, Any]:
    """Rows as the columns of a trace."""
    listed: Mapping[str, Sequence[Any]] = dict(
        zip(("op", "thread", "object", "size"), list(zip(*rows, strict=True)) or [()] * 4, strict=True)
    )
    return {
        name: np.array(values, COLUMNS[name].to_pandas_dtype())
        for name, values in (dict(listed) | optional).items()
    }


def write_trace(path: Path, rows: Sequence[Row] = tuple(SMALL), **optional: Sequence[Any]) -> str:
    """Write rows as a trace; returns the path as text."""
    with TraceWriter(str(path), source={"program": "test"}, optional=tuple(optional)) as writer:
        writer.write(columns(rows, **optional))
    return str(path)


def random_rows(events: int, *, live: int = 200, threads: int = 3, seed: int = 1) -> list[Row]:
    """Rows of a program that keeps about `live` objects of log-normal sizes."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    alive: list[int] = []
    spare: list[int] = []
    for _ in range(events):
        thread = int(random.integers(threads))
        if len(alive) > live or (alive and random.random() < 0.45):
            index = int(random.integers(len(alive)))
            alive[index], alive[-1] = alive[-1], alive[index]
            spare.append(alive.pop())
            rows.append((FREE, thread, spare[-1], 0))
        else:
            slot = spare.pop() if spare else len(alive)
            alive.append(slot)
            rows.append((ALLOC, thread, slot, int(random.lognormal(5, 2))))
    return rows


# The command line of the installed package: -P keeps the folder in which the tests run off the path.
HARNESS = [sys.executable, "-P", "-c", "from harness.cli import main; main()"]


def harness(*arguments: str, before: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; `before` is the command that starts it, if any."""
    command = [*before, *HARNESS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def fails_with(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Hold that a command failed with one line that says these."""
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("harness: ")
    for part in parts:
        assert part in done.stderr
