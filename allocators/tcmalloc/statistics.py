"""What the library tells of itself, from the model's numbers: free lists, ranges, and the text of GetStats.

Lines, widths and roundings are those of MallocExtension::GetStats (gperftools, src/tcmalloc.cc: DumpStats),
which C's printf and Python write alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ._tcmalloc import Tcmalloc

# A range as MallocExtension::Ranges reports it: type 0 in use, 1 free, 2 given back to the system.
RANGE = np.dtype([("address", "<u8"), ("length", "<u8"), ("type", "<u4"), ("fraction", "<f8")])

# The largest object of spans that have no longest length.
_UNLIMITED = (1 << 64) - 1

_MIB = 1048576.0
_LINE = "------------------------------------------------\n"


def ranges(native: Tcmalloc) -> NDArray[Any]:
    """Return every span as a row of RANGE, by address."""
    columns = native.ranges()
    rows = np.empty(len(columns[0]), RANGE)
    for name, column in zip(RANGE.names or (), columns, strict=True):
        rows[name] = column
    return rows


def free_list_sizes(native: Tcmalloc, page_bytes: int) -> dict[tuple[str, int], int]:
    """Return the bytes of every list that is not empty, by its type and its largest object."""
    sizes: dict[tuple[str, int], int] = {}
    classes = zip(native.size_classes(), native.free_objects(), strict=True)
    for each, (central, transfer, thread, _) in list(classes)[1:]:
        sizes["tcmalloc.central", each.object_bytes] = central * each.object_bytes
        sizes["tcmalloc.transfer", each.object_bytes] = transfer * each.object_bytes
        sizes["tcmalloc.thread", each.object_bytes] = thread * each.object_bytes
    *small, large = native.free_spans()
    for pages, (_, _, normal_pages, returned_pages) in enumerate(small, 1):
        sizes["tcmalloc.page", pages * page_bytes] = normal_pages * page_bytes
        sizes["tcmalloc.page_unmapped", pages * page_bytes] = returned_pages * page_bytes
    sizes["tcmalloc.large", _UNLIMITED] = large[2] * page_bytes
    sizes["tcmalloc.large_unmapped", _UNLIMITED] = large[3] * page_bytes
    return {key: size for key, size in sizes.items() if size}


def stats_text(native: Tcmalloc, page_bytes: int) -> str:
    """Return the text of GetStats, level 2."""
    return "".join((_totals(native, page_bytes), _classes(native), _page_heap(native, page_bytes)))


def _totals(native: Tcmalloc, page_bytes: int) -> str:
    properties = native.properties()
    page_heap_free = properties["tcmalloc.pageheap_free_bytes"]
    central = properties["tcmalloc.central_cache_free_bytes"]
    transfer = properties["tcmalloc.transfer_cache_free_bytes"]
    thread = properties["tcmalloc.thread_cache_free_bytes"]
    unmapped = properties["tcmalloc.pageheap_unmapped_bytes"]
    metadata = native.metadata_bytes()
    virtual = properties["generic.heap_size"] + metadata
    physical = virtual - unmapped
    application = physical - metadata - page_heap_free - central - transfer - thread
    parts = [
        _LINE,
        _total(" ", application, "Bytes in use by application"),
        _total("+", page_heap_free, "Bytes in page heap freelist"),
        _total("+", central, "Bytes in central cache freelist"),
        _total("+", transfer, "Bytes in transfer cache freelist"),
        _total("+", thread, "Bytes in thread cache freelists"),
        _total("+", metadata, "Bytes in malloc metadata"),
        "MALLOC:   ------------\n",
        _total("=", physical, "Actual memory used (physical + swap)"),
        _total("+", unmapped, "Bytes released to OS (aka unmapped)"),
        "MALLOC:   ------------\n",
        _total("=", virtual, "Virtual address space used"),
        "MALLOC:\n",
        _count(native.spans_in_use(), "Spans in use"),
        _count(native.thread_heaps_in_use(), "Thread heaps in use"),
        _count(page_bytes, "Tcmalloc page size"),
        _LINE,
        "Call ReleaseFreeMemory() to release freelist memory to the OS (via madvise()).\n",
        "Bytes released to the OS take up virtual address space but no physical memory.\n",
    ]
    return "".join(parts)


def _total(sign: str, size: int, what: str) -> str:
    return f"MALLOC: {sign} {size:12d} ({size / _MIB:7.1f} MiB) {what}\n"


def _count(count: int, what: str) -> str:
    return f"MALLOC:   {count:12d}              {what}\n"


def _classes(native: Tcmalloc) -> str:
    parts = [
        _LINE,
        "Total size of freelists for per-thread caches,\n",
        "transfer cache, and central cache, by size class\n",
        _LINE,
    ]
    free_total = overhead_total = 0
    rows = zip(native.size_classes(), native.free_objects(), strict=True)
    for number, (each, (central, transfer, thread, tail_bytes)) in enumerate(rows):
        objects = central + transfer + thread
        if objects == 0:
            continue
        free_total += objects * each.object_bytes
        overhead_total += tail_bytes
        parts.append(
            f"class {number:3d} [ {each.object_bytes:8d} bytes ] : {objects:8d} objs; "
            f"{objects * each.object_bytes / _MIB:5.1f} MiB; {free_total / _MIB:5.1f} cum MiB; "
            f"{tail_bytes / _MIB:8.3f} overhead MiB; {overhead_total / _MIB:8.3f} cum overhead MiB\n"
        )
    return "".join(parts)


def _page_heap(native: Tcmalloc, page_bytes: int) -> str:
    properties = native.properties()
    *small, large = native.free_spans()
    lengths = sum(1 for normal, returned, _, _ in small if normal + returned)
    free_mib = properties["tcmalloc.pageheap_free_bytes"] / _MIB
    unmapped_mib = properties["tcmalloc.pageheap_unmapped_bytes"] / _MIB
    parts = [
        _LINE,
        f"PageHeap: {lengths} sizes; {free_mib:6.1f} MiB free; {unmapped_mib:6.1f} MiB unmapped\n",
        _LINE,
    ]
    total = returned_total = 0
    rows = [(f"{pages:6d} pages", row) for pages, row in enumerate(small, 1) if row[0] + row[1]]
    # The large ones have a line even where there is none.
    for what, (normal, returned, normal_pages, returned_pages) in [
        *rows,
        (f">{len(small):<5d} large", large),
    ]:
        size = (normal_pages + returned_pages) * page_bytes
        total += size
        returned_total += returned_pages * page_bytes
        parts.append(
            f"{what} * {normal + returned:6d} spans ~ {size / _MIB:6.1f} MiB; {total / _MIB:6.1f} MiB cum; "
            f"unmapped: {returned_pages * page_bytes / _MIB:6.1f} MiB; {returned_total / _MIB:6.1f} MiB cum\n"
        )
    return "".join(parts)
