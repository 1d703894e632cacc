"""Android's memory_replay: text, one call a line, as the platform's malloc debug and recorders write it.

`THREAD: malloc ADDRESS SIZE [BEGIN_NS END_NS]`; android.hpp reads the lines.
"""

from __future__ import annotations

import re

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.formats import AS_IT_STANDS, Description, Reading
from harness.formats._formats import AndroidReader, AndroidText
from harness.formats.addresses import LineTrace, in_words
from harness.formats.text import TextOutput, head_of
from harness.trace import REQUIRED

# Columns that calls have no place for.
_LEFT = {"noscan": "which objects hold no pointers", "site": "the allocation sites"}

_NUMBERS = rb"(?:[ \t]+(?:0x[0-9a-f]+|-?\d+))*[ \t\r]*$"
_LINE = re.compile(
    rb"\s*\d+:[ \t]*(?:malloc|calloc|realloc|memalign|free|thread_done)[ \t]+0x[0-9a-f]+" + _NUMBERS,
    re.MULTILINE,
)
# A line with a number more than its call has: the first of its times.
_WITH_TIMES = re.compile(
    rb"^[ \t]*\d+:[ \t]*(?:(?:malloc|realloc[ \t]+0x[0-9a-f]+)[ \t]+0x[0-9a-f]+[ \t]+\d+[ \t]+-?\d+"
    rb"|(?:calloc|memalign)[ \t]+0x[0-9a-f]+[ \t]+\d+[ \t]+\d+[ \t]+-?\d+"
    rb"|(?:free|thread_done)[ \t]+0x[0-9a-f]+[ \t]+-?\d+)",
    re.MULTILINE,
)


class Android:
    """Text of Android's memory_replay."""

    suffixes = (".android",)
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for a call in the first line."""
        return _LINE.match(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> LineTrace:
        """Open a file of calls."""
        # Any line of the head will do: a thread's end had none when calls already had.
        has_times = _WITH_TIMES.search(head_of(path)) is not None
        reader = AndroidReader(lenient=reading.lenient, has_times=has_times)
        trace = LineTrace(path, reader, reading, ("alignment", *(("time_ns",) if has_times else ())))
        trace.metadata["source"] = {"recorder": "memory_replay text"}
        return trace

    def write(self, path: str, description: Description) -> AndroidWriter:
        """Begin a file of calls."""
        return AndroidWriter(path, description)


class AndroidWriter(TextOutput):
    """Writes rows as calls."""

    def __init__(self, path: str, description: Description) -> None:
        super().__init__(path)
        self._path = path
        self._text = AndroidText()
        self._left = [f"left behind: {_LEFT[name]}" for name in description.optional if name in _LEFT]
        self._columns = [*REQUIRED, *(name for name in description.optional if name not in _LEFT)]

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows; HarnessError for a thread or an address that the format has no number for."""
        try:
            self.put(self._text.lines(**{name: columns[name] for name in self._columns}))
        except ValueError as fault:
            raise HarnessError(f"{self._path}: {fault}") from fault

    @property
    def losses(self) -> list[str]:
        """What of the rows written so far has no place in calls."""
        return [*self._left, *(in_words(name, count) for name, count in self._text.counts().items() if count)]
