"""Results over time: a folder of Parquet files, a row for each metric of each run of each commit.

Every append is one file, written whole under a name of its own, so that nothing that is there is ever
written again; of two that have the same commit, trace and allocator the later counts. The folder is one
dataset to any tool that reads Parquet. history.py knows what stands in it.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from harness import __version__, commits, metrics
from harness.commits import Commit
from harness.errors import HarnessError
from harness.history import SCHEMA, History, Point, Series, short
from harness.results import TraceRuns, write_whole

_KEY = b"harness.history"
_COLUMNS = pa.schema(
    [
        ("commit", pa.string()),
        ("date", pa.timestamp("ms", "UTC")),  # Of the commit.
        ("added", pa.timestamp("us", "UTC")),
        ("harness", pa.string()),
        ("trace", pa.string()),  # Its path, within the repository where it is in one.
        ("digest", pa.string()),
        ("allocator", pa.string()),  # Its label.
        ("metric", pa.string()),
        ("value", pa.float64()),
    ],
    {_KEY: SCHEMA},
)

# Opening a file costs half a millisecond: with so many the rows of a metric are kept in the user's cache.
_WORTH_A_CACHE_FILES = 200
# Files that are read at a time, between two steps of the progress.
_READ_FILES = 500


def check(
    directory: str,
    commit: Commit,
    runs: Sequence[tuple[str, str]],
    *,
    replace: bool = False,
) -> None:
    """Raise HarnessError where append() would, before the work whose results it is to take.

    `runs` are traces by name (name_of()) and labels. Unless they replace what is there, none may be there of
    the same commit.
    """
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise HarnessError(f"{directory}: cannot be written: it is a file, not a folder")
    twice = [run for index, run in enumerate(runs) if run in runs[:index]]
    if twice:
        raise HarnessError(f"{directory}: {twice[0][1]} on {twice[0][0]} is to be added twice")
    if replace or not folder.is_dir():
        return
    there = set()
    for file in folder.glob(f"{_prefix(commit.name)}-*.parquet"):
        table = _read([file], None)
        there |= {
            (trace, label)
            for name, trace, label in zip(
                *(table.column(name).to_pylist() for name in ("commit", "trace", "allocator")), strict=True
            )
            if name == commit.name
        }
    for trace, label in runs:
        if (trace, label) in there:
            raise HarnessError(
                f"{directory}: has {label} on {trace} of commit {short(commit.name)} already; "
                f"`harness history add --replace` takes new numbers in their place"
            )


def append(
    directory: str,
    results: Sequence[TraceRuns],
    commit: Commit,
    *,
    harness: str = __version__,
    replace: bool = False,
) -> str:
    """Add results to a history, and return the file that holds them; the folder is made if it is not there.

    Runs that failed have no numbers and are left out. HarnessError as check() says, where nothing is left,
    and where the file cannot be written.
    """
    runs = [
        (name, each.trace["digest"] or "", run)
        for each, name in ((each, name_of(each)) for each in results)
        for run in each.runs
        if run.failure is None
    ]
    if not runs:
        raise HarnessError(f"{directory}: nothing to add: no run has numbers")
    check(directory, commit, [(name, run.label) for name, _, run in runs], replace=replace)
    now = datetime.now(UTC)
    rows = [
        (commit.name, commit.date, now, harness, name, digest, run.label, metric, float(value))
        for name, digest, run in runs
        for metric, value in run.summary.items()
        if value is not None
    ]
    columns = dict(zip(_COLUMNS.names, map(list, zip(*rows, strict=True)), strict=True))
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, _COLUMNS), buffer, compression="zstd")
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"{directory}: cannot be written: {error.strerror or error}") from error
    file = folder / f"{_prefix(commit.name)}-{now:%Y%m%dT%H%M%S%fZ}-{os.urandom(3).hex()}.parquet"
    write_whole(str(file), buffer.getvalue().to_pybytes())
    return str(file)


def name_of(result: TraceRuns) -> str:
    """Return how a history names a trace: by its path within the repository, else as it was given."""
    return commits.within_repository(result.trace["path"])


def load(
    directory: str,
    metric: str,
    *,
    trace: str | None = None,
    allocator: str | None = None,
    progress: Callable[[int], None] = lambda files: None,
) -> History:
    """Return a metric over commits, for all traces and allocators or those that were asked for.

    A trace is asked for by its name, or by the end of it; an allocator by its label. Commits stand in the
    order in which git has them, parents first, or by date where it does not know them all. HarnessError where
    there is no history, a file of it is none, or nothing is of what was asked for.
    """
    rows = _rows(directory, metric, progress)
    points: dict[tuple[str, str], dict[str, Point]] = {}
    for commit, date, _, harness, path, digest, label, value in rows:
        # Rows are in the order in which they were added, so that the last of a commit stays.
        points.setdefault((path, label), {})[commit] = Point(commit, date, harness, digest, value)
    if not points:
        near = difflib.get_close_matches(metric, metrics.DEFINITIONS, n=3)
        told = f"did you mean {' or '.join(near)}?" if near else "docs/metrics.md lists them all"
        known = "no run in it has a number of it" if metric in metrics.DEFINITIONS else f"no metric; {told}"
        raise HarnessError(f"{directory}: {metric}: {known}")
    chosen = {
        key: each
        for key, each in points.items()
        if _is_asked_for(key[0], trace) and allocator in (None, key[1])
    }
    if not chosen:
        there = ", ".join(f"{label} on {path}" for path, label in sorted(points))
        raise HarnessError(f"{directory}: has nothing of what was asked for; it has {there}")
    places = commits.order({commit for each in chosen.values() for commit in each})
    series = []
    for (path, label), each in sorted(chosen.items()):
        ordered = sorted(each.values(), key=lambda point: (point.date, point.commit))
        if places is not None:
            ordered = sorted(ordered, key=lambda point: places[point.commit])
        series.append(Series(path, label, ordered))
    return History(metric, places is not None, series)


_Row = tuple[str, datetime, datetime, str, str, str, str, float]


def _rows(directory: str, metric: str, progress: Callable[[int], None]) -> list[_Row]:
    """Return the rows of a metric in the order in which they were added."""
    folder = Path(directory)
    if not folder.is_dir():
        raise HarnessError(
            f"{directory}: no history there; make one with `harness replay TRACE --history {directory}`"
        )
    files = _files(folder)
    if not files:
        raise HarnessError(f"{directory}: holds no Parquet files, expected a history")
    table = _of_metric(folder, files, metric, progress).sort_by("added")
    names = [name for name in _COLUMNS.names if name != "metric"]
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the files of a folder by name, with what tells each from another in its place."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            # One that begins with a dot is on its way to being whole.
            if entry.name.endswith(".parquet") and not entry.name.startswith("."):
                status = entry.stat()
                found[entry.name] = (status.st_size, status.st_mtime_ns)
    return dict(sorted(found.items()))


def _of_metric(
    folder: Path, files: Mapping[str, tuple[int, int]], metric: str, progress: Callable[[int], None]
) -> pa.Table:
    """Return a metric's rows of all files, from the cache as far as it has them."""
    if len(files) < _WORTH_A_CACHE_FILES or not re.fullmatch("[a-z0-9_]+", metric):
        return _read([folder / name for name in files], metric, progress)
    cache = _cache_file(folder, metric)
    known, cached = _cached(cache)
    if any(files.get(name) != stamp for name, stamp in known.items()):
        known, cached = {}, None  # Something that was read has gone, or is another.
    new = [folder / name for name in files if name not in known]
    table = _read(new, metric, progress)
    if cached is not None:
        table = pa.concat_tables([cached, table])
    if new:
        stamps = json.dumps(files).encode()
        buffer = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({b"files": stamps}), buffer, compression="zstd")
        with contextlib.suppress(OSError, HarnessError):  # Without a cache it is slower and right.
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_whole(str(cache), buffer.getvalue().to_pybytes())
    return table


