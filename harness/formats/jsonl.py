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

from harness.allocator import OP_NAMES
from harness.errors import TraceError
from harness.formats import AS_IT_STANDS, Description, Reading
from harness.formats.columns import expect_required, fault, shown
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
        self.losses: list[str] = []
        self.repairs: dict[str, int] = {}
        lines = head_of(path).lstrip(_SPACE).splitlines()
        first = _parsed(path, 0, lines[0]) if lines else {}
        # A file without a line is a trace without an event.
        names = list(first) if lines else list(REQUIRED)
        expect_required(path, names)
        self.columns = [name for name in COLUMNS if name in names]
        self.unknown_columns = [name for name in names if name not in COLUMNS]

    def raw_batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the rows, a block of the file at a time."""
        row = 0
        for block in self._blocks():
            columns = self._fast(block)
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

    def _fast(self, block: bytes) -> dict[str, NDArray[Any]] | None:
        """Parse a block in one go; None where something in it is not as it should be."""
        # With json, not Arrow's reader: that one ends the whole process where a line holds a bare null.
        lines = [line for line in block.split(b"\n") if line.strip(_SPACE)]
        try:
            members = json.loads(b"[" + b",".join(lines) + b"]")
        except (ValueError, RecursionError):
            return None
        if len(members) != len(lines) or not all(isinstance(each, dict) for each in members):
            return None
        columns: dict[str, NDArray[Any]] = {}
        for name in COLUMNS:
            values = [each.get(name) for each in members]
            if name == "op" and set(map(type, values)) == {str}:
                values = [_OPS.get(value, 0) for value in values]
                if not all(values):
                    return None
            elif name not in self.columns:
                if any(value is not None for value in values):
                    return None
                continue
            elif set(map(type, values)) != {bool if name == "noscan" else int}:
                return None
            limits = _limits(name)
            if min(values) < limits.min or max(values) > limits.max:
                return None
            columns[name] = np.array(values, limits.dtype)
        return {name: columns[name] for name in self.columns}

    def _careful(self, block: bytes, first_row: int) -> dict[str, NDArray[Any]]:
        """Parse line by line, so that a fault has its row."""
        rows: list[list[int]] = []
        for line in block.split(b"\n"):
            if line.strip(_SPACE):
                rows.append(self._row(first_row + len(rows), line))
        return {
            name: np.array(values, _limits(name).dtype)
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
            limits = _limits(name)
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

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> JsonLinesTrace:
        """Open a file of JSON Lines."""
        return JsonLinesTrace(path)

    def write(self, path: str, description: Description) -> TextWriter:
        """Begin a file of JSON Lines."""
        names = [name for name in COLUMNS if name in REQUIRED or name in description.optional]
        pieces = ['{"op":"']
        for name, following in pairwise(names):
            pieces.append(f'","{following}":' if name == "op" else f',"{following}":')
        return TextWriter(path, names, [*pieces, "}\n"])


def _limits(name: str) -> np.iinfo[Any]:
    return np.iinfo(np.uint8 if name == "noscan" else COLUMNS[name].to_pandas_dtype())


def _parsed(path: str, row: int, line: bytes) -> dict[str, Any]:
    try:
        members = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: row {row}: found {shown(line)}, which is no JSON: {error}") from error
    if not isinstance(members, dict):
        raise TraceError(f"{path}: row {row}: found {shown(members)}, expected an object")
    return members
