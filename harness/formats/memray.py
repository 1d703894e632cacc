"""Captures of memray, the memory profiler for Python: every allocation and free, with Python's stacks.

memray's own library reads them. What malloc and its kin were asked for becomes rows; so does, where
`--trace-python-allocators` was given, what Python's allocators were: memray sees no malloc within these.
Mappings are left out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.errors import HarnessError, TraceError
from harness.formats import AS_IT_STANDS, Description, Reading, TraceSink
from harness.formats.addresses import REMEDY, AddressTrace, Records
from harness.formats.text import HEAD_BYTES
from harness.sites import Frame, Sites, Stack, encode

if TYPE_CHECKING:
    from memray import AllocationRecord, FileReader

_BATCH_RECORDS = 1 << 16

# src/memray/_memray/records.h and record_reader.cpp: a file begins with its magic, within an LZ4 frame
# where the program ended well and memray compressed it. Behind magic, the format's version, Python's, and the
# flags native_traces and file_format stand the statistics, written when the program ends.
_MAGIC = b"memray\0"
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_STATISTICS = struct.Struct("<Q")  # n_allocations, which counts frees, too; 0 until the program has ended.
_STATISTICS_OFFSET = len(_MAGIC) + 4 + 4 + 1 + 1

# hooks.h: enum class Allocator.
_PYMALLOC_FREE, _PYMALLOC_MALLOC, _PYMALLOC_CALLOC, _PYMALLOC_REALLOC = 1, 2, 3, 4
_FREE, _MALLOC, _REALLOC, _CALLOC, _MMAP, _MUNMAP = 5, 6, 7, 8, 14, 15
_FREES = (_FREE, _PYMALLOC_FREE)
_CALLOCS = (_CALLOC, _PYMALLOC_CALLOC)
# A realloc that succeeds is two records: a free of the old address, by the free of its kind, then this.
_FREE_BEFORE = {_REALLOC: _FREE, _PYMALLOC_REALLOC: _PYMALLOC_FREE}
_ALIGNED = range(9, 14)  # posix_memalign, aligned_alloc, memalign, valloc, pvalloc.

_REMEDY_WITHOUT_MEMRAY = "reading captures of memray needs it: pip install 'alloc-harness[memray]'"


class MemrayTrace(AddressTrace):
    """A capture, read by memray's library; its stacks are numbered in the order in which they appear."""

    def __init__(self, path: str, reading: Reading = AS_IT_STANDS) -> None:
        super().__init__(path, reading, ("site",), unit="record", begins_late=True)
        self._reader = _opened(path)
        self._is_native = bool(self._reader.metadata.has_native_traces)
        self.metadata = _described(self._reader)
        self._site_numbers: dict[tuple[int, ...], int] = {}
        self._stack_numbers: dict[Stack, int] = {(): 0}
        self._mappings = self._mapped_bytes = self._unmappings = self._aligned = 0
        self._is_cut = False

    def records(self) -> Iterator[Records]:
        """Yield the records of malloc's kin, a bounded number at a time."""
        rows: list[tuple[int, ...]] = []  # As _columns() has them.
        pending: AllocationRecord | None = None  # A free that may be the first half of a realloc.
        number = -1
        for number, (record, site) in enumerate(self._read()):
            kind = record.allocator
            if pending is not None:
                old = pending
                pending = None
                if _FREE_BEFORE.get(kind) == old.allocator and old.tid == record.tid:
                    rows.append(
                        (
                            REALLOC,
                            record.tid,
                            record.address,
                            old.address,
                            record.size,
                            site,
                            number,
                        )
                    )
                    continue
                rows.append((FREE, old.tid, old.address, 0, 0, 0, number - 1))
            if kind in _FREES:
                pending = record
            elif kind == _MMAP:
                self._mappings += 1
                self._mapped_bytes += record.size
            elif kind == _MUNMAP:
                self._unmappings += 1
            else:
                self._aligned += kind in _ALIGNED
                op = CALLOC if kind in _CALLOCS else ALLOC
                rows.append((op, record.tid, record.address, 0, record.size, site, number))
            if len(rows) >= _BATCH_RECORDS:
                yield self._columns(rows)
                rows = []
        if pending is not None:
            rows.append((FREE, pending.tid, pending.address, 0, 0, 0, number))
        if rows:
            yield self._columns(rows)
        self._expect_all(number + 1)

    @property
    def sites(self) -> bytes | None:  # type: ignore[override]
        """The stacks of the allocations read so far."""
        return encode(Sites.of_stacks(self._stack_numbers))

    @property
    def losses(self) -> list[str]:
        """What of the capture was lost so far, in words."""
        texts = super().losses
        texts.append("memray keeps no times")
        if self._mappings or self._unmappings:
            texts.append(
                f"left out: mappings, such as Python's arenas ({self._mappings:,} mmaps of "
                f"{self._mapped_bytes:,} bytes, {self._unmappings:,} munmaps)"
            )
        if self._aligned:
            texts.append(f"memray keeps no alignments: {self._aligned:,} aligned allocations count as plain")
        if self.metadata["memray"]["trace_python_allocators"]:
            texts.append("what Python asked of its own allocators stands as if malloc had been asked")
        if self._is_cut:
            texts.append("the capture breaks off: what came after is not known")
        return texts

    def _read(self) -> Iterator[tuple[AllocationRecord, int]]:
        """Yield what memray reads, as far as it does, each record with its site."""
        records = iter(self._reader.get_allocation_records())
        for number in count():
            try:
                record = next(records, None)
                if record is None:
                    return
                site = self._site(record)
            except Exception as error:  # Of many kinds, memray's C++ exceptions among them.
                if self.reading.lenient:
                    return
                said = " ".join(str(error).split())
                raise TraceError(f"{self.path}: record {number}: is damaged: {said}{REMEDY}") from error
            yield record, site

    def _site(self, record: AllocationRecord) -> int:
        """Return the number of the stack that asked for an allocation."""
        if record.allocator in (*_FREES, _MMAP, _MUNMAP):
            return 0
        key: tuple[int, ...] = (record.tid, record.stack_id)
        if self._is_native:
            key = (*key, record.native_stack_id, record.native_segment_generation)
        site = self._site_numbers.get(key)
        if site is None:
            listed = record.hybrid_stack_trace() if self._is_native else record.stack_trace()
            stack = tuple(Frame(function, file or None, line or None) for function, file, line in listed)
            site = self._stack_numbers.setdefault(stack, len(self._stack_numbers))
            self._site_numbers[key] = site
        return site

    def _columns(self, rows: list[tuple[int, ...]]) -> Records:
        names = ("op", "thread", "address", "old_address", "size", "site", "place")
        kinds = (np.uint8, np.uint32, np.uint64, np.uint64, np.uint64, np.uint32, np.uint64)
        try:
            return {
                name: np.array(values, kind)
                for name, kind, values in zip(names, kinds, zip(*rows, strict=True), strict=True)
            }
        except OverflowError as error:
            first, last = rows[0][-1], rows[-1][-1]
            raise TraceError(
                f"{self.path}: record {first} to {last}: is damaged: a number is out of its range"
            ) from error

    def _expect_all(self, found: int) -> None:
        """Hold that the capture has as many records as its head says; TraceError unless lenient."""
        promised = _promised(self.path)
        if found == promised:
            return
        self._is_cut = True
        if not self.reading.lenient:
            expected = f"{promised:,} records" if promised else "the end of the program"
            raise TraceError(
                f"{self.path}: record {found}: found the capture's end, expected {expected}{REMEDY}"
            )


