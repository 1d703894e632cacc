"""JSON Lines traces: an object a line, its members the columns of harness-trace/1, every line the same ones.

Ops are names or numbers, noscan is true or false; other members are left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import json as arrow_json

from harness.allocator import OP_NAMES
from harness.errors import TraceError
from harness.formats import Description
from harness.formats.columns import expect_required, fault, shown, to_numpy
from harness.formats.text import TextWriter, head_of, open_text, unreadable
from harness.trace import COLUMNS, REQUIRED

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 1 << 24

_OPS = {name: number for number, name in OP_NAMES.items()}
_SPACE = b" \t\r\n"


class JsonLinesTrace:
    """A file of JSON objects, one an event."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.sites: bytes | None = None
        lines = head_of(path).lstrip(_SPACE).splitlines()
        first = _parsed(path, 0, lines[0]) if lines else {}
        # A file without a line is a trace without an event.
        names = list(first) if lines else list(REQUIRED)
        expect_required(path, names)
        self.columns = [name for name in COLUMNS if name in names]
        self.unknown_columns = [name for name in names if name not in COLUMNS]
        kinds = {
            name: pa.string() if name == "op" and isinstance(first.get("op"), str) else kind
            for name, kind in COLUMNS.items()
        }
        self._schema = pa.schema(kinds)

    def raw_batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the rows, a block of the file at a time."""
        row = 0
        for block in self._blocks():
            columns = self._fast(block, row)
            if columns is None:
                columns = self._careful(block, row)
            yield columns
            row += len(columns["op"])

    def _blocks(self) -> Iterator[bytes]:
        """Yield whole lines, together about _BLOCK_BYTES."""
        stream = open_text(self.path)
        rest = b""
        while True:
            try:
                read = stream.read(_BLOCK_BYTES)
            except (OSError, pa.ArrowException) as error:
                raise unreadable(self.path, error) from error
            end = read.rfind(b"\n") + 1
            if not read or end:
                block = rest + read[:end]
                rest = read[end:]
                if block.strip(_SPACE):
                    yield block
                if not read:
                    return
            else:
                rest += read
                if len(rest) > _LONGEST_LINE_BYTES:
                    raise TraceError(
                        f"{self.path}: found a line of more than {_LONGEST_LINE_BYTES:,} bytes, "
                        f"expected a line an event"
                    )

    def _fast(self, block: bytes, first_row: int) -> dict[str, NDArray[Any]] | None:
        """Let Arrow parse a block; None where it would not, or where a column is not whole."""
        try:
            table = arrow_json.read_json(
                pa.BufferReader(block),
                arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
                arrow_json.ParseOptions(explicit_schema=self._schema, unexpected_field_behavior="ignore"),
            ).combine_chunks()
        except pa.ArrowException:
            return None
        for name in COLUMNS:
            if table.column(name).null_count != (0 if name in self.columns else table.num_rows):
                return None
        return {
            name: to_numpy(self.path, name, table.column(name).chunk(0), first_row) for name in self.columns
        }

    def _careful(self, block: bytes, first_row: int) -> dict[str, NDArray[Any]]:
        """Parse line by line: what Arrow refuses may be right all the same, and a fault has its row."""
        rows: list[list[int]] = []
        for line in block.splitlines():
            if line.strip(_SPACE):
                rows.append(self._row(first_row + len(rows), line))
        return {
            name: np.array(values, np.uint8 if name == "noscan" else COLUMNS[name].to_pandas_dtype())
            for name, values in zip(self.columns, zip(*rows, strict=True), strict=True)
        }

    def _row(self, row: int, line: bytes) -> list[int]:
        members = _parsed(self.path, row, line)
        for name in COLUMNS:
            if name in self.columns and members.get(name) is None:
                raise fault(self.path, row, name, "nothing")
            if name not in self.columns and members.get(name) is not None:
                raise TraceError(
                    f"{self.path}: row {row}, column {name}: found {shown(members[name])}, "
                    f"expected nothing, as in row 0"
                )
        return [self._number(row, name, members[name]) for name in self.columns]

    def _number(self, row: int, name: str, value: Any) -> int:
        if name == "op" and isinstance(value, str) and value in _OPS:
            return _OPS[value]
        if isinstance(value, bool) == (name == "noscan") and isinstance(value, int):
            limits = np.iinfo(np.uint8 if name == "noscan" else COLUMNS[name].to_pandas_dtype())
            if limits.min <= value <= limits.max:
                return value
        raise fault(self.path, row, name, shown(value))


class JsonLines:
    """JSON Lines, also called NDJSON."""

    suffixes = (".jsonl", ".ndjson")
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for a line that begins an object."""
        return head.lstrip(_SPACE).startswith(b"{")

    def read(self, path: str) -> JsonLinesTrace:
        """Open a file of JSON Lines."""
        return JsonLinesTrace(path)

    def write(self, path: str, description: Description) -> TextWriter:
        """Begin a file of JSON Lines."""
        names = [name for name in COLUMNS if name in REQUIRED or name in description.optional]
        pieces = ['{"op":"']
        for name, following in pairwise(names):
            pieces.append(f'","{following}":' if name == "op" else f',"{following}":')
        return TextWriter(path, names, [*pieces, "}\n"])


def _parsed(path: str, row: int, line: bytes) -> dict[str, Any]:
    try:
        members = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: row {row}: found {shown(line)}, which is no JSON: {error}") from error
    if not isinstance(members, dict):
        raise TraceError(f"{path}: row {row}: found {shown(members)}, expected an object")
    return members
