"""One size, asked of a backend again and again: which tiers answer, and who holds the bytes afterwards.

What explain() of a backend measures with. Drives the backend by the contract alone, feed() and result(), and
reads what moved: its counters, its footprint and, where it has them, its classes and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.allocator import ALLOC, FREE, GC, PARTS, EventBatch
from harness.explanation import ADDRESS_SPACE_BYTES, Number, number

# Who holds a byte, in words.
HOLDERS = {
    "live": "the program",
    "dead": "no one: dead until a GC",
    "front_end": "front end",
    "transfer": "transfer cache",
    "central": "central list",
    "tail": "tail",
    "page_heap": "page heap",
    "released": "operating system",
    "runtime": "allocator",
}

FRONT_END = "front end"
TRANSFER_CACHE = "transfer cache"
CENTRAL_LIST = "central list"
PAGE_HEAP = "page heap"
NEW_OS_MEMORY = "new OS memory"

# Tiers, nearest first, by the counters of the allocations that went no farther.
TIERS = {
    FRONT_END: "front_end_hits",
    TRANSFER_CACHE: "refills_from_transfer",
    CENTRAL_LIST: "refills_from_central",
    PAGE_HEAP: "refills_from_new_span",
    NEW_OS_MEMORY: "refills_from_new_os_memory",
}
_LARGE, _LARGE_FROM_OS = "large_allocations", "large_allocations_from_new_os_memory"

# Events that are handed over at a time.
_BATCH_EVENTS = 1 << 16


@dataclass(frozen=True)
class Outcome:
    """What some events changed."""

    allocations: int  # Those that did not fail.
    served: dict[str, int]  # Allocations by the farthest tier that they asked; of TIERS, without zeros.
    counters: dict[str, int]  # What each counter rose by.
    parts: dict[str, int]  # What each part of the footprint grew by, in bytes.
    size_class: int | None  # Of the allocations, where there are any and the backend has classes.
    addresses: list[int | None]  # One an allocation, where the backend has addresses.

    @property
    def tier(self) -> str | None:
        """The tier that served most; the nearer one of two alike."""
        return max(self.served, key=self.served.__getitem__, default=None)

    @property
    def other_tier(self) -> str | None:
        """The tier that served most of what the front end did not."""
        others = {tier: count for tier, count in self.served.items() if tier != FRONT_END}
        return max(others, key=others.__getitem__, default=None)

    @property
    def front_end_share(self) -> float | None:
        """The share of allocations that asked no other tier."""
        return self.served.get(FRONT_END, 0) / self.allocations if self.allocations else None

    @property
    def holder(self) -> str | None:
        """Who holds more than before, in words; none where nobody does."""
        grown = {name: grown for name, grown in self.parts.items() if grown > 0 and name != "live"}
        return HOLDERS[max(grown, key=grown.__getitem__)] if grown else None


class Probe:
    """A backend that is asked for objects of one size, and frees them; `backend` has feed() and result()."""

    def __init__(self, backend: Any, size: int, *, alignment: int, noscan: bool) -> None:
        self._backend = backend
        self._size, self._alignment, self._noscan = size, alignment, noscan
        self._places = hasattr(backend, "record_placements")
        if self._places:
            backend.record_placements(True)
        self._result: dict[str, Any] = backend.result()
        self._next = 0  # Objects are numbered in the order of their allocation.
        self._held_bytes = 0

    def allocate(self, count: int = 1) -> Outcome:
        """Ask for so many objects."""
        first, self._next = self._next, self._next + count
        return self._do(ALLOC, np.arange(first, self._next))

    def free(self, objects: Sequence[int]) -> Outcome:
        """Free these objects, by the number of their allocation."""
        return self._do(FREE, np.array(objects, np.int64))

    def collect(self) -> Outcome:
        """Carry out an explicit collection; nothing happens where there is no collector."""
        return self._do(GC, np.zeros(1, np.int64))

    def _do(self, op: int, objects: Any) -> Outcome:
        before, allocations = self._result, len(objects) if op == ALLOC else 0
        addresses: list[int | None] = []
        for start in range(0, len(objects), _BATCH_EVENTS):
            self._backend.feed(self._batch(op, objects[start : start + _BATCH_EVENTS]), np.zeros(0, np.int64))
            if self._places:
                _, places, has_address = self._backend.take_placements()
                pairs = zip(places.tolist(), has_address.tolist(), strict=True)
                addresses += [place if known else None for place, known in pairs]
        self._result = self._backend.result()
        failed = self._result["failed_allocations"] - before["failed_allocations"]
        counters = _grown(before["counters"], self._result["counters"])
        return Outcome(
            allocations - failed,
            _served(counters),
            counters,
            _grown(before["end_footprint"], self._result["end_footprint"], PARTS),
            _class_of(before["classes"], self._result["classes"]),
            addresses,
        )

    def _batch(self, op: int, objects: Any) -> EventBatch:
        count = len(objects)
        size = 0 if op == GC else self._size
        step = {ALLOC: size, FREE: -size, GC: 0}[op]
        requested = self._held_bytes + step * np.arange(1, count + 1, dtype=np.int64)
        self._held_bytes += step * count
        return EventBatch(
            op=np.full(count, op, np.uint8),
            thread=np.zeros(count, np.uint16),
            slot=objects.astype(np.uint32),
            size=np.full(count, size, np.uint64),
            alignment=np.full(count, self._alignment, np.uint32),
            noscan=np.full(count, self._noscan, np.uint8),
            owner=np.zeros(count, np.uint16),
            time_ns=np.zeros(0, np.int64),
            requested=requested.astype(np.uint64),
        )


def habits(
    fresh: Callable[[], Probe], *, warm_up_objects: int, objects: int, objects_per_slot: int = 1
) -> list[Number]:
    """Return who serves and who takes back, as MEANINGS says, from running probes of fresh backends.

    `warm_up_objects` are allocated before it is looked how a growing heap is served with `objects` more. Then
    of all of them those in every second slot die and, after a collection, as many are allocated again.
    A number is None where the backend has no memory for so many.
    """
    begun = fresh()
    first, second = begun.allocate(), begun.allocate()
    freed_to, is_reused = _reuse(fresh())
    growing = fresh()
    warmed_up = growing.allocate(warm_up_objects) if warm_up_objects else None
    grown = growing.allocate(objects)
    total = warm_up_objects + objects
    steady = None
    if grown.allocations == objects and (warmed_up is None or warmed_up.allocations == warm_up_objects):
        dying = [each for each in range(total) if each // objects_per_slot % 2 == 0]
        growing.free(dying)
        growing.collect()
        again = growing.allocate(len(dying))
        steady = again if again.allocations == len(dying) else None
    refills = grown.allocations - grown.served.get(FRONT_END, 0)
    complete = grown.allocations == objects
    return [
        number("first_tier", first.tier),
        number("first_os_bytes", sum(first.parts.values())),  # By so much the mapped bytes grew.
        number("second_tier", second.tier),
        number("growing_front_end_share", grown.front_end_share if complete else None),
        number("growing_other_tier", grown.other_tier if complete else None),
        number("objects_per_refill", grown.allocations / refills if complete and refills else None),
        number("steady_tier", steady.tier if steady else None),
        number("steady_front_end_share", steady.front_end_share if steady else None),
        number("steady_other_tier", steady.other_tier if steady else None),
        number("freed_to", freed_to),
        number("is_reused_at_once", is_reused),
    ]


def neighbours(
    serve: Callable[[int], Outcome], alike: Callable[[Outcome], object], size: int, slot_bytes: int
) -> list[Number]:
    """Return how far a slot reaches and what one byte more costs.

    `serve` allocates one object of a size on a fresh backend, `alike` returns what is the same of two sizes
    that have the same slots. Slots do not become smaller with the size, and none serves more than it holds.
    """
    wanted = alike(serve(size))
    low, high = size, min(slot_bytes, ADDRESS_SPACE_BYTES - 1)
    while low < high:
        middle = (low + high + 1) // 2
        if alike(serve(middle)) == wanted:
            low = middle
        else:
            high = middle - 1
    more = serve(low + 1) if low + 1 < ADDRESS_SPACE_BYTES else None
    next_slot_bytes = more.parts["live"] if more is not None and more.allocations else None
    return [
        number("largest_bytes", low),
        number("next_slot_bytes", next_slot_bytes),
        number("next_extra_bytes", None if next_slot_bytes is None else next_slot_bytes - slot_bytes),
    ]


def _reuse(probe: Probe) -> tuple[str | None, bool | None]:
    """Return who holds the only object's slot after its free, and whether the next object gets it."""
    taken = probe.allocate()
    freed = probe.free([0])
    again = probe.allocate()
    if not taken.addresses or taken.addresses[0] is None:
        return freed.holder, None
    return freed.holder, again.addresses == taken.addresses


def _grown(before: dict[str, Any], after: dict[str, Any], names: Sequence[str] = ()) -> dict[str, int]:
    return {name: after[name] - (before.get(name) or 0) for name in names or after if after[name] is not None}


def _served(counters: dict[str, int]) -> dict[str, int]:
    served = {tier: counters.get(name, 0) for tier, name in TIERS.items()}
    from_os = counters.get(_LARGE_FROM_OS, 0)
    served[PAGE_HEAP] += counters.get(_LARGE, 0) - from_os
    served[NEW_OS_MEMORY] += from_os
    return {tier: count for tier, count in served.items() if count}


def _class_of(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> int | None:
    earlier = {(row["class"], row["noscan"]): row["allocations"] for row in before}
    for row in after:
        if row["allocations"] > earlier.get((row["class"], row["noscan"]), 0):
            found: int = row["class"]
            return found
    return None
