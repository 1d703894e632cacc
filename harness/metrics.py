"""From footprints and exact sums to the numbers of the table: pure functions, no Arrow, no native code.

R is what the program asked for and still holds, P what the allocator holds committed (mapped - released),
V what it has mapped. A ratio over nothing is None. The four fragmentations are those of Johnstone and Wilson,
"The Memory Fragmentation Problem: Solved?" (1998).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Parts = Mapping[str, int | None]
Number = int | float | None

# The parts that hold no object and stay committed: what an allocator keeps at hand, by tier.
EXTERNAL_PARTS = ("front_end", "transfer", "central", "tail", "page_heap")


def ratio(numerator: Number, denominator: Number) -> float | None:
    """Return numerator / denominator, None where either is unknown or the denominator is 0."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def committed_bytes(parts: Parts) -> int | None:
    """Return P = mapped - released, in bytes."""
    mapped, released = parts["mapped"], parts["released"]
    return None if mapped is None or released is None else mapped - released


def external_waste_bytes(parts: Parts) -> int | None:
    """Return F+T+C+W+H, in bytes: free memory that the allocator keeps, and what spans cannot use."""
    held = [parts[name] for name in EXTERNAL_PARTS]
    return None if any(value is None for value in held) else sum(value for value in held if value is not None)


def internal_waste_bytes(parts: Parts, requested: int | None) -> int | None:
    """Return A - R, in bytes: rounding and headers."""
    live = parts["live"]
    return None if live is None or requested is None else live - requested


# What the summary needs of a backend that has nothing to tell, since it failed.
UNKNOWN_RESULT: Mapping[str, Any] = {
    "committed_sum": None,
    "peak_committed": None,
    "peak_mapped": None,
    "committed_at_peak_requested": None,
    "requested_at_peak_committed": None,
    "failed_allocations": None,
    "counters": {},
}


def at_moment(parts: Parts, requested: int | None, floor_committed: int | None) -> dict[str, Number]:
    """Return the metrics that describe one moment.

    `requested` is R then, `floor_committed` is P of the same allocator before the first event; bytes.
    """
    committed = committed_bytes(parts)
    waste = None if committed is None or requested is None else committed - requested
    above_floor = None if waste is None or floor_committed is None else waste - floor_committed
    internal = internal_waste_bytes(parts, requested)
    return {
        "internal_fragmentation": ratio(internal, parts["live"]),
        "internal_waste_bytes": internal,
        "external_waste_bytes": external_waste_bytes(parts),
        "garbage_bytes": parts["dead"],
        "waste_bytes": waste,
        "overhead": ratio(waste, requested),
        "overhead_above_floor": ratio(above_floor, requested),
        "efficiency": ratio(requested, committed),
    }


def summary(trace: Mapping[str, Any], result: Mapping[str, Any], floor: Parts) -> dict[str, Number]:
    """Return the metrics of a whole run.

    `trace` holds the checked trace's totals, `result` a backend's exact totals, `floor` its footprint before
    the first event. What describes a moment is given at the first event of most committed bytes. A backend
    that can be asked at samples only gives their mean for a sum over events.
    """
    events, peak_requested = trace["events"], trace["peak_requested_bytes"]
    floor_committed = committed_bytes(floor)
    counters: Mapping[str, int] = result["counters"]
    in_place = counters.get("reallocations_in_place", 0)
    mean_requested = ratio(trace["requested_sum"], events)
    resident: Mapping[str, int] = result.get("resident", {})
    timing: Mapping[str, Any] = result.get("timing") or {}
    ns_per_event = {timing.get("kind"): timing.get("ns_per_event")}
    if result["committed_sum"] is None:
        mean_committed: float | None = result.get("mean_committed_bytes")
        fragmentation_mean = ratio(mean_committed, mean_requested)
    else:
        mean_committed = ratio(result["committed_sum"], events)
        fragmentation_mean = ratio(result["committed_sum"], trace["requested_sum"])
    served = trace["allocations"] + trace["reallocations"] - in_place
    return {
        "peak_requested_bytes": peak_requested,
        "peak_committed_bytes": result["peak_committed"],
        "peak_mapped_bytes": result["peak_mapped"],
        "mean_requested_bytes": mean_requested,
        "mean_committed_bytes": mean_committed,
        "end_requested_bytes": trace["end_requested_bytes"],
        "end_committed_bytes": committed_bytes(result["end_footprint"]),
        "floor_committed_bytes": floor_committed,
        "fragmentation_peak_ratio": ratio(result["peak_committed"], peak_requested),
        "fragmentation_mean": fragmentation_mean,
        "fragmentation_at_peak_requested": ratio(result["committed_at_peak_requested"], peak_requested),
        "fragmentation_at_peak_committed": ratio(
            result["peak_committed"], result["requested_at_peak_committed"]
        ),
        **at_moment(result["peak_footprint"], result["requested_at_peak_committed"], floor_committed),
        "remote_free_rate": ratio(trace["remote_frees"], trace["frees"]),
        "front_end_hit_rate": ratio(counters.get("front_end_hits"), served),
        "failed_allocations": result["failed_allocations"],
        "floor_resident_bytes": resident.get("floor"),
        "peak_resident_bytes": resident.get("peak"),
        "end_resident_bytes": resident.get("end"),
        "measured_ns_per_event": ns_per_event.get("measured"),
        "modelled_ns_per_event": ns_per_event.get("modelled"),
    }


def over_samples(samples: Mapping[str, Sequence[int | None]]) -> dict[str, Number]:
    """Return peak and mean of committed bytes over samples, so that a model and a library compare alike."""
    pairs = list(zip(samples["mapped"], samples["released"], strict=True))
    committed = [v - u for v, u in pairs if v is not None and u is not None]
    if not committed or len(committed) < len(pairs):
        return {"peak_committed_bytes": None, "mean_committed_bytes": None}
    return {
        "peak_committed_bytes": max(committed),
        "mean_committed_bytes": sum(committed) / len(committed),
    }


def class_waste_bytes(row: Mapping[str, Any]) -> int:
    """Return what one size class holds beyond what the program asked for of it, in bytes."""
    held = ("live_bytes", "dead_bytes", "front_end_bytes", "transfer_bytes", "central_bytes", "tail_bytes")
    return sum(int(row[name]) for name in held) - int(row["requested_bytes"])


def with_shares(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the classes that were used, each with its waste in bytes and its share of all classes' waste."""
    used = [row for row in classes if row["allocations"] or row["spans"]]
    wastes = [class_waste_bytes(row) for row in used]
    total = sum(wastes)
    return [
        {**row, "rounding_bytes": row["live_bytes"] - row["requested_bytes"] - row["header_bytes"]}
        | {"waste_bytes": waste, "waste_share": ratio(waste, total)}
        for row, waste in zip(used, wastes, strict=True)
    ]
