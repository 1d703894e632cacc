"""By how much a metric may get worse: the defaults, and what a project says in its pyproject.toml.

A worsening counts where it is more than a share of the number before *and* more than an amount. Models are
deterministic, so that theirs are not there to swallow noise but what nobody would act on; a program that
was recorded anew and a real library differ from time to time, and have wider ones (docs/gate.md).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness import metrics
from harness.allocator import parse_bytes
from harness.errors import HarnessError

Severity = Literal["fail", "warn", "ignore"]
SEVERITIES: tuple[Severity, ...] = ("fail", "warn", "ignore")

# What is judged: a model on the trace of the baseline, a model on one that was recorded anew, a real library.
Case = Literal["thresholds", "new-traces", "libraries"]

# In a table of thresholds: every metric.
EVERY = "*"


@dataclass(frozen=True)
class Threshold:
    """A worsening counts beyond `relative` x the number before, and beyond `absolute`, in its unit."""

    relative: float
    absolute: float
    severity: Severity = "fail"

    def allowed(self, before: float) -> float:
        """Return the most by which a number may get worse."""
        return max(self.relative * abs(before), self.absolute)


_PAGE_BYTES = 4096
# Half of the last digit that the tables show.
_RATIO_SEEN = 0.0005
_NS_SEEN = 0.05

# By case and unit: a share, and an amount. A count that was none has no share to compare with.
_DEFAULTS: Mapping[Case, Mapping[str, Threshold]] = {
    "thresholds": {
        "bytes": Threshold(0.001, _PAGE_BYTES),
        "ratio": Threshold(0.001, _RATIO_SEEN),
        "share": Threshold(0.001, _RATIO_SEEN),
        "ns": Threshold(0.001, _NS_SEEN),
        EVERY: Threshold(0.001, 0),
    },
    "new-traces": {
        "bytes": Threshold(0.03, 16 * _PAGE_BYTES),
        "ratio": Threshold(0.05, 0.05),
        "share": Threshold(0.05, 0.01),
        "ns": Threshold(0.1, 1),
        EVERY: Threshold(0.05, 0),
    },
    "libraries": {
        "bytes": Threshold(0.02, 16 * _PAGE_BYTES, "warn"),
        "ratio": Threshold(0.02, 0.01, "warn"),
        "share": Threshold(0.02, 0.01, "warn"),
        "ns": Threshold(0.05, 0.5, "warn"),
        EVERY: Threshold(0.05, 0, "warn"),
    },
}


@dataclass(frozen=True)
class Thresholds:
    """Every threshold of a project: the defaults, and by case and metric (or "*") what differs from them."""

    changed: Mapping[Case, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def of(self, metric: metrics.Metric, case: Case) -> Threshold:
        """Return the threshold of a metric."""
        defaults = _DEFAULTS[case]
        threshold = defaults.get(metric.unit, defaults[EVERY])
        changed = self.changed.get(case, {})
        return replace(threshold, **{**changed.get(EVERY, {}), **changed.get(metric.name, {})})


@dataclass(frozen=True)
class Configuration:
    """What a project says of its gate."""

    baseline: str | None = None
    metrics: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)


def configuration(file: str | None = None, folder: Path | None = None) -> Configuration:
    """Return what a TOML file says: [tool.harness.check], or without such a table the whole file.

    Without a file that is the nearest pyproject.toml with such a table, in `folder` (by default here) or in
    one above; where there is none, the defaults. HarnessError where it says what is not understood.
    """
    if file is not None:
        content = _toml(Path(file))
        return _configuration(file, _table(content) or content)
    here = Path.cwd() if folder is None else folder
    for each in (here, *here.parents):
        path = each / "pyproject.toml"
        if path.is_file() and (table := _table(_toml(path))) is not None:
            return _configuration(str(path), table)
    return Configuration()


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise HarnessError(f"{path}: is no TOML: {error}") from error


def _table(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Any = content
    for name in ("tool", "harness", "check"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _configuration(path: str, table: Mapping[str, Any]) -> Configuration:
    known = ("baseline", "metrics", *_DEFAULTS)
    for name in table:
        if name not in known:
            raise HarnessError(f"{path}: {name!r} is nothing that a gate has; there are {', '.join(known)}")
    baseline, names = table.get("baseline"), table.get("metrics", [])
    if baseline is not None and not isinstance(baseline, str):
        raise HarnessError(f"{path}: baseline = {baseline!r}: expected a path")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise HarnessError(f"{path}: metrics = {names!r}: expected a list of names")
    for name in names:
        _check_metric(path, name)
    changed = {case: _changed(path, case, table.get(case, {})) for case in _DEFAULTS}
    located = None if baseline is None else os.path.relpath(Path(path).parent / baseline)
    return Configuration(located, tuple(names), Thresholds(changed))


def _changed(path: str, case: str, table: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(table, dict):
        raise HarnessError(f"{path}: {case} = {table!r}: expected a table of metrics")
    for name, said in table.items():
        if name != EVERY:
            _check_metric(path, name)
        if not isinstance(said, dict):
            raise HarnessError(
                f"{path}: {case}.{name} = {said!r}: expected a table, as "
                f'{{ relative = 0.01, absolute = "64KiB", severity = "warn" }}'
            )
    return {
        name: {key: _value(path, f"{case}.{name}.{key}", key, value) for key, value in said.items()}
        for name, said in table.items()
    }


def _value(path: str, where: str, key: str, value: Any) -> Any:
    if key == "severity" and value in SEVERITIES:
        return value
    if key == "absolute" and isinstance(value, str):
        try:
            return parse_bytes(value)
        except ValueError as error:
            raise HarnessError(f"{path}: {where}: {error}") from error
    if key in ("relative", "absolute") and type(value) in (int, float) and value >= 0:
        return value
    raise HarnessError(
        f"{path}: {where} = {value!r} is not understood; expected relative, a share as 0.01, absolute, an "
        f'amount as 65536 or "64KiB", or severity: {", ".join(SEVERITIES)}'
    )


def _check_metric(path: str, name: str) -> None:
    if name not in metrics.DEFINITIONS:
        raise HarnessError(f"{path}: {name!r} is no metric; docs/metrics.md lists them all")
