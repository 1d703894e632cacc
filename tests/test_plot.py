"""Figures say what the runs say, can be read, and are the same for the same runs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from library_support import needs_library
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread
from matplotlib.text import Text
from support import TRACES, fails_with, harness, random_rows, write_trace

from harness import cli, plot
from harness.allocator import ALLOC, FREE, find
from harness.errors import HarnessError
from harness.replay import Settings
from harness.replay import replay as replay_trace
from harness.trace import Noscan

MIB = 1 << 20
REDIS = next(path for path in TRACES if path.name == "redis-server.parquet")
MANY = (
    "go:gogc=50|100|200|400",
    "tcmalloc:transfer_num_objects=32|512,aggressive_decommit=true,max_total_thread_cache_bytes=64MiB",
    "tcmalloc:aggressive_decommit=true",
    "ideal",
)


def replay(path, *allocators, samples=200):
    specs = [spec for text in allocators for spec in find(text)]
    return replay_trace(str(path), specs, Settings(samples, census=True))


@pytest.fixture(scope="module")
def redis():
    return replay(REDIS, "go", "tcmalloc", "ideal", samples=1000)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    rows = random_rows(20_000, live=2000, threads=4)
    times = np.arange(len(rows)) * 1_000_000
    return write_trace(tmp_path_factory.mktemp("plot") / "small.parquet", rows, time_ns=times)


@pytest.fixture(scope="module")
def many(trace):
    return replay(trace, *MANY)


def drawn(result, name, **look):
    ((_, figure),) = plot.figures(result, [name], plot.Look(**look))
    return figure


def panels(figure):
    return [axes for axes in figure.findobj(Axes) if axes.get_title(loc="left")]


def tops(areas):
    return [area.get_paths()[0].vertices[:, 1].max() for area in areas]


def written_in(figure):
    """Every text that a page shows, with the box of pixels that it takes."""
    shown = []
    draw = Text.draw

    def note(text, renderer):
        shown.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", note)
        figure.draw_without_rendering()
        del shown[:]  # The layout was still being made.
        figure.draw_without_rendering()
    return [
        (text.get_text(), text.get_window_extent())
        for text in shown
        if text.get_visible() and text.get_text()
    ]


def legend_of(figure):
    (legend,) = figure.legends
    return {
        text.get_text(): handle
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }


# A page can be read.


def assert_readable(figure):
    texts = written_in(figure)
    page = figure.bbox
    outside = [
        text
        for text, box in texts
        if not (page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1)
    ]
    overlapping = [
        (one, other)
        for (one, box), (other, second) in itertools.combinations(texts, 2)
        if box.x0 < second.x1 and second.x0 < box.x1 and box.y0 < second.y1 and second.y0 < box.y1
    ]
    assert len(texts) > 10
    assert not outside
    assert not overlapping
    assert figure.get_size_inches()[0] * 100 == pytest.approx(1200)


@pytest.mark.parametrize("name", plot.FIGURES)
def test_no_text_is_cut_off_or_lies_on_another(redis, name):
    assert_readable(drawn(redis, name, classes=20))


@pytest.mark.parametrize("name", plot.FIGURES)
def test_nor_with_eight_allocators_and_long_options(many, name):
    assert len(many.runs) == 8
    assert_readable(drawn(many, name))


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_nor_with_any_other_number_of_them(many, count):
    assert_readable(drawn(replace(many, runs=many.runs[:count]), "footprint"))


def test_nor_where_names_are_long_and_hold_what_matplotlib_takes_for_mathematics(many):
    path = "folder/" + "a trace of my $\\frac$ program with its_options " * 3 + ".parquet"
    figure = drawn(replace(many, trace=many.trace | {"path": path}), "footprint")
    assert_readable(figure)
    (heading,) = (text for text, _ in written_in(figure) if "of my" in text)
    assert heading.replace("\n", " ").startswith("a trace of my $\\frac$ program with its_options a")


@pytest.mark.parametrize("size", [0, 100])
def test_nor_in_a_trace_of_one_event_with_one_sample(tmp_path, size):
    result = replay(write_trace(tmp_path / "t.parquet", [(ALLOC, 0, 0, size)]), "go", "ideal", samples=1)
    for _, figure in plot.figures(result):
        assert_readable(figure)


def test_colours_can_be_told_apart_by_the_colour_blind():
    tints = {tint.colour for tint in (*plot.TIERS.values(), *plot.CAUSES.values())}
    assert len(tints) == 10
    for seen in VISION.values():
        colours = [as_seen(tint, seen) for tint in tints]
        # A difference of 2.3 can just be seen; areas that touch want several times as much.
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) > 15


# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency"
# (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def as_seen(colour, vision):
    """Return a colour's place in CIELAB, where distances are differences that are seen."""
    encoded = np.array(to_rgb(colour))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(vision @ linear, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# It says what the runs say.


def test_a_heading_names_the_trace_and_each_panel_its_allocator_with_options(many):
    texts = [text for text, _ in written_in(drawn(many, "footprint"))]
    heading = "small.parquet, 20,000 events, 4 threads: who holds the committed bytes"
    assert heading in texts
    labels = [axes.get_title(loc="left").replace("\n", "") for axes in panels(drawn(many, "footprint"))]
    assert labels == [run.label for run in many.runs]
    titles = [axes.get_title(loc="left") for axes in panels(drawn(many, "footprint"))]
    assert "tcmalloc:\naggressive_decommit=true" in titles  # No option is broken in two.
    assert any("tcmalloc (gperftools 2.18): gperftools' TCMalloc" in text for text in texts)


def test_areas_reach_the_peaks_of_the_table_on_one_scale(redis):
    axes_of = panels(drawn(redis, "footprint"))
    for axes, run in zip(axes_of, redis.runs, strict=True):
        committed, requested = (line.get_ydata() for line in axes.lines)
        peak = run.summary["peak_committed_bytes"]
        assert max(tops(axes.collections)) * MIB == pytest.approx(peak)
        assert max(committed) * MIB == pytest.approx(peak)
        assert max(requested) * MIB == pytest.approx(run.summary["peak_requested_bytes"])
        assert axes.get_ylim() == axes_of[0].get_ylim()
        assert axes.get_ylim()[1] * MIB > peak
    assert [axes.get_ylabel() for axes in axes_of] == ["MiB", "", ""]
    assert {axes.get_xlabel() for axes in axes_of} == {"events (thousand)"}


def test_a_peak_between_two_samples_is_drawn(tmp_path):
    rows = [(ALLOC, 0, 0, 1000), (ALLOC, 0, 1, 5000), (FREE, 0, 1, 0), (ALLOC, 0, 2, 1000)]
    result = replay(write_trace(tmp_path / "t.parquet", rows), "ideal", samples=1)
    (axes,) = panels(drawn(result, "footprint"))
    assert tops(axes.collections) == [6000 / 1024]


def test_the_legend_has_each_tier_that_holds_a_byte_and_no_other(redis):
    legend = legend_of(drawn(redis, "footprint"))
    assert list(legend) == [*(tint.name for tint in plot.TIERS.values()), "requested", "committed"]
    ideal = replace(redis, runs=redis.runs[2:])
    assert list(legend_of(drawn(ideal, "footprint"))) == ["live", "requested", "committed"]


def test_a_tier_has_the_same_colour_wherever_it_is_drawn(redis):
    over_time, by_class = (legend_of(drawn(redis, name)) for name in ("footprint", "waste"))
    shared = over_time.keys() & by_class.keys()
    assert {"dead, not swept", "front end", "central lists", "span tails"} <= shared
    for name in shared:
        assert over_time[name].get_facecolor() == by_class[name].get_facecolor()
    for axes in panels(drawn(redis, "footprint")):
        colours = [to_hex(area.get_facecolor()[0]).upper() for area in axes.collections]
        assert colours == [tint.colour for tint in plot.TIERS.values() if tint.colour in colours]


def test_time_goes_along_where_it_is_asked_for(many):
    (axes, *_) = panels(drawn(replace(many, runs=many.runs[:1]), "footprint", x="time"))
    assert axes.get_xlabel() == "time since the first sample (s)"
    assert axes.get_xlim() == pytest.approx((0, 19.9))


def test_a_trace_without_times_has_no_time_to_draw(tmp_path):
    result = replay(write_trace(tmp_path / "t.parquet"), "ideal")
    with pytest.raises(HarnessError, match=r"t\.parquet: it has no times \(column time_ns\), which --x time"):
        drawn(result, "footprint", x="time")


def test_the_collectors_teeth_are_between_its_trigger_and_its_goal(redis):
    run = redis.runs[0]
    (axes,) = panels(drawn(redis, "collector"))
    heap, trigger, goal, begun = (np.array(line.get_ydata()) for line in axes.lines)
    assert max(heap) * MIB == max(run.samples["gc_live_bytes"])
    assert (trigger <= goal).all()
    falls = sum(now < before for before, now in pairwise(heap))
    assert len(begun) == pytest.approx(falls, abs=1)  # The last cycle may not have ended.
    assert 20 < len(begun) <= run.counters["gc_cycles"]
    assert any(text == "27 cycles begun" for text, _ in written_in(axes.figure))


def test_a_run_without_a_collector_has_no_such_figure(redis):
    without = replace(redis, runs=redis.runs[1:])
    assert "collector" not in dict(plot.figures(without))
    with pytest.raises(plot.NothingToDraw, match="none of its runs has samples of a garbage collector"):
        drawn(without, "collector")


def test_bars_are_as_long_as_the_classes_waste_and_the_longest_stand_first(redis):
    axes_of = panels(drawn(redis, "waste", classes=10))
    for axes, run in zip(axes_of, redis.runs[:2], strict=True):
        unit = {"KiB": 1 << 10, "MiB": MIB}[axes.get_xlabel()]
        ends = [
            max(bars[place].get_x() + bars[place].get_width() for bars in axes.containers)
            for place in range(10)
        ]
        wastes = sorted((row["waste_bytes"] for row in run.classes), reverse=True)[:10]
        assert np.array(ends) * unit == pytest.approx(wastes)
    labels = [label.get_text() for label in axes_of[0].get_yticklabels()]
    assert labels[:3] == ["8 KiB scan", "6 KiB scan", "24 B scan"]
    assert axes_of[1].get_yticklabels()[0].get_text() == "32 B"


def test_scan_and_noscan_stand_apart(trace):
    result = replay_trace(trace, find("go"), Settings(10, Noscan.parse("0.5")))
    (axes,) = panels(drawn(result, "waste", classes=40))
    kinds = {label.get_text().rsplit(" ", 1)[1] for label in axes.get_yticklabels()}
    assert kinds == {"scan", "noscan"}


def test_bars_of_occupancy_are_the_bytes_of_all_spans_of_classes(redis):
    axes_of = panels(drawn(redis, "occupancy"))
    for axes, run in zip(axes_of, redis.runs[:2], strict=True):
        several, single = ([bar.get_height() for bar in bars] for bars in axes.containers)
        spans = sum(row["spans"] * row["span_bytes"] for row in run.classes if row["slot_bytes"])
        assert (sum(several) + sum(single)) * MIB == pytest.approx(spans)
        assert sum(single) * MIB == pytest.approx(run.summary["single_object_span_bytes"])
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(10 * k) for k in range(11)]


