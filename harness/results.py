"""What a replay leaves behind: runs, the trace they are of, the environment; on disk and back.

On disk it is a JSON file (`replay --format json`) or a run directory (`replay --save`): run.json, which is
that JSON without samples, samples.parquet, and the tables as text. load() reads either. Arrow is loaded only
where samples.parquet is written or read.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from harness import __version__
from harness.errors import HarnessError

SCHEMA = "harness-run/1"

# The files of a run directory; the tables stand beside them.
RUN_FILE = "run.json"
SAMPLES_FILE = "samples.parquet"

# Columns of samples.parquet that say whose sample a row is; those of Run.samples follow. A trace or a label
# may come twice, so that the indexes into run.json are what counts, and the names are there to be read.
SAMPLES_KEY = ("trace_index", "run_index", "trace", "run")

# How every Parquet file begins (its specification, "File Format").
_PARQUET_MAGIC = b"PAR1"

# Key in the metadata of samples.parquet: the names of each run's columns. Another run's column is null in its
# rows, which is not the same as a number that nobody knows.
_COLUMNS_METADATA = b"harness.sample_columns"


@dataclass(kw_only=True)
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
    # At the sample with the most committed bytes; with a census at the first event of most of them.
    classes: list[dict[str, Any]]
    samples: dict[str, list[int | None]] = field(default_factory=dict)  # By column.
    warnings: list[str]
    timing: dict[str, Any] | None = (
        None  # Nanoseconds an event, "measured" or "modelled", and how they came about.
    )
    models: str | None = None  # The allocator whose model is of what this run measured.
    failure: str | None = None  # Why a real library has no numbers.
    peak_event: int | None = (
        None  # The first event of most committed bytes, counted from 0, where it is known.
    )
    stats_text: str | None = None  # What the allocator prints of itself at the end, where it was asked for.

    @property
    def knows_requests(self) -> bool:
        """Whether what the program asked for is known; a trace may have sizes from size classes alone."""
        return self.summary["peak_requested_bytes"] is not None

    @property
    def has_census(self) -> bool:
        """Whether the classes are those of the peak itself, and say how full their spans are."""
        return any("occupancy_spans" in row for row in self.classes)


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
    cores: int | None = field(default_factory=lambda: os.cpu_count() or 1)
    seconds: float = 0.0
    replay_events_per_second: float | None = None  # Events x allocators.


# What a run on disk may lack: samples, and what was not asked for or is not of its kind.
_RUN_MAY_LACK = {each.name for each in fields(Run) if not each.default is each.default_factory is MISSING}

_Made = TypeVar("_Made", Run, Environment)


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


def load(path: str) -> tuple[list[TraceRuns], Environment]:
    """Return the results that a run directory or a file of `replay --format json` holds.

    Samples are there where the directory or the file has them. HarnessError where it holds no results, or
    those of another version of the schema.
    """
    folder = Path(path) if Path(path).is_dir() else None
    file = Path(path) if folder is None else folder / RUN_FILE
    if folder is not None and not file.exists():
        raise HarnessError(
            f"{path}: holds no {RUN_FILE}; expected a run directory that `harness replay --save` wrote"
        )
    results, environment = _from_json(file)
    if folder is not None and (folder / SAMPLES_FILE).exists():
        _read_samples(folder / SAMPLES_FILE, results)
    return results, environment


def is_kept(path: str) -> bool:
    """Return whether a path is of results, for load(), and not of a trace: a directory, or a .json file."""
    return Path(path).is_dir() or Path(path).suffix == ".json"


def check_free(directory: str) -> None:
    """Raise HarnessError where save() could not make the directory, before the work that it is to hold."""
    target = Path(directory)
    if target.exists() or target.is_symlink():
        raise HarnessError(f"{directory}: is there already; remove it or choose another name")
    if not target.parent.is_dir():
        raise HarnessError(f"{directory}: cannot be written: there is no folder {target.parent}")


def save(
    directory: str,
    results: Sequence[TraceRuns],
    environment: Environment,
    tables: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Write a run directory that appears whole or not at all; `tables` are its other files, text by name.

    HarnessError where something of that name is there already, or it cannot be written.
    """
    check_free(directory)
    target = Path(directory)
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        temporary.mkdir()
        text = to_json(results, environment, samples=False) + "\n"
        for name, content in {RUN_FILE: text, **tables}.items():
            (temporary / name).write_text(content, encoding="utf-8")
        _write_samples(temporary / SAMPLES_FILE, results)
        temporary.rename(target)
    except OSError as error:
        raise HarnessError(f"{directory}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_whole(path: str, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; HarnessError where it cannot be written."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
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


def _write_samples(path: Path, results: Sequence[TraceRuns]) -> None:
    """Write every run's samples as one long table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    every = [run.samples for result in results for run in result.runs]
    names = list(dict.fromkeys(name for samples in every for name in samples))
    columns: dict[str, list[Any]] = {name: [] for name in (*SAMPLES_KEY, *names)}
    for trace_index, result in enumerate(results):
        for run_index, run in enumerate(result.runs):
            count = max((len(values) for values in run.samples.values()), default=0)
            whose = (trace_index, run_index, result.trace["path"], run.label)
            for name, value in zip(SAMPLES_KEY, whose, strict=True):
                columns[name] += [value] * count
            for name in names:
                columns[name] += run.samples.get(name) or [None] * count
    text = ("trace", "run")
    schema = pa.schema(
        [(name, pa.dictionary(pa.int32(), pa.string()) if name in text else pa.int64()) for name in columns],
        {_COLUMNS_METADATA: json.dumps([[list(run.samples) for run in each.runs] for each in results])},
    )
    pq.write_table(pa.table(columns, schema), path, compression="zstd")


def _read_samples(path: Path, results: Sequence[TraceRuns]) -> None:
    """Give every run its rows of samples.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        named = json.loads((table.schema.metadata or {})[_COLUMNS_METADATA])
        whose = list(zip(*(table.column(name).to_pylist() for name in SAMPLES_KEY[:2]), strict=True))
        rows: dict[tuple[int, int], list[int]] = {}
        for row, key in enumerate(whose):
            rows.setdefault(key, []).append(row)
        columns = {name: table.column(name).to_pylist() for each in named for run in each for name in run}
        for trace_index, result in enumerate(results):
            for run_index, run in enumerate(result.runs):
                own = rows.get((trace_index, run_index), [])
                names = named[trace_index][run_index]
                run.samples = {name: [columns[name][row] for row in own] for name in names}
    except (OSError, pa.ArrowException, ValueError, KeyError, IndexError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise HarnessError(
            f"{path}: does not hold the samples of {path.with_name(RUN_FILE)}: {type(error).__name__}: {said}"
        ) from error


def _from_json(file: Path) -> tuple[list[TraceRuns], Environment]:
    try:
        content = file.read_bytes()
        if content.startswith(_PARQUET_MAGIC):
            raise HarnessError(
                f"{file}: is a Parquet file, expected a result: what `harness replay --save` wrote of a trace"
            )
        found = json.loads(content.decode("utf-8"))
    except OSError as error:
        said = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise HarnessError(f"{file}: cannot be read: {said}") from error
    except ValueError as error:
        raise HarnessError(
            f"{file}: is no result, or not a whole one: it holds no JSON: {error}; "
            f"expected what `harness replay --save` or `--format json` wrote"
        ) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise HarnessError(f"{file}: is no result: found schema {schema!r}, expected {SCHEMA!r}")
    try:
        return _results(found), _made(Environment, found.get("environment"), "environment")
    except ValueError as error:
        raise HarnessError(
            f"{file}: is no result that this version reads: {error}; replay the trace again"
        ) from error


def _results(found: Mapping[str, Any]) -> list[TraceRuns]:
    """Return the results of a JSON object; ValueError says what of it is missing or of another type."""
    results = []
    for index, each in enumerate(_fitting(found, "results", list[dict[str, Any]], "")):
        where = f"results[{index}]."
        runs = _fitting(each, "runs", list[Any], where)
        trace = _fitting(each, "trace", dict[str, Any], where)
        for name in ("path", "digest", "events"):
            _fitting(trace, name, Any, f"{where}trace.")
        made = [_made(Run, run, f"{where}runs[{number}]", _RUN_MAY_LACK) for number, run in enumerate(runs)]
        results.append(TraceRuns(trace, made))
    return results


def _made(kind: type[_Made], found: Any, where: str, may_lack: Collection[str] = ()) -> _Made:
    """Return a dataclass of an object's keys; what a later version may have added is left out."""
    known = _fitting({where: found}, where, dict[str, Any], "")
    return kind(
        **{
            name: _fitting(known, name, hint, f"{where}.")
            for name, hint in typing.get_type_hints(kind).items()
            if name in known or name not in may_lack
        }
    )


def _fitting(found: Mapping[str, Any], name: str, hint: Any, where: str) -> Any:
    """Return the value of a key; ValueError where it is missing or of another type."""
    if name not in found:
        raise ValueError(f"{where}{name} is missing")
    if not _fits(found[name], hint):
        raise ValueError(f"{where}{name} is of another type than it should be")
    return found[name]


def _fits(value: Any, hint: Any) -> bool:
    inner = typing.get_args(hint)
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if typing.get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    return isinstance(value, (int, float) if hint is float else hint)
