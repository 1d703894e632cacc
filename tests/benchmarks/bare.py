"""A real malloc on a trace's events, in a process of its own: what the models' speed is held beside.

bare.cpp is the program; a fresh process carries the events out once, when it is told to.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from harness.allocator import FREE, EventBatch

_SOURCE = Path(__file__).with_name("bare.cpp")
# The compiler must not know what malloc and free do, or it could leave out pairs of them.
_FLAGS = ("-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-builtin-malloc", "-fno-builtin-free")
_FREE_SIZE = 2**32 - 1


def build(folder: Path, *libraries: str) -> Path:
    """Return the program, linked with glibc's malloc or with that of a library."""
    program = folder / "bare"
    subprocess.run(["g++", *_FLAGS, "-o", str(program), str(_SOURCE), *libraries], check=True)
    return program


def write_events(path: Path, batches: Iterable[EventBatch]) -> Path:
    """Write a trace as the program reads it: as if one thread did everything."""
    with path.open("wb") as file:
        for batch in batches:
            rows = np.empty((len(batch.op), 2), np.uint32)
            rows[:, 0], rows[:, 1] = batch.slot, np.where(batch.op == FREE, _FREE_SIZE, batch.size)
            file.write(rows.tobytes())
    return path


class Bare:
    """Processes of the program, one at a time."""

    def __init__(self, program: Path, events: Path, *, under: Sequence[str] = ()) -> None:
        self._command = [*under, str(program), str(events)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def start(self) -> None:
        """Have a fresh process read the events, once the last one is gone."""
        self._end()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")

    def run(self) -> None:
        """Have the process carry them out."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("done")

    def _expect(self, line: str) -> None:
        answer = self._process.stdout.readline()
        assert answer == f"{line}\n", f"{self._command} says {answer!r}"

    def _end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.communicate()
            assert process.returncode == 0, self._command
