"""Figures from runs: footprint over time, the collector's cycles, waste by size class, how full spans are.

Draws what replay.py sampled and metrics.py computed, and computes nothing but places on a page. A figure is
of one trace, with a panel an allocator; a tier has the same colour in all of them. It needs no display, and
the same runs give the same bytes. This is the only module that loads matplotlib.
"""

from __future__ import annotations

import io
import logging
import math
import re
import statistics
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import metrics
from harness.errors import HarnessError
from harness.report import bytes_text, percent_text
from harness.results import Run, TraceRuns, write_whole

# What it says of its caches and fonts is nothing to a user of ours.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
try:
    import matplotlib.style
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke
except ModuleNotFoundError as missing:
    package = str(missing.name).partition(".")[0]
    raise HarnessError(
        f"to draw, {package} is needed and not installed: pip install 'matplotlib>=3.8'"
    ) from missing

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")


@dataclass(frozen=True)
class Look:
    """What a user may choose of every figure."""

    x: Literal["events", "time"] = "events"
    classes: int = 12  # Size classes shown of each allocator.


_DEFAULT_LOOK = Look()


class NothingToDraw(HarnessError):
    """These runs do not hold what a figure shows."""


@dataclass(frozen=True)
class Tint:
    """A name in a legend, and how it is drawn."""

    name: str
    colour: str
    hatch: str = ""


# The muted scheme of Paul Tol's "Colour Schemes" (SRON/EPS/TN/09-002, 2021), which colour-blind people can
# tell apart, too; no two neighbours of a stack are near in lightness.
TIERS = {
    "live": Tint("live", "#88CCEE"),
    "dead": Tint("dead, not swept", "#CC6677"),
    "front_end": Tint("front end", "#117733"),
    "transfer": Tint("transfer caches", "#44AA99"),
    "central": Tint("central lists", "#DDCC77"),
    "tail": Tint("span tails", "#882255"),
    "page_heap": Tint("page heap", "#999933"),
    "runtime": Tint("runtime's own", "#DDDDDD"),
}
UNTOLD = Tint("not told apart", "#F5F5F5", "////")
# Why a class wastes. The first two are parts of live slots, the others tiers.
CAUSES = {"rounding": Tint("rounding", "#332288"), "header": Tint("headers", "#AA4499")} | {
    name: TIERS[name] for name in ("dead", "front_end", "transfer", "central", "tail")
}
_SEVERAL = Tint("held by several objects", TIERS["live"].colour)
_SINGLE = Tint("held by one object", TIERS["tail"].colour, "////")
_NONE = Tint("held by none", TIERS["runtime"].colour)
_HEAP = Tint("heapLive: marked, and allocated since", TIERS["live"].colour)
_LINE, _PALE_LINE = "#000000", "#555555"
_GOAL: dict[str, Any] = {"color": "#882255", "linestyle": "--", "linewidth": 1.4}
_TRIGGER: dict[str, Any] = {"color": "#117733", "linestyle": ":", "linewidth": 1.6}
_CYCLE: dict[str, Any] = {"color": _LINE, "linestyle": "", "marker": "|", "markersize": 8}

_STYLE = {
    "font.family": "DejaVu Sans",  # Comes with matplotlib, so that a page is the same everywhere.
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # A file's name may hold a dollar.
    "svg.hashsalt": "harness",  # Names within the file come from it instead of from chance.
}
_WIDTH_INCHES, _DPI = 12.0, 100
# Around a page, to the right of a panel, to its left and below it.
_EDGE_INCHES, _GAP_INCHES, _LEFT_INCHES, _AXIS_INCHES = 0.1, 0.25, 0.65, 0.5
# A line of text, with what stands between lines.
_LINE_INCHES, _SMALL_LINE_INCHES, _LEGEND_LINE_INCHES = 0.18, 0.15, 0.21
# Text in points, and how many of its characters an inch has room for.
_SMALL, _SMALL_PER_INCH = 8.0, 15.0
_LABEL_PER_INCH = 12.0
_HEADING, _HEADING_PER_INCH = 11.0, 11.0
# With more panels than these one that is far above the others leaves the scale to them.
_PANELS_ON_ONE_SCALE, _FAR_ABOVE = 4, 3.0
_LEGEND_COLUMNS = 6
_MOST_COLUMNS = 4


