"""Traces on disk and in batches: open, validate, read and write Parquet files of the format harness-trace/1.

A reader decodes once and streams; a writer computes the digest and appears whole or not at all. Rows are
checked by include/harness/check.hpp, so that a fault in a file never reaches an allocator.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from harness.allocator import OP_NAMES, EventBatch
from harness.errors import TraceError
from harness.native._native import Checker, TraceFault

if TYPE_CHECKING:
    from concurrent.futures import Future

SCHEMA = "harness-trace/1"
METADATA_KEY = b"harness.trace"
SITES_KEY = b"harness.sites"

REQUIRED = {"op": pa.uint8(), "thread": pa.uint32(), "object": pa.uint64(), "size": pa.uint64()}
OPTIONAL = {"alignment": pa.uint32(), "noscan": pa.bool_(), "time_ns": pa.int64(), "site": pa.uint32()}
COLUMNS = REQUIRED | OPTIONAL

# Rows of a batch. Several batches are under way at a time, at seventy bytes a row; a batch's own overhead is
# lost in twice as few.
BATCH_EVENTS = 65_536
_ROW_GROUP_EVENTS = 1 << 20
# Columns are read through buffers of this size; pre-buffering would keep every row group that was read.
_READ_BYTES = 1 << 18

# What Arrow raises where a file is damaged: ValueError at names that are no UTF-8, MemoryError where the file
# asks for more than there is.
DAMAGE = (OSError, pa.ArrowException, ValueError, MemoryError)

RawColumns = dict[str, NDArray[Any]]

# What the writer says of a trace itself, and nobody else may say.
_WRITERS_OWN = ("schema", "object", "noscan", "events", "digest")

# Called with the number of events that were just done.
Progress = Callable[[int], None]


def unnoticed(events: int) -> None:
    """Take no notice of progress."""


class Noscan(NamedTuple):
    """Which objects hold no pointers: the file's column, or a share of all objects."""

    fraction: float = 0.0
    override: bool = False

    @classmethod
    def parse(cls, text: str | None) -> Noscan:
        """Return the choice that ``all``, ``none`` or a fraction means; ValueError for anything else."""
        if text is None:
            return cls()
        fraction = {"all": 1.0, "none": 0.0}.get(text)
        if fraction is None:
            fraction = float(text)
        if not 0 <= fraction <= 1:
            raise ValueError(text)
        return cls(fraction, override=True)

    def assumption(self, has_column: bool) -> str | None:
        """Say what was assumed, for a run's warnings."""
        share = {0.0: "no object", 1.0: "every object"}.get(
            self.fraction, f"{self.fraction:g} of the objects"
        )
        if self.override:
            column = ", whatever its noscan column says" if has_column else ""
            return f"{share} was taken to be noscan, as --noscan asks{column}"
        if not has_column:
            return "the trace has no noscan column: every object was taken to hold pointers (see --noscan)"
        return None


AS_IT_STANDS = Noscan()


