"""What traces that name objects by their addresses share: one base class for their readers.

A reader gives records; AddressBook (address_book.hpp) makes rows of harness-trace/1 of them. What was left
out or mended on the way is counted, and said in words once everything was read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.errors import TraceError
from harness.formats import AS_IT_STANDS, RawTrace, Reading
from harness.formats._formats import AddressBook, Recorder, RecordFault, TextFault
from harness.formats.text import open_text, unreadable
from harness.trace import REQUIRED

# By name: op, thread, address, old_address, size, place (a number in the reader's unit, for messages); and
# alignment, noscan, time_ns, site where the format has them. Types as address_book.hpp says.
Records = dict[str, NDArray[Any]]

_BLOCK_BYTES = 1 << 20

# What each kind of loss is called, for one and for more.
_LEFT_OUT = {
    "failed_allocations": ("left out", "allocation that failed", "allocations that failed"),
    "collections": ("left out", "explicit collection", "explicit collections"),
    "failed_calls": ("left out", "call that returned null", "calls that returned null"),
    "size_hints": ("left out", "free's word on size or alignment", "frees' words on size or alignment"),
    "thread_ends": ("left out", "end of a thread", "ends of threads"),
    "other_threads": (
        "put under one thread with the rest",
        "call of another thread",
        "calls of other threads",
    ),
    "callocs": ("made a malloc", "calloc", "callocs"),
    "alignments_of_any": ("left out", "alignment", "alignments"),
    "surplus_lines": (
        "left out",
        "line behind as many as the header counts",
        "lines behind as many as the header counts",
    ),
    "writes": ("left out", "write to a block", "writes to blocks"),
    "times": (
        "left out",
        "line's time, where the file's head has none",
        "lines' times, where the file's head has none",
    ),
    "late_times": (
        "replaced by the one before",
        "time of a call that began before the one above it",
        "times of calls that began before those above them",
    ),
    "alignments": ("left out", "alignment of a calloc or realloc", "alignments of callocs and reallocs"),
}
# And what is no fault where a recorder is known to have gaps.
_GAPS = {
    "unknown_frees": (
        "left out",
        "free of what was not seen allocated",
        "frees of what was not seen allocated",
    ),
    "unknown_reallocations": (
        "made an allocation",
        "realloc of what was not seen allocated",
        "reallocs of what was not seen allocated",
    ),
    "unseen_frees": (
        "put in",
        "free that was not seen, of an address given out anew",
        "frees that were not seen, of addresses given out anew",
    ),
    "late_frees": (
        "told late",
        "free, after its address was given out anew",
        "frees, after their addresses were given out anew",
    ),
}
_MENDED = {
    "unknown_frees": ("dropped", "free of what was not live", "frees of what was not live"),
    "unknown_reallocations": (
        "made an allocation",
        "realloc of what was not live",
        "reallocs of what was not live",
    ),
    "unseen_frees": ("put in", "free, of an address given out anew", "frees, of addresses given out anew"),
    "clock_steps_back": ("replaced by the one before", "time that went back", "times that went back"),
    "impossible_sizes": (
        "dropped",
        "allocation beyond the address space",
        "allocations beyond the address space",
    ),
    "impossible_alignments": (
        "left out",
        "alignment that is no power of two",
        "alignments that are no powers of two",
    ),
    "missing_syncs": (
        "taken for given",
        "wait for a sync that no thread gives",
        "waits for syncs that no thread gives",
    ),
    "broken_threads": (
        "left out",
        "thread's rest, from an operation that could not be read",
        "threads' rests, each from an operation that could not be read",
    ),
    "bad_rows": ("dropped", "row that could not be read", "rows that could not be read"),
    "bad_lines": ("dropped", "line that could not be read", "lines that could not be read"),
}

# What a strict reader's fault ends with.
REMEDY = "; --lenient goes on and counts it"


class AddressTrace(ABC):
    """A trace whose records name objects by address.

    `columns`: the optional columns that every record will have. `unit`: what a record's place counts.
    `names_objects`: what stands for addresses are numbers of objects, 0 as good as any.
    `recorder`: whether the files have gaps that are no fault.
    """

    unknown_columns: tuple[str, ...] = ()
    sites: bytes | None = None

    def __init__(
        self,
        path: str,
        reading: Reading = AS_IT_STANDS,
        columns: tuple[str, ...] = (),
        unit: str = "line",
        recorder: Recorder = Recorder.WHOLE,
        names_objects: bool = False,
    ) -> None:
        self.path = path
        self.reading = reading
        self.columns = [*REQUIRED, *columns]
        self.metadata: dict[str, Any] = {}
        self._recorder = recorder
        self._book = AddressBook(
            lenient=reading.lenient, unit=unit, null_names=names_objects, recorder=recorder
        )

    @abstractmethod
    def records(self) -> Iterator[Records]:
        """Yield the records, a bounded number at a time; TraceError at the first that cannot be read."""

    def raw_batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield rows of harness-trace/1; TraceError at the first record that no program can have left."""
        for records in self.records():
            try:
                rows = self._book.rows(**records)
            except RecordFault as fault:
                raise TraceError(f"{self.path}: {fault}{REMEDY}") from fault
            if len(rows["op"]):
                yield {name: rows[name] for name in self.columns}

    @property
    def repairs(self) -> dict[str, int]:
        """What was mended so far, by kind."""
        counted = self._book.counts()
        expected = _GAPS if self._recorder != Recorder.WHOLE else {}
        return {name: counted[name] for name in _MENDED if counted.get(name) and name not in expected}

    @property
    def losses(self) -> list[str]:
        """What of the trace was lost so far, in words."""
        counted = self._book.counts() | self.counts()
        texts = [in_words(name, counted[name]) for name in _LEFT_OUT if counted.get(name)]
        if self._recorder != Recorder.WHOLE:
            texts += [how_often(*words, counted[name]) for name, words in _GAPS.items() if counted[name]]
        return texts

    def counts(self) -> dict[str, int]:
        """Count what the reader itself has left out so far, by kind."""
        return {}