class Destination:
    """Where figures go: a folder, which holds PNG and SVG of each, or one file.

    HarnessError where a file is to hold more than a figure, or is to be of a format that is not drawn.
    """

    def __init__(
        self, output: str, traces: int, names: Sequence[str] = (), look: Look = _DEFAULT_LOOK
    ) -> None:
        self._path, self._names, self._look = Path(output), tuple(names), look
        self._stems: Counter[str] = Counter()
        form = self._path.suffix.removeprefix(".").lower()
        self._is_file = form in FORMATS
        if form in FigureCanvasBase.filetypes and not self._is_file:
            raise HarnessError(f"{output}: figures are drawn as PNG and SVG: name a .png, a .svg or a folder")
        if self._is_file:
            self._names = self._names or ("footprint",)
            if traces > 1 or len(self._names) > 1:
                raise HarnessError(f"{output}: a file holds one figure of one trace: name a folder for more")

    @property
    def shows_classes(self) -> bool:
        """Whether a figure wants what a census says of size classes and spans."""
        return not self._names or not {"waste", "occupancy"}.isdisjoint(self._names)

    def draw(self, result: TraceRuns) -> Iterator[list[str]]:
        """Draw the figures of a trace, and yield for each the files that are written."""
        stem = Path(result.trace["path"]).name.removesuffix(".parquet")
        self._stems[stem] += 1
        if self._stems[stem] > 1:  # Another result of the same trace, or of a namesake.
            stem += f"-{self._stems[stem]}"
        for name, figure in figures(result, self._names, self._look):
            if self._is_file:
                paths = [str(self._path)]
            else:
                self._make_folder()
                paths = [str(self._path / f"{stem}-{name}.{form}") for form in FORMATS]
            for path in paths:
                save(figure, path)
            yield paths

    def _make_folder(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HarnessError(
                f"{self._path}: is no folder for figures: {error.strerror or error}"
            ) from error


def figures(
    result: TraceRuns, names: Sequence[str] = (), look: Look = _DEFAULT_LOOK
) -> Iterator[tuple[str, Figure]]:
    """Yield figures of a trace, each with its name: those in `names`, or all that have something to show.

    Raises NothingToDraw where one that was named has nothing to show, or where none has, and HarnessError
    where runs that were kept lack what this version draws.
    """
    path = result.trace["path"]
    if not result.trace["events"]:
        raise NothingToDraw(f"{path}: it has no events, so that there is nothing to draw")
    reasons: list[NothingToDraw] = []
    for name in names or FIGURES:
        try:
            with _style():
                figure = FIGURES[name](result, look)
        except NothingToDraw as reason:
            if names:
                raise
            reasons.append(reason)
        except KeyError as missing:
            raise HarnessError(
                f"{path}: its runs were kept without {missing.args[0]!r}, which the figure {name} shows: "
                f"replay the trace again"
            ) from missing
        else:
            yield name, figure
    if len(reasons) == len(FIGURES):
        raise reasons[0]


def save(figure: Figure, path: str) -> None:
    """Write a figure, whole or not at all: PNG or SVG, by the path's suffix."""
    form = Path(path).suffix.removeprefix(".").lower()
    # Neither a date nor a version, so that the same runs give the same file.
    unsaid = {"png": ("Software",), "svg": ("Date", "Creator")}[form]
    drawn = io.BytesIO()
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # In a file's name: it becomes a box.
        figure.savefig(drawn, format=form, dpi=_DPI, metadata=dict.fromkeys(unsaid))
    write_whole(path, drawn.getvalue())


def footprint(result: TraceRuns, look: Look) -> Figure:
    """Draw who holds the committed bytes over the trace, a panel an allocator, all on one scale."""
    runs = [run for run in result.runs if run.samples.get("event")]
    if not runs:
        raise NothingToDraw(
            f"{result.trace['path']}: its runs were kept without samples; `harness replay --save` keeps them"
        )
    courses = [_Course.of(run, look, result.trace["path"]) for run in runs]
    highest = _top_of_scale([course.highest for course in courses])
    says = [_footprint_says(run, course, highest) for run, course in zip(runs, courses, strict=True)]
    legend = _footprint_legend(courses)
    page = _Page(result, "who holds the committed bytes", runs, says, legend, panel_inches=2.4)
    divisor, unit = _bytes_unit(highest)
    longest = courses[0].x[-1]
    along, label = _along(longest, look)
    for axes, course in zip(page.panels, courses, strict=True):
        x = _scaled(course.x, along)
        if course.layers:
            layers = [_scaled(values, divisor) for values in course.layers.values()]
            areas = axes.stackplot(_scaled(course.layers_x, along), layers, linewidth=0)
            for tint, area in zip(course.layers, areas, strict=True):
                area.set(facecolor=tint.colour, hatch=tint.hatch, edgecolor=_PALE_LINE)
        if course.committed:
            axes.plot(x, _scaled(course.committed, divisor), color=_PALE_LINE, linewidth=0.9)
        if course.resident is not None and course.resident <= highest:
            axes.axhline(course.resident / divisor, color=_LINE, linewidth=1.2, linestyle=":")
        halo = [withStroke(linewidth=3.0, foreground="white")]
        if course.requested:
            requested = _scaled(course.requested, divisor)
            axes.plot(x, requested, color=_LINE, linewidth=1.3, path_effects=halo)
        axes.set_xlim(0, (longest or 1) / along)
        axes.set_ylim(0, 1.05 * highest / divisor or 1)
    page.label(label, unit)
    return page.figure


def collector(result: TraceRuns, look: Look) -> Figure:
    """Draw the live heap of each garbage-collected run beside its trigger and its goal."""
    runs = [run for run in result.runs if any(run.samples.get("gc_live_bytes", ()))]
    if not runs:
        raise NothingToDraw(
            f"{result.trace['path']}: none of its runs has samples of a garbage collector, as go has"
        )
    legend: list[Artist] = [
        _patch(_HEAP),
        Line2D([], [], label="trigger", **_TRIGGER),
        Line2D([], [], label="goal", **_GOAL),
        Line2D([], [], label="a cycle begins", **_CYCLE),
    ]
    says = [f"{run.samples['gc_cycles'][-1]:,} cycles begun" for run in runs]
    page = _Page(result, "the garbage collector's heap", runs, says, legend, panel_inches=2.0, columns=1)
    names = ("gc_live_bytes", "gc_trigger_bytes", "gc_goal_bytes")
    lines = [[[value or 0 for value in run.samples[name]] for name in names] for run in runs]
    divisor, unit = _bytes_unit(max(max(max(values) for values in of_run) for of_run in lines))
    for axes, run, of_run in zip(page.panels, runs, lines, strict=True):
        places = _places(run.samples, look, result.trace["path"])
        along, label = _along(places[-1], look)
        x = _scaled(places, along)
        live, trigger, goal = (_scaled(values, divisor) for values in of_run)
        axes.fill_between(x, live, color=_HEAP.colour, linewidth=0)
        axes.plot(x, live, color=_LINE, linewidth=0.6)
        axes.plot(x, trigger, **_TRIGGER)
        axes.plot(x, goal, **_GOAL)
        cycles = run.samples["gc_cycles"]
        begun = [place for place, now, last in zip(x, cycles, [0, *cycles], strict=False) if now != last]
        axes.plot(begun, [0.0] * len(begun), clip_on=False, **_CYCLE)
        axes.set_xlim(0, x[-1] or 1)
        axes.set_ylim(bottom=0)
    page.label(label, unit)
    return page.figure


def waste(result: TraceRuns, look: Look) -> Figure:
    """Draw which size classes waste most, and why, a panel an allocator, each on its own scale."""
    runs = [run for run in result.runs if run.classes]
    if not runs:
        raise NothingToDraw(f"{result.trace['path']}: none of its runs tells its size classes")
    shown = [sorted(run.classes, key=lambda row: -int(row["waste_bytes"]))[: look.classes] for run in runs]
    causes = {
        name: tint
        for name, tint in CAUSES.items()
        if any(row[f"{name}_bytes"] for rows in shown for row in rows)
    }
    legend = [_patch(tint) for tint in causes.values()]
    most_rows = max(len(rows) for rows in shown)
    has_census = all(run.has_census for run in runs)
    page = _Page(
        result,
        f"size classes that waste most, at the {'peak' if has_census else 'fullest sample'}",
        runs,
        [_waste_says(run, rows) for run, rows in zip(runs, shown, strict=True)],
        legend,
        panel_inches=0.1 + 0.2 * most_rows,
        columns=min(len(runs), 3),
        left_inches=1.2,
    )
    for axes, rows in zip(page.panels, shown, strict=True):
        largest = int(rows[0]["waste_bytes"])
        divisor, unit = _bytes_unit(largest)
        axes.set_xlabel(unit)
        ends = [0.0] * len(rows)
        for name, tint in causes.items():
            widths = [max(int(row[f"{name}_bytes"] or 0), 0) / divisor for row in rows]
            axes.barh(range(len(rows)), widths, left=ends, color=tint.colour, height=0.72)
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        for place, (row, end) in enumerate(zip(rows, ends, strict=True)):
            _beside(axes, percent_text(row["waste_share"]), (end, place))
        axes.set_yticks(range(len(rows)), [_slot_text(row) for row in rows], fontsize=_SMALL)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(most_rows - 0.4, -0.6)
        axes.set_xlim(0, 1.25 * (largest / divisor or 1))  # The shares stand to the right of the bars.
    return page.figure


def occupancy(result: TraceRuns, look: Look) -> Figure:
    """Draw how full the spans of size classes are, by their bytes, with those that one object holds apart."""
    counted = [(run, *metrics.occupancy_bytes(run.classes)) for run in result.runs]
    counted = [(run, spans, single) for run, spans, single in counted if any(spans)]
    if not counted:
        raise NothingToDraw(f"{result.trace['path']}: none of its runs tells how full its spans are")
    legend = [_patch(tint) for tint in (_SEVERAL, _SINGLE, _NONE)]
    runs = [run for run, _, _ in counted]
    says = [
        f"{percent_text(metrics.ratio(sum(single), sum(spans)))} of {bytes_text(sum(spans))} in spans that "
        f"one object holds"
        for _, spans, single in counted
    ]
    page = _Page(result, "how full spans are, at the peak", runs, says, legend, panel_inches=2.2)
    highest = max(max(spans) for _, spans, _ in counted)
    divisor, unit = _bytes_unit(highest)
    bins = range(metrics.OCCUPANCY_BINS)
    for axes, (_, spans, single) in zip(page.panels, counted, strict=True):
        several = [(count - of_one) / divisor for count, of_one in zip(spans, single, strict=True)]
        colours = [_NONE.colour, *(_SEVERAL.colour for _ in bins[1:])]
        axes.bar(bins, several, color=colours, width=0.85)
        one = axes.bar(bins, _scaled(single, divisor), bottom=several, color=_SINGLE.colour, width=0.85)
        for bar in one:
            bar.set(hatch=_SINGLE.hatch, edgecolor="white", linewidth=0)
        axes.set_xticks(bins, [str(10 * k) for k in bins])
        axes.set_ylim(0, 1.05 * highest / divisor)
    page.label("live objects of a span's slots, up to (%)", unit)
    return page.figure


FIGURES: dict[str, Callable[[TraceRuns, Look], Figure]] = {
    "footprint": footprint,
    "collector": collector,
    "waste": waste,
    "occupancy": occupancy,
}


@dataclass(frozen=True)
class _Course:
    """One run over time, in bytes; its first point is before the first event.

    Areas are what samples saw. Lines are the most since the sample before, and the moment of most committed
    bytes has its own place among the areas, between two samples: nothing is cut off that happened there.
    """

    x: list[float]  # Events, or nanoseconds since the first sample.
    requested: list[int]  # Empty where it is unknown.
    committed: list[int]  # Likewise.
    resident: int | None  # At its most.
    layers_x: list[float]
    layers: dict[Tint, list[int]]  # From the bottom up.

    @classmethod
    def of(cls, run: Run, look: Look, path: str) -> _Course:
        """Return what is to be drawn of a run of the trace at `path`."""
        samples, floor, peak = run.samples, run.footprint["floor"], run.footprint["peak"]
        x = [0.0, *_places(samples, look, path)]
        moments = [floor, *({name: samples[name][k] for name in floor} for k in range(len(x) - 1))]
        committed = [metrics.committed_bytes(floor), *metrics.committed_over_time(samples)]
        known = [value for value in committed if value is not None]
        requested = [value for value in samples["peak_requested"] if value is not None]
        layers_x = list(x)
        if len(known) < len(committed):
            known = []
        elif (most := max(known)) == metrics.committed_bytes(peak):
            fullest = known.index(most)
            if metrics.committed_bytes(moments[fullest]) != most:
                moments.insert(fullest, peak)
                layers_x.insert(fullest, (x[fullest - 1] + x[fullest]) / 2)
        resident = run.summary.get("peak_resident_bytes")
        return cls(
            x=x,
            requested=[0, *requested] if len(requested) == len(x) - 1 else [],
            committed=known,
            resident=None if resident is None else int(resident),
            layers_x=layers_x,
            layers=_layers(moments),
        )

    @property
    def highest(self) -> int:
        """Return the most bytes that the program or the allocator held."""
        return max([0, *self.requested, *self.committed])


def _layers(moments: Sequence[Mapping[str, int | None]]) -> dict[Tint, list[int]]:
    """Return the parts known at all moments, and where some are not, what is left of committed bytes."""
    layers = {}
    for name, tint in TIERS.items():
        values = [value for moment in moments if (value := moment[name]) is not None]
        if len(values) == len(moments):
            layers[tint] = values
    committed = [value for moment in moments if (value := metrics.committed_bytes(moment)) is not None]
    if len(layers) < len(TIERS) and len(committed) == len(moments):
        told = [sum(values[k] for values in layers.values()) for k in range(len(moments))]
        layers[UNTOLD] = [max(held - part, 0) for held, part in zip(committed, told, strict=True)]
    return {tint: values for tint, values in layers.items() if any(values)}


def _places(samples: Mapping[str, Sequence[int | None]], look: Look, path: str) -> list[float]:
    """Return where each sample stands along the trace: events before it, or ns since the first sample."""
    if look.x == "events":
        return [float(value or 0) for value in samples["event"]]
    times = [value for value in samples["time_ns"] if value is not None]
    if len(times) < len(samples["time_ns"]):
        raise HarnessError(f"{path}: it has no times (column time_ns), which --x time needs: leave that out")
    return [float(value - times[0]) for value in times]


def _footprint_legend(courses: Sequence[_Course]) -> list[Artist]:
    legend: list[Artist] = [
        _patch(tint) for tint in (*TIERS.values(), UNTOLD) if any(tint in course.layers for course in courses)
    ]
    if any(course.requested for course in courses):
        legend.append(Line2D([], [], label="requested", color=_LINE, linewidth=1.6))
    if any(course.committed for course in courses):
        legend.append(Line2D([], [], label="committed", color=_PALE_LINE, linewidth=0.9))
    if any(course.resident is not None for course in courses):
        legend.append(Line2D([], [], label="resident, at its most", color=_LINE, linestyle=":"))
    return legend


def _footprint_says(run: Run, course: _Course, top: float) -> str:
    peak, ratio = run.summary.get("peak_committed_bytes"), run.summary.get("fragmentation_peak_ratio")
    texts = ["committed bytes unknown"] if peak is None else [f"peak {bytes_text(peak)}"]
    if course.highest > top:
        texts[0] += ", beyond this scale"
    if ratio is not None:
        texts.append(f"{ratio:.2f} x requested")
    if course.resident is not None:
        texts.append(f"resident {bytes_text(course.resident)}")
    return ", ".join(texts)


def _top_of_scale(highest: Sequence[int]) -> float:
    """Return up to where the scale of all panels goes, in bytes."""
    if len(highest) <= _PANELS_ON_ONE_SCALE:
        return max(highest)
    return min(max(highest), _FAR_ABOVE * statistics.median(highest))


def _waste_says(run: Run, shown: Sequence[Mapping[str, Any]]) -> str:
    total, of_shown = (sum(int(row["waste_bytes"]) for row in rows) for rows in (run.classes, shown))
    share = percent_text(metrics.ratio(of_shown, total))
    return f"{bytes_text(total)} wasted in {len(run.classes)} classes, here {share} of it"


def _slot_text(row: Mapping[str, Any]) -> str:
    """Return a class by its slot, which means the same for every allocator, scan and noscan apart."""
    slot = bytes_text(row["slot_bytes"]).replace(".00 ", " ") if row["slot_bytes"] else "own span"
    return slot + {None: "", True: " noscan", False: " scan"}[row["noscan"]]


class _Page:
    """A figure with a panel a run: title and legend above them, below them whom the names stand for.

    Everything has its place in inches, and nothing is moved to fit: matplotlib's own layouts differ in the
    last digit from process to process, and the bytes of an SVG with them.
    """

    def __init__(
        self,
        result: TraceRuns,
        what: str,
        runs: Sequence[Run],
        says: Sequence[str],
        legend: Sequence[Artist],
        *,
        panel_inches: float,
        columns: int | None = None,
        left_inches: float | None = None,
    ) -> None:
        """Make the page; `says` is what matters most of each run, `left_inches` what labels take of a panel.

        Without that, all panels have one scale, and labels of it to the left of the first alone.
        """
        count = len(runs)
        columns = columns or (count if count <= 3 else min(_MOST_COLUMNS, math.ceil(count / 2)))
        has_own_scales = left_inches is not None
        left = _LEFT_INCHES if left_inches is None else left_inches
        step = (_WIDTH_INCHES - (0 if has_own_scales else left)) / columns
        width = step - _GAP_INCHES - (left if has_own_scales else 0)
        self._columns = columns
        heading = _wrapped(_heading(result.trace, what), _WIDTH_INCHES * _HEADING_PER_INCH)
        labels = [_label_lines(run.label, width * _LABEL_PER_INCH) for run in runs]
        notes = [_wrapped(text, width * _SMALL_PER_INCH) for text in says]
        described = dict.fromkeys(f"{run.allocator} ({run.version}): {run.description}" for run in runs)
        foot = [line for text in described for line in _wrapped(text, _WIDTH_INCHES * _SMALL_PER_INCH)]
        title_inches = _LINE_INCHES * max(map(len, labels)) + _SMALL_LINE_INCHES * max(map(len, notes)) + 0.15
        row_inches = title_inches + panel_inches + _AXIS_INCHES
        legend_top = 2 * _EDGE_INCHES + 1.25 * _LINE_INCHES * len(heading)
        body_top = legend_top + _LEGEND_LINE_INCHES * math.ceil(len(legend) / _LEGEND_COLUMNS)
        foot_top = body_top + row_inches * math.ceil(count / columns) + _EDGE_INCHES
        height = foot_top + _SMALL_LINE_INCHES * len(foot) + _EDGE_INCHES

        self.figure = Figure(figsize=(_WIDTH_INCHES, height))
        edge = _EDGE_INCHES / _WIDTH_INCHES
        self._write(heading, edge, 1 - _EDGE_INCHES / height, fontsize=_HEADING, fontweight="bold")
        self.figure.legend(
            handles=list(legend),
            loc="upper left",
            bbox_to_anchor=(edge, 1 - legend_top / height),
            ncols=_LEGEND_COLUMNS,
            borderpad=0,
            borderaxespad=0,
        )
        self._write(foot, edge, 1 - foot_top / height, fontsize=_SMALL, color=_PALE_LINE)
        self.panels: list[Axes] = []
        for index, (label, note) in enumerate(zip(labels, notes, strict=True)):
            row, column = divmod(index, columns)
            x = left + column * step
            y = height - body_top - row * row_inches - title_inches - panel_inches
            place = (x / _WIDTH_INCHES, y / height, width / _WIDTH_INCHES, panel_inches / height)
            axes = self.figure.add_axes(place)
            axes.set_title("\n".join(label), fontweight="bold", pad=8 + 11 * len(note))
            axes.annotate(
                "\n".join(note),
                (0, 1),
                xycoords="axes fraction",
                xytext=(0, 5),
                textcoords="offset points",
                fontsize=_SMALL,
                color=_PALE_LINE,
            )
            self.panels.append(axes)

    def label(self, along: str, upwards: str) -> None:
        """Label the axes of panels that have one scale."""
        for index, axes in enumerate(self.panels):
            axes.set_xlabel(along)
            if index % self._columns:
                axes.tick_params(axis="y", labelleft=False)
            else:
                axes.set_ylabel(upwards)

    def _write(self, lines: Sequence[str], x: float, y: float, **look: Any) -> None:
        self.figure.text(x, y, "\n".join(lines), va="top", **look)


def _label_lines(label: str, characters: float) -> list[str]:
    """Return an allocator's name and options, one broken in two only where it is longer than a line."""
    lines = [""]
    for option in re.findall(r"[^:,]+[:,]?", label):
        if len(lines[-1]) + len(option) <= characters:
            lines[-1] += option
        else:
            lines += _wrapped(option, characters)
    return [line for line in lines if line]


def _wrapped(text: str, characters: float) -> list[str]:
    return textwrap.wrap(text, round(characters), break_on_hyphens=False)


def _heading(trace: Mapping[str, Any], what: str) -> str:
    kind = " (synthetic)" if trace["synthetic"] else ""
    threads = "1 thread" if trace["threads"] == 1 else f"{trace['threads']:,} threads"
    return f"{Path(trace['path']).name}{kind}, {trace['events']:,} events, {threads}: {what}"


def _patch(tint: Tint) -> Patch:
    edge = _PALE_LINE if tint is UNTOLD else "white"
    return Patch(facecolor=tint.colour, hatch=tint.hatch, edgecolor=edge, linewidth=0, label=tint.name)


def _beside(axes: Axes, text: str, place: tuple[float, float]) -> None:
    axes.annotate(text, place, xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5)


def _scaled(values: Sequence[float], divisor: float) -> list[float]:
    return [value / divisor for value in values]


def _bytes_unit(largest: float) -> tuple[int, str]:
    """Return the unit in which the largest number of bytes has few digits: its size and its name."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if largest >= 1024**power:
            return 1024**power, unit
    return 1, "B"


def _along(longest: float, look: Look) -> tuple[float, str]:
    """Return the unit of the axis along the trace: its size and the axis's name."""
    if look.x == "time":
        for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
            if longest >= size:
                return size, f"time since the first sample ({unit})"
        return 1, "time since the first sample (ns)"
    for size, unit in ((1e6, "M"), (1e3, "thousand")):
        if longest >= size:
            return size, f"events ({unit})"
    return 1, "events"


@contextmanager
def _style() -> Iterator[None]:
    """Draw by these settings alone, whatever a user's matplotlibrc says."""
    with matplotlib.style.context(["default", _STYLE]):
        yield
