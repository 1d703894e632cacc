"""What a trace holds: events, threads, requested bytes, sizes and lifetimes.

Streams the checked trace through native/inspector.hpp, which counts; inspection_report.py prints.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from harness.native._native import Inspector
from harness.trace import Progress, TraceReader, unnoticed


@dataclass(frozen=True)
class Bin:
    """What falls between `lowest` and `highest`, both included: how many objects, and their bytes."""

    lowest: int
    highest: int
    objects: int
    bytes: int


@dataclass(frozen=True)
class Histogram:
    """Bins by powers of two (0, 1, 2, 3-4, 5-8, ...), from the lowest to the highest that holds anything."""

    bins: list[Bin]
    alive_objects: int = 0  # Alive at the end: what is known of them is that they outlived the trace.
    alive_bytes: int = 0


@dataclass(frozen=True)
class Inspection:
    """A trace's numbers; sizes are of requests (alloc, calloc, realloc), lifetimes of objects.

    An object that was reallocated lives on, and weighs what it was last asked to hold.
    """

    path: str
    metadata: dict[str, Any]  # As the file holds it, its source within.
    columns: list[str]
    events: int
    events_by_kind: dict[str, int]
    threads: int
    duration_ns: int | None  # From the first event to the last.
    allocated_bytes: int  # Of all requests together.
    mean_requested_bytes: float | None  # What the program held, over events.
    peak_requested_bytes: int
    peak_requested_event: int
    peak_live_objects: int
    end_requested_bytes: int
    end_live_objects: int
    remote_free_share: float | None  # Frees on a thread other than the allocating one.
    noscan_share: float | None  # Of the objects; None where the trace does not say.
    mean_size_bytes: float | None
    median_size_bytes: int | None
    p90_size_bytes: int | None
    p99_size_bytes: int | None
    largest_size_bytes: int | None
    sizes_bytes: Histogram
    lifetimes_bytes: Histogram  # In bytes that the program allocated meanwhile.
    lifetimes_events: Histogram
    lifetimes_ns: Histogram | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return asdict(self)


def inspect(path: str, progress: Progress = unnoticed) -> Inspection:
    """Read a trace once and count; `progress` is called with the number of events just done.

    Sizes' quantiles are nearest ranks, exact below 64 KiB and within 0.004 % above. Raises TraceError.
    """
    reader = TraceReader(path)
    trace = reader.checked()
    inspector = Inspector()
    for batch in trace:
        inspector.feed(batch)
        progress(len(batch.op))
    totals, counted = trace.totals(), inspector.result()
    requests = totals["allocations"] + totals["reallocations"]
    alive = (totals["end_live_objects"], totals["end_requested_bytes"])
    has_times = "time_ns" in reader.columns
    p50, p90, p99 = (inspector.quantile(rank) if requests else None for rank in (500, 900, 990))
    return Inspection(
        path=path,
        metadata=reader.metadata,
        columns=reader.columns,
        events=totals["events"],
        events_by_kind={
            "alloc": totals["allocations"] - counted["callocs"],
            "calloc": counted["callocs"],
            "realloc": totals["reallocations"],
            "free": totals["frees"],
            "gc": totals["collections"],
            "thread_end": totals["thread_ends"],
        },
        threads=totals["threads"],
        duration_ns=counted["duration_ns"] if has_times and totals["events"] else None,
        allocated_bytes=totals["allocated_bytes"],
        mean_requested_bytes=_ratio(totals["requested_sum"], totals["events"]),
        peak_requested_bytes=totals["peak_requested_bytes"],
        peak_requested_event=totals["peak_requested_event"],
        peak_live_objects=totals["peak_live_objects"],
        end_requested_bytes=totals["end_requested_bytes"],
        end_live_objects=totals["end_live_objects"],
        remote_free_share=_ratio(totals["remote_frees"], totals["frees"]),
        noscan_share=_ratio(counted["noscan_objects"], totals["allocations"]) if reader.has_noscan else None,
        mean_size_bytes=_ratio(totals["allocated_bytes"], requests),
        median_size_bytes=p50,
        p90_size_bytes=p90,
        p99_size_bytes=p99,
        largest_size_bytes=counted["largest_size_bytes"] if requests else None,
        sizes_bytes=_histogram(counted["sizes"]),
        lifetimes_bytes=_histogram(counted["lifetimes_bytes"], *alive),
        lifetimes_events=_histogram(counted["lifetimes_events"], *alive),
        lifetimes_ns=_histogram(counted["lifetimes_ns"], *alive) if has_times else None,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _histogram(counted: tuple[Any, Any], alive_objects: int = 0, alive_bytes: int = 0) -> Histogram:
    objects, sums = (column.tolist() for column in counted)
    held = [index for index, count in enumerate(objects) if count]
    bins = [
        Bin(*_bounds(index), objects[index], sums[index])
        for index in (range(held[0], held[-1] + 1) if held else ())
    ]
    return Histogram(bins, alive_objects, alive_bytes)


def _bounds(index: int) -> tuple[int, int]:
    """Return the lowest and highest value of a bin of native/inspector.hpp."""
    return (index, index) if index < 2 else ((1 << (index - 2)) + 1, 1 << (index - 1))
