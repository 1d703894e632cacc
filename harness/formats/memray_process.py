"""Reads a capture with memray's library, in a process of its own, which memray.py starts.

That library trusts its files, and ends its process where one is damaged. What it reads goes to standard
output, a pickled pair of kind and content at a time: `described` once, then `records`, then `end`; or
`fault` and a text. Neither Arrow nor the rest of harness is loaded.
"""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from memray import AllocationRecord, FileReader

RECORDS = "records"
DESCRIBED = "described"
END = "end"
FAULT = "fault"
MISSING = "missing"  # There is no memray.

_BATCH_RECORDS = 1 << 16
# A record as it is sent; site 0 is no stack, the others are numbered in the order in which they appear.
COLUMNS = {
    "allocator": np.uint8,
    "thread": np.uint32,
    "address": np.uint64,
    "size": np.uint64,
    "site": np.uint32,
}

# hooks.h: free, munmap, mmap and pymalloc's free have no stack that anyone would blame.
_WITHOUT_STACK = (1, 5, 14, 15)

# Function, file, line of each frame, the innermost first.
Stack = tuple[tuple[str, str, int], ...]


def main() -> None:
    """Read the file that the command line names."""
    out = sys.stdout.buffer
    try:
        _read(sys.argv[1], out)
    except ImportError:
        _send(out, MISSING, None)
    except Exception as error:  # Of many kinds, memray's C++ exceptions among them.
        _send(out, FAULT, " ".join(str(error).split()) or type(error).__name__)


def _read(path: str, out: BinaryIO) -> None:
    import memray
    from memray._memray import set_log_level

    set_log_level(logging.CRITICAL)  # What it finds damaged is told at the other end.
    reader = memray.FileReader(path)
    said = reader.metadata
    _send(
        out,
        DESCRIBED,
        {
            "program": str(said.command_line),
            "pid": int(said.pid),
            "python_allocator": str(said.python_allocator),
            "native_traces": bool(said.has_native_traces),
            "trace_python_allocators": bool(said.trace_python_allocators),
            "is_aggregated": said.file_format != memray.FileFormat.ALL_ALLOCATIONS,
        },
    )
    if said.file_format == memray.FileFormat.ALL_ALLOCATIONS:
        for columns, stacks in _batches(reader):
            _send(out, RECORDS, (columns, stacks))
    _send(out, END, None)


def _batches(reader: FileReader) -> Iterator[tuple[dict[str, NDArray[Any]], list[Stack]]]:
    """Yield columns of records, with the stacks that appear in them for the first time."""
    is_native = reader.metadata.has_native_traces
    sites: dict[tuple[int, ...], int] = {}
    numbers: dict[Stack, int] = {(): 0}
    rows: list[tuple[int, int, int, int, int]] = []
    known = 0
    records = iter(reader.get_allocation_records())
    fault: Exception | None = None
    for _ in count():
        try:
            record = next(records, None)
            if record is None:
                break
            site = _site(record, is_native, sites, numbers)
            rows.append((record.allocator, record.tid, record.address, record.size, site))
        except Exception as error:  # What was read before is sent before it is told.
            fault = error
            break
        if len(rows) >= _BATCH_RECORDS:
            yield _columns(rows), list(numbers)[known:]
            known, rows = len(numbers), []
    if rows:
        yield _columns(rows), list(numbers)[known:]
    if fault is not None:
        raise fault


def _site(
    record: AllocationRecord, is_native: bool, sites: dict[tuple[int, ...], int], numbers: dict[Stack, int]
) -> int:
    """Return the number of the stack that asked for an allocation."""
    if record.allocator in _WITHOUT_STACK:
        return 0
    key: tuple[int, ...] = (record.tid, record.stack_id)
    if is_native:
        key = (*key, record.native_stack_id, record.native_segment_generation)
    site = sites.get(key)
    if site is None:
        stack = tuple(record.hybrid_stack_trace() if is_native else record.stack_trace())
        site = sites[key] = numbers.setdefault(stack, len(numbers))
    return site


def _columns(rows: list[tuple[int, int, int, int, int]]) -> dict[str, NDArray[Any]]:
    return {
        name: np.array(values, kind)
        for (name, kind), values in zip(COLUMNS.items(), zip(*rows, strict=True), strict=True)
    }


def _send(out: BinaryIO, kind: str, content: Any) -> None:
    pickle.dump((kind, content), out, pickle.HIGHEST_PROTOCOL)
    out.flush()


if __name__ == "__main__":
    main()
