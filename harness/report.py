"""From runs to text: tables for the terminal, Markdown, LaTeX and CSV; JSON stands in results.py.

Computes nothing but shares and units; the numbers are those of metrics.py.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import tabulate

from harness import metrics
from harness.results import Environment, Run, TraceRuns

if TYPE_CHECKING:
    from harness.calibration import Calibrated
    from harness.conform import Report

# Formats of a report by the name of tabulate's.
TABULATE = {"table": "simple", "markdown": "github", "latex": "latex_booktabs"}

# What LaTeX and Markdown would take for their own. In Markdown an underscore or a tilde is one's own inside a
# word or alone, so that names of options stay as they are typed.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_MARKDOWN = re.compile(r"[\\`*\[<>&|#]|(?<![^\W_])_|_(?![^\W_])|~(?=\S)|(?<=\S)~")
_LATEX = str.maketrans(tabulate.LATEX_ESCAPE_RULES)

_NOTHING = "-"
_BARS, _BARS_OF_A_TRACE = "▁▂▃▄▅▆▇█", 24
_CLASSES_SHOWN = 8

Cell = Callable[[Any], str]


def bytes_text(value: float | None) -> str:
    """Return a number of bytes in the unit that people read."""
    if value is None:
        return _NOTHING
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"


def percent_text(value: float | None) -> str:
    """Return a fraction as a percentage."""
    return _NOTHING if value is None else f"{100 * value:.1f} %"


def ratio_text(value: float | None) -> str:
    """Return a ratio to three decimals."""
    return _NOTHING if value is None else f"{value:.3f}"


def count_text(value: float | None) -> str:
    """Return a count with thousands apart."""
    return _NOTHING if value is None else f"{value:,.0f}"


def ns_text(value: float | None) -> str:
    """Return nanoseconds as people read them."""
    return _NOTHING if value is None else f"{value:,.1f} ns"


def cost_text(value: float) -> str:
    """Return nanoseconds to four digits, or all of a longer number's."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


# What the first table shows: heading, metric, unit.
_SUMMARY: list[tuple[str, str, Cell]] = [
    ("peak requested", "peak_requested_bytes", bytes_text),
    ("peak committed", "peak_committed_bytes", bytes_text),
    ("peak mapped", "peak_mapped_bytes", bytes_text),
    ("mean requested", "mean_requested_bytes", bytes_text),
    ("mean committed", "mean_committed_bytes", bytes_text),
    ("fragmentation: peak / peak", "fragmentation_peak_ratio", ratio_text),
    ("fragmentation: mean / mean", "fragmentation_mean", ratio_text),
    ("fragmentation at peak requested", "fragmentation_at_peak_requested", ratio_text),
    ("committed before the first event", "floor_committed_bytes", bytes_text),
]

# Below them, where a backend has asked the kernel.
_RESIDENT: list[tuple[str, str]] = [
    ("resident: peak", "peak_resident_bytes"),
    ("resident: at the end", "end_resident_bytes"),
    ("resident before the first event", "floor_resident_bytes"),
]

# The second part: where the bytes are at the first event of most committed memory.
_AT_PEAK: list[tuple[str, str]] = [
    ("dead, not swept", "dead"),
    ("front end (thread or P caches)", "front_end"),
    ("transfer caches", "transfer"),
    ("central lists", "central"),
    ("span tails", "tail"),
    ("page heap", "page_heap"),
    ("runtime's own", "runtime"),
]


# Beside them, where a metric stands alone.
_OTHERS = {
    "modelled_ns_per_event": "ns an event, modelled",
    "measured_ns_per_event": "ns an event, measured",
    "waste_bytes": "waste at peak committed",
}


def metric_heading(name: str) -> str:
    """Return what the tables call a metric, a part of the footprint or a counter."""
    known = {row[1]: row[0] for row in _SUMMARY} | {row[1]: row[0] for row in (*_RESIDENT, *_AT_PEAK)}
    return (known | _OTHERS).get(name, name.removesuffix("_bytes").replace("_", " "))


