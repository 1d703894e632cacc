"""What becomes of one allocation on Go's heap: Go.explain(), in numbers that the model gives and in words.

Above the model: asks fresh ones for objects and reads where they went (harness/probe.py). Functions are named
as in Go's own source, package runtime; a test looks each of them up there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.errors import AllocatorError
from harness.explanation import Explanation, Number, Path, Step, counted, number
from harness.probe import (
    CENTRAL_LIST,
    FRONT_END,
    NEW_OS_MEMORY,
    PAGE_HEAP,
    Outcome,
    Probe,
    habits,
    neighbours,
)
from harness.report import percent_text

from ._go import span_reserve_bytes
from .snapshot import PAGE_BYTES

# A pointer; types that hold some are multiples of it (cmd/compile: types.CalcSize).
_WORD_BYTES = 8

# So many spans are filled to see how a growing heap is served: each begins with a refill, and together they
# stay below the first collection of a heap with Go's defaults.
_SPANS = 8
# The same for objects with a span of their own.
_LARGE_OBJECTS = 8
# So many tiny objects, of any size, fill whole blocks: a multiple of every number that shares one.
_TINY_OBJECTS = 240

# malloc.go, 1.24: mallocgc was split into a function for each kind of object.
_SPLIT_MINOR = 24


@dataclass(frozen=True)
class _Object:
    """One object as a fresh model placed it; sizes in bytes, `slots` in a span, `span_class` Go's number."""

    size: int
    alignment: int
    noscan: bool
    words: int  # The size as Go's types have it.
    rounded: int  # And as the alignment has it.
    slot: int
    header: int
    span_class: int
    span_pages: int
    slots: int
    reserve: int  # At the end of the span, for the collector.
    objects_per_slot: int
    is_tiny: bool
    is_large: bool
    uses_page_cache: bool

    @property
    def size_class(self) -> int:
        return self.span_class // 2

    @property
    def span(self) -> int:
        return self.span_pages * PAGE_BYTES

    @property
    def tail(self) -> int:
        return self.span - self.slots * self.slot

    @property
    def asked_of_slot(self) -> int:
        return self.size * self.objects_per_slot


def explain(
    fresh: Callable[[], Any], *, minor: int, greentea: bool, size: int, alignment: int, noscan: bool
) -> Explanation:
    """Return what becomes of a request; `fresh` makes the native model, `minor` is that of Go 1.`minor`.

    AllocatorError where the heap has no room for it.
    """
    probe = partial(_probe, fresh, alignment=alignment, noscan=noscan)
    native = fresh()
    first = Probe(native, size, alignment=alignment, noscan=noscan).allocate()
    if not first.allocations:
        raise AllocatorError(
            f"go: the model's heap has no room for an object of {size} bytes; ask for a smaller one"
        )
    near = neighbours(lambda asked: probe(asked).allocate(), _alike, size, first.parts["live"])
    if size == 0:
        return _nothing(near)
    (address,) = first.addresses
    assert address is not None
    base, span_class, span_pages, slots = _span_of(native, address)
    is_tiny, is_large = _is_tiny(first), first.counters["large_allocations"] > 0
    # Enough for a span beside the first; tiny ones in whole blocks.
    later = probe(size).allocate(
        _LARGE_OBJECTS if is_large else slots * _TINY_OBJECTS if is_tiny else slots + 1
    )
    words = size if noscan else _multiple(size, _WORD_BYTES)
    found = _Object(
        size=size,
        alignment=alignment,
        noscan=noscan,
        words=words,
        rounded=_multiple(words, alignment) if alignment > _WORD_BYTES else words,
        slot=first.parts["live"],
        # In a tiny block other objects may stand before it.
        header=0 if is_tiny else (address - base) % first.parts["live"],
        span_class=span_class,
        span_pages=span_pages,
        slots=slots,
        reserve=span_reserve_bytes(span_class, greentea),
        objects_per_slot=later.allocations // later.counters["tiny_blocks"] if is_tiny else 1,
        is_tiny=is_tiny,
        is_large=is_large,
        uses_page_cache=later.counters["page_cache_refills"] > 0,
    )
    used = habits(
        partial(probe, size),
        warm_up_objects=0,
        objects=_LARGE_OBJECTS if is_large else _SPANS * slots * found.objects_per_slot,
        objects_per_slot=found.objects_per_slot,
    )
    values = {each.name: each.value for each in used}
    return Explanation(
        (*_sizes(found), *used, *near),
        (
            Path("an allocation", tuple(_allocation(found, values, minor))),
            Path("a free", tuple(_free(found, values))),
        ),
    )


def _probe(fresh: Callable[[], Any], size: int, *, alignment: int, noscan: bool) -> Probe:
    return Probe(fresh(), size, alignment=alignment, noscan=noscan)


