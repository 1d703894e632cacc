"""Parquet: reads any file with the required columns, of types that fit, ops by name; writes harness-trace/1.

Where the columns have other names, or the reading is lenient, the file is a table for mapping.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.errors import TraceError
from harness.formats import AS_IT_STANDS, Description, RawTrace, Reading
from harness.formats.columns import can_cast, expect_required, to_numpy
from harness.formats.mapping import Batch, MappedTrace, expect_types, is_plain
from harness.formats.text import unreadable
from harness.trace import BATCH_EVENTS, COLUMNS, DAMAGE, TraceReader, TraceWriter

_MAGIC = b"PAR1"


class ParquetTrace(TraceReader):
    """A Parquet file whose columns can be cast to a trace's."""

    losses: tuple[str, ...] = ()
    repairs: Mapping[str, int] = MappingProxyType({})

    @property
    def unknown_columns(self) -> list[str]:
        """Columns that harness-trace/1 has no name for."""
        return [name for name in self.schema.names if name not in COLUMNS]

    def _check_schema(self) -> None:
        """Take any file: what is read as a table need not be a trace."""

    def expect_trace(self) -> None:
        """Raise TraceError where the columns are not a trace's, or of types that do not fit."""
        expect_required(self.path, self.schema.names)
        for name in self.columns:
            found = self.schema.field(name).type
            if not can_cast(name, found):
                raise TraceError(
                    f"{self.path}: column {name}: found type {found}, expected {COLUMNS[name]} "
                    f"or integers that fit it"
                )

    def _to_numpy(self, name: str, column: pa.Array, first_row: int) -> NDArray[Any]:
        return to_numpy(self.path, name, column, first_row)

    def arrow_batches(self, names: Sequence[str]) -> Iterator[dict[str, pa.Array]]:
        """Yield columns by name as Arrow has them; TraceError where the file breaks off."""
        row = 0
        try:
            for batch in self._file.iter_batches(BATCH_EVENTS, columns=list(names), use_threads=False):
                yield {name: batch.column(name) for name in names}
                row += batch.num_rows
        except DAMAGE as error:
            raise unreadable(self.path, error, f"row {row} or after: ") from error


class ParquetTable:
    """A Parquet file of any columns."""

    may_have_more = False
    bad_rows = 0

    def __init__(self, reader: ParquetTrace) -> None:
        self.path = reader.path
        self._reader = reader
        self.names: list[str] = list(reader.schema.names)
        self.metadata = reader.metadata
        self.sites = reader.sites

    def batches(self, names: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows, a batch of the reader's at a time."""
        expect_types(self.path, self._reader.schema, names)
        row = 0
        for columns in self._reader.arrow_batches(names):
            count = len(columns[names[0]])
            yield Batch(np.arange(row, row + count, dtype=np.uint64), columns)
            row += count


class Parquet:
    """Apache Parquet."""

    suffixes = (".parquet",)
    keeps_metadata = True
    maps_columns = True

    def recognises(self, head: bytes) -> bool:
        """Look for the magic bytes."""
        return head.startswith(_MAGIC)

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> RawTrace:
        """Open a Parquet file."""
        trace = ParquetTrace(path)  # Once: standard input is gone when it was read.
        if not is_plain(trace.schema.names, reading):
            return MappedTrace(ParquetTable(trace), reading)
        trace.expect_trace()
        return trace

    def write(self, path: str, description: Description) -> TraceWriter:
        """Begin a trace of harness-trace/1."""
        return TraceWriter(
            path,
            source={},
            optional=description.optional,
            sites=description.sites,
            extra=description.metadata,
        )
