"""What a replay leaves behind: runs, the trace they are of, the environment; as JSON on disk."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import __version__
from harness.errors import HarnessError

SCHEMA = "harness-run/1"


@dataclass
class Run:
    """One trace replayed through one allocator."""

    allocator: str  # Its name.
    label: str  # The name with the options that differ from their defaults.
    description: str
    version: str
    kind: str  # "model" or "library".
    options: dict[str, Any]  # Every option, defaults included.
    summary: dict[str, int | float | None]
    footprint: dict[str, dict[str, int | None]]  # "floor", "peak" (of committed bytes) and "end".
    counters: dict[str, int]
    classes: list[dict[str, Any]]  # At the sample with the most committed bytes.
    samples: dict[str, list[int | None]]
    warnings: list[str]
    timing: dict[str, Any] | None = (
        None  # Nanoseconds an event, "measured" or "modelled", and how they came about.
    )
    models: str | None = None  # The allocator whose model is of what this run measured.
    failure: str | None = None  # Why a real library has no numbers.
    stats_text: str | None = None  # What the allocator prints of itself at the end, where it was asked for.


@dataclass
class TraceRuns:
    """One trace and every run of it."""

    trace: dict[str, Any]
    runs: list[Run]

    def pairs(self) -> list[tuple[Run, Run]]:
        """Return each model beside the real thing that it is of, where both have numbers."""
        return [
            (model, real)
            for real in self.runs
            for model in self.runs
            if real.models == model.allocator and real.failure is None and model.failure is None
        ]


@dataclass
class Environment:
    """Where and how fast a replay ran: the only part of a result that differs from machine to machine."""

    harness: str = __version__
    python: str = field(default_factory=platform.python_version)
    platform: str = field(default_factory=platform.platform)
    processor: str = field(default_factory=lambda: _processor())
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    seconds: float = 0.0
    replay_events_per_second: float | None = None  # Events x allocators.


def as_dict(results: Sequence[TraceRuns], environment: Environment, *, samples: bool) -> dict[str, Any]:
    """Return the object that --format json prints."""
    listed = [asdict(result) for result in results]
    for result in listed:
        for run in result["runs"]:
            if not samples:
                del run["samples"]
            if run["stats_text"] is None:
                del run["stats_text"]
    return {"schema": SCHEMA, "results": listed, "environment": asdict(environment)}


def to_json(results: Sequence[TraceRuns], environment: Environment, *, samples: bool) -> str:
    """Return results as JSON text."""
    return json.dumps(as_dict(results, environment, samples=samples), indent=1)


def write_whole(path: str, text: str) -> None:
    """Write a text file that appears whole or not at all; HarnessError where it cannot be written."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HarnessError(f"{path}: cannot be written: {error.strerror or error}") from error


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
