"""What becomes of one allocation: the numbers and the path in words that a backend's explain() returns.

Beside the contract (allocator.py): explain() is optional there, and found by its presence. Every number has
a name, a unit and a meaning that stand here, so that allocators can be held side by side; a backend may add
numbers of its own. Knows no allocator and prints nothing; explanation_report.py makes text of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from harness.allocator import Spec
from harness.errors import HarnessError

Unit = Literal["bytes", "share", "count", "flag", "text"]
Value = int | float | str | None  # None: there is no such thing, or it cannot be known. A flag is a bool.

# As in a trace (include/harness/check.hpp): x86-64 and arm64 give a process 47 bits of addresses, and the
# column of alignments has 32 bits.
ADDRESS_SPACE_BYTES = 1 << 47
_MOST_ALIGNMENT = 1 << 31


class Meaning(NamedTuple):
    """What a number is: its unit, its heading in a table, and a sentence."""

    unit: Unit
    heading: str
    text: str


# In the order in which an explanation should give them. A heading with a dot belongs to the one above it.
MEANINGS: dict[str, Meaning] = {
    "requested_bytes": Meaning("bytes", "asked for", "what the program asks for"),
    "rounded_bytes": Meaning(
        "bytes", "· rounded to", "the request as its alignment and, in Go, whole words make it"
    ),
    "size_class": Meaning(
        "count", "size class", "the allocator's number of the class; none for a span of its own"
    ),
    "span_class": Meaning(
        "count", "· span class", "Go: twice the size class, and 1 more for objects without pointers"
    ),
    "slot_bytes": Meaning("bytes", "slot", "what is taken for it: its class's size, or all of its own span"),
    "header_bytes": Meaning("bytes", "· header", "bytes of the slot before the object, for the allocator"),
    "objects_per_slot": Meaning(
        "count", "· objects of this size in it", "more than 1 where a slot is shared"
    ),
    "unused_bytes": Meaning(
        "bytes", "· lost to header and rounding", "the slot less what the objects in it asked for"
    ),
    "internal_fragmentation": Meaning("share", "· internal fragmentation", "`unused_bytes` / `slot_bytes`"),
    "span_bytes": Meaning("bytes", "span", "a run of pages that is cut into slots of one class"),
    "span_pages": Meaning("count", "· pages", "`span_bytes` / `page_bytes`"),
    "page_bytes": Meaning("bytes", "· page", "the allocator's own page, whatever the system's is"),
    "slots_per_span": Meaning("count", "· slots", "how many slots a span is cut into"),
    "tail_bytes": Meaning("bytes", "· tail", "what no slot can use, `span_metadata_bytes` included"),
    "span_metadata_bytes": Meaning(
        "bytes", "· of it bitmap and marks", "Go: pointer bitmap and mark bits, for the collector"
    ),
    "full_span_waste": Meaning(
        "share", "· lost of a full span", "header, rounding and tail of a span full of such objects"
    ),
    "shares_slot": Meaning(
        "flag", "shares its slot (tiny allocator)", "whether it is put into a slot together with others"
    ),
    "owns_span": Meaning(
        "flag", "has a span of its own", "whether it is too large, or too aligned, for a class"
    ),
    "batch_objects": Meaning(
        "count",
        "moved between tiers at a time",
        "at most: TCMalloc's `num_objects_to_move`; all objects of a span in Go, which moves spans",
    ),
    "first_refill_objects": Meaning(
        "count", "· the first time", "fewer than later in TCMalloc, which asks for one more each time"
    ),
    "first_tier": Meaning(
        "text",
        "first allocation: served by",
        "the farthest tier that the first allocation of a fresh model asks",
    ),
    "first_os_bytes": Meaning("bytes", "· heap grows for it by", "0 where there was memory enough"),
    "second_tier": Meaning(
        "text", "second allocation: served by", "the same for the next object of this size"
    ),
    "growing_front_end_share": Meaning(
        "share", "nothing dies: front end serves", "the share of allocations that ask no other tier"
    ),
    "growing_other_tier": Meaning("text", "· others are served by", "the tier that most of the others ask"),
    "objects_per_refill": Meaning(
        "count", "· allocations a refill", "allocations / those that ask another tier than the front end"
    ),
    "steady_tier": Meaning(
        "text",
        "half has died: served mostly by",
        "objects of every second slot die, a collection follows, and as many are allocated again: the tier "
        "of most",
    ),
    "steady_front_end_share": Meaning("share", "· front end serves", "of these allocations"),
    "steady_other_tier": Meaning("text", "· others are served by", "of these allocations"),
    "freed_to": Meaning(
        "text", "a freed slot goes to", "who holds the slot when the only object has been freed"
    ),
    "is_reused_at_once": Meaning(
        "flag",
        "· and is the next one given out",
        "whether the next allocation has the freed object's address",
    ),
    "largest_bytes": Meaning(
        "bytes", "largest request for such a slot", "what is served alike, by as large a slot"
    ),
    "next_slot_bytes": Meaning("bytes", "one byte more: slot", "the slot of `largest_bytes` + 1"),
    "next_extra_bytes": Meaning("bytes", "· it costs", "`next_slot_bytes` less `slot_bytes`"),
}


@dataclass(frozen=True)
class Number:
    """A named number with its unit, and its heading in words."""

    name: str
    unit: Unit
    heading: str
    value: Value


def number(name: str, value: Value) -> Number:
    """Return a number of MEANINGS with its value."""
    meaning = MEANINGS[name]
    return Number(name, meaning.unit, meaning.heading, value)


@dataclass(frozen=True)
class Step:
    """One step of a path, in the present tense; `functions` are those of the original that carry it out.

    `tier` is that of probe.TIERS in which it ends, where it may: whoever prints the step can say which
    allocations come as far as this.
    """

    functions: tuple[str, ...]
    text: str
    tier: str | None = None


@dataclass(frozen=True)
class Path:
    """The steps of an allocation or of a free, in their order; `title` says which."""

    title: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Explanation:
    """What an allocator does with one request: ordered numbers, and its paths in words."""

    numbers: tuple[Number, ...]
    paths: tuple[Path, ...]

    def values(self) -> dict[str, Value]:
        """Return the numbers' values by name."""
        return {each.name: each.value for each in self.numbers}


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, for the sentences of steps: 1 byte, 8,192 bytes."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Explains(Protocol):
    """What a backend's class offers that can explain itself."""

    def explain(self, size: int, *, alignment: int, noscan: bool) -> Explanation:
        """Return what becomes of a request of `size` bytes; alignment 0 is the allocator's own choice."""


