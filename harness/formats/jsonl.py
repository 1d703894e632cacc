"""JSON Lines traces: an object a line, its members the columns of harness-trace/1, every line the same ones.

Ops are names or numbers, noscan is true or false; other members are left. Where members have other names, or
the reading is lenient, the file is a table for mapping.py.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.allocator import OP_NAMES
from harness.errors import TraceError
from harness.formats import AS_IT_STANDS, Description, RawTrace, Reading
from harness.formats.addresses import REMEDY
from harness.formats.columns import expect_required, fault, shown
from harness.formats.mapping import Batch, MappedTrace, is_plain
from harness.formats.text import HEAD_BYTES, LineBlocks, TextWriter, head_of
from harness.trace import COLUMNS, REQUIRED

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
        for block in LineBlocks(self.path, _LONGEST_LINE_BYTES):
            columns = self._fast(block)
            if columns is None:
                columns = self._careful(block, row)
            yield columns
            row += len(columns["op"])

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


class JsonTable:
    """A file of JSON objects with any members, those of any types."""

    def __init__(self, path: str, *, lenient: bool) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.sites: bytes | None = None
        self._is_lenient = lenient
        self._bad_lines = 0
        head = head_of(path)
        # Where no line of the head can be read, what follows may be.
        self.names = _members(head) or (list(REQUIRED) if lenient else [])
        # A member that only some lines have, such as a realloc's, may come late.
        self.may_have_more = len(head) >= HEAD_BYTES
        self._blocks = LineBlocks(path, _LONGEST_LINE_BYTES, lenient=lenient)

    @property
    def bad_rows(self) -> int:
        """How many lines could not be read."""
        return self._bad_lines + self._blocks.dropped_lines

    def batches(self, names: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of a block of lines at a time."""
        row = 0
        for block in self._blocks:
            lines = [line for line in block.split(b"\n") if line.strip(_SPACE)]
            rows, members = self._parsed(lines, row)
            row += len(lines)
            columns = {name: _column([each.get(name) for each in members]) for name in names}
            yield Batch(np.array(rows, np.uint64), columns)

    def _parsed(self, lines: list[bytes], first_row: int) -> tuple[Sequence[int], list[dict[str, Any]]]:
        try:
            members = json.loads(b"[" + b",".join(lines) + b"]")
            if len(members) == len(lines) and all(isinstance(each, dict) for each in members):
                return range(first_row, first_row + len(lines)), members
        except (ValueError, RecursionError):
            pass
        rows, members = [], []
        for row, line in enumerate(lines, first_row):
            try:
                members.append(_parsed(self.path, row, line))
                rows.append(row)
            except TraceError as error:
                if not self._is_lenient:
                    raise TraceError(f"{error}{REMEDY}") from error
                self._bad_lines += 1
        return rows, members


class JsonLines:
    """JSON Lines, also called NDJSON."""

    suffixes = (".jsonl", ".ndjson")
    keeps_metadata = False
    maps_columns = True

    def recognises(self, head: bytes) -> bool:
        """Look for a line that begins an object."""
        return head.lstrip(_SPACE).startswith(b"{")

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> RawTrace:
        """Open a file of JSON Lines."""
        names = _members(head_of(path))
        if is_plain(names, reading) or not (names or reading.lenient or reading.columns):
            return JsonLinesTrace(path)
        return MappedTrace(JsonTable(path, lenient=reading.lenient), reading)

    def write(self, path: str, description: Description) -> TextWriter:
        """Begin a file of JSON Lines."""
        names = [name for name in COLUMNS if name in REQUIRED or name in description.optional]
        pieces = ['{"op":"']
        for name, following in pairwise(names):
            pieces.append(f'","{following}":' if name == "op" else f',"{following}":')
        return TextWriter(path, names, [*pieces, "}\n"])


def _limits(name: str) -> np.iinfo[Any]:
    return np.iinfo(np.uint8 if name == "noscan" else COLUMNS[name].to_pandas_dtype())


def _members(head: bytes) -> list[str]:
    """Return the names of the members in a file's first lines, as they appear."""
    names: dict[str, None] = {}
    for line in head.split(b"\n"):
        try:
            members = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(members, dict):
            names |= dict.fromkeys(members)
    return list(names)


def _column(values: list[Any]) -> pa.Array:
    """Return values of JSON as a column: of whole numbers if all are, else of text."""
    if set(map(type, values)) <= {int, type(None)}:
        with contextlib.suppress(OverflowError, pa.ArrowException):
            return pa.array(values, pa.uint64() if min(filter(None, values), default=0) >= 0 else pa.int64())
    return pa.array([None if each is None else _word(each) for each in values], pa.string())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # Half a surrogate pair is JSON, and no text.
    return str(value).encode(errors="replace").decode()


def _parsed(path: str, row: int, line: bytes) -> dict[str, Any]:
    try:
        members = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: row {row}: found {shown(line)}, which is no JSON: {error}") from error
    if not isinstance(members, dict):
        raise TraceError(f"{path}: row {row}: found {shown(members)}, expected an object")
    return members
