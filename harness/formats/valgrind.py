"""What valgrind's tools write of allocations with --trace-malloc=yes; valgrind.hpp reads the lines."""

from __future__ import annotations

import re

from harness.formats import AS_IT_STANDS, Reading
from harness.formats._formats import ValgrindReader
from harness.formats.addresses import how_often
from harness.formats.recorders import ReadOnly, RecorderTrace
from harness.formats.text import head_of

_CALL = re.compile(
    rb"--(?P<time>\d+:\d\d:\d\d:\d\d\.\d{3} )?\d+-- "
    rb"(?:(?:malloc|calloc|realloc|free|memalign|posix_memalign|aligned_alloc)|_Z[nd][wal]\w+)\("
)
_COMMAND = re.compile(rb"^==[^\n]*== Command: (?P<command>[^\n]+)", re.MULTILINE)
_UNTOLD = "valgrind tells no threads and no call stacks"
_REMEDY = "run memcheck (or helgrind, drd, dhat, massif) with --trace-malloc=yes and --log-file=FILE"


class Valgrind(ReadOnly):
    """Logs of valgrind with --trace-malloc=yes."""

    name = "valgrind"
    suffixes = (".valgrind",)

    def recognises(self, head: bytes) -> bool:
        """Look for a call, wherever it stands: what the program printed may be mixed in."""
        return _CALL.search(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> ValgrindTrace:
        """Open a log."""
        head = head_of(path)
        call = _CALL.search(head)
        trace = ValgrindTrace(path, reading, has_times=call is not None and call["time"] is not None)
        source: dict[str, object] = {"recorder": "valgrind --trace-malloc=yes"}
        if (command := _COMMAND.search(head)) is not None:
            program, *arguments = command["command"].decode(errors="replace").split(" ")
            source |= {"program": program.rsplit("/", 1)[-1], "arguments": arguments}
        trace.metadata["source"] = source
        return trace


class ValgrindTrace(RecorderTrace):
    """The calls of one process in a log."""

    def __init__(self, path: str, reading: Reading, *, has_times: bool) -> None:
        self._valgrind = ValgrindReader(lenient=reading.lenient, has_times=has_times)
        columns = ("alignment", *(("time_ns",) if has_times else ()))
        super().__init__(path, self._valgrind, reading, columns, untold=_UNTOLD, remedy=_REMEDY)

    @property
    def losses(self) -> list[str]:
        """What of the log was lost so far, in words."""
        texts = super().losses
        if count := self._valgrind.foreign_calls:
            texts.append(
                how_often("left out", "call of another process", "calls of other processes", count)
                + " than the first; log each to its own file"
            )
        if count := self._valgrind.untold_allocations:
            texts.append(
                how_often("left out", "aligned allocation", "aligned allocations", count)
                + ", whose address this valgrind does not tell"
            )
        return texts
