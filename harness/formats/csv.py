"""CSV traces: a header with the column names of harness-trace/1 in any order, then a row an event.

Ops are names or numbers, noscan is true or false, numbers are decimal or 0x hexadecimal. Other columns are
left.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from harness.errors import TraceError
from harness.formats import AS_IT_STANDS, Description, Reading
from harness.formats.columns import expect_required, shown, to_numpy
from harness.formats.text import TextWriter, head_of, open_text, unreadable
from harness.trace import COLUMNS, REQUIRED

_BLOCK_BYTES = 1 << 20
# What Arrow says of a row with too few or too many values.
_BROKEN_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class CsvTrace:
    """A CSV file whose header names a trace's columns."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.sites: bytes | None = None
        self.losses: list[str] = []
        self.repairs: dict[str, int] = {}
        names = _header(head_of(path))
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


class Csv:
    """Comma-separated values."""

    suffixes = (".csv",)
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for the required columns in the first line."""
        return set(REQUIRED) <= set(_header(head))

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> CsvTrace:
        """Open a CSV file."""
        return CsvTrace(path)

    def write(self, path: str, description: Description) -> TextWriter:
        """Begin a CSV file."""
        names = [name for name in COLUMNS if name in REQUIRED or name in description.optional]
        pieces = ["", *("," for _ in names[1:]), "\n"]
        return TextWriter(path, names, pieces, header=",".join(names) + "\n")


def _header(head: bytes) -> list[str]:
    """Return the names in the first line."""
    lines = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n").splitlines()
    try:
        return next(csv.reader([lines[0].decode()]), []) if lines else []
    except (UnicodeDecodeError, csv.Error):
        return []