class TraceReader:
    """A Parquet trace, opened and its schema checked; batches are read as they are asked for.

    Raises TraceError where the file cannot be opened or is no trace.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(_source(path), pre_buffer=False, buffer_size=_READ_BYTES)
            self.schema = self._file.schema_arrow
            names = self.schema.names
        except DAMAGE as error:
            raise TraceError(f"{path}: {reason(path, error)}") from error
        self.events: int = self._file.metadata.num_rows
        self.metadata = self._metadata()
        self.columns = [name for name in COLUMNS if name in names]
        self._check_schema()

    @property
    def has_noscan(self) -> bool:
        """Whether the file says which objects hold no pointers."""
        return "noscan" in self.columns

    @property
    def sites(self) -> bytes | None:
        """The allocation sites as the file holds them."""
        stored: bytes | None = (self._file.metadata.metadata or {}).get(SITES_KEY)
        return stored

    def raw_batches(
        self,
        batch_events: int = BATCH_EVENTS,
        columns: list[str] | None = None,
        use_threads: bool = True,
    ) -> Iterator[RawColumns]:
        """Yield the file's columns as NumPy arrays, in order, unchecked but for types and nulls.

        Columns are decoded side by side on threads of Arrow's, or one after the other on the caller's.
        Raises TraceError at the first null, and where the file breaks off.
        """
        names = self.columns if columns is None else [name for name in self.columns if name in columns]
        row = 0
        try:
            # Arrow's cost of a batch is that of thousands of rows, so smaller ones are cut from a larger one.
            for batch in self._file.iter_batches(
                max(batch_events, BATCH_EVENTS), columns=names, use_threads=use_threads
            ):
                decoded = {name: self._to_numpy(name, batch.column(name), row) for name in names}
                for first in range(0, batch.num_rows, batch_events):
                    yield {name: values[first : first + batch_events] for name, values in decoded.items()}
                row += batch.num_rows
                del (
                    batch,
                    decoded,
                )  # So that the next one is decoded into their memory, still cached.
        except DAMAGE as error:
            raise TraceError(f"{self.path}: row {row} or after: {reason(self.path, error)}") from error
        if row != self.events:
            raise TraceError(
                f"{self.path}: has {row} rows, expected the {self.events} that its footer promises"
            )

    def checked(
        self,
        noscan: Noscan = AS_IT_STANDS,
        batch_events: int = BATCH_EVENTS,
        use_threads: bool = True,
    ) -> CheckedTrace:
        """Return the trace as checked event batches, decoded as raw_batches() says."""
        return CheckedTrace(self, noscan, batch_events, use_threads)

    def _metadata(self) -> dict[str, Any]:
        stored = (self._file.metadata.metadata or {}).get(METADATA_KEY)
        if stored is None:
            return {}
        try:
            metadata = json.loads(stored)
        except ValueError as error:
            raise TraceError(f"{self.path}: metadata key harness.trace holds no JSON: {error}") from error
        if not isinstance(metadata, dict) or metadata.get("schema") != SCHEMA:
            found = metadata.get("schema") if isinstance(metadata, dict) else metadata
            raise TraceError(
                f"{self.path}: metadata key harness.trace: found schema {found!r}, expected {SCHEMA!r}"
            )
        return metadata

    def _check_schema(self) -> None:
        for name in REQUIRED:
            if name not in self.schema.names:
                raise TraceError(
                    f"{self.path}: column {name} is missing; expected {', '.join(REQUIRED)} "
                    f"and found {', '.join(self.schema.names) or 'no column at all'}"
                )
        for name in self.columns:
            found, expected = self.schema.field(name).type, COLUMNS[name]
            named = name == "op" and pa.types.is_dictionary(found) and _is_text(found.value_type)
            if found != expected and not named:
                raise TraceError(
                    f"{self.path}: column {name}: found type {found}, expected {expected}; "
                    f"`harness convert` casts what can be cast"
                )

    def _to_numpy(self, name: str, column: pa.Array, first_row: int) -> NDArray[Any]:
        if column.null_count:
            row = first_row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise TraceError(f"{self.path}: row {row}, column {name}: found null, expected a value")
        if name == "op" and pa.types.is_dictionary(column.type):
            return self._op_numbers(column, first_row)
        if pa.types.is_boolean(column.type):
            return _unpacked(column)
        array: NDArray[Any] = column.to_numpy()
        return array

    def _op_numbers(self, column: pa.DictionaryArray, first_row: int) -> NDArray[np.uint8]:
        numbers = {name: number for number, name in OP_NAMES.items()}
        codes = np.array([numbers.get(name, 0) for name in column.dictionary.to_pylist()], np.uint8)
        ops: NDArray[np.uint8] = codes[column.indices.to_numpy()]
        if not ops.all():
            at = int(np.flatnonzero(ops == 0)[0])
            raise TraceError(
                f"{self.path}: row {first_row + at}, column op: found {column[at].as_py()!r}, "
                f"expected {', '.join(numbers)}"
            )
        return ops


class RowChecker:
    """Checks, renames and enriches rows of any source; totals() is what they are, once they were read.

    slots_rest: whether a slot waits some thousand events for its next object, as models may want it.
    Otherwise the slot that was freed last is taken first, so that numbers are as low as they can be.
    """

    def __init__(self, path: str, noscan: Noscan = AS_IT_STANDS, *, slots_rest: bool = True) -> None:
        self._path = path
        self._checker = Checker(
            noscan_fraction=noscan.fraction, override_noscan=noscan.override, slots_rest=slots_rest
        )

    def check(self, raw: RawColumns) -> EventBatch:
        """Return the next raw batch as a checked one."""
        try:
            columns = self._checker.check(
                raw["op"],
                raw["thread"],
                raw["object"],
                raw["size"],
                raw.get("alignment"),
                raw.get("noscan"),
                raw.get("time_ns"),
            )
        except TraceFault as fault:
            raise TraceError(f"{self._path}: {fault}") from fault
        return EventBatch(*columns)

    def totals(self) -> dict[str, int]:
        """Return the counts and sums of what was read so far, in events, objects and bytes."""
        return self._checker.totals()


class CheckedTrace(RowChecker):
    """The rows of an opened trace, checked."""

    def __init__(self, reader: TraceReader, noscan: Noscan, batch_events: int, use_threads: bool) -> None:
        super().__init__(reader.path, noscan)
        self._batch_events = batch_events
        self._use_threads = use_threads
        self._reader = reader

    def __iter__(self) -> Iterator[EventBatch]:
        """Yield every batch once, in order; TraceError at the first row that cannot be."""
        names = [name for name in COLUMNS if name != "site"]
        # Not a loop: its variable would keep a raw batch while the next one is decoded.
        yield from map(self.check, self._reader.raw_batches(self._batch_events, names, self._use_threads))


class TraceWriter:
    """Writes a trace; the file appears, digest and all, when the block ends without an exception.

    `optional` names the optional columns that every batch will carry. One row group is encoded, on a thread
    of its own, while the next is collected.
    """

    # Ids and times grow and repeat in small steps: what delta encoding is for. The rest has few values.
    _DELTA = ("object", "time_ns")
    # Level 9 takes twice as long for files that are 2 % smaller.
    _COMPRESSION_LEVEL = 3

    def __init__(
        self,
        path: str,
        *,
        source: Mapping[str, Any],
        object_ids: str = "slot",
        synthetic: bool = False,
        frees: str = "exact",
        sizes: str = "exact",
        optional: tuple[str, ...] = (),
        sites: bytes | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.events = 0
        names = [*REQUIRED, *(name for name in OPTIONAL if name in optional)]
        self._schema = pa.schema([pa.field(name, COLUMNS[name], nullable=False) for name in names])
        self._metadata: dict[str, Any] = {
            "schema": SCHEMA,
            "object": object_ids,
            "source": dict(source),
            "synthetic": synthetic,
            "noscan": "known" if "noscan" in names else "unknown",
            "sizes": sizes,
            "frees": frees,
        }
        self.describe(extra or {}, sites)
        # Loaded here, since who reads a trace does without.
        from concurrent.futures import ThreadPoolExecutor

        self._hashes = {name: hashlib.sha256() for name in names}
        self._pending: list[pa.RecordBatch] = []
        self._pending_events = 0
        self._encoder = ThreadPoolExecutor(1)
        self._encoding: Future[None] | None = None
        self._output = AtomicOutput(path)
        dictionary = [name for name in names if name not in self._DELTA]
        try:
            self._writer = pq.ParquetWriter(
                self._output.stream,
                self._schema,
                compression="zstd",
                compression_level=self._COMPRESSION_LEVEL,
                use_dictionary=dictionary,
                column_encoding={name: "DELTA_BINARY_PACKED" for name in self._DELTA if name in names},
                write_statistics=False,
                store_schema=False,
            )
        except BaseException:
            self._output.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self._flush()
            self._wait()
            self._writer.add_key_value_metadata(self._key_values())
            self._writer.close()
            self._output.commit()
        except BaseException:
            self.abort()
            raise
        finally:
            self._encoder.shutdown()

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows; every column of the schema, of one length."""
        arrays = []
        for field in self._schema:
            values = np.ascontiguousarray(columns[field.name])
            self._hashes[field.name].update(values.astype(_digest_type(field.type), copy=False).data)
            arrays.append(
                pa.array(values.astype(bool, copy=False) if field.name == "noscan" else values, field.type)
            )
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self.events += batch.num_rows
        self._pending.append(batch)
        self._pending_events += batch.num_rows
        if self._pending_events >= _ROW_GROUP_EVENTS:
            self._flush()

    def describe(self, metadata: Mapping[str, Any], sites: bytes | None) -> None:
        """Say what is known of the trace now, before the block ends; what the writer knows itself is left."""
        self._metadata |= {name: value for name, value in metadata.items() if name not in _WRITERS_OWN}
        self.sites = sites

    def abort(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(Exception):
            self._wait()
        with contextlib.suppress(Exception):
            self._writer.close()
        self._encoder.shutdown()
        self._output.discard()

    def _flush(self) -> None:
        self._wait()
        if self._pending_events:
            batches, self._pending, self._pending_events = self._pending, [], 0
            self._encoding = self._encoder.submit(self._encode, batches)

    def _encode(self, batches: list[pa.RecordBatch]) -> None:
        table = pa.Table.from_batches(batches)
        self._writer.write_table(table, row_group_size=table.num_rows)

    def _wait(self) -> None:
        if self._encoding is not None:
            encoding, self._encoding = self._encoding, None
            encoding.result()

    def _key_values(self) -> dict[str, str]:
        # Of the columns' little-endian values, so that it does not depend on row groups or encodings.
        whole = hashlib.sha256()
        for name, digest in self._hashes.items():
            whole.update(f"{name}:{digest.hexdigest()}\n".encode())
        metadata = self._metadata | {"events": self.events, "digest": f"sha256:{whole.hexdigest()}"}
        stored = {METADATA_KEY.decode(): json.dumps(metadata)}
        if self.sites is not None:
            stored[SITES_KEY.decode()] = self.sites.decode("ascii")
        return stored


class AtomicOutput:
    """A file that appears under its name only when it is whole, locally or at any URI that pyarrow opens."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._commit: Callable[[], None]
        try:
            if path == "-":
                self.stream: Any = pa.PythonFile(sys.stdout.buffer, mode="w")
                self._temporary, self._filesystem = None, None
                return
            self._filesystem, target = _filesystem(path)
            self._target = target
            folder, _, name = target.rpartition("/")
            hidden = f".{name}.{os.urandom(4).hex()}"
            self._temporary = f"{folder}/{hidden}" if folder else hidden
            self.stream = self._filesystem.open_output_stream(self._temporary)
        except FileNotFoundError as error:
            raise TraceError(f"{path}: cannot be written: there is no such folder") from error
        except (OSError, pa.ArrowException) as error:
            raise TraceError(f"{path}: cannot be written: {reason(path, error)}") from error

    def commit(self) -> None:
        """Let the file appear."""
        self.stream.close()
        if self._filesystem is not None:
            self._filesystem.move(self._temporary, self._target)

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(Exception):
            self.stream.close()
        if self._filesystem is not None:
            with contextlib.suppress(Exception):
                self._filesystem.delete_file(self._temporary)


def _unpacked(column: pa.BooleanArray) -> NDArray[np.uint8]:
    # Arrow's own cast takes ten times as long, a twentieth of what a whole batch takes.
    bits = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    return np.unpackbits(bits, count=column.offset + len(column), bitorder="little")[column.offset :]


def _digest_type(kind: pa.DataType) -> str:
    return "u1" if pa.types.is_boolean(kind) else np.dtype(kind.to_pandas_dtype()).newbyteorder("<").str


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _filesystem(path: str) -> tuple[fs.FileSystem, str]:
    if "://" in path:
        filesystem, target = fs.FileSystem.from_uri(path)
        return filesystem, target
    return fs.LocalFileSystem(), os.path.abspath(path)


def _source(path: str) -> Any:
    if path == "-":
        return pa.BufferReader(sys.stdin.buffer.read())
    if "://" in path:
        filesystem, target = _filesystem(path)
        return filesystem.open_input_file(target)
    return path


def reason(path: str, error: Exception) -> str:
    """Say in one line, in a user's words, why a file could not be read or written."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    text = " ".join(str(error).split())
    if isinstance(error, IsADirectoryError) or "Is a directory" in text or os.path.isdir(path):
        return "is a directory, expected a file"
    if "magic bytes" in text or "too small to be a Parquet file" in text or "file size is 0 bytes" in text:
        return "is not a whole Parquet file; expected a trace (`harness convert` reads other formats)"
    if len(text) > 200:
        text = text[:200] + "..."
    # An error of the system has a number; one of a remote file system is about the place, not the bytes.
    is_about_the_place = getattr(error, "errno", None) is not None or "://" in path
    return text if is_about_the_place else f"is damaged: {text}"