class Request(NamedTuple):
    """What is to be explained."""

    size: int
    alignment: int
    noscan: bool


class Explained(NamedTuple):
    """One request as one allocator serves it."""

    spec: Spec
    version: str
    request: Request
    explanation: Explanation


def explain(
    specs: Sequence[Spec], sizes: Sequence[int], *, alignment: int = 0, noscan: bool = False
) -> list[Explained]:
    """Return what each allocator does with each size, size by size.

    Every allocator has explain(). HarnessError for a size or an alignment that no program can ask for,
    AllocatorError where an allocator has no memory for the request.
    """
    for size in sizes:
        if not 0 <= size < ADDRESS_SPACE_BYTES:
            raise HarnessError(
                f"explain: a size of {size} bytes; expected 0 or more and less than 2^47, the address space"
            )
    if alignment < 0 or alignment & (alignment - 1) or alignment > _MOST_ALIGNMENT:
        raise HarnessError(
            f"explain: an alignment of {alignment} bytes; expected a power of two, at most 2^31"
        )
    found = []
    for size in sizes:
        for spec in specs:
            made = spec.create()
            # An alignment below 8 is everybody's default, as in a trace.
            request = Request(size, alignment if alignment >= 8 else 0, noscan)
            explanation: Explanation = made.explain(size, alignment=request.alignment, noscan=request.noscan)
            found.append(Explained(spec, made.version, request, explanation))
    return found