def _span_of(native: Any, address: int) -> tuple[int, int, int, int]:
    """Return base, span class, pages and slots of the span in which an address lies."""
    spans = native.spans()
    ends = spans["base"] + spans["pages"] * PAGE_BYTES
    (at,) = ((spans["base"] <= address) & (address < ends)).nonzero()[0].tolist()
    base, span_class, pages, slots = (
        int(spans[name][at]) for name in ("base", "span_class", "pages", "nelems")
    )
    return base, span_class, pages, slots


def _is_tiny(outcome: Outcome) -> bool:
    return outcome.counters["tiny_blocks"] + outcome.counters["tiny_allocs"] > 0


def _alike(outcome: Outcome) -> object:
    """What two sizes that have the same slots have in common."""
    is_large = outcome.counters["large_allocations"]
    return outcome.size_class, outcome.parts["live"], _is_tiny(outcome), is_large


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of


def _sizes(found: _Object) -> list[Number]:
    unused = found.slot - found.asked_of_slot
    return [
        number("requested_bytes", found.size),
        number("rounded_bytes", found.rounded),
        number("size_class", None if found.is_large else found.size_class),
        number("span_class", found.span_class),
        number("slot_bytes", found.slot),
        number("header_bytes", found.header),
        number("objects_per_slot", found.objects_per_slot),
        number("unused_bytes", unused),
        number("internal_fragmentation", unused / found.slot),
        number("span_bytes", found.span),
        number("span_pages", found.span_pages),
        number("page_bytes", PAGE_BYTES),
        number("slots_per_span", found.slots),
        number("tail_bytes", found.tail),
        number("span_metadata_bytes", found.reserve),
        number("full_span_waste", 1 - found.slots * found.asked_of_slot / found.span),
        number("shares_slot", found.is_tiny),
        number("owns_span", found.is_large),
        number("batch_objects", found.slots * found.objects_per_slot),
        number("first_refill_objects", found.slots * found.objects_per_slot),
    ]


def _nothing(near: list[Number]) -> Explanation:
    names = ("requested_bytes", "rounded_bytes", "slot_bytes", "header_bytes", "unused_bytes")
    step = Step(
        ("mallocgc",),
        "gives every object of 0 bytes the same address, that of the variable zerobase: it takes no "
        "memory, and there is nothing to free.",
    )
    flags = (number("shares_slot", False), number("owns_span", False))
    return Explanation(
        (*(number(name, 0) for name in names), *flags, *near), (Path("an allocation", (step,)),)
    )


def _allocation(found: _Object, values: dict[str, Any], minor: int) -> list[Step]:
    steps = [Step(("mallocgc",), _asked(found))]
    if found.is_large:
        steps.append(
            Step(
                (*_split("mallocgcLarge", minor), "mcache.allocLarge"),
                "finds no class for so much: the object has a span of its own, of whole pages. No cache "
                "stands between, and each such allocation asks the page heap.",
            )
        )
        steps += _pages(found, values, "mheap.alloc", "mheap.allocSpan")
    else:
        steps.append(_class_step(found, minor))
        steps += _cached(found, values)
        steps += _pages(found, values, "mcentral.grow", "mheap.alloc", "mheap.allocSpan")
    when = "each large object" if found.is_large else "every allocation that needed another span"
    steps.append(
        Step(
            ("gcTrigger.test", "gcStart"),
            f"after {when}, compares the heap with the collector's trigger and starts a cycle if it is "
            "reached.",
        )
    )
    return steps


def _asked(found: _Object) -> str:
    kind = "without pointers (noscan)" if found.noscan else "that may hold pointers (scan)"
    said = [f"is asked for {counted(found.size, 'byte')} {kind}."]
    if found.words != found.size:
        said.append(
            f"Go's types with pointers are whole words of {_WORD_BYTES} bytes, so a C program's "
            f"{found.size:,} become {found.words:,}."
        )
    if found.alignment > _WORD_BYTES:
        said.append(
            "Go has no aligned allocation; a multiple of the alignment stands for it: "
            f"{counted(found.rounded, 'byte')}."
        )
    return " ".join(said)


