"""What becomes of one allocation in TCMalloc: Tcmalloc.explain(), in numbers of the model and in words.

Above the model: asks fresh ones for objects and reads where they went (harness/probe.py). Functions are named
as in gperftools' own source: tcmalloc.cc, thread_cache.cc, central_freelist.cc and page_heap.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.errors import AllocatorError
from harness.explanation import Explanation, Number, Path, Step, counted, number
from harness.probe import (
    CENTRAL_LIST,
    FRONT_END,
    NEW_OS_MEMORY,
    PAGE_HEAP,
    TRANSFER_CACHE,
    Outcome,
    Probe,
    habits,
    neighbours,
)
from harness.report import percent_text

# So many batches are asked for to see how a growing heap is served.
_BATCHES = 8
# The same for objects with a span of their own.
_LARGE_OBJECTS = 8
# A list asks for one object, then for two, and so on up to a batch. Where that would take more allocations
# than these, it is looked at before it is over.
_MOST_WARM_UP_OBJECTS = 1 << 18

# Below it an alignment is met by every block (common.h: kAlignment).
_LEAST_ALIGNMENT = 8


@dataclass(frozen=True)
class _Object:
    """One object as a fresh model placed it; sizes in bytes. `entry` is its class's row of the size map."""

    size: int
    alignment: int
    rounded: int
    slot: int
    size_class: int
    page: int
    entry: Any  # None for an object with a span of its own.

    @property
    def span(self) -> int:
        return self.slot if self.entry is None else int(self.entry.span_bytes)

    @property
    def slots(self) -> int:
        return 1 if self.entry is None else int(self.entry.span_objects)

    @property
    def tail(self) -> int:
        return 0 if self.entry is None else int(self.entry.tail_waste_bytes)

    @property
    def batch(self) -> int:
        return 1 if self.entry is None else int(self.entry.batch_objects)


