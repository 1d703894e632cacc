"""Where a model put each object: Parquet, one row an allocation or moving realloc, in trace order."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import AllocatorError
from harness.trace import AtomicOutput

_SCHEMA = pa.schema([pa.field("event", pa.uint64(), nullable=False), pa.field("address", pa.uint64())])


class PlacementsWriter:
    """Takes an allocator's placements batch by batch; the file appears when it is whole.

    Raises AllocatorError where the allocator knows no addresses.
    """

    def __init__(self, path: str, allocator: Any) -> None:
        native: Any = getattr(allocator, "native", None)
        if not hasattr(native, "record_placements"):
            raise AllocatorError(
                f"{type(allocator).__name__.lower()} has no model addresses to write to {path}"
            )
        self._native = native
        self._native.record_placements(True)
        self._output = AtomicOutput(path)
        self._writer = pq.ParquetWriter(
            self._output.stream, _SCHEMA, compression="zstd", write_statistics=False
        )

    def flush(self) -> None:
        """Write what the allocator has placed since the last call."""
        events, addresses, present = self._native.take_placements()
        if len(events):
            columns = [pa.array(events), pa.array(addresses, mask=present == 0)]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))

    def commit(self) -> None:
        """Let the file appear."""
        self._writer.close()
        self._output.commit()

    def abandon(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._output.discard()
