"""Divides a run's waste at its peak among the lines of the program, or the types, that its objects are of.

An object pays for what its slot has beyond the request, and for its share of what its span cannot give back
while it is there: free slots and tail, divided among the span's objects. What no object is to blame for
stands beside them, and all together is the run's waste_bytes, to the byte. Where nobody knows what was asked
for, rounding is None, and all together is what is committed beyond the objects' slots. Needs a trace with
sites; nothing here prints: blame_report.py makes tables of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.allocator import ALLOC, CALLOC, REALLOC, EventBatch, Spec
from harness.census import Census
from harness.errors import AllocatorError, HarnessError
from harness.metrics import ratio
from harness.replay import Settings, replay, survey
from harness.results import Run, TraceRuns
from harness.sites import BY_FRAME, Sites, Stack, blamed, decode, key_of
from harness.trace import BATCH_EVENTS, Progress, TraceReader, unnoticed
from harness.waste import outside_classes

BY = (*BY_FRAME, "type")

# What no live object keeps: the cause, as a table heads it.
NOBODY: Mapping[str, str] = {
    "dead": "garbage that no sweep has reached",
    "empty": "free slots and tails of spans without an object",
    "page_caches": "free pages in caches of Ps",
    "page_heap": "free pages, not given back",
    "runtime": "the allocator's own process",
}


class Objects(NamedTuple):
    """Live objects as columns of one length, in the order of a census."""

    requested_bytes: NDArray[np.int64]
    site: NDArray[np.int64]
    event: NDArray[np.int64]  # At which each was last asked for.


@dataclass(frozen=True)
class Group:
    """The objects of one line, function, module or type, and what they pay for; in bytes.

    `stack` is the one that wastes most, from the frame to blame outwards; empty for a type, and where nobody
    knows who asked.
    """

    name: str
    stack: Stack
    sites: int
    objects: int
    requested_bytes: int | None
    rounding_bytes: int | None  # Headers included.
    pinned_bytes: int
    share: float | None  # Of the run's whole waste.

    @property
    def waste_bytes(self) -> int:
        """Return rounding and headers, where they are known, with what the group's objects pin."""
        return (self.rounding_bytes or 0) + self.pinned_bytes


@dataclass(frozen=True)
class Blamed:
    """A run's waste at its peak by group, the largest first, and what no object is to blame for, by cause."""

    run: Run
    by: str
    groups: list[Group]
    nobody: dict[str, int]
    waste_bytes: int

    @property
    def nobody_bytes(self) -> int:
        """Return what no object is to blame for."""
        return sum(self.nobody.values())


def blame_trace(
    path: str,
    specs: list[Spec],
    by: str,
    outward: int = 0,
    settings: Settings | None = None,
    progress: Callable[[int], None] = unnoticed,
) -> tuple[TraceRuns, list[Blamed]]:
    """Replay a trace through every allocator, and again up to the peak of each, to see who lives there.

    `by` is one of BY, `outward` how many frames farther out than usual the blame goes. Raises HarnessError
    where the trace does not know its sites, or an allocator not its spans.
    """
    sites = sites_of(path, by)
    settings = settings or Settings()
    result = replay(path, specs, settings, progress)
    found = []
    for spec, run in zip(specs, result.runs, strict=True):
        why = run.failure or "it does not tell what its spans hold"
        refused = AllocatorError(f"{run.label}: its waste has nobody to blame: {why}")
        if run.failure is not None or run.kind != "model" or run.peak_event is None:
            raise refused
        watch = _Watch(path, settings.batch_events, progress)
        (census,) = survey(path, [spec], [run.peak_event + 1], settings, watch=watch)
        if census is None:
            raise refused
        found.append(blame(run, census, watch.objects(census), sites, by, outward))
    return result, found


