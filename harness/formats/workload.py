"""Workloads of glibc's malloc tracing tools (.wl), which trace_run replays: a program for each thread.

workload.hpp reads them, at as many places of the file as there are threads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from harness.errors import HarnessError, TraceError
from harness.formats import AS_IT_STANDS, Description, Reading, TraceSink
from harness.formats._formats import TextFault, WorkloadReader
from harness.formats.addresses import REMEDY, AddressTrace, Records
from harness.formats.text import seekable

_NUMBER = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
# Numbers of pointers, of syncs and of threads, then the first thread or the end.
_HEAD = re.compile(
    rb"\x08" + _NUMBER + rb"\x09" + _NUMBER + rb"\x0a" + _NUMBER + rb"(?:\x0b" + _NUMBER + rb"|\x01$)"
)
_BATCH_RECORDS = 1 << 15


class WorkloadTrace(AddressTrace):
    """A file of threads' operations."""

    def __init__(self, path: str, reading: Reading) -> None:
        super().__init__(path, reading, ("alignment",), unit="byte")
        self.metadata["source"] = {"recorder": "trace2wl"}
        self._file = seekable(path)
        try:
            self._reader = WorkloadReader(
                file=self._file.fileno(),
                file_bytes=os.fstat(self._file.fileno()).st_size,
                lenient=reading.lenient,
            )
        except TextFault as fault:
            raise TraceError(f"{path}: {fault}") from fault

    def records(self) -> Iterator[Records]:
        """Yield the threads' calls, so many at a time."""
        while True:
            try:
                records = self._reader.read(_BATCH_RECORDS)
            except TextFault as fault:
                raise TraceError(f"{self.path}: {fault}{REMEDY}") from fault
            if not len(records["op"]):
                return
            yield records

    @property
    def losses(self) -> list[str]:
        """What of the trace was lost so far, in words."""
        if self._reader.threads < 2:
            return super().losses
        order = (
            "the order of calls on different threads is known only where one waits for another; "
            "between, they take turns, a call each"
        )
        return [order, *super().losses]

    @property
    def repairs(self) -> dict[str, int]:
        """What was mended so far, by kind."""
        mended = {
            "missing_syncs": self._reader.missing_syncs,
            "broken_threads": self._reader.broken_threads,
        }
        return super().repairs | {name: count for name, count in mended.items() if count}


class Workload:
    """Binary workloads of glibc's tools."""

    suffixes = (".wl",)
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for the numbers that a workload begins with."""
        return _HEAD.match(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> WorkloadTrace:
        """Open a workload."""
        return WorkloadTrace(path, reading)

    def write(self, path: str, description: Description) -> TraceSink:
        """Refuse."""
        raise HarnessError(f"{path}: workloads are only read")
