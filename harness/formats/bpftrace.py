"""What recording/alloc.bt, a script for bpftrace, prints of a program's calls; bpftrace.hpp reads it."""

from __future__ import annotations

import re

from harness.formats import AS_IT_STANDS, Reading
from harness.formats._formats import BpftraceReader
from harness.formats.addresses import how_often
from harness.formats.recorders import ReadOnly, RecorderTrace

_CALL = re.compile(
    rb"^\d+ \d+ (?:(?:malloc|calloc|realloc|memalign) [^\n]*|free |realloc_begin )0x[0-9a-f]+$", re.MULTILINE
)
_UNTOLD = "alloc.bt tells no call stacks, and nothing of memory that forked children inherit"
_REMEDY = "record one by the script that `python -m harness.recording.scripts alloc.bt` prints"


class Bpftrace(ReadOnly):
    """Text of our script for bpftrace."""

    name = "bpftrace"
    suffixes = (".bpftrace",)

    def recognises(self, head: bytes) -> bool:
        """Look for a call among bpftrace's own lines."""
        return _CALL.search(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> BpftraceTrace:
        """Open a file of calls."""
        trace = BpftraceTrace(path, reading)
        trace.metadata["source"] = {"recorder": "bpftrace alloc.bt"}
        return trace


class BpftraceTrace(RecorderTrace):
    """The calls of one process."""

    def __init__(self, path: str, reading: Reading) -> None:
        self._bpftrace = BpftraceReader(lenient=reading.lenient, must_be_sorted=not reading.lenient)
        super().__init__(
            path, self._bpftrace, reading, ("alignment", "time_ns"), untold=_UNTOLD, remedy=_REMEDY
        )

    @property
    def losses(self) -> list[str]:
        """What of the text was lost so far, in words."""
        texts = super().losses
        lacking = self._bpftrace.lines_lacking if self._is_read else 0
        if count := max(self._bpftrace.lost_events, lacking):
            texts.append(
                how_often("lost by bpftrace", "event", "events", count)
                + "; set BPFTRACE_PERF_RB_PAGES higher"
            )
        return texts