def sites_of(path: str, by: str) -> Sites:
    """Return a trace's sites; HarnessError where it has none, or no types and these are asked for."""
    if by not in BY:
        raise HarnessError(f"--by {by}: expected {', '.join(BY)}")
    reader = TraceReader(path)
    if "site" not in reader.columns:
        raise HarnessError(
            f"{path}: has no column site, so nobody can be blamed; record it with `harness record --sites`"
        )
    sites = decode(reader.sites, path)
    if by == "type" and sites.types is None:
        raise HarnessError(f"{path}: its sites have no column type; --by site needs none")
    return sites


class _Watch:
    """Looks at every batch up to the peak: what each object asked for last, and where."""

    def __init__(self, path: str, batch_events: int, progress: Progress) -> None:
        self._sites = _site_rows(path, batch_events)
        self._waiting = np.empty(0, np.uint32)
        self._progress = progress
        self._events = 0
        self._requested = np.zeros(1024, np.int64)  # By slot.
        self._site = np.zeros(1024, np.int64)
        self._event = np.zeros(1024, np.int64)

    def __call__(self, batch: EventBatch) -> None:
        """Take note of a batch's allocations."""
        sites = self._next_sites(len(batch.op))
        chosen = np.isin(batch.op, (ALLOC, CALLOC, REALLOC))
        slots = batch.slot[chosen]
        if len(slots):
            self._make_room(int(slots.max()) + 1)
            self._requested[slots] = batch.size[chosen]  # Of a slot used twice the last one stays.
            self._site[slots] = sites[chosen]
            self._event[slots] = self._events + np.flatnonzero(chosen)
        self._events += len(batch.op)
        self._progress(len(batch.op))

    def objects(self, census: Census) -> Objects:
        """Return the objects of a census."""
        if len(census.object_slot):
            self._make_room(int(census.object_slot.max()) + 1)
        slots = census.object_slot
        return Objects(self._requested[slots], self._site[slots], self._event[slots])

    def _next_sites(self, count: int) -> NDArray[np.uint32]:
        while len(self._waiting) < count:
            self._waiting = np.concatenate([self._waiting, next(self._sites)["site"]])
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _make_room(self, slots: int) -> None:
        if slots > len(self._requested):
            more = np.zeros(max(slots, 2 * len(self._requested)) - len(self._requested), np.int64)
            self._requested = np.concatenate([self._requested, more])
            self._site = np.concatenate([self._site, more])
            self._event = np.concatenate([self._event, more])


def _site_rows(path: str, batch_events: int) -> Iterator[dict[str, NDArray[Any]]]:
    return TraceReader(path).raw_batches(max(batch_events, BATCH_EVENTS), ["site"], use_threads=False)


def blame(
    run: Run, census: Census, objects: Objects, sites: Sites, by: str = "site", outward: int = 0
) -> Blamed:
    """Divide the waste of a run's peak, of which the census is, among groups of its objects.

    AllocatorError where the parts do not add up to the run's waste.
    """
    rounding, pinned, nobody = _divide(run, census, objects)
    whole = int(run.summary["waste_bytes"] or 0)
    if not run.knows_requests:
        rounding = np.zeros_like(rounding)
        whole = int((run.summary["peak_committed_bytes"] or 0) - (run.footprint["peak"]["live"] or 0))
    blamed_bytes = int(rounding.sum()) + int(pinned.sum())
    if blamed_bytes + sum(nobody.values()) != whole:
        raise AllocatorError(
            f"{run.label}: objects are to blame for {blamed_bytes} bytes and nobody for "
            f"{sum(nobody.values())}, which is not the waste of {whole}"
        )
    groups = _groups(objects, rounding, pinned, sites, by, outward, whole)
    if not run.knows_requests:
        groups = [replace(group, requested_bytes=None, rounding_bytes=None) for group in groups]
    return Blamed(run, by, groups, {name: held for name, held in nobody.items() if held}, whole)


