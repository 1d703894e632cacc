"""From a library's own statistics to the footprint of the table: pure functions, one a library.

What a library does not tell is None. README.md holds the mapping as a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from harness.allocator import Footprint

Numbers = Mapping[str, int]

# What each reader takes: the numbers, the library's text, and what of the heap was in use before the trace.
Reader = Callable[[Numbers, str, int], Footprint]

# A line of GetStats: the objects of a class that lie free in all lists together.
_CLASS_LINE = re.compile(r"^class\s+\d+ \[\s*(\d+) bytes \] :\s*(\d+) objs", re.MULTILINE)


def in_use_bytes(name: str, numbers: Numbers) -> int:
    """Return what the library holds for its callers: before the first event, the process's own blocks."""
    match name:
        case "glibc":
            return numbers["uordblks"] + numbers["hblkhd"]
        case "tcmalloc":
            free = numbers["tcmalloc.pageheap_free_bytes"] + numbers["tcmalloc.pageheap_unmapped_bytes"]
            return numbers["generic.heap_size"] - free - _cached_bytes(numbers)
        case "jemalloc":
            return numbers["stats.allocated"] - numbers.get("stats.arenas.4096.tcache_bytes", 0)
    return 0


def glibc(numbers: Numbers, _: str, runtime: int) -> Footprint:
    """Return the footprint of mallinfo2(): what is in use and no object's lies in the threads' caches."""
    live = numbers["live"]
    mapped = numbers["arena"] + numbers["hblkhd"]
    free = numbers["fordblks"] - numbers["keepcost"]
    return Footprint(
        live=live,
        front_end=mapped - live - numbers["fordblks"] - runtime,
        central=free,
        page_heap=numbers["keepcost"],
        runtime=runtime,
        mapped=mapped,
    )


def tcmalloc(numbers: Numbers, text: str, _: int) -> Footprint:
    """Return the footprint of MallocExtension's numeric properties; tails are told apart by the text."""
    free_slots = sum(int(size) * int(count) for size, count in _CLASS_LINE.findall(text))
    tail = _cached_bytes(numbers) - free_slots
    parts = {
        "live": numbers["live"],
        "front_end": numbers["tcmalloc.thread_cache_free_bytes"],
        "transfer": numbers["tcmalloc.transfer_cache_free_bytes"],
        # The library's number for the central lists holds the tails of their spans.
        "central": numbers["tcmalloc.central_cache_free_bytes"] - tail,
        "tail": tail,
        "page_heap": numbers["tcmalloc.pageheap_free_bytes"],
        "released": numbers["tcmalloc.pageheap_unmapped_bytes"],
    }
    mapped = numbers["generic.heap_size"]
    return Footprint(**parts, runtime=mapped - sum(parts.values()), mapped=mapped)


def jemalloc(numbers: Numbers, _: str, runtime: int) -> Footprint:
    """Return the footprint of mallctl's stats: active pages, dirty ones, and what is retained unmapped."""
    live = numbers["live"]
    page = numbers["arenas.page"]
    unused = numbers["stats.arenas.4096.pdirty"] * page
    given_back = numbers["stats.arenas.4096.pmuzzy"] * page + numbers["stats.retained"]
    front_end = numbers.get("stats.arenas.4096.tcache_bytes")
    active = numbers["stats.active"]
    return Footprint(
        live=live,
        front_end=front_end,
        central=None if front_end is None else active - live - front_end - runtime,
        page_heap=unused,
        released=given_back,
        runtime=runtime,
        mapped=active + unused + given_back,
        metadata=numbers["stats.metadata"],
    )


def mimalloc(numbers: Numbers, _: str, __: int) -> Footprint:
    """Return the footprint of mi_process_info(): committed bytes, and what the kernel has mapped beyond."""
    return Footprint(
        live=numbers["live"],
        dead=0,
        front_end=None,
        transfer=0,
        central=None,
        tail=None,
        page_heap=None,
        released=max(numbers["mapped"] - numbers["current_commit"], 0),
        runtime=None,
        mapped=max(numbers["mapped"], numbers["current_commit"]),
    )


def unknown(numbers: Numbers, _: str, __: int) -> Footprint:
    """Return what can be known of any library: its blocks' sizes, if told, and the kernel's count."""
    return Footprint(
        live=numbers.get("live"),
        front_end=None,
        transfer=None,
        central=None,
        tail=None,
        page_heap=None,
        released=None,
        runtime=None,
        mapped=numbers["mapped"],
    )


READERS: dict[str, Reader] = {
    "glibc": glibc,
    "tcmalloc": tcmalloc,
    "jemalloc": jemalloc,
    "mimalloc": mimalloc,
    "unknown": unknown,
}


def _cached_bytes(numbers: Numbers) -> int:
    return (
        numbers["tcmalloc.thread_cache_free_bytes"]
        + numbers["tcmalloc.transfer_cache_free_bytes"]
        + numbers["tcmalloc.central_cache_free_bytes"]
    )