def comparison(results: Sequence[TraceRuns], environment: Environment, form: str) -> str:
    """Return every trace's tables in one of the formats of TABULATE."""
    parts = [text for result in results for text in _trace_tables(result, form)]
    rate = environment.replay_events_per_second
    if rate:
        parts.append(
            f"replayed in {environment.seconds:.2f} s: {rate / 1e6:.1f} M events/s "
            f"over all allocators (this tool's speed, not an allocator's)"
        )
    return "\n\n".join(parts) + "\n"


def comparison_csv(results: Sequence[TraceRuns]) -> str:
    """Return one row per run, with every metric, footprint part and counter as a column; bytes are bytes."""
    rows: list[dict[str, Any]] = []
    for result in results:
        for run in result.runs:
            row: dict[str, Any] = {
                "trace": result.trace["path"],
                "allocator": run.allocator,
                "version": run.version,
            }
            row |= {f"option.{name}": value for name, value in run.options.items()}
            row |= run.summary
            row |= {f"timing.{name}": value for name, value in _flat(run.timing or {}).items()}
            for moment, parts in run.footprint.items():
                row |= {f"{moment}.{name}_bytes": value for name, value in parts.items()}
            row |= {f"counter.{name}": value for name, value in run.counters.items()}
            if run.failure is not None:
                row["failure"] = run.failure
            rows.append(row)
    return rows_csv(rows)