# What is not known is said.


def test_parts_that_a_library_does_not_tell_are_one_area_up_to_what_is_committed(redis):
    told = redis.runs[1]
    untold = dict.fromkeys(("front_end", "central", "tail", "page_heap", "runtime"))
    samples = told.samples | {name: [None] * len(told.samples["event"]) for name in untold}
    footprint = {moment: parts | untold for moment, parts in told.footprint.items()}
    run = replace(told, samples=samples, footprint=footprint)
    figure = drawn(replace(redis, runs=[run]), "footprint")
    assert list(legend_of(figure)) == ["live", "transfer caches", "not told apart", "requested", "committed"]
    (axes,) = panels(figure)
    assert max(tops(axes.collections)) * MIB == pytest.approx(told.summary["peak_committed_bytes"])


def test_a_run_of_which_nothing_is_known_but_what_was_requested_is_drawn_so(redis):
    told = redis.runs[1]
    samples = {name: [None] * len(values) for name, values in told.samples.items()}
    samples |= {name: told.samples[name] for name in ("event", "requested", "peak_requested")}
    nothing = dict.fromkeys(told.footprint["floor"])
    run = replace(
        told,
        samples=samples,
        footprint=dict.fromkeys(told.footprint, nothing),
        summary=dict.fromkeys(told.summary),
    )
    figure = drawn(replace(redis, runs=[run]), "footprint")
    assert list(legend_of(figure)) == ["requested"]
    assert any(text == "committed bytes unknown" for text, _ in written_in(figure))


