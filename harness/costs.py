"""From how often a model took each path to what that takes: pure functions, no Arrow, no native code.

A cost table is data: for each model, nanoseconds by path, and where they come from. A path is one of the
model's counters, or a total of the trace, as ``trace.frees``. Tables ship in costs.json, measured on one
machine; `harness calibrate` (calibration.py) writes one of the user's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import HarnessError

SCHEMA = "harness-costs/1"
SHIPPED = Path(__file__).with_name("costs.json")

# What --costs takes beside a file: the tables that ship.
DEFAULT = "default"

_TRACE = "trace."


@dataclass(frozen=True)
class CostTable:
    """What each path of one model takes, and where that was measured."""

    library: str  # The real allocator, with its version.
    processor: str
    date: str
    how: str
    low_ratio: float  # Modelled / measured: the least and the most of the workloads it was fitted to.
    high_ratio: float
    ns: Mapping[str, float]  # By path.

    @property
    def name(self) -> str:
        """What a run says of where its costs come from."""
        return f"{self.library} on {self.processor}, {self.date}"

    def paths(self, counters: Mapping[str, int], totals: Mapping[str, Any]) -> dict[str, int]:
        """Return how often each path was taken; HarnessError where the table has one that is not counted."""
        found = {}
        for path in self.ns:
            of_trace = path.startswith(_TRACE)
            counted = totals if of_trace else counters
            name = path.removeprefix(_TRACE)
            if name not in counted:
                who = "the trace" if of_trace else "the model"
                known = ", ".join(sorted(counted))
                raise HarnessError(
                    f"costs of {self.library}: path {path!r} is not counted; {who} counts {known}"
                )
            found[path] = int(counted[name])
        return found


Tables = Mapping[str, CostTable]  # By the model's name.


def modelled(
    counters: Mapping[str, int], totals: Mapping[str, Any], table: CostTable | None
) -> dict[str, Any] | None:
    """Return the timing of a run: the sum of counts times costs, over the trace's events.

    None without a table and for a trace without events. ``low`` and ``high`` are where the measured time
    lies if this trace is missed by as much as the worst of those that the table was fitted to. HarnessError
    where the table has a path that the model does not count.
    """
    if table is None or not totals["events"]:
        return None
    ns = sum(table.ns[path] * count for path, count in table.paths(counters, totals).items())
    ns_per_event = ns / totals["events"]
    return {
        "kind": "modelled",
        "ns_per_event": ns_per_event,
        "low": ns_per_event / table.high_ratio,
        "high": ns_per_event / table.low_ratio,
        "repetitions": 0,
        "driver_ns_per_event": None,
        "ns_by_op": None,
        "latency_ns": None,
        "cost_table": table.name,
    }


@cache
def shipped() -> Tables:
    """Return the tables that come with the package."""
    return read(SHIPPED)


def chosen(source: str | None) -> Tables:
    """Return the tables that a user chose: ``default``, a file's, or without a choice the calibrated ones.

    A model that the file does not have keeps the table that ships. HarnessError where the file holds no
    tables.
    """
    if source == DEFAULT:
        return shipped()
    path = user_file() if source is None else Path(source)
    if source is None and not path.exists():
        return shipped()
    return {**shipped(), **read(path)}


def user_file() -> Path:
    """Return where `harness calibrate` keeps what it has measured."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "alloc-harness" / "costs.json"


def for_writing(path: Path) -> Tables:
    """Make a file's folder and return what tables the file has already; HarnessError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_there = path.exists()
    except FileExistsError as error:
        raise HarnessError(f"{path}: cannot be written: {path.parent} is a file, not a folder") from error
    except OSError as error:
        raise HarnessError(f"{path}: cannot be written: {error.strerror or error}") from error
    return read(path) if is_there else {}


def to_json(tables: Tables) -> str:
    """Return tables as the text of a file."""
    models = {name: asdict(table) for name, table in tables.items()}
    return json.dumps({"schema": SCHEMA, "models": models}, indent=1) + "\n"


def read(path: Path) -> Tables:
    """Return a file's tables; HarnessError where it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise HarnessError(f"{path}: is no cost table: it holds no JSON: {error}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise HarnessError(f"{path}: is no cost table: found schema {schema!r}, expected {SCHEMA!r}")
    try:
        return {name: _table(fields) for name, fields in found["models"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HarnessError(
            f"{path}: is no cost table that this version reads: {type(error).__name__}: {error}; "
            f"make one with `harness calibrate -o {path}`"
        ) from error


def _table(fields: Mapping[str, Any]) -> CostTable:
    ns = {str(path): float(value) for path, value in fields["ns"].items()}
    for path, value in ns.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"path {path}: {value} is no cost in nanoseconds")
    low, high = float(fields["low_ratio"]), float(fields["high_ratio"])
    if not 0 < low <= high < float("inf"):
        raise ValueError(f"low_ratio {low} and high_ratio {high} are no range")
    texts = {name: str(fields[name]) for name in ("library", "processor", "date", "how")}
    return CostTable(**texts, low_ratio=low, high_ratio=high, ns=ns)
