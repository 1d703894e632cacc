"""heaptrack's raw files, as `heaptrack --raw` leaves them, compressed or not; heaptrack.hpp reads the lines.

What heaptrack writes by default was interpreted already: it says which kind of object is freed, not which.
"""

from __future__ import annotations

import re

from harness.errors import TraceError
from harness.formats import AS_IT_STANDS, Reading
from harness.formats._formats import HeaptrackReader, Recorder
from harness.formats.recorders import ReadOnly, SitesTrace
from harness.formats.text import head_of

_BEGIN = re.compile(rb"v [0-9a-f]+( [0-9a-f]+)?\n[xXIA]\b")
# What interpreted files have and raw ones lack: strings, allocation infos, frees by such an info.
_INTERPRETED = re.compile(rb"^(?:s |a [0-9a-f]+ |\+ [0-9a-f]+\n)", re.MULTILINE)
_PROGRAM = re.compile(rb"^x (?:[0-9a-f]+ )?(?P<path>[^\n]+)\n", re.MULTILINE)
_COMMAND = re.compile(rb"^X (?P<command>[^\n]+)\n", re.MULTILINE)
_SYSTEM = re.compile(rb"^I (?P<page_bytes>[0-9a-f]{1,8}) ", re.MULTILINE)

_RAW = "record one with `heaptrack --raw PROGRAM`"
_UNTOLD = (
    "heaptrack tells no threads, alignments or callocs; a realloc is a free and an allocation; "
    "times are as of every 10 ms"
)


class Heaptrack(ReadOnly):
    """Raw files of heaptrack."""

    name = "heaptrack"
    suffixes = (".heaptrack",)

    def recognises(self, head: bytes) -> bool:
        """Look for the version and what is written right behind it, interpreted or not."""
        return _BEGIN.match(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> SitesTrace:
        """Open a raw file; TraceError for one that was interpreted, for the addresses are lost."""
        head = head_of(path)
        if _INTERPRETED.search(head) is not None:
            raise TraceError(
                f"{path}: found a file that heaptrack interpreted, which names no object that is freed; "
                f"expected a raw one: {_RAW}"
            )
        trace = SitesTrace(
            path,
            HeaptrackReader(lenient=reading.lenient),
            reading,
            ("time_ns", "site"),
            untold=_UNTOLD,
            remedy=_RAW,
            recorder=Recorder.LATE_REALLOCS,
        )
        source: dict[str, object] = {"recorder": "heaptrack"}
        if (program := _PROGRAM.search(head)) is not None:
            source["program"] = program["path"].decode(errors="replace").rsplit("/", 1)[-1]
        if (command := _COMMAND.search(head)) is not None:
            source["arguments"] = command["command"].decode(errors="replace").split(" ")[1:]
        if (system := _SYSTEM.search(head)) is not None:
            source["page_bytes"] = int(system["page_bytes"], 16)
        trace.metadata["source"] = source
        return trace