def _flat(timing: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured of time as columns, those of an op or a percentile by two names."""
    columns: dict[str, Any] = {}
    for name, value in timing.items():
        if isinstance(value, Mapping):
            columns |= {f"{name}.{inner}": number for inner, number in value.items()}
        else:
            columns[name] = value
    return columns


def rows_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; a column that a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def class_table(rows: Sequence[Mapping[str, int | float]], form: str) -> str:
    """Return an allocator's size classes as a table."""
    headings = [_heading(name) for name in rows[0]]
    cells = [[_class_cell(name, value) for name, value in row.items()] for row in rows]
    return table(cells, headings, form)


def conformance(reports: Sequence[Report], form: str) -> str:
    """Return what comparisons with the real thing found, in one of the formats of the command line."""
    if form == "json":
        return json.dumps([asdict(each) | {"agrees": each.agrees} for each in reports], indent=1) + "\n"
    if form == "csv":
        return rows_csv([row for each in reports for row in _conformance_rows(each)])
    return "\n\n".join(_conformance_text(each, form) for each in reports) + "\n"


def _conformance_rows(found: Report) -> list[dict[str, Any]]:
    who = {"trace": found.trace, "model": found.model, "real": found.truth}
    counted = [
        who | {"what": aspect.name, "compared": aspect.compared, "differing": aspect.differing}
        for aspect in found.aspects.values()
    ]
    spread = [
        who
        | {"what": each.name, "compared": len(each.runs), "differing": int(not each.within)}
        | {"model_value": each.model, "real_least": min(each.runs), "real_most": max(each.runs)}
        for each in found.spreads
    ]
    return counted + spread


def _spread_text(found: Report, form: str) -> str:
    cells = []
    for each in found.spreads:
        text = bytes_text if each.name.endswith("_bytes") else "{:,.0f}".format
        least, middle, most = min(each.runs), statistics.median(each.runs), max(each.runs)
        verdict = "within" if each.within else f"{each.model / middle - 1:+.0%} of the median"
        name = each.name.removesuffix("_bytes").replace("_", " ")
        cells.append([name, *(text(value) for value in (each.model, least, middle, most)), verdict])
    return table(cells, ["", "model", "real, least", "median", "most", ""], form, left=1)


def _recording_text(found: Report, form: str) -> str:
    """Return a comparison with one recording: what it comes to, what that is made of, and why they differ."""
    cells = []
    for each in found.spreads:
        text = bytes_text if each.name.endswith("_bytes") else "{:,.0f}".format
        (real,) = each.runs
        verdict = "" if each.margin is None else "within" if each.within else "BEYOND"
        bound = "" if each.margin is None else f"{each.margin:.0%}"
        difference = f"{each.model / real - 1:+.1%}" if real else _NOTHING
        cells.append([_plain_heading(each.name), text(real), text(each.model), difference, bound, verdict])
    judged = max((each.margin for each in found.spreads if each.margin is not None), default=0.0)
    verdict = f"within {judged:.0%} of the recording" if found.agrees else "BEYOND what is allowed"
    head = f"{found.trace}: {found.events:,} events, compared at {found.checkpoints:,} moments"
    texts = [
        prose(form, head, f"{found.model} against {found.truth}"),
        table(cells, ["", "real", "model", "difference", "allowed", ""], form, left=1, words=1),
    ]
    for each_table in found.tables:
        rows = [
            [_recorded_cell(heading, cell) for heading, cell in zip(each_table.headings, row, strict=True)]
            for row in each_table.rows[: each_table.shown]
        ]
        title = each_table.title
        if len(each_table.rows) > each_table.shown:
            title += f": {each_table.shown} of {len(each_table.rows):,}"
        headings = [_plain_heading(name) for name in each_table.headings]
        texts += [prose(form, title), table(rows, headings, form, left=1)]
    texts += [prose(form, f"note: {text}") for text in found.notes]
    return "\n\n".join([*texts, prose(form, verdict)])


def _plain_heading(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _recorded_cell(heading: str, cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    if heading.endswith("_bytes"):
        return bytes_text(cell)
    return f"{cell:,.1f}" if isinstance(cell, float) else f"{cell:,}"


def _conformance_text(found: Report, form: str) -> str:
    if found.tables:
        return _recording_text(found, form)
    if found.spreads:
        runs = len(found.spreads[0].runs)
        head = f"{found.trace}: {found.events:,} events, {runs} runs of the real one"
        margin = f"within the real runs, widened by {found.spreads[0].margin or 0:.0%}"
        verdict = margin if found.agrees else f"NOT {margin}"
        heading = prose(form, head, f"{found.model} against {found.truth}")
        return "\n\n".join([heading, _spread_text(found, form), prose(form, verdict)])
    cells = [
        [aspect.name, count_text(aspect.compared), count_text(aspect.differing)]
        for aspect in found.aspects.values()
    ]
    calls = f", calls: {found.calls:,}" if found.calls else ""
    texts = [
        prose(
            form,
            f"{found.trace}: {found.events:,} events, compared at {found.checkpoints:,} moments{calls}",
            f"{found.model} against {found.truth}",
        ),
        table(cells, ["", "compared", "differing"], form, left=1),
    ]
    examples = [f"{aspect.name}: {text}" for aspect in found.aspects.values() for text in aspect.examples]
    if examples:
        texts.append(prose(form, "first differences:", *(f"  {text}" for text in examples)))
    if found.gave_up:
        texts.append("broke off: what follows so many differences says nothing new")
    texts.append("equal" if found.agrees else "NOT EQUAL")
    return "\n\n".join(texts)


def calibration(found: Sequence[Calibrated], form: str) -> str:
    """Return costs and how near they come, in one of the formats of the command line."""
    if form == "json":
        return json.dumps([_calibration_dict(each) for each in found], indent=1) + "\n"
    if form == "csv":
        return rows_csv([row for each in found for row in _calibration_rows(each)])
    return "\n\n".join(_calibration_text(each, form) for each in found) + "\n"


def _calibration_rows(found: Calibrated) -> list[dict[str, Any]]:
    ratios = ("ratio", "held_out_ratio")
    return [
        {"model": found.model} | each._asdict() | {name: getattr(each, name) for name in ratios}
        for each in found.compared
    ]


def _calibration_dict(found: Calibrated) -> dict[str, Any]:
    return {"model": found.model, "table": asdict(found.table), "compared": _calibration_rows(found)}


def _calibration_text(found: Calibrated, form: str) -> str:
    cells = [
        [
            each.workload + ("" if each.recorded else " (made)"),
            *(f"{ns:,.1f}" for ns in (each.driver, each.measured, each.least, each.most, each.modelled)),
            ratio_text(each.ratio),
            ratio_text(each.held_out_ratio),
        ]
        for each in found.compared
    ]
    headings = ["ns an event", "driver", "measured", "least", "most", "modelled", "ratio", "held out"]
    judged = found.judged
    names = "recorded programs" if judged[0].recorded else "programs made for it"
    spread = [
        f"{what}: {ratio_text(statistics.geometric_mean(ratios))} "
        f"({ratio_text(min(ratios))} to {ratio_text(max(ratios))})"
        for what, ratios in (
            ("modelled / measured", [each.ratio for each in judged]),
            ("held out", [each.held_out_ratio for each in judged]),
        )
    ]
    paths = [[path, cost_text(ns)] for path, ns in found.table.ns.items()]
    return "\n\n".join(
        [
            prose(form, f"{found.model}: {found.table.name}"),
            table(paths, ["path", "ns"], form, left=1),
            table(cells, headings, form, left=1),
            f"geometric means over {len(judged)} {names}: {', '.join(spread)}",
        ]
    )


def table(
    cells: Sequence[Sequence[str]], headings: Sequence[str], form: str, left: int = 0, words: int = 0
) -> str:
    """Return cells as a table whose first `left` and last `words` columns are text, the others numbers."""
    align = ["left"] * left + ["right"] * (len(headings) - left - words) + ["left"] * words
    rows = [[cell_text(cell, form) for cell in row] for row in (headings, *cells)]
    return tabulate.tabulate(
        rows[1:], rows[0], TABULATE[form], disable_numparse=True, colalign=align if cells else None
    )


def cell_text(text: str, form: str) -> str:
    """Return text as tabulate has to be given it, which escapes it for LaTeX itself and for nobody else."""
    plain = _CONTROL.sub(" ", text)
    return _MARKDOWN.sub(r"\\\g<0>", plain) if form == "markdown" else plain


def prose(form: str, *lines: str) -> str:
    """Return lines as they have to stand outside of tables, whatever characters the names in them are of."""
    plain = [cell_text(line, form) for line in lines]
    return " \\\\\n".join(line.translate(_LATEX) for line in plain) if form == "latex" else "\n".join(plain)


def _trace_tables(result: TraceRuns, form: str) -> list[str]:
    trace, runs = result.trace, result.runs
    texts = [prose(form, _trace_line(trace)), _summary_table(runs, form)]
    mark = "- " if form == "markdown" else "  "
    legend = [f"{run.label}{_version_text(run)}: {run.description}" for run in runs]
    texts.append(mark + prose(form, *legend).replace("\n", f"\n{mark}"))
    texts += [prose(form, f"failed: {run.failure}") for run in runs if run.failure is not None]
    texts += [_pair_text(model, real, form) for model, real in result.pairs()]
    for run in runs:
        if run.classes:
            texts.append(_classes_text(run, form))
    warnings = dict.fromkeys(text for run in runs for text in run.warnings)
    texts += [prose(form, f"note: {text}") for text in warnings]
    for run in runs:
        if run.stats_text is not None:
            text = f"```\n{run.stats_text}```" if form == "markdown" else run.stats_text.rstrip("\n")
            texts.append(f"{prose(form, run.label)}: its own statistics at the end of the trace\n\n{text}")
    return texts


def _version_text(run: Run) -> str:
    """Return what was found installed, which no option says."""
    return f" ({run.version})" if run.kind == "library" and run.failure is None else ""


def _trace_line(trace: Mapping[str, Any]) -> str:
    kind = " (synthetic)" if trace["synthetic"] else ""
    remote = percent_text(_share(trace["remote_frees"], trace["frees"]))
    return (
        f"{trace['path']}{kind}: {trace['events']:,} events, {trace['allocations']:,} allocations, "
        f"{trace['frees']:,} frees ({remote} on another thread), "
        f"{trace['threads']:,} threads, at most {trace['peak_live_objects']:,} objects live"
    )


def _summary_table(runs: Sequence[Run], form: str) -> str:
    cells = [["", *("failed" if run.failure is not None else run.kind for run in runs)]]
    cells += [[heading, *(text(run.summary[name]) for run in runs)] for heading, name, text in _SUMMARY]
    for heading, name in _RESIDENT:
        values = [run.summary[name] for run in runs]
        if any(value is not None for value in values):
            cells.append([heading, *(bytes_text(value) for value in values)])
    if form != "latex":  # Its fonts lack the bars.
        cells += _course_rows(runs)
    cells.append(["at peak committed:", *("" for _ in runs)])
    committed = [run.summary["peak_committed_bytes"] for run in runs]
    requested = [_requested_at_peak(run) for run in runs]
    cells.append(["· requested", *_with_shares(requested, committed)])
    internal = [run.summary["internal_waste_bytes"] for run in runs]
    cells.append(["· rounding and headers", *_with_shares(internal, committed)])
    for heading, name in _AT_PEAK:
        values = [run.footprint["peak"][name] for run in runs]
        if any(values):
            cells.append([f"· {heading}", *_with_shares(values, committed)])
    released = [run.footprint["peak"]["released"] for run in runs]
    cells.append(["given back or never taken", *(bytes_text(value) for value in released)])
    cells.append(
        ["internal fragmentation", *(percent_text(run.summary["internal_fragmentation"]) for run in runs)]
    )
    cells.append(["front-end hits", *(percent_text(run.summary["front_end_hit_rate"]) for run in runs)])
    if any("gc_cycles" in run.counters for run in runs):
        cells.append(["GC cycles", *(count_text(run.counters.get("gc_cycles")) for run in runs)])
    cells += _timing_rows([run.timing for run in runs])
    return table(cells, ["", *(run.label for run in runs)], form, left=1)


def sparkline(values: Sequence[float | None], highest: float) -> str:
    """Return values over the trace as bars, the most in each stretch, where `highest` is a full bar."""
    if not values or not highest or any(value is None for value in values):
        return _NOTHING
    known = [value for value in values if value is not None]
    bars = ""
    for column in range(_BARS_OF_A_TRACE):
        first, end = (place * len(known) // _BARS_OF_A_TRACE for place in (column, column + 1))
        most = max(known[first : max(end, first + 1)])
        bars += _BARS[max(math.ceil(most / highest * len(_BARS)) - 1, 0)]
    return bars


def _course_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Return requested and committed bytes over the trace, all on one scale, where there are samples."""
    committed = [metrics.committed_over_time(run.samples) if run.samples else [] for run in runs]
    requested = [run.samples.get("peak_requested", []) for run in runs]
    highest = max((value or 0 for values in (*committed, *requested) for value in values), default=0)
    return [
        [heading, *(sparkline(values, highest) for values in courses)]
        for heading, courses in (
            ("requested over the trace", requested),
            ("committed over the trace", committed),
        )
        if any(courses)
    ]


def _timing_rows(timings: Sequence[Mapping[str, Any] | None]) -> list[list[str]]:
    """Return the rows on time: what an event costs, how sure that is, and of what it is made."""

    def row(heading: str, cell: Callable[[Mapping[str, Any]], str]) -> list[str]:
        return [heading, *(_NOTHING if timing is None else cell(timing) for timing in timings)]

    def inner(name: str, key: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda timing: ns_text((timing.get(name) or {}).get(key))

    known = [timing for timing in timings if timing is not None]
    if not known:
        return []
    rows = [
        row("ns an event", lambda t: f"{ns_text(t['ns_per_event'])} ({t['kind']})"),
        row("· least and most", lambda t: f"{t['low']:,.1f} to {t['high']:,.1f}"),
    ]
    if any(timing.get("driver_ns_per_event") is not None for timing in known):
        rows.append(row("· driver's own, taken off", lambda t: ns_text(t.get("driver_ns_per_event"))))
    for name, heading in (("ns_by_op", "· {} alone"), ("latency_ns", "· latency, {}")):
        keys = dict.fromkeys(key for timing in known for key in timing.get(name) or ())
        rows += [row(heading.format(key), inner(name, key)) for key in keys]
    return rows


def _pair_text(model: Run, real: Run, form: str) -> str:
    """Return how far a model is from what it models: committed bytes over the same samples, and time."""
    modelled, measured = (metrics.over_samples(run.samples) for run in (model, real))
    rows = [
        _difference(heading, modelled[name], measured[name], bytes_text)
        for heading, name in (
            ("peak committed, over samples", "peak_committed_bytes"),
            ("mean committed, over samples", "mean_committed_bytes"),
        )
    ]
    if model.timing is not None and real.timing is not None:
        costs = (model.timing["ns_per_event"], real.timing["ns_per_event"])
        rows.append(_difference("ns an event, modelled and measured", *costs, ns_text))
    return f"{prose(form, model.label)} beside what it models\n\n" + table(
        rows, ["", model.label, real.label, "difference"], form, left=1
    )


def _difference(heading: str, model: float | None, real: float | None, text: Cell) -> list[str]:
    if model is None or not real:
        said = _NOTHING
    else:
        said = "equal" if model == real else f"{100 * (model / real - 1):+.2f} %"
    return [heading, text(model), text(real), said]


def _requested_at_peak(run: Run) -> int | float | None:
    committed, waste = run.summary["peak_committed_bytes"], run.summary["waste_bytes"]
    return None if committed is None or waste is None else committed - waste


def _with_shares(values: Sequence[float | None], wholes: Sequence[float | None]) -> list[str]:
    texts = []
    for value, whole in zip(values, wholes, strict=True):
        share = _share(value, whole)
        texts.append(bytes_text(value) + ("" if share is None else f" {100 * share:5.1f} %"))
    return texts


def _classes_text(run: Run, form: str) -> str:
    rows = sorted(run.classes, key=lambda row: -int(row["waste_bytes"]))
    shown = rows[:_CLASSES_SHOWN]
    headings = [
        "class",
        "slot",
        "allocations",
        "live",
        "requested",
        "rounding",
        "headers",
        "dead",
        "free slots",
        "tails",
    ]
    cells = [
        [
            _class_name(row),
            bytes_text(row["slot_bytes"]) if row["slot_bytes"] else "own span",
            count_text(row["allocations"]),
            count_text(row["live_objects"]),
            bytes_text(row["requested_bytes"]),
            bytes_text(row["rounding_bytes"]),
            bytes_text(row["header_bytes"]),
            bytes_text(row["dead_bytes"]),
            bytes_text(row["front_end_bytes"] + row["transfer_bytes"] + row["central_bytes"]),
            bytes_text(row["tail_bytes"]),
            f"{bytes_text(row['waste_bytes'])} {100 * (row['waste_share'] or 0):5.1f} %",
        ]
        for row in shown
    ]
    moment = "at the peak" if run.has_census else "at the fullest sample"
    title = f"{run.label}: where it wastes most, {len(shown)} of {len(rows)} size classes, {moment}"
    return prose(form, title) + "\n\n" + table(cells, [*headings, "waste"], form, left=1)


def _class_name(row: Mapping[str, Any]) -> str:
    noscan = {None: "", True: " noscan", False: " scan"}[row["noscan"]]
    return f"{row['class']}{noscan}"


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _heading(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ") + (" (B)" if name.endswith("_bytes") else "")


def _class_cell(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if isinstance(value, float) else str(value)
