"""Arrow files: IPC streams, IPC files and Feather of version 2, which is the same, with any columns.

An IPC file holds a stream behind its magic bytes, so that both are read from the front, compressed or not;
the columns are a table for mapping.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from harness.errors import HarnessError, TraceError
from harness.formats import AS_IT_STANDS, Description, Reading, TraceSink
from harness.formats.mapping import Batch, MappedTrace, expect_types
from harness.formats.text import open_text, unreadable
from harness.trace import BATCH_EVENTS, DAMAGE

# Arrow columnar format, "IPC File Format" and "Encapsulated message format".
_FILE_MAGIC = b"ARROW1\0\0"
_STREAM_MAGIC = b"\xff\xff\xff\xff"
_FEATHER_1_MAGIC = b"FEA1"

_PIECE_BYTES = 1 << 20


class ArrowTable:
    """An Arrow stream or file of any columns."""

    may_have_more = False
    bad_rows = 0

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.sites: bytes | None = None
        stream = open_text(path)
        try:
            magic = stream.read(len(_FILE_MAGIC))
            if magic.startswith(_FEATHER_1_MAGIC):
                raise TraceError(f"{path}: found Feather of version 1, expected version 2: write it anew")
            if magic != _FILE_MAGIC and not magic.startswith(_STREAM_MAGIC):
                raise TraceError(f"{path}: found no Arrow stream or file, expected one")
            first = b"" if magic == _FILE_MAGIC else magic
            self._reader = pa.ipc.open_stream(pa.PythonFile(_Bytes(first, stream), mode="r"))
            self.names: list[str] = list(self._reader.schema.names)
        except DAMAGE as error:
            raise unreadable(path, error, "byte 0 or after: ") from error

    def batches(self, names: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows, a bounded number at a time."""
        expect_types(self.path, self._reader.schema, names)
        row = 0
        try:
            for whole in self._reader:
                chosen = whole.select(list(names))
                # What offsets and dictionary indices point to is not looked at before.
                chosen.validate(full=True)
                for first in range(0, chosen.num_rows, BATCH_EVENTS):
                    part = chosen.slice(first, BATCH_EVENTS)
                    rows = np.arange(row, row + part.num_rows, dtype=np.uint64)
                    yield Batch(rows, {name: part.column(name) for name in names})
                    row += part.num_rows
        except DAMAGE as error:
            raise unreadable(self.path, error, f"row {row} or after: ") from error


class _Bytes:
    """A stream of which the first bytes have been read, and which takes nobody's word for its length."""

    closed = False

    def __init__(self, first: bytes, rest: pa.NativeFile) -> None:
        self._first = first
        self._rest = rest

    def read(self, count: int = -1) -> bytes:
        """Return so many bytes, fewer at the end."""
        pieces, left = [], count
        while left and (piece := self._piece(left)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _piece(self, most_bytes: int) -> bytes:
        # What a damaged length asks for is not set aside before it is there.
        size = _PIECE_BYTES if most_bytes < 0 else min(most_bytes, _PIECE_BYTES)
        if self._first:
            piece, self._first = self._first[:size], self._first[size:]
        else:
            piece = self._rest.read(size)
        return piece

    def readable(self) -> bool:
        """Say yes."""
        return True

    def close(self) -> None:
        """Close the stream."""
        self._rest.close()


class Arrow:
    """Arrow IPC and Feather."""

    suffixes = (".arrow", ".arrows", ".feather", ".ipc")
    keeps_metadata = False
    maps_columns = True

    def recognises(self, head: bytes) -> bool:
        """Look for the magic bytes."""
        return head.startswith((_FILE_MAGIC, _STREAM_MAGIC, _FEATHER_1_MAGIC))

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> MappedTrace:
        """Open an Arrow file."""
        return MappedTrace(ArrowTable(path), reading)

    def write(self, path: str, description: Description) -> TraceSink:
        """Refuse."""
        raise HarnessError(f"{path}: Arrow files are only read; write .parquet, which Arrow's libraries read")
