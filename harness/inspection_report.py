"""From an inspection to text: facts first, then one table a histogram, in the units that people read.

Computes nothing but shares and bars; the numbers are those of inspection.py, all of them in its JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tabulate

from harness.report import TABULATE, bytes_text, cell_text, count_text, percent_text, prose

if TYPE_CHECKING:
    from harness.inspection import Histogram, Inspection

_BAR_CELLS = 20
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
# Bins below this share of objects and of bytes, all of them together, are one row.
_FOLDED_SHARE = 0.0005
_SHOWN_ELSEWHERE = ("schema", "source", "events")

Value = Callable[[float], str]


def inspection_tables(inspection: Inspection, format: str) -> str:
    """Return the text of an inspection; `format` is table, markdown or json."""
    if format == "json":
        return json.dumps(inspection.as_dict(), indent=1)
    histograms: list[tuple[str, str, Histogram | None, Value]] = [
        ("Sizes of requests", "requests", inspection.sizes_bytes, _size),
        ("Lifetimes in bytes allocated meanwhile", "objects", inspection.lifetimes_bytes, _size),
        ("Lifetimes in events", "objects", inspection.lifetimes_events, count_text),
        ("Lifetimes in time", "objects", inspection.lifetimes_ns, _duration),
    ]
    parts = [
        _heading(inspection.path, format),
        _table(_facts(inspection), ["what it holds", ""], format, ("left", "right")),
        _table(_origin(inspection), ["where it is from", ""], format, ("left", "left")),
    ]
    for title, counted, histogram, value in histograms:
        if histogram is not None and (histogram.bins or histogram.alive_objects):
            parts += [_heading(title, format), _bins(histogram, counted, value, format)]
    return "\n\n".join(parts)


def _facts(inspection: Inspection) -> list[list[str]]:
    rows = [["events", count_text(inspection.events)]]
    rows += [
        [f"events: {kind}", count_text(count)] for kind, count in inspection.events_by_kind.items() if count
    ]
    return [
        *rows,
        ["threads", count_text(inspection.threads)],
        ["frees on another thread", percent_text(inspection.remote_free_share)],
        ["noscan objects", percent_text(inspection.noscan_share)],
        ["time from first to last event", _optional(_duration, inspection.duration_ns)],
        ["requested: all allocations", bytes_text(inspection.allocated_bytes)],
        ["requested: mean over events", bytes_text(inspection.mean_requested_bytes)],
        ["requested: peak", bytes_text(inspection.peak_requested_bytes)],
        ["requested: peak, at event", count_text(inspection.peak_requested_event)],
        ["requested: at the end", bytes_text(inspection.end_requested_bytes)],
        ["live objects: peak", count_text(inspection.peak_live_objects)],
        ["live objects: at the end", count_text(inspection.end_live_objects)],
        ["size: mean", _optional(_size, inspection.mean_size_bytes)],
        ["size: median", _optional(_size, inspection.median_size_bytes)],
        ["size: 90 % at most", _optional(_size, inspection.p90_size_bytes)],
        ["size: 99 % at most", _optional(_size, inspection.p99_size_bytes)],
        ["size: largest", _optional(_size, inspection.largest_size_bytes)],
    ]


def _origin(inspection: Inspection) -> list[list[str]]:
    metadata = inspection.metadata
    source = metadata.get("source")
    rows = [[f"source: {name}", _plain(value)] for name, value in source.items()] if source else []
    rows += [[name, _plain(value)] for name, value in metadata.items() if name not in _SHOWN_ELSEWHERE]
    return [*rows, ["columns", ", ".join(inspection.columns)]]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(_plain(item) for item in value)
    return str(value)


def _bins(histogram: Histogram, counted: str, value: Value, format: str) -> str:
    objects = sum(each.objects for each in histogram.bins) + histogram.alive_objects
    total = sum(each.bytes for each in histogram.bins) + histogram.alive_bytes
    rows: list[tuple[str, int, int]] = []
    below_objects = below_bytes = 0
    for each in histogram.bins:
        below_objects += each.objects
        below_bytes += each.bytes
        if below_objects <= _FOLDED_SHARE * objects and below_bytes <= _FOLDED_SHARE * total:
            rows = [(value(each.highest), below_objects, below_bytes)]
        else:
            rows.append((value(each.highest), each.objects, each.bytes))
    if histogram.alive_objects:
        rows.append(("alive at the end", histogram.alive_objects, histogram.alive_bytes))
    shares = [(count / objects, size / total if total else 0.0) for _, count, size in rows]
    longest = max(max(pair) for pair in shares)
    cells = [
        [
            label,
            count_text(count),
            percent_text(of_objects),
            _bar(of_objects / longest),
            bytes_text(size),
            percent_text(of_bytes),
            _bar(of_bytes / longest),
        ]
        for (label, count, size), (of_objects, of_bytes) in zip(rows, shares, strict=True)
    ]
    headings = ["at most", counted, "share", "", "bytes", "share", ""]
    return _table(cells, headings, format, ("right", "right", "right", "left", "right", "right", "left"))


def _table(cells: list[list[str]], headings: list[str], format: str, align: Sequence[str]) -> str:
    rows = [[cell_text(cell, format) for cell in row] for row in cells]
    return tabulate.tabulate(rows, headings, TABULATE[format], disable_numparse=True, colalign=align)


def _heading(text: str, format: str) -> str:
    return f"### {prose(format, text)}" if format == "markdown" else text


def _bar(share: float) -> str:
    eighths = max(round(share * _BAR_CELLS * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


def _optional(text: Value, value: float | None) -> str:
    return "-" if value is None else text(value)


def _size(value: float) -> str:
    """Return bytes in the unit that people read, without decimals where there are none."""
    size = float(value)
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size == int(size) else f"{size:.2f} {unit}"


def _duration(value: float) -> str:
    """Return nanoseconds in the unit that people read, to three digits."""
    time = float(value)
    for unit in ("ns", "us", "ms"):
        if time < 999.5:
            return f"{time:.3g} {unit}"
        time /= 1000
    return f"{time:,.2f} s"
