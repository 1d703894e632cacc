"""Parquet traces: our own format, and what comes close enough to be cast to it.

Reads any order of columns, any integer widths that the values fit, ops by name; writes harness-trace/1.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from harness.errors import TraceError
from harness.formats import Description
from harness.formats.columns import can_cast, expect_required, to_numpy
from harness.trace import COLUMNS, TraceReader, TraceWriter

_MAGIC = b"PAR1"

# What the writer says of a trace itself, and nobody else may say.
_WRITERS_OWN = ("schema", "object", "noscan", "events", "digest")
_PARAMETERS = ("source", "synthetic", "frees", "sizes")


class ParquetTrace(TraceReader):
    """A Parquet file whose columns can be cast to a trace's."""

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

    def read(self, path: str) -> ParquetTrace:
        """Open a Parquet file."""
        return ParquetTrace(path)

    def write(self, path: str, description: Description) -> TraceWriter:
        """Begin a trace of harness-trace/1."""
        metadata = description.metadata
        return TraceWriter(
            path,
            **{"source": {}} | {name: metadata[name] for name in _PARAMETERS if name in metadata},
            optional=description.optional,
            sites=description.sites,
            extra={name: value for name, value in metadata.items() if name not in _WRITERS_OWN + _PARAMETERS},
        )