def _cache_file(folder: Path, metric: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    whose = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return Path(base) / "alloc-harness" / "history" / whose / f"{metric}.parquet"


def _cached(file: Path) -> tuple[dict[str, tuple[int, int]], pa.Table | None]:
    """Return the files whose rows a cache has, and these; nothing where it cannot be read."""
    try:
        table = pq.read_table(file)
        stamps = json.loads(table.schema.metadata[b"files"])
        found = {name: (size, time) for name, (size, time) in stamps.items()}
        return found, table.replace_schema_metadata(None).cast(_COLUMNS.remove_metadata())
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return {}, None


def _read(
    files: Sequence[Path], metric: str | None, progress: Callable[[int], None] = lambda files: None
) -> pa.Table:
    """Return the rows of files, of one metric or all; HarnessError for the first that is of no history."""
    chosen = None if metric is None else ds.field("metric") == metric
    tables = []
    for first in range(0, len(files), _READ_FILES):
        part = files[first : first + _READ_FILES]
        fragments = [_fragment(file) for file in part]
        dataset = ds.FileSystemDataset(fragments, _COLUMNS, fragments[0].format, fragments[0].filesystem)
        try:
            tables.append(dataset.to_table(filter=chosen).replace_schema_metadata(None))
        except (OSError, pa.ArrowException) as error:
            raise _fault(part, error) from error
        progress(len(part))
    return pa.concat_tables(tables) if tables else _COLUMNS.remove_metadata().empty_table()


_FORMAT = ds.ParquetFileFormat()
_LOCAL = fs.LocalFileSystem()


def _fragment(file: Path) -> Any:
    """Return a file to be read, once its schema is known to be that of a history."""
    fragment = _FORMAT.make_fragment(str(file), _LOCAL)
    try:
        schema = fragment.physical_schema
    except (OSError, pa.ArrowException) as error:
        raise _fault([file], error) from error
    found = (schema.metadata or {}).get(_KEY)
    if found != SCHEMA.encode():
        told = repr(found.decode(errors="replace")) if found else "none of a history"
        raise HarnessError(
            f"{file}: is of another schema: found {told}, expected {SCHEMA!r}; take it out of the folder"
        )
    if not schema.equals(_COLUMNS):
        raise HarnessError(
            f"{file}: has other columns than {SCHEMA!r}: {', '.join(schema.names)}; take it out of the folder"
        )
    return fragment


def _fault(files: Sequence[Path], error: Exception) -> HarnessError:
    """Return what is wrong, with the file where it is."""
    for file in files:
        try:
            pq.read_table(file)
        except PermissionError:
            return HarnessError(f"{file}: cannot be read: permission denied")
        except (OSError, pa.ArrowException) as found:
            said = " ".join(str(found).split())[:120]
            return HarnessError(
                f"{file}: is no Parquet file, or not a whole one: {said}; take it from where it was copied, "
                f"or remove it"
            )
    return HarnessError(f"{files[0].parent}: cannot be read: {error}")


def _is_asked_for(path: str, trace: str | None) -> bool:
    return trace is None or path == trace or path.endswith(f"/{trace}") or Path(path).stem == trace


def _prefix(commit: str) -> str:
    """Return how the names of a commit's files begin."""
    return re.sub(r"[^A-Za-z0-9._]", "_", commit)[:12]