def _divide(
    run: Run, census: Census, objects: Objects
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
    """Return what each object pays for, rounding and pinned bytes, and what nobody does."""
    spans, span = census.spans, census.object_span.astype(np.int64)
    count = len(spans["bytes"])
    in_span = np.bincount(span, minlength=count)
    rank = _ranks(span, objects.event, in_span)
    live_bytes = spans["live_slots"] * spans["slot_bytes"]

    requested = np.zeros(count, np.int64)
    np.add.at(requested, span, objects.requested_bytes)
    # Several objects may share a slot (Go's tiny ones), and which of them do so is not known: then all of the
    # span's share what is left over. Elsewhere each slot is one object's.
    shares = in_span != spans["live_slots"]
    over = np.where(shares, live_bytes - requested, 0)
    rounding = np.where(
        shares[span],
        _portion(over, in_span)[span] + (rank < _rest(over, in_span)[span]),
        spans["slot_bytes"][span] - objects.requested_bytes,
    )

    # The runtime's own slots keep a span, too.
    free = spans["bytes"] - live_bytes - spans["dead_bytes"] - spans["runtime_bytes"]
    holders = in_span + spans["runtime_slots"]
    pinned = _portion(free, holders)[span] + (rank < _rest(free, holders)[span])

    by_objects = np.zeros(count, np.int64)
    np.add.at(by_objects, span, pinned)
    unpinned = free - by_objects
    outside = outside_classes(run.footprint["peak"], census.classes)
    nobody = {
        "dead": int(spans["dead_bytes"].sum()),
        "empty": int(unpinned[spans["runtime_slots"] == 0].sum()),
        "page_caches": outside["front_end"],
        "page_heap": outside["page_heap"],
        "runtime": outside["runtime"] + int(unpinned[spans["runtime_slots"] > 0].sum()),
    }
    return rounding, pinned, nobody


def _ranks(
    span: NDArray[np.int64], event: NDArray[np.int64], in_span: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return of each object how many of its span are older: who gets what cannot be divided."""
    order = np.lexsort((event, span))
    first = np.cumsum(in_span) - in_span
    rank = np.empty(len(span), np.int64)
    rank[order] = np.arange(len(span)) - first[span[order]]
    return rank


def _portion(total: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    portion: NDArray[np.int64] = total // np.maximum(among, 1)
    return portion


def _rest(total: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    rest: NDArray[np.int64] = total % np.maximum(among, 1)
    return rest


def _groups(
    objects: Objects,
    rounding: NDArray[np.int64],
    pinned: NDArray[np.int64],
    sites: Sites,
    by: str,
    outward: int,
    whole: int,
) -> list[Group]:
    numbers, of_object = np.unique(objects.site, return_inverse=True)
    columns = np.zeros((len(numbers), 4), np.int64)  # Objects, requested, rounding, pinned.
    for at, values in enumerate((np.ones_like(rounding), objects.requested_bytes, rounding, pinned)):
        np.add.at(columns[:, at], of_object, values)
    members: dict[tuple[str, ...], list[int]] = {}
    stacks: list[Stack] = []
    for at, site in enumerate(numbers.tolist()):
        stack = blamed(sites.stack(site), outward)
        stacks.append(() if by == "type" else stack)
        key: tuple[str, ...]
        if by == "type":
            key = (sites.type_of(site) or _UNKNOWN_TYPE,)
        elif stack:
            key = tuple(str(part) for part in key_of(stack[0], by))
        else:
            key = (f"site {site}" if site and not len(sites) else _UNKNOWN_SITE,)
        members.setdefault(key, []).append(at)
    groups = []
    for key, rows in members.items():
        count, requested, over, kept = columns[rows].sum(axis=0).tolist()
        main = max(rows, key=lambda at: (int(columns[at, 2] + columns[at, 3]), -at))
        stack = stacks[main]
        name = str(key_of(stack[0], by)) if stack else key[0]
        groups.append(Group(name, stack, len(rows), count, requested, over, kept, ratio(over + kept, whole)))
    return sorted(groups, key=lambda group: (-group.waste_bytes, group.name))


_UNKNOWN_SITE = "unknown: its stack was not recorded"
_UNKNOWN_TYPE = "unknown: its type was not recorded"
