"""Android's memory_replay: text, one call a line, as the platform's malloc debug and recorders write it.

`THREAD: malloc ADDRESS SIZE [BEGIN_NS END_NS]`; android.hpp reads the lines.
"""

from __future__ import annotations

import re

from harness.formats import AS_IT_STANDS, Description, Reading
from harness.formats._formats import AndroidReader, AndroidText
from harness.formats.addresses import LineTrace
from harness.formats.calls import CallWriter
from harness.formats.text import head_of

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

    def write(self, path: str, description: Description) -> CallWriter:
        """Begin a file of calls."""
        return CallWriter(path, AndroidText(), description, kept=("alignment", "time_ns"))
