"""What glibc's mtrace() writes to the file that MALLOC_TRACE names; mtrace.hpp reads the lines."""

from __future__ import annotations

import re

from harness.formats import AS_IT_STANDS, Reading
from harness.formats._formats import MtraceReader, Recorder
from harness.formats.recorders import ReadOnly, SitesTrace

_BEGIN = re.compile(rb"= Start\n|@ [^\n]*\[0x[0-9a-f]+\] [-+<>!] ")
_UNTOLD = "mtrace tells no times, threads, alignments or callocs"
_REMEDY = "the program has to call mtrace(), with libc_malloc_debug.so preloaded"


class Mtrace(ReadOnly):
    """Files of glibc's mtrace()."""

    name = "mtrace"
    suffixes = (".mtrace",)

    def recognises(self, head: bytes) -> bool:
        """Look for the first line of a file, or for a call and who made it."""
        return _BEGIN.match(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> SitesTrace:
        """Open a file of calls."""
        trace = SitesTrace(
            path,
            MtraceReader(lenient=reading.lenient),
            reading,
            ("site",),
            untold=_UNTOLD,
            remedy=_REMEDY,
            recorder=Recorder.LATE_FREES,
        )
        trace.metadata["source"] = {"recorder": "mtrace"}
        return trace
