"""TCMalloc as gperftools builds it: thread caches, transfer cache, central free lists, page heap."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from harness.allocator import Bytes, NativeAllocator
from harness.errors import AllocatorError
from harness.explanation import Explanation

from . import explanation, statistics
from ._tcmalloc import Options as _Options
from ._tcmalloc import Tcmalloc as _Tcmalloc

# MallocExtension::ReleaseFreeMemory() is ReleaseToSystem() with this many bytes.
_ALL_BYTES = (1 << 63) - 1

# What the library can be configured with (configure --with-tcmalloc-pagesize).
_PAGE_SIZES = tuple(Bytes(kib << 10) for kib in (4, 8, 16, 32, 64, 128, 256))

# The C++ numbers of Touch, which off does not have.
_TOUCHES = {"none": 0, "first": 1, "whole": 2}

_DEFAULT_PAGE_BYTES = 8 << 10

_OLDEST_MINOR, _NEWEST_MINOR = 10, 18

# What the library does where nobody has set TCMALLOC_TRANSFER_NUM_OBJ (gperftools 2.10, common.h:
# kDefaultTransferNumObjecs).
_INSTALLED_TRANSFER_NUM_OBJECTS = 32

# What like=installed takes from the library.
_FROM_THE_LIBRARY = {"version": "2.18", "page_size": 8 << 10, "alignment": 16, "transfer_num_objects": 512}

# A heap's address on x86-64 Linux: above the first metadata chunk, and room for the heap to grow.
_LOWEST_HEAP_BASE = 1 << 24
_HEAP_BASE_LIMIT = 1 << 47

# The break of a small program without address randomisation, and 8 MiB of metadata above it.
_HEAP_BASE = 0x5555_55D6_2000


class Tcmalloc(NativeAllocator):
    """gperftools' TCMalloc: size classes, thread caches, transfer cache, central free lists, page heap."""

    WASTE_REMEDIES: ClassVar[Mapping[str, str]] = {
        "rounding": "`harness explain SIZE` says which size would fit its slot; classes lie closer together "
        "with tcmalloc:alignment=8",
        "front_end": "less stays with threads that free it with a lower bound "
        "(tcmalloc:max_total_thread_cache_bytes=8MiB)",
        "transfer": "smaller batches keep less (tcmalloc:transfer_num_objects=32)",
        "central": "a span stays for any object left in it, and no object moves: smaller spans pin less "
        "(tcmalloc:page_size=4KiB)",
        "tail": "other pages make other spans (tcmalloc:page_size=32KiB)",
        "page_heap": "it gives pages back one span at a time: faster with tcmalloc:release_rate=10, at once "
        "with tcmalloc:aggressive_decommit=true",
        "runtime": "libstdc++'s emergency pool, which the first allocation of a C++ program makes",
    }

    def __init__(
        self,
        *,
        like: Literal["options", "installed"] = "options",
        version: Literal["2.10", "2.11", "2.12", "2.13", "2.14", "2.15", "2.16", "2.17", "2.18"] = "2.18",
        page_size: Bytes = Bytes(8 << 10),
        alignment: Literal[8, 16] = 16,
        transfer_num_objects: int = 512,
        start: Literal["process", "bare"] = "process",
        release_rate: float = 1.0,
        max_total_thread_cache_bytes: Bytes = Bytes(32 << 20),
        aggressive_decommit: bool = False,
        touch: Literal["off", "none", "first", "whole"] = "off",
        heap_limit_mb: int = 0,
        heap_base: int = _HEAP_BASE,
    ) -> None:
        if like == "installed":
            given = {
                "version": version,
                "page_size": page_size,
                "alignment": alignment,
                "transfer_num_objects": transfer_num_objects,
            }
            if given != _FROM_THE_LIBRARY:
                names = ", ".join(_FROM_THE_LIBRARY)
                raise AllocatorError(f"tcmalloc: like=installed says already what these are: {names}")
            installed = like_installed()
            release: str = installed["version"]
            page_size, alignment = installed["page_size"], installed["alignment"]
            transfer_num_objects = installed["transfer_num_objects"]
        else:
            release = version
        if page_size not in _PAGE_SIZES:
            sizes = ", ".join(f"{size >> 10}KiB" for size in _PAGE_SIZES)
            raise AllocatorError(f"tcmalloc: page_size={page_size} is none of {sizes}")
        _check("transfer_num_objects", transfer_num_objects, 1, (1 << 31) - 1)
        _check("max_total_thread_cache_bytes", max_total_thread_cache_bytes, 0, _ALL_BYTES)
        _check("heap_limit_mb", heap_limit_mb, 0, 1 << 27)
        _check("heap_base", heap_base, _LOWEST_HEAP_BASE, _HEAP_BASE_LIMIT)
        if heap_base % min(page_size, _DEFAULT_PAGE_BYTES):
            multiple = min(page_size, _DEFAULT_PAGE_BYTES)
            raise AllocatorError(f"tcmalloc: heap_base={heap_base} is no multiple of {multiple}")
        _check_rate(release_rate)
        options = _Options()
        options.minor = int(release.removeprefix("2."))
        options.page_shift = page_size.bit_length() - 1
        options.min_alignment = alignment
        options.transfer_num_objects = transfer_num_objects
        options.starts_as_process = start == "process"
        options.release_rate = release_rate
        options.max_total_thread_cache_bytes = max_total_thread_cache_bytes
        options.aggressive_decommit = aggressive_decommit
        options.counts_touched_pages = touch != "off"
        options.touch = _TOUCHES.get(touch, 0)
        options.heap_limit_mb = heap_limit_mb
        # Pages are aligned: with larger ones the library leaves a gap below its first.
        options.heap_base = -(-heap_base // page_size) * page_size
        self._fresh = partial(_Tcmalloc, options=options)
        super().__init__(self._fresh())
        self.version = f"gperftools {release}"
        self._page_bytes = page_size
        self._starts_as_process = start == "process"
        self._has_minimum_property = options.minor >= 16

    def release_to_system(self, size_bytes: int) -> None:
        """Return at least so many free bytes to the operating system (MallocExtension::ReleaseToSystem)."""
        _check("release_to_system", size_bytes, 0, _ALL_BYTES)
        self.native.release_to_system(size_bytes)

    def release_free_memory(self) -> None:
        """Return all free spans to the operating system (MallocExtension::ReleaseFreeMemory)."""
        self.native.release_to_system(_ALL_BYTES)

    def mark_thread_idle(self, thread: int) -> None:
        """Empty and delete a thread's cache (MallocExtension::MarkThreadIdle)."""
        _check("thread", thread, 0, 65_535)
        self.native.mark_thread_idle(thread)

    def mark_thread_temporarily_idle(self, thread: int) -> None:
        """Empty a thread's cache, and from 2.11 on delete it (MallocExtension::MarkThreadTemporarilyIdle)."""
        _check("thread", thread, 0, 65_535)
        self.native.mark_thread_temporarily_idle(thread)

    def start_thread(self, vector_bytes: int) -> None:
        """Start a thread from the main thread, where glibc callocs a vector of so many bytes for it."""
        _check("vector_bytes", vector_bytes, 0, _ALL_BYTES)
        self.native.start_thread(vector_bytes)

    def set_release_rate(self, rate: float) -> None:
        """Set how eagerly free pages go back to the operating system, 0 for never."""
        _check_rate(rate)
        self.native.set_release_rate(rate)

    def set_property(self, name: str, value: int) -> None:
        """Set a numeric property by the library's name, with or without ``tcmalloc.`` in front.

        AllocatorError where this version has no such property or the value is negative.
        """
        setters = {
            "max_total_thread_cache_bytes": self.native.set_max_total_thread_cache_bytes,
            "aggressive_memory_decommit": lambda on: self.native.set_aggressive_memory_decommit(bool(on)),
            "heap_limit_mb": self.native.set_heap_limit_mb,
        }
        if self._has_minimum_property:
            setters["min_per_thread_cache_bytes"] = self.native.set_min_per_thread_cache_bytes
        short_name = name.removeprefix("tcmalloc.")
        if short_name not in setters:
            raise AllocatorError(
                f"{self.version} has no property {name!r} to set; it has {', '.join(sorted(setters))}"
            )
        _check(short_name, value, 0, _ALL_BYTES)
        setters[short_name](value)

    def properties(self) -> dict[str, int]:
        """Return the library's numeric properties by its own names, bytes and counts."""
        properties: dict[str, int] = self.native.properties()
        return properties

    def free_list_sizes(self) -> dict[tuple[str, int], int]:
        """Return the bytes of each list that is not empty, by type and largest object (GetFreeListSizes)."""
        return statistics.free_list_sizes(self.native, self._page_bytes)

    def ranges(self) -> NDArray[Any]:
        """Return every span of the heap as a row of statistics.RANGE (MallocExtension::Ranges)."""
        return statistics.ranges(self.native)

    def stats_text(self) -> str:
        """Return the text that the library's MallocExtension::GetStats would write."""
        return statistics.stats_text(self.native, self._page_bytes)

    def touched_resident_bytes(self) -> int:
        """Return the bytes of the heap's pages that the process has touched and not given back.

        AllocatorError with touch=off, which does not count them.
        """
        touched: int | None = self.native.touched_resident_bytes()
        if touched is None:
            raise AllocatorError("tcmalloc: touch=off counts no pages; say which bytes the program touches")
        return touched

    def size_classes(self) -> list[dict[str, int | float]]:
        """Return one row per size class from 1 on.

        ``max_waste`` is the share of a span that is lost when each of its objects asked for one byte more
        than the class below holds; ``batch_objects`` travel between the tiers at once.
        """
        rows: list[dict[str, int | float]] = []
        below_bytes = 0
        for number, each in enumerate(self.native.size_classes()):
            if number > 0:
                rows.append(_size_class(number, each, below_bytes))
            below_bytes = each.object_bytes
        return rows

    def explain(self, size: int, *, alignment: int, noscan: bool) -> Explanation:
        """Return what becomes of a request, as fresh models with these options serve it."""
        return explanation.explain(
            self._fresh,
            page_bytes=self._page_bytes,
            starts_as_process=self._starts_as_process,
            size=size,
            alignment=alignment,
        )


def modelled_release(version: str) -> str:
    """Return the release that models a library of this version; AllocatorError for one older than 2.10.

    A release newer than the model is held against the newest that it knows.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < (2, _OLDEST_MINOR):
        raise AllocatorError(
            f"this library is gperftools {version}; the model knows 2.{_OLDEST_MINOR} and later"
        )
    return f"2.{min(minor, _NEWEST_MINOR) if major == 2 else _NEWEST_MINOR}"


def like_installed() -> dict[str, Any]:
    """Return the options of a model that is to do what the installed library does by itself.

    AllocatorError where none is installed, or one older than the model.
    """
    from allocators.library import about_tcmalloc

    about = about_tcmalloc()
    return {
        "version": modelled_release(about.version.split()[-1]),
        "page_size": Bytes(about.page_size),
        "alignment": about.alignment,
        "transfer_num_objects": _INSTALLED_TRANSFER_NUM_OBJECTS,
    }


def _size_class(number: int, each: Any, below_bytes: int) -> dict[str, int | float]:
    return {
        "class": number,
        "object_bytes": each.object_bytes,
        "span_bytes": each.span_bytes,
        "objects": each.span_objects,
        "tail_waste_bytes": each.tail_waste_bytes,
        "max_waste": 1 - each.span_objects * (below_bytes + 1) / each.span_bytes,
        "batch_objects": each.batch_objects,
        "transfer_slots": each.transfer_slots,
        "transfer_slots_max": each.transfer_slots_max,
    }


def _check(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise AllocatorError(f"tcmalloc: {name}={value} lies outside {lowest} to {highest}")


def _check_rate(rate: float) -> None:
    if not 0 <= rate < math.inf:
        raise AllocatorError(f"tcmalloc: release_rate={rate} is no rate; it takes a finite number from 0 on")
