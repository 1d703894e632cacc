"""Replays as pytest-benchmark keeps them: an entry for the time of an event, one for each kind of memory.

pytest-benchmark knows seconds alone. The time of an event is that of the allocator, modelled or measured, not
of the replay. A byte stands as a second, which its tables and its JSON show as it is, in a group whose name
says so; 0 is left out, which no time is. extra_info has every metric. This is the one file that knows
pytest-benchmark.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from harness import metrics
from harness.replayed import Replayed

# What one compares first of the memory; the others are in extra_info.
BYTES = ("peak_committed_bytes", "mean_committed_bytes", "waste_bytes")


def add(benchmark: Any, replays: Sequence[Replayed]) -> None:
    """Add a test's replays to the results of its fixture `benchmark`, unless benchmarks are disabled."""
    if benchmark.disabled:
        return
    if benchmark._mode is None:
        benchmark._mode = "replay(...)"  # Else it warns that the test has not used it.
    for replayed in replays:
        extra = extra_info(replayed)
        timing = replayed.run.timing
        if timing is not None:
            name = f"{timing['kind']}_ns_per_event"
            _add(benchmark, replayed, name, name, timing["ns_per_event"] / 1e9, extra)
        for name in BYTES:
            value = replayed.run.summary[name]
            if value:
                _add(benchmark, replayed, name, f"{name}: seconds are bytes", round(value), extra)


def extra_info(replayed: Replayed) -> dict[str, Any]:
    """Return what an entry keeps beside its number: whose it is, and every metric, bytes as whole numbers."""
    return {
        "trace": replayed.name,
        "digest": replayed.trace["digest"],
        "events": replayed.trace["events"],
        "allocator": replayed.run.label,
        "version": replayed.run.version,
    } | {
        name: round(value) if metrics.DEFINITIONS[name].unit == "bytes" else value
        for name, value in replayed.run.summary.items()
        if value is not None
    }


def _add(
    benchmark: Any, replayed: Replayed, metric: str, group: str, seconds: float, extra: dict[str, Any]
) -> None:
    """Add one entry under a name of its own: function[parameters-trace-allocator-metric]."""
    entry = copy.copy(benchmark)
    whose = f"{PurePath(replayed.name).stem}-{replayed.run.label}"
    entry.param = "-".join(dict.fromkeys([*filter(None, [_parameters(benchmark.name)]), whose, metric]))
    entry.params = {"trace": replayed.name, "allocator": replayed.run.label, "metric": metric}
    entry.name = f"{benchmark.name.partition('[')[0]}[{entry.param}]"
    entry.fullname = f"{benchmark.fullname.partition('[')[0]}[{entry.param}]"
    entry.group = group
    entry.extra_info = extra
    entry._make_stats(iterations=1).update(seconds)


def _parameters(name: str) -> str:
    return name.partition("[")[2].removesuffix("]")
