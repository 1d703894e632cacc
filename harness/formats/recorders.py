"""What the readers of recorders of C and C++ programs share: files of theirs have gaps that are no fault.

A recorder may begin late, and none sees every function: frees of the unknown are counted, not refused. What a
recorder never tells is said once, in a sentence of its reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from harness.errors import HarnessError, TraceError
from harness.formats import AS_IT_STANDS, Description, Reading, TraceSink
from harness.formats._formats import Recorder
from harness.formats.addresses import LineTrace, Records, TextReader


class SitesReader(TextReader, Protocol):
    """A native reader whose lines tell who called: call_sites.hpp."""

    def sites(self) -> dict[str, Any]:
        """Return the stacks of what was read so far."""


class RecorderTrace(LineTrace):
    """A trace that a recorder wrote, a line a call.

    `untold`: what the recorder never tells, a sentence. `remedy`: what to do where a file holds no call.
    """

    def __init__(
        self,
        path: str,
        reader: TextReader,
        reading: Reading = AS_IT_STANDS,
        columns: tuple[str, ...] = (),
        *,
        untold: str,
        remedy: str,
        recorder: Recorder = Recorder.PARTIAL,
    ) -> None:
        super().__init__(path, reader, reading, columns, recorder)
        self._untold = untold
        self._remedy = remedy
        self._is_read = False  # To its end.

    def records(self) -> Iterator[Records]:
        """Yield the records of a block of text at a time; TraceError where the whole file has none."""
        is_empty = True
        for records in super().records():
            is_empty = False
            yield records
        self._is_read = True
        if is_empty:
            raise TraceError(f"{self.path}: found no call of malloc, free, ...; {self._remedy}")

    @property
    def losses(self) -> list[str]:
        """What of the trace was lost so far, and what was never told, in words."""
        return [self._untold, *super().losses]


class SitesTrace(RecorderTrace):
    """A trace whose lines tell who called; names are looked up once everything was read."""

    def __init__(self, path: str, reader: SitesReader, *arguments: Any, **options: Any) -> None:
        super().__init__(path, reader, *arguments, **options)
        self._sites_reader = reader
        self._named: tuple[int, bytes, list[str]] | None = None

    @property
    def sites(self) -> bytes | None:  # type: ignore[override]
        """The sites of what was read so far."""
        named = self._names()
        return None if named is None else named[1]

    @property
    def losses(self) -> list[str]:
        """What of the trace was lost so far, and what stood in the way of the sites' names."""
        named = self._names()
        return [*super().losses, *([] if named is None else named[2])]

    def _names(self) -> tuple[int, bytes, list[str]] | None:
        """Return how many sites there are, their table and what there is to say; None where there is none."""
        from harness.formats.call_sites import named

        found = self._sites_reader.sites()
        count = len(found["offsets"]) - 1
        if count == 1:  # The unknown one.
            return None
        if self._named is None or self._named[0] != count:
            self._named = (count, *named(found))
        return self._named


class ReadOnly:
    """What formats have in common that are only read."""

    keeps_metadata = False
    name: str

    def write(self, path: str, description: Description) -> TraceSink:
        """Refuse."""
        raise HarnessError(f"{path}: files of {self.name} are only read")
