"""CSV traces: a header with the column names of harness-trace/1 in any order, then a row an event.

Ops are names or numbers, noscan is true or false, numbers are decimal or 0x hexadecimal. Other columns are
left. Where the header has other names, or the reading is lenient, the file is a table for mapping.py.
Between values may stand commas, semicolons or tabs; the header tells which.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from harness.errors import TraceError
from harness.formats import AS_IT_STANDS, Description, RawTrace, Reading
from harness.formats.addresses import REMEDY
from harness.formats.columns import expect_required, shown, to_numpy
from harness.formats.mapping import Batch, MappedTrace, is_plain
from harness.formats.text import LineBlocks, TextWriter, head_of, open_text, unreadable
from harness.trace import COLUMNS, REQUIRED

_BLOCK_BYTES = 1 << 20
# What Arrow says of a row with too few or too many values.
_BROKEN_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_SEPARATORS = ",;\t"
# What no column is called: a number, an address, a quantity.
_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class CsvTrace:
    """A CSV file whose header names a trace's columns."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.sites: bytes | None = None
        self.losses: list[str] = []
        self.repairs: dict[str, int] = {}
        self._separator, names = _header(head_of(path))
        expect_required(path, names)
        self.columns = [name for name in COLUMNS if name in names]
        self.unknown_columns = [name for name in names if name not in COLUMNS]

    def raw_batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the rows, a block of the file at a time."""
        row = 0
        words = pa.dictionary(pa.int32(), pa.string())
        kinds = {name: words if name in ("op", "noscan") else pa.string() for name in self.columns}
        stream = open_text(self.path)
        try:
            # One thread, for only then does a broken row know its number.
            reader = arrow_csv.open_csv(
                stream,
                arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
                arrow_csv.ParseOptions(delimiter=self._separator),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=kinds,
                    include_columns=self.columns,
                    strings_can_be_null=False,
                    null_values=[],
                ),
            )
            for batch in reader:
                yield {name: to_numpy(self.path, name, batch.column(name), row) for name in self.columns}
                row += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            broken = _BROKEN_ROW.search(str(error))
            if broken:
                number, expected, found, text = broken.groups()
                # Arrow counts lines from 1, the header among them.
                raise TraceError(
                    f"{self.path}: row {int(number) - 2}: found {found} values in {shown(text)}, "
                    f"expected {expected}"
                ) from error
            if "straddl" in str(error):
                raise TraceError(
                    f"{self.path}: row {row} or after: found a row of more than {_BLOCK_BYTES:,} bytes, "
                    f"expected a line an event"
                ) from error
            raise unreadable(self.path, error, f"row {row} or after: ") from error


class CsvTable:
    """A CSV file of any columns, each of them text."""

    may_have_more = False

    def __init__(self, path: str, *, lenient: bool) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.sites: bytes | None = None
        self._is_lenient = lenient
        self._separator, self.names = _header(head_of(path))
        value = next((name for name in self.names if not name or _NUMBER.fullmatch(name)), None)
        if value is not None:
            raise TraceError(
                f"{path}: line 1: found {shown(value)} in the place of a column's name, expected a header: a "
                f"first line that names the columns"
            )
        self._bad_rows = 0
        self._blocks = LineBlocks(path, _BLOCK_BYTES, lenient=lenient)

    @property
    def bad_rows(self) -> int:
        """How many rows could not be read."""
        return self._bad_rows + self._blocks.dropped_lines

    def batches(self, names: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of a block of lines at a time."""
        first_row = 0
        has_header = True
        for block in self._blocks:
            if has_header:
                block = _without_header(block)
                has_header = False
            rows, table = self._parsed(block, first_row)
            if len(rows):
                yield Batch(rows, {name: _chunk(table, self.names.index(name)) for name in names})
                first_row = int(rows[-1]) + 1

    def _parsed(self, block: bytes, first_row: int) -> tuple[NDArray[np.uint64], pa.Table]:
        """Return the rows of whole lines, and where each stands."""
        keys = [str(number) for number in range(len(self.names))]  # Names may stand twice.
        try:
            # One thread, for only then does a broken row know its number.
            table = arrow_csv.read_csv(
                pa.BufferReader(block),
                arrow_csv.ReadOptions(use_threads=False, block_size=2 * len(block) + 1, column_names=keys),
                arrow_csv.ParseOptions(delimiter=self._separator),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(keys, pa.string()),
                    strings_can_be_null=False,
                    null_values=[],
                    check_utf8=False,
                ),
            )
        except pa.ArrowException as error:
            if "Empty CSV file" in str(error):
                return np.zeros(0, np.uint64), pa.table({key: [] for key in keys})
            if self._is_lenient:
                return self._parsed_singly(block, first_row)
            found = _BROKEN_ROW.search(str(error))
            if found:
                number, expected, values, text = found.groups()
                row = first_row + int(number) - 1
                raise TraceError(
                    f"{self.path}: row {row}: found {values} values in {shown(text)}, "
                    f"expected {expected}{REMEDY}"
                ) from error
            raise unreadable(self.path, error, f"row {first_row} or after: ") from error
        count = table.num_rows
        # A quote that nobody closed has swallowed what follows it: each line for itself, then.
        if self._is_lenient and len(_lines(block)) != count:
            return self._parsed_singly(block, first_row)
        return np.arange(first_row, first_row + count, dtype=np.uint64), table

    def _parsed_singly(self, block: bytes, first_row: int) -> tuple[NDArray[np.uint64], pa.Table]:
        """Return the rows that are whole, each line for itself."""
        lines = _lines(block)
        rows, kept = [], []
        for row, line in enumerate(lines, first_row):
            try:
                values = next(csv.reader([line.decode(errors="replace")], delimiter=self._separator), [])
            except csv.Error:
                values = []
            if len(values) == len(self.names):
                rows.append(row)
                kept.append(values)
        self._bad_rows += len(lines) - len(rows)
        columns = list(zip(*kept, strict=True)) or [()] * len(self.names)
        keys = [str(number) for number in range(len(self.names))]
        table = pa.table([pa.array(values, pa.string()) for values in columns], keys)
        return np.array(rows, np.uint64), table