def test_a_real_library_has_the_parts_it_tells_and_a_line_of_resident_memory(trace):
    result = replay(trace, f"{needs_library('mimalloc')}:timing=off", samples=20)
    figure = drawn(result, "footprint")
    assert_readable(figure)
    assert list(legend_of(figure)) == [
        "live",
        "not told apart",
        "requested",
        "committed",
        "resident, at its most",
    ]


def test_one_far_above_many_others_leaves_the_scale_to_them_and_says_so(many):
    giant = replace(
        many.runs[0],
        samples=many.runs[0].samples | {"peak_committed": [100 * MIB] * len(many.runs[0].samples["event"])},
    )
    figure = drawn(replace(many, runs=[giant, *many.runs[1:]]), "footprint")
    assert panels(figure)[0].get_ylim()[1] < 20
    assert any("beyond this scale" in text for text, _ in written_in(figure))


def test_a_failed_run_has_no_panel(redis):
    failed = replace(redis.runs[0], failure="it crashed", samples={}, classes=[])
    figure = drawn(replace(redis, runs=[failed, *redis.runs[1:]]), "footprint")
    assert [axes.get_title(loc="left") for axes in panels(figure)] == ["tcmalloc", "ideal"]


def test_what_an_older_version_did_not_keep_is_one_line(redis):
    old = replace(redis.runs[0], samples={k: v for k, v in redis.runs[0].samples.items() if k != "gc_cycles"})
    with pytest.raises(HarnessError, match="without 'gc_cycles', which the figure collector shows: replay"):
        drawn(replace(redis, runs=[old]), "collector")