class Memray:
    """Captures of memray."""

    suffixes = (".memray", ".bin")
    keeps_metadata = False

    def recognises(self, head: bytes) -> bool:
        """Look for the magic bytes, behind LZ4 where there is that."""
        return _decompressed(head).startswith(_MAGIC)

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> MemrayTrace:
        """Open a capture."""
        return MemrayTrace(path, reading)

    def write(self, path: str, description: Description) -> TraceSink:
        """Refuse."""
        raise HarnessError(f"{path}: captures of memray are only read")


def _opened(path: str) -> FileReader:
    try:
        import memray
        from memray._memray import set_log_level
    except ImportError as error:
        raise HarnessError(f"{path}: {_REMEDY_WITHOUT_MEMRAY}") from error
    if path == "-" or "://" in path:
        raise TraceError(f"{path}: memray reads files of this machine only; expected a path")
    set_log_level(logging.CRITICAL)  # What it finds damaged, we tell.
    try:
        reader = memray.FileReader(path)
    except Exception as error:  # Of many kinds, memray's C++ exceptions among them.
        raise TraceError(f"{path}: is damaged: {' '.join(str(error).split())}") from error
    if reader.metadata.file_format != memray.FileFormat.ALL_ALLOCATIONS:
        raise TraceError(
            f"{path}: was made with --aggregate and holds sums, no allocations; run memray without it"
        )
    return reader


def _described(reader: FileReader) -> dict[str, Any]:
    """Return what a capture says of itself, as a trace says it."""
    said = reader.metadata
    return {
        "source": {"program": said.command_line, "recorder": "memray", "pid": said.pid},
        "memray": {
            "python_allocator": said.python_allocator,
            "native_traces": said.has_native_traces,
            "trace_python_allocators": said.trace_python_allocators,
        },
    }


def _promised(path: str) -> int:
    """Return how many records a capture's head promises; none where the program did not come to its end."""
    with open(path, "rb") as stream:
        head = _decompressed(stream.read(HEAD_BYTES))
    statistics = head[_STATISTICS_OFFSET : _STATISTICS_OFFSET + _STATISTICS.size]
    if len(statistics) < _STATISTICS.size:
        return 0
    records: int
    (records,) = _STATISTICS.unpack(statistics)
    return records


def _decompressed(head: bytes) -> bytes:
    """Return the begin of a file without LZ4."""
    if not head.startswith(_LZ4_MAGIC):
        return head
    found = b""
    with contextlib.suppress(OSError, pa.ArrowException):
        stream = pa.CompressedInputStream(pa.PythonFile(io.BytesIO(head), mode="r"), "lz4")
        while len(found) < _STATISTICS_OFFSET + _STATISTICS.size and (more := stream.read(64)):
            found += more
    return found
