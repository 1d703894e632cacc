"""Android's memory_replay: text, one call a line, as the platform's malloc debug and recorders write it.

`THREAD: malloc ADDRESS SIZE [BEGIN_NS END_NS]`; android.hpp reads the lines.
"""

from __future__ import annotations

import re

from harness.errors import HarnessError
from harness.formats import AS_IT_STANDS, Description, Reading, TraceSink
from harness.formats._formats import AndroidReader
from harness.formats.addresses import LineTrace
from harness.formats.text import head_of

_CALL = rb"\s*\d+:\s*(?:malloc|calloc|realloc|memalign|free|thread_done)\s+0x[0-9a-f]+"
_LINE = re.compile(_CALL + rb"[ \t\d]*(?:0x[0-9a-f]+)?[ \t\d]*\r?$", re.MULTILINE)
_LINE_WITH_TIMES = re.compile(
    rb"\s*\d+:\s*(?:(?:malloc|realloc\s+0x[0-9a-f]+)\s+0x[0-9a-f]+\s+\d+|(?:calloc|memalign)\s+0x[0-9a-f]+"
    rb"\s+\d+\s+\d+|(?:free|thread_done)\s+0x[0-9a-f]+)\s+\d+\s+\d+\s*$"
)


class Android:
    """Text of Android's memory_replay."""

    suffixes = (".android", ".txt")
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for a call in the first line."""
        return _LINE.match(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> LineTrace:
        """Open a file of calls."""
        first = head_of(path).lstrip().split(b"\n", 1)[0]
        has_times = _LINE_WITH_TIMES.match(first) is not None
        reader = AndroidReader(lenient=reading.lenient, has_times=has_times)
        trace = LineTrace(path, reader, reading, ("alignment", *(("time_ns",) if has_times else ())))
        trace.metadata["source"] = {"recorder": "memory_replay text"}
        return trace

    def write(self, path: str, description: Description) -> TraceSink:
        """Refuse."""
        raise HarnessError(f"{path}: Android's text is only read")