def _class_step(found: _Object, minor: int) -> Step:
    in_class = f"size class {found.size_class}, slots of {counted(found.slot, 'byte')}"
    if found.is_tiny:
        room = "one of this size fits, with smaller ones behind it"
        if found.objects_per_slot > 1:
            room = (
                f"{found.objects_per_slot} of this size fit, so one in {found.objects_per_slot} takes a slot"
            )
        return Step(
            _split("mallocgcTiny", minor),
            f"puts objects without pointers of less than {found.slot} bytes one behind the other into a "
            f"block of {found.slot} ({in_class}): {room}. The block is free again when all of them are dead.",
        )
    plus = " + 1" if found.noscan else ""
    spans = (
        f"Objects with pointers and those without have spans apart: this is span class {found.span_class} "
        f"(2 x {found.size_class}{plus})."
    )
    if found.noscan:
        return Step(
            _split("mallocgcSmallNoscan", minor),
            f"finds the smallest class that holds them: {in_class}. {spans}",
        )
    if found.header:
        return Step(
            _split("mallocgcSmallScanHeader", minor),
            f"puts a header of {found.header} bytes before the object, a pointer to its type, by which the "
            f"collector finds the pointers in it, and takes the smallest class for {found.rounded:,} + "
            f"{found.header}: {in_class}. {spans}",
        )
    marks = (
        ""
        if found.reserve == _bitmap(found)
        else f", and {found.reserve - _bitmap(found)} more its mark bits"
    )
    return Step(
        _split("mallocgcSmallScanNoHeader", minor),
        f"finds the smallest class that holds them: {in_class}. {spans} Which words are pointers stands in "
        f"a bitmap at the end of the span, which takes {_bitmap(found)} bytes of it{marks}.",
    )


def _bitmap(found: _Object) -> int:
    """Return the bytes of a pointer bitmap, a bit a word (mspan.heapBits)."""
    return found.span // _WORD_BYTES // 8


def _cached(found: _Object, values: dict[str, Any]) -> list[Step]:
    grows, steady = values["growing_front_end_share"], values["steady_front_end_share"]
    shares = (
        ""
        if grows is None
        else f" {percent_text(grows)} of allocations need no more than this while nothing dies"
    )
    shares += "" if steady is None else f", {percent_text(steady)} where half had died and was collected"
    full = "slot is" if found.slots == 1 else f"{found.slots:,} slots are"
    return [
        Step(
            ("nextFreeFast",),
            "takes the lowest free slot of the span that the P keeps for this span class. A P is what a "
            "thread must hold to run Go code; nobody else uses its cache (mcache), so no lock is "
            f"taken.{shares}.",
            FRONT_END,
        ),
        Step(
            ("mcache.nextFree", "mcache.refill"),
            f"changes the span once its {full} taken: the full one goes to its central list (mcentral, one "
            "for each span class), and another comes, whole.",
        ),
        Step(
            ("mcentral.cacheSpan",),
            "gives a span with free slots, which a collection has left; if need be it sweeps one first "
            "(below).",
            CENTRAL_LIST,
        ),
    ]


def _pages(found: _Object, values: dict[str, Any], *functions: str) -> list[Step]:
    pages = f"{counted(found.span_pages, 'page')} of {counted(PAGE_BYTES, 'byte')}"
    how = "from the lowest run of free pages that is long enough (pageAlloc.alloc)"
    if found.uses_page_cache:
        how = f"from those that the P has set aside for itself (pageCache.alloc), else {how}"
    cut = ""
    if not found.is_large:
        cut = f", cut into {counted(found.slots, 'slot')} {_left_over(found.tail)}"
    grown = values["first_os_bytes"]
    return [
        Step(functions, f"takes {pages} for a span{cut}: {how}.", PAGE_HEAP),
        Step(
            ("mheap.grow",),
            "gets address space from the operating system where no run is long enough"
            + (f", {counted(grown, 'byte')} the first time" if grown else "")
            + "; what no span has used of it takes no memory yet.",
            NEW_OS_MEMORY,
        ),
    ]


def _free(found: _Object, values: dict[str, Any]) -> list[Step]:
    what = "block" if found.is_tiny else "span" if found.is_large else "slot"
    looked = "does not look into this one" if found.noscan else "follows the pointers in it"
    steps = [
        Step(
            (),
            "There is no free: when the program loses its last pointer to the object, nothing happens. Its "
            f"{what} stays taken until a collection{_again(values)}.",
        ),
        Step(
            ("gcStart", "gcDrain"),
            f"marks, beside the program, every object that can be reached, and {looked}.",
        ),
    ]
    if found.is_large:
        sweep = Step(
            ("sweepLocked.sweep", "mheap.freeSpan"),
            "gives the span of an unmarked object back to the page heap.",
        )
    else:
        sweep = Step(
            ("sweepLocked.sweep", "mheap.freeSpan"),
            f"frees all unmarked {what}s of a span at once. A span in which nothing is marked goes back to "
            "the page heap, any other to its central list, where mcentral.cacheSpan finds it.",
        )
    give_back = (
        "gives free pages back to the operating system, a few at a time, if there are more than the goal."
    )
    return [*steps, sweep, Step(("bgscavenge",), give_back)]


def _again(values: dict[str, Any]) -> str:
    return "" if values["is_reused_at_once"] else ", and the next allocation takes another"


def _split(name: str, minor: int) -> tuple[str, ...]:
    return (name if minor >= _SPLIT_MINOR else "mallocgc",)


def _left_over(tail_bytes: int) -> str:
    return f"with {counted(tail_bytes, 'byte')} left over" if tail_bytes else "with nothing left over"
