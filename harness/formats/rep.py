"""Traces of CS:APP's malloc lab (.rep): a header of four numbers, then an allocate, realloc or free a line.

rep.hpp reads the lines. The header counts what follows, so that a file's lines wait in a temporary one until
all are known.
"""

from __future__ import annotations

import re
import tempfile

import pyarrow as pa

from harness.errors import HarnessError
from harness.formats import AS_IT_STANDS, Description, Reading
from harness.formats._formats import RepReader, RepText
from harness.formats.addresses import LineTrace
from harness.formats.calls import CallWriter

_HEAD = re.compile(rb"\s*(?:\d+\s+){3}\d+\s*(?:$|[arfw]\s+-?\d+)")
_COPIED_BYTES = 1 << 20


class RepTrace(LineTrace):
    """A file of operations."""

    def __init__(self, path: str, reading: Reading) -> None:
        super().__init__(path, RepReader(lenient=reading.lenient), reading, names_objects=True)
        self.metadata["source"] = {"recorder": "malloc lab"}

    @property
    def losses(self) -> list[str]:
        """What of the trace was lost so far, in words."""
        return ["the format knows no threads: every call stands under thread 0", *super().losses]


class Rep:
    """Operations of the malloc lab."""

    suffixes = (".rep",)
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for the header, and an operation behind it."""
        return _HEAD.match(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> RepTrace:
        """Open a file of operations."""
        return RepTrace(path, reading)

    def write(self, path: str, description: Description) -> RepWriter:
        """Begin a file of operations."""
        return RepWriter(path, description)


class RepWriter(CallWriter):
    """Writes rows as operations, and before them, at the end, how many there are."""

    def __init__(self, path: str, description: Description) -> None:
        self._counted = RepText()
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the block ends)
        super().__init__(path, self._counted, description, kept=("alignment",))

    def put(self, text: bytes | pa.Buffer) -> None:
        """Keep lines until all are there."""
        try:
            self._lines.write(text)
        except OSError as error:
            raise HarnessError(
                f"{self.path}: lines cannot be kept in {tempfile.gettempdir()}: {error.strerror}; "
                f"TMPDIR names another folder"
            ) from error

    def finish(self) -> None:
        """Write the header, then the lines."""
        # A suggested heap size or a weight, whichever version of the lab reads it; so is the last number.
        super().put(f"1\n{self._counted.ids}\n{self._counted.operations}\n1\n".encode())
        self._lines.seek(0)
        while block := self._lines.read(_COPIED_BYTES):
            super().put(block)
        self._lines.close()

    def _abort(self) -> None:
        self._lines.close()
        super()._abort()
