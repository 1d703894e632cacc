"""Captures of memray, the memory profiler for Python: every allocation and free, with Python's stacks.

memray's own library reads them, in a process of its own (memray_process.py). What malloc and its kin were
asked for becomes rows; so does, where `--trace-python-allocators` was given, what Python's allocators were:
memray sees no malloc within these. Mappings are left out.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.errors import HarnessError, TraceError
from harness.formats import AS_IT_STANDS, Description, Reading, TraceSink
from harness.formats import memray_process as process
from harness.formats._formats import Recorder
from harness.formats.addresses import REMEDY, AddressTrace, Records
from harness.formats.text import HEAD_BYTES
from harness.sites import Frame, Sites, Stack, encode
from harness.trace import reason

# src/memray/_memray/records.h and record_reader.cpp: a file begins with its magic, within an LZ4 frame where
# the program ended well and memray compressed it. Behind magic, the format's version, Python's, and the flags
# native_traces and file_format stand the statistics, written when the program ends.
_MAGIC = b"memray\0"
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_STATISTICS = struct.Struct("<Q")  # n_allocations, which counts frees, too; 0 until the program has ended.
_STATISTICS_OFFSET = len(_MAGIC) + 4 + 4 + 1 + 1

# hooks.h: enum class Allocator.
_PYMALLOC_FREE, _PYMALLOC_MALLOC, _PYMALLOC_CALLOC, _PYMALLOC_REALLOC = 1, 2, 3, 4
_FREE, _MALLOC, _REALLOC, _CALLOC, _MMAP, _MUNMAP = 5, 6, 7, 8, 14, 15
_ALIGNED = (9, 10, 11, 12, 13)  # posix_memalign, aligned_alloc, memalign, valloc, pvalloc.

_WITHOUT_MEMRAY = "reading captures of memray needs it: pip install 'alloc-harness[memray]'"


class MemrayTrace(AddressTrace):
    """A capture; its stacks are numbered in the order in which they appear."""

    def __init__(self, path: str, reading: Reading = AS_IT_STANDS) -> None:
        super().__init__(path, reading, ("site",), unit="record", recorder=Recorder.PARTIAL)
        self._messages = _Messages(path)
        kind, said = self._messages.next()
        if kind == process.MISSING:
            raise HarnessError(f"{path}: {_WITHOUT_MEMRAY}")
        if kind != process.DESCRIBED:
            raise TraceError(f"{path}: is damaged: {said}")
        if said["is_aggregated"]:
            raise TraceError(
                f"{path}: was made with --aggregate and holds sums, no allocations; run memray without it"
            )
        source = {name: said.pop(name) for name in ("program", "pid")}
        self.metadata = {"source": {**source, "recorder": "memray"}, "memray": said}
        self._stacks: list[Stack] = []
        self._mappings = self._mapped_bytes = self._unmappings = self._aligned = 0
        self._is_cut = False

    def records(self) -> Iterator[Records]:
        """Yield the records of malloc's kin, a bounded number at a time."""
        found = 0
        fault = ""
        last_free: dict[str, NDArray[Any]] | None = None  # That may be the first half of a realloc.
        while True:
            kind, content = self._messages.next()
            if kind != process.RECORDS:
                fault = content or ""
                break
            columns, stacks = content
            self._stacks += [_frames(stack) for stack in stacks]
            columns["place"] = np.arange(found, found + len(columns["allocator"]), dtype=np.uint64)
            found += len(columns["allocator"])
            if last_free is not None:
                columns = {
                    name: np.concatenate([last_free[name], values]) for name, values in columns.items()
                }
                last_free = None
            if columns["allocator"][-1] in (_FREE, _PYMALLOC_FREE):
                last_free = {name: values[-1:] for name, values in columns.items()}
                columns = {name: values[:-1] for name, values in columns.items()}
            yield self._records(columns)
        if last_free is not None:
            yield self._records(last_free)
        self._expect_all(found, fault)

    @property
    def sites(self) -> bytes | None:  # type: ignore[override]
        """The stacks of the allocations read so far."""
        return encode(Sites.of_stacks(self._stacks))

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

    def _records(self, columns: dict[str, NDArray[Any]]) -> Records:
        """Return what malloc's kin did; a realloc is a free of its kind and, behind it, an allocation."""
        kind, thread = columns["allocator"], columns["thread"]
        op = np.full(len(kind), ALLOC, np.uint8)
        op[np.isin(kind, (_FREE, _PYMALLOC_FREE))] = FREE
        op[np.isin(kind, (_CALLOC, _PYMALLOC_CALLOC))] = CALLOC
        old_address = np.zeros(len(kind), np.uint64)
        is_first_half = np.zeros(len(kind), bool)
        for free, realloc in ((_FREE, _REALLOC), (_PYMALLOC_FREE, _PYMALLOC_REALLOC)):
            moves = np.flatnonzero((kind[:-1] == free) & (kind[1:] == realloc) & (thread[:-1] == thread[1:]))
            is_first_half[moves] = True
            op[moves + 1] = REALLOC
            old_address[moves + 1] = columns["address"][moves]
        is_mapping, is_unmapping = kind == _MMAP, kind == _MUNMAP
        self._mappings += int(is_mapping.sum())
        self._mapped_bytes += int(columns["size"][is_mapping].sum())
        self._unmappings += int(is_unmapping.sum())
        self._aligned += int(np.isin(kind, _ALIGNED).sum())
        kept = ~(is_mapping | is_unmapping | is_first_half)
        records = {name: columns[name] for name in ("thread", "address", "size", "site", "place")}
        records |= {"op": op, "old_address": old_address}
        return {name: values[kept] for name, values in records.items()}

    def _expect_all(self, found: int, fault: str) -> None:
        """Hold that the capture has as many records as its head says; TraceError unless lenient."""
        promised = _promised(self.path)
        if found == promised and not fault:
            return
        self._is_cut = True
        if self.reading.lenient:
            return
        if fault:
            raise TraceError(f"{self.path}: record {found} or after: is damaged: {fault}{REMEDY}")
        expected = f"{promised:,} records" if promised else "the end of the program"
        raise TraceError(f"{self.path}: record {found}: found the capture's end, expected {expected}{REMEDY}")


class _Messages:
    """What the process that reads a capture says of it; the process ends when this is forgotten."""

    def __init__(self, path: str) -> None:
        if path == "-" or "://" in path:
            raise TraceError(f"{path}: is damaged or far away: memray reads whole files of this machine only")
        try:
            open(path, "rb").close()
        except OSError as error:
            raise TraceError(f"{path}: {reason(path, error)}") from error
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", process.__name__, os.path.abspath(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def next(self) -> tuple[str, Any]:
        """Return the next message; a fault, where the process has ended before its time."""
        assert self._process.stdout is not None
        try:
            message: tuple[str, Any] = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            return process.FAULT, f"memray's reader ended with status {self._process.wait()}"
        return message

    def __del__(self) -> None:
        """End the process."""
        if hasattr(self, "_process"):
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.wait()


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


def _frames(stack: process.Stack) -> Stack:
    return tuple(Frame(function, file or None, line or None) for function, file, line in stack)


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
