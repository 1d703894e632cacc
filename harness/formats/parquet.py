"""Parquet traces: our own format, and what comes close enough to be cast to it.

Reads any order of columns, any integer widths that the values fit, ops by name; writes harness-trace/1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from harness.errors import TraceError
from harness.formats import AS_IT_STANDS, Description, Reading
from harness.formats.columns import can_cast, expect_required, to_numpy
from harness.trace import COLUMNS, TraceReader, TraceWriter

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


class Parquet:
    """Apache Parquet."""

    suffixes = (".parquet",)
    keeps_metadata = True

    def recognises(self, head: bytes) -> bool:
        """Look for the magic bytes."""
        return head.startswith(_MAGIC)

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> ParquetTrace:
        """Open a Parquet file."""
        return ParquetTrace(path)

    def write(self, path: str, description: Description) -> TraceWriter:
        """Begin a trace of harness-trace/1."""
        return TraceWriter(
            path,
            source={},
            optional=description.optional,
            sites=description.sites,
            extra=description.metadata,
        )