class TextReader(Protocol):
    """A native reader of text: lines.hpp."""

    def counts(self) -> dict[str, int]:
        """Count what the format leaves out, by kind."""

    def read(self, block: bytes) -> Records:
        """Return what a block's whole lines say."""

    def end(self) -> Records:
        """Return what the last line says."""

    @property
    def bad_lines(self) -> int:
        """How many lines a lenient reader could not read."""


class LineTrace(AddressTrace):
    """A trace that a native reader reads from its beginning to its end: text, a line a record or so."""

    def __init__(
        self,
        path: str,
        reader: TextReader,
        reading: Reading = AS_IT_STANDS,
        columns: tuple[str, ...] = (),
        recorder: Recorder = Recorder.WHOLE,
        unit: str = "line",
        names_objects: bool = False,
    ) -> None:
        super().__init__(path, reading, columns, unit, recorder, names_objects)
        self.reader = reader

    def records(self) -> Iterator[Records]:
        """Yield the records of a block of text at a time, while the next is read on a thread of its own."""
        # Loaded here, since a trace in another format does without.
        from concurrent.futures import ThreadPoolExecutor

        stream = open_text(self.path)
        with ThreadPoolExecutor(1) as ahead:
            pending = ahead.submit(self._block, stream)
            while (records := pending.result()) is not None:
                pending = ahead.submit(self._block, stream)
                # A block without a record has no optional columns either.
                if len(records["op"]):
                    yield records
        if len((last := self._parsed(self.reader.end))["op"]):
            yield last

    def _block(self, stream: pa.NativeFile) -> Records | None:
        """Return the records of the next block, or None at the end."""
        try:
            block = stream.read(_BLOCK_BYTES)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.path, error) from error
        return self._parsed(partial(self.reader.read, block)) if block else None

    def _parsed(self, parse: Callable[[], Records]) -> Records:
        try:
            return parse()
        except TextFault as fault:
            raise TraceError(f"{self.path}: {fault}{REMEDY}") from fault

    def counts(self) -> dict[str, int]:
        """Count what the format has left out so far, by kind."""
        return self.reader.counts()

    @property
    def repairs(self) -> dict[str, int]:
        """What was mended so far, by kind."""
        bad = self.reader.bad_lines
        return super().repairs | ({"bad_lines": bad} if bad else {})


class Repaired:
    """A trace of any format, its rows mended where no program can have left them."""

    def __init__(self, trace: RawTrace) -> None:
        self._trace = trace
        self._book = AddressBook(lenient=True, unit="row", null_names=True)
        self.path = trace.path
        self.columns = trace.columns
        self.unknown_columns = trace.unknown_columns

    @property
    def metadata(self) -> dict[str, Any]:
        """What the trace says of itself."""
        return self._trace.metadata

    @property
    def sites(self) -> bytes | None:
        """The sites of the trace."""
        return self._trace.sites

    @property
    def losses(self) -> Sequence[str]:
        """What of the trace was lost so far, in words."""
        return self._trace.losses

    @property
    def repairs(self) -> dict[str, int]:
        """What was mended so far, by kind."""
        counted = self._book.counts()
        return dict(self._trace.repairs) | {name: counted[name] for name in _MENDED if counted.get(name)}

    def raw_batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the trace's rows, but for those that cannot be."""
        row = 0
        for raw in self._trace.raw_batches():
            count = len(raw["op"])
            optional = {name: raw[name] for name in self.columns if name not in REQUIRED}
            rows = self._book.rows(
                op=raw["op"],
                thread=raw["thread"],
                address=raw["object"],
                old_address=raw["object"],
                size=raw["size"],
                place=np.arange(row, row + count, dtype=np.uint64),
                **optional,
            )
            row += count
            if len(rows["op"]):
                yield {name: rows[name] for name in self.columns}


def mended(repairs: Mapping[str, int]) -> list[str]:
    """Say in words what was mended, a text a kind."""
    return [in_words(name, count) for name, count in repairs.items()]


def in_words(name: str, count: int) -> str:
    """Say how often something was left out or mended; of a kind that is not ours, by its name."""
    known = (_LEFT_OUT | _MENDED).get(name)
    if known is None:
        return f"{name.replace('_', ' ')}: {count:,}"
    return how_often(*known, count)


def how_often(what: str, one: str, more: str, count: int) -> str:
    """Say what was done how often, of one or more of a kind."""
    return f"{what}: {count:,} {one if count == 1 else more}"