class Csv:
    """Comma-separated values."""

    suffixes = (".csv", ".tsv")
    keeps_metadata = False
    maps_columns = True

    def recognises(self, head: bytes) -> bool:
        """Look for the required columns in the first line."""
        return set(REQUIRED) <= set(_header(head)[1])

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> RawTrace:
        """Open a CSV file."""
        if is_plain(_header(head_of(path))[1], reading):
            return CsvTrace(path)
        return MappedTrace(CsvTable(path, lenient=reading.lenient), reading)

    def write(self, path: str, description: Description) -> TextWriter:
        """Begin a CSV file."""
        names = [name for name in COLUMNS if name in REQUIRED or name in description.optional]
        pieces = ["", *("," for _ in names[1:]), "\n"]
        return TextWriter(path, names, pieces, header=",".join(names) + "\n")


def _header(head: bytes) -> tuple[str, list[str]]:
    """Return what separates the names in the first line, and the names."""
    lines = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n").splitlines()
    readings = []
    for separator in _SEPARATORS:
        try:
            names = (
                next(csv.reader([lines[0].decode()], delimiter=separator, skipinitialspace=True), [])
                if lines
                else []
            )
        except (UnicodeDecodeError, csv.Error):
            names = []
        readings.append((separator, [name.strip() for name in names]))
    # The first of those that make the most names of it.
    return max(readings, key=lambda reading: len(reading[1]))


def _lines(block: bytes) -> list[bytes]:
    return [line for line in block.split(b"\n") if line.strip(b"\r")]


def _chunk(table: pa.Table, number: int) -> pa.Array:
    """Return a column in one piece."""
    return pa.concat_arrays(table.column(number).chunks or [pa.array([], pa.string())])


def _without_header(block: bytes) -> bytes:
    return block.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n").partition(b"\n")[2]