# Files.


def test_the_same_runs_give_the_same_bytes_in_another_process(tmp_path, trace):
    for folder in ("a", "b"):
        done = harness(
            "plot", trace, "-o", folder, cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": "random"}
        )
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(f"small-{name}.{form}" for name in plot.FIGURES for form in ("png", "svg"))
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    height, width, _ = imread(tmp_path / "a" / "small-footprint.png").shape
    assert width == 1200
    assert 300 < height < 800
    assert b"<dc:date>" not in (tmp_path / "a" / "small-footprint.svg").read_bytes()


def test_a_users_matplotlibrc_changes_nothing(tmp_path, trace):
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 30\nbackend: no-such-backend-here\naxes.facecolor: red\n"
    )
    for folder, settings in (("a", {}), ("b", {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")})):
        path = str(tmp_path / f"{folder}.svg")
        done = harness("plot", trace, "-a", "ideal", "-o", path, env=os.environ | settings)
        assert (done.returncode, done.stderr) == (0, f"harness: wrote {path}\n")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_file_is_one_figure(tmp_path, trace):
    path = str(tmp_path / "waste.SVG")
    done = harness("plot", trace, "-a", "tcmalloc", "-o", path, "--figure", "waste")
    assert done.stderr == f"harness: wrote {path}\n"
    assert [each.name for each in tmp_path.iterdir()] == ["waste.SVG"]
    assert "<svg" in (tmp_path / "waste.SVG").read_text()


def test_replay_draws_beside_its_table(tmp_path, trace):
    done = harness("replay", trace, "--plot", str(tmp_path / "figures"))
    assert done.returncode == 0
    assert "peak committed" in done.stdout
    assert done.stderr.count("harness: wrote ") == 4
    assert (tmp_path / "figures" / "small-occupancy.png").exists()


def test_what_was_kept_is_drawn_as_it_would_have_been(tmp_path, trace):
    harness("replay", trace, "--save", "kept", "--plot", "at-once", "--samples", "50", cwd=tmp_path)
    done = harness("plot", "kept", "-o", "later", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    at_once, later = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("at-once", "later")
    )
    assert len(at_once) == 8
    assert at_once == later


def test_results_of_the_same_name_have_files_of_their_own(tmp_path, trace):
    harness("replay", trace, "-a", "ideal", "--save", "kept", cwd=tmp_path)
    harness("plot", "kept", "kept", "-o", "out", cwd=tmp_path)
    names = {path.stem for path in (tmp_path / "out").iterdir()}
    assert names == {"small-footprint", "small-2-footprint"}


def test_of_a_result_without_samples_the_rest_is_drawn(tmp_path, trace):
    (tmp_path / "run.json").write_text(harness("replay", trace, "--format", "json").stdout)
    done = harness("plot", "run.json", "-o", "figures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"small-waste.png", "small-waste.svg"}
    fails_with(
        harness("plot", "run.json", "-o", "x.png", cwd=tmp_path),
        "kept without samples; `harness replay --save`",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.pdf"], "x.pdf: figures are drawn as PNG and SVG: name a .png, a .svg or a folder"),
        (["{trace}", "-o", "x.png"], "x.png: a file holds one figure of one trace: name a folder for more"),
        (["-o", "x.png", "--figure", "waste", "--figure", "footprint"], "a file holds one figure"),
        (["-o", "{trace}"], "is no folder for figures"),
        (["-o", "gone/x.png"], "gone/x.png: cannot be written"),
        (["-o", "x", "-a", "ideal", "--figure", "waste"], "none of its runs tells its size classes"),
        (["-o", "x", "--figure", "pie"], "'pie' is not one of"),
        ([], "Missing option '-o'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, trace, arguments, message):
    arguments = [argument.format(trace=trace) for argument in arguments]
    fails_with(harness("plot", trace, *arguments, cwd=tmp_path), message.format(trace=trace))
    assert not list(tmp_path.iterdir())


def test_an_allocator_for_what_needs_none_is_one_line(tmp_path):
    fails_with(harness("plot", str(tmp_path), "-a", "go", "-o", "x"), "-a says what replays a trace")


def test_a_folder_that_holds_no_run_is_one_line(tmp_path):
    fails_with(harness("plot", str(tmp_path), "-o", "x"), "holds no run.json")


def test_no_events_are_one_line_and_cost_no_other_trace_its_figures(tmp_path, trace):
    empty = write_trace(tmp_path / "empty.parquet", [])
    done = harness("plot", empty, "no-such.parquet", trace, "-a", "ideal", "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"harness: wrote {tmp_path}/out/small-footprint.png and {tmp_path}/out/small-footprint.svg",
        "harness: no-such.parquet: no such file",
        f"harness: {empty}: it has no events, so that there is nothing to draw",
    ]


def test_without_matplotlib_one_line_says_what_to_install_before_any_work_is_done(tmp_path, trace):
    program = "import sys; sys.modules['matplotlib'] = None; from harness.cli import main; main()"
    for arguments in (["plot", trace, "-o", "x"], ["replay", trace, "--plot", "x"]):
        command = [sys.executable, "-P", "-c", program, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        fails_with(done, "matplotlib is needed and not installed: pip install 'matplotlib>=3.8'")
        assert done.stdout == ""


def test_nothing_else_loads_matplotlib(trace):
    program = "import sys; from harness.cli import cli; cli.main(sys.argv[1:], standalone_mode=False)"
    command = [sys.executable, "-P", "-c", f"{program}; print('matplotlib' in sys.modules, file=sys.stderr)"]
    for arguments in (["replay", trace, "-a", "ideal"], ["plot", "--help"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1:] == ["False"]


def test_the_command_line_offers_every_figure():
    assert tuple(plot.FIGURES) == cli.FIGURES