def explain(
    fresh: Callable[[], Any], *, page_bytes: int, starts_as_process: bool, size: int, alignment: int
) -> Explanation:
    """Return what becomes of a request; `fresh` makes the native model.

    AllocatorError where the heap has no room for it.
    """

    def probe(bytes_asked: int = size) -> Probe:
        # A block knows nothing of pointers.
        return Probe(fresh(), bytes_asked, alignment=alignment, noscan=False)

    first = probe().allocate()
    if not first.allocations:
        raise AllocatorError(
            f"tcmalloc: the model's heap has no room for an object of {size} bytes; ask for a smaller one"
        )
    size_class = first.size_class or 0
    found = _Object(
        size=size,
        alignment=alignment,
        rounded=_rounded(size, alignment, page_bytes),
        slot=first.parts["live"],
        size_class=size_class,
        page=page_bytes,
        entry=fresh().size_classes()[size_class] if size_class else None,
    )
    if found.entry is None:
        used = habits(probe, warm_up_objects=0, objects=_LARGE_OBJECTS)
    else:
        warm_up = min(found.batch * (found.batch + 1) // 2, _MOST_WARM_UP_OBJECTS)
        used = habits(probe, warm_up_objects=warm_up, objects=_BATCHES * found.batch)
    first_refill = 1 if found.entry is None else _first_refill_objects(probe())
    near = neighbours(lambda asked: probe(asked).allocate(), _alike, size, found.slot)
    values: dict[str, Any] = {each.name: each.value for each in used}
    values |= {"first_refill_objects": first_refill, "starts_as_process": starts_as_process}
    allocation = _large_allocation(found, values) if found.entry is None else _allocation(found, values)
    free = _large_free() if found.entry is None else _free(found, values)
    return Explanation(
        (*_sizes(found), number("first_refill_objects", first_refill), *used, *near),
        (Path("an allocation", tuple(allocation)), Path("a free", tuple(free))),
    )


def _rounded(size: int, alignment: int, page_bytes: int) -> int:
    """Return the size that is asked of malloc: up to a page, an alignment is met by a multiple of it."""
    if not _LEAST_ALIGNMENT < alignment <= page_bytes:
        return size
    return -(-max(size, 1) // alignment) * alignment


def _first_refill_objects(probe: Probe) -> int | None:
    """Return how many objects come when a list is empty for the first time; None where memory ends before."""
    refilled = 0
    while not refilled:
        outcome = probe.allocate()
        if not outcome.allocations:
            return None
        refilled = outcome.counters["refilled_objects"]
    return refilled


def _alike(outcome: Outcome) -> object:
    """What two sizes that have the same slots have in common."""
    return outcome.size_class, outcome.parts["live"]


def _sizes(found: _Object) -> list[Number]:
    return [
        number("requested_bytes", found.size),
        number("rounded_bytes", found.rounded),
        number("size_class", found.size_class or None),
        number("slot_bytes", found.slot),
        number("header_bytes", 0),
        number("objects_per_slot", 1),
        number("unused_bytes", found.slot - found.size),
        number("internal_fragmentation", (found.slot - found.size) / found.slot),
        number("span_bytes", found.span),
        number("span_pages", found.span // found.page),
        number("page_bytes", found.page),
        number("slots_per_span", found.slots),
        number("tail_bytes", found.tail),
        number("full_span_waste", 1 - found.slots * found.size / found.span),
        number("shares_slot", False),
        number("owns_span", found.entry is None),
        number("batch_objects", found.batch),
    ]


def _allocation(found: _Object, values: dict[str, Any]) -> list[Step]:
    growing, steady = values["growing_front_end_share"], values["steady_front_end_share"]
    shares = (
        ""
        if growing is None
        else f" {percent_text(growing)} of allocations need no more than this while nothing dies"
    )
    shares += "" if steady is None else f", {percent_text(steady)} where half had died"
    between = values["objects_per_refill"]
    come = "" if between is None else f"; {between:,.0f} in fact, while the heap grows"
    slots, most = found.entry.transfer_slots, found.entry.transfer_slots_max
    return [
        Step(
            (*_memalign(found), "do_malloc", "SizeMap::GetSizeClass"),
            f"{_asked(found)} It finds the smallest class that holds them: size class {found.size_class}, "
            f"slots of {counted(found.slot, 'byte')}. There are no headers: the page says of which class a "
            "slot is.",
        ),
        Step(
            ("ThreadCache::Allocate",),
            "takes the first object from the thread's own list of free ones of this class, without a "
            f"lock.{shares}.",
            FRONT_END,
        ),
        Step(
            ("ThreadCache::FetchFromCentralCache",),
            "fetches others when the list is empty, the first for the program and the rest for the list: "
            f"{counted(values['first_refill_objects'] or 1, 'object')} the first time, one more each time, "
            f"at most {found.batch:,} (num_objects_to_move){come}.",
        ),
        Step(
            ("CentralFreeList::RemoveRange",),
            f"gives a batch as some thread gave it back, if exactly {found.batch:,} are wanted: from the "
            f"transfer cache of this class, of {slots:,} batches at first and {most:,} at most. From here "
            "on threads share what is there, under a lock for each class.",
            TRANSFER_CACHE,
        ),
        Step(
            ("CentralFreeList::FetchFromOneSpans",),
            "else takes objects of the span that got one back last; when that has no more, of the next.",
            CENTRAL_LIST,
        ),
        Step(
            ("CentralFreeList::Populate", "PageHeap::New"),
            f"where no span has any, takes {counted(found.span // found.page, 'page')} of "
            f"{counted(found.page, 'byte')} for a span, cut into {counted(found.slots, 'object')} "
            f"{_left_over(found.tail)}: from the shortest run of free pages that is long enough. What it "
            f"does not need of the run stays free.{_start(values)}",
            PAGE_HEAP,
        ),
        _grow(values),
    ]


def _large_allocation(found: _Object, values: dict[str, Any]) -> list[Step]:
    pages = f"{counted(found.span // found.page, 'page')} of {counted(found.page, 'byte')}"
    if found.alignment > found.page:
        begin = Step(
            ("memalign_fast_path", "do_memalign_pages"),
            f"is asked for {counted(found.size, 'byte')} at a multiple of {found.alignment:,}, which is "
            "more than a page: it takes a run that is longer by as much and frees what it does not need "
            "before and behind.",
        )
    else:
        begin = Step(
            (*_memalign(found), "do_malloc", "do_malloc_pages"),
            f"{_asked(found)} It finds no class for so much: the object has a span of its own, of whole "
            "pages. No cache stands between, and each such allocation asks the page heap, under its lock.",
        )
    take = Step(
        ("PageHeap::New",),
        f"takes {pages}: from the shortest run of free pages that is long enough. What it does not need of "
        f"the run stays free.{_start(values)}",
        PAGE_HEAP,
    )
    return [begin, take, _grow(values)]


def _memalign(found: _Object) -> tuple[str, ...]:
    return ("memalign_fast_path",) if found.alignment > _LEAST_ALIGNMENT else ()


def _asked(found: _Object) -> str:
    said = f"is asked for {counted(found.size, 'byte')}."
    if found.alignment > _LEAST_ALIGNMENT:
        said += (
            " A multiple of the alignment has a class whose slots are all aligned so: "
            f"{counted(found.rounded, 'byte')}."
        )
    return said


def _start(values: dict[str, Any]) -> str:
    if values["first_os_bytes"] or not values["starts_as_process"]:
        return ""
    return " A process has some from its start on."


def _grow(values: dict[str, Any]) -> Step:
    taken = values["first_os_bytes"]
    return Step(
        ("PageHeap::GrowHeap", "TCMalloc_SystemAlloc"),
        "gets more from the operating system where no run is long enough"
        + (f", {counted(taken, 'byte')} the first time." if taken else "."),
        NEW_OS_MEMORY,
    )


def _free(found: _Object, values: dict[str, Any]) -> list[Step]:
    again = ", where the next allocation of its class finds it" if values["is_reused_at_once"] else ""
    whole = "its object is" if found.slots == 1 else f"all of its {found.slots:,} objects are"
    return [
        Step(("do_free",), "finds the class in the page map, by the object's page."),
        Step(
            ("ThreadCache::Deallocate",),
            f"puts it first on the list of the thread that frees it, whoever had allocated it{again}. No "
            "lock is taken.",
        ),
        Step(
            ("ThreadCache::ListTooLong", "ThreadCache::Scavenge"),
            f"drops up to {found.batch:,} of a list that has become too long (how long it may be grows as "
            "it is used), and half of what lay idle in each list when the whole cache holds too much.",
        ),
        Step(
            ("CentralFreeList::InsertRange", "CentralFreeList::ReleaseToSpans"),
            f"keeps exactly {found.batch:,} together as a batch, for the next thread that wants as many, "
            "while the transfer cache has room; puts any others back into their spans, one by one.",
        ),
        Step(
            ("PageHeap::Delete",),
            f"takes a span back as soon as {whole} in it again, and joins it with free neighbours.",
        ),
        _release(),
    ]


def _large_free() -> list[Step]:
    return [
        Step(("do_free", "do_free_pages"), "finds in the page map that the object has a span of its own."),
        Step(("PageHeap::Delete",), "takes the span back at once, and joins it with free neighbours."),
        _release(),
    ]


def _release() -> Step:
    return Step(
        ("PageHeap::IncrementalScavenge",),
        "gives a free span back to the operating system now and then, after so many pages were freed.",
    )


def _left_over(tail_bytes: int) -> str:
    return f"with {counted(tail_bytes, 'byte')} left over" if tail_bytes else "with nothing left over"
