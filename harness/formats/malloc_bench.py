"""malloc-bench's traces: a protobuf message of mallocs, callocs, reallocs and frees of numbered objects.

malloc_bench.hpp reads the records.
"""

from __future__ import annotations

from harness.errors import HarnessError
from harness.formats import AS_IT_STANDS, Description, Reading, TraceSink
from harness.formats._formats import MallocBenchReader
from harness.formats.addresses import LineTrace

_HEAD_BYTES = 4096


class MallocBenchTrace(LineTrace):
    """A file of records."""

    def __init__(self, path: str, reading: Reading) -> None:
        reader = MallocBenchReader(lenient=reading.lenient)
        super().__init__(path, reader, reading, ("alignment",), unit="record", names_objects=True)
        self.metadata["source"] = {"recorder": "malloc-bench"}

    @property
    def losses(self) -> list[str]:
        """What of the trace was lost so far, in words."""
        return ["the format knows no threads: every call stands under thread 0", *super().losses]


class MallocBench:
    """Protobuf messages of malloc-bench."""

    suffixes = (".trace",)
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for a record at the beginning."""
        # Leniently: what is wrong further on is told when it is read.
        reader = MallocBenchReader(lenient=True)
        places = reader.read(head[:_HEAD_BYTES])["place"]
        return len(places) > 0 and bool(places[0] == 1 or not reader.bad_lines)

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> MallocBenchTrace:
        """Open a file of records."""
        return MallocBenchTrace(path, reading)

    def write(self, path: str, description: Description) -> TraceSink:
        """Refuse."""
        raise HarnessError(f"{path}: malloc-bench's traces are only read")
