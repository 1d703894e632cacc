"""A trace whose deaths a collector saw, or with sizes of classes, is replayed for what it knows."""

from __future__ import annotations

import json

import pytest
from support import columns, fails_with, harness, random_rows, write_trace
from test_blame import STACKS

from harness import metrics
from harness.allocator import ALLOC, FREE, GC, find
from harness.blame import blame_trace
from harness.conversion import convert
from harness.gate_replay import check, update
from harness.plot import Look, footprint, waste
from harness.replay import Settings, replay
from harness.sites import Sites, encode
from harness.thresholds import Thresholds
from harness.trace import TraceReader, TraceWriter
from harness.trace_knowledge import Knowledge
from harness.waste import explain

KNOWN_APART = {"exact": 300, "class": 700}

# Everything that is reckoned from what the program asked for.
OF_REQUESTS = {
    "peak_requested_bytes",
    "mean_requested_bytes",
    "end_requested_bytes",
    "fragmentation_peak_ratio",
    "fragmentation_mean",
    "fragmentation_at_peak_requested",
    "fragmentation_at_peak_committed",
    "waste_bytes",
    "internal_waste_bytes",
    "internal_fragmentation",
    "overhead",
    "overhead_above_floor",
    "efficiency",
}


def imported(path, rows, *, frees="exact", sizes="exact", known=None, sites=None):
    """Write rows as a trace that says how its deaths and sizes came to be known."""
    extra = {} if known is None else {"sizes_known": known}
    table = None if sites is None else encode(Sites.of_stacks(STACKS, None))
    optional = () if sites is None else ("site",)
    with TraceWriter(
        str(path),
        source={"program": "test"},
        frees=frees,
        sizes=sizes,
        extra=extra,
        optional=optional,
        sites=table,
    ) as writer:
        writer.write(columns(rows) if sites is None else columns(rows, site=sites))
    return str(path)


def generations(count=20, objects=2000, size=1000):
    """Rows of a collected program: each generation lives until the next but one collection finds it dead."""
    rows = []
    for generation in range(count):
        names = range(generation % 2 * objects, generation % 2 * objects + objects)
        if generation > 1:
            rows += [(FREE, 0, name, 0) for name in names] + [(GC, 0, 0, 0)]
        rows += [(ALLOC, 0, name, size) for name in names]
    return rows


def run_of(path, allocator, **settings):
    return replay(path, find(allocator), Settings(samples=20, **settings)).runs[0]


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("collected") / "t.parquet", generations(), frees="collector")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("known") / "t.parquet", random_rows(5000))


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    path = tmp_path_factory.mktemp("unknown") / "t.parquet"
    return imported(path, random_rows(5000), sizes="class", known=KNOWN_APART)


class TestKnowledge:
    def test_a_trace_that_says_nothing_knows_all(self):
        assert Knowledge.of({}) == Knowledge()
        assert Knowledge().knows_requests
        assert not Knowledge().is_collected
        assert Knowledge().warnings() == []

    @pytest.mark.parametrize(
        ("metadata", "knows"),
        [
            ({"sizes": "exact"}, True),
            ({"sizes": "class"}, False),
            ({"sizes": "class", "sizes_known": {"exact": 5, "class": 0}}, True),
            ({"sizes": "class", "sizes_known": {"exact": 5, "class": 1}}, False),
            ({"sizes": "exact", "sizes_known": {"exact": 0, "class": 9}}, False),
            ({"sizes": "class", "sizes_known": {"exact": "many", "class": -1}}, False),
            ({"sizes": "class", "sizes_known": 7}, False),
        ],
    )
    def test_one_object_of_unknown_size_makes_the_requests_unknown(self, metadata, knows):
        assert Knowledge.of(metadata).knows_requests is knows

    def test_the_warning_names_the_share_of_exact_sizes(self):
        (text,) = Knowledge.of({"sizes": "class", "sizes_known": KNOWN_APART}).warnings()
        assert "exact sizes of 30.0 % of its 1,000 objects" in text
        assert "rounding" in text

    def test_a_count_that_is_missing_is_not_made_up(self):
        (text,) = Knowledge.of({"sizes": "class"}).warnings()
        assert "does not say which sizes are exact" in text


class TestDeathsThatACollectorSaw:
    def test_the_go_model_collects_only_where_the_trace_does(self, collected):
        run = run_of(collected, "go")
        assert run.label == "go:gogc=off"
        assert run.options["gogc"] == "off"
        assert run.counters["gc_cycles"] == run.counters["gc_forced"] == 18

    def test_so_no_collection_is_made_in_vain(self, collected):
        ours, own = run_of(collected, "go"), run_of(collected, "go:gogc=100")
        assert own.counters["gc_cycles"] > own.counters["gc_forced"]
        assert ours.summary["garbage_bytes"] == 0

    def test_a_warning_says_why_and_how_to_have_it_otherwise(self, collected):
        warnings = run_of(collected, "go").warnings
        assert any("an upper bound" in text for text in warnings)
        (text,) = (text for text in warnings if "gogc=off, since" in text)
        assert text.startswith("go:gogc=off: ")
        assert text.endswith("choose it: go:gogc=100")

    def test_what_the_user_chose_stays(self, collected):
        for chosen in ("go:gogc=100", "go:gogc=50", "go:gogc=off"):
            run = run_of(collected, chosen)
            assert f"gogc={run.options['gogc']}" == chosen.removeprefix("go:")
            assert not any("gogc=off, since" in text for text in run.warnings)

    def test_other_options_are_no_choice_of_this_one(self, collected):
        assert run_of(collected, "go:procs=2").label == "go:gogc=off,procs=2"

    def test_who_has_no_such_option_runs_as_ever(self, collected):
        run = run_of(collected, "tcmalloc")
        assert run.label == "tcmalloc"
        assert not any("since the trace" in text for text in run.warnings)

    def test_a_trace_with_exact_deaths_changes_nothing(self, tmp_path):
        run = run_of(write_trace(tmp_path / "t.parquet", generations()), "go")
        assert run.label == "go"
        assert run.options["gogc"] == 100
        assert not any("trace" in text for text in run.warnings if "noscan" not in text)

    def test_the_census_is_of_the_same_heap(self, collected):
        run = run_of(collected, "go", census=True)
        held = sum(row["live_bytes"] for row in run.classes)
        assert held == run.footprint["peak"]["live"]

    @pytest.mark.parametrize(
        "verb", [["replay"], ["waste"], ["compare", "go", "go:procs=2", "--trace"]], ids=lambda verb: verb[0]
    )
    def test_every_verb_that_replays_says_so(self, collected, verb):
        allocators = [] if verb[0] == "compare" else ["-a", "go"]
        done = harness(*verb, collected, *allocators)
        assert done.returncode == 0, done.stderr
        assert "go:gogc=off" in done.stdout

    def test_a_baseline_calls_it_what_it_ran_as(self, collected, tmp_path):
        made, faults = update(str(tmp_path / "b.json"), None, [collected], find("go"))
        assert not faults
        (kept,) = made.traces.values()
        assert list(kept.runs) == ["go:gogc=off"]
        for specs in ((), find("go")):
            found = check(made, Thresholds(), [collected], specs)
            assert not found.faults
            assert not found.regressions
            assert found.changes

    def test_a_part_of_the_trace_is_still_a_collected_one(self, collected, tmp_path):
        part = str(tmp_path / "part.parquet")
        convert(collected, part, events=(0, 9000))
        assert TraceReader(part).metadata["frees"] == "collector"


class TestSizesKnownByTheirClass:
    @pytest.mark.parametrize("allocator", ["go", "tcmalloc", "ideal"])
    def test_what_is_reckoned_from_requests_is_unknown_and_nothing_else_changes(
        self, known, unknown, allocator
    ):
        whole, part = (run_of(path, allocator, census=True).summary for path in (known, unknown))
        assert {name for name in whole if part[name] != whole[name]} <= OF_REQUESTS
        assert all(part[name] is None for name in OF_REQUESTS)
        assert all(whole[name] is not None for name in OF_REQUESTS)

    def test_every_metric_of_requests_is_known_to_this_test(self, known):
        """A new metric is either reckoned from R, and then null where R is, or not."""
        whole = run_of(known, "go")
        trace = {"events": 5000, "peak_requested_bytes": 1, "requested_sum": 1, "end_requested_bytes": 1}
        trace |= {"allocations": 1, "reallocations": 0, "frees": 1, "remote_frees": 0}
        result = {**metrics.UNKNOWN_RESULT, "peak_committed": 8, "requested_at_peak_committed": 4}
        result |= {"peak_footprint": whole.footprint["peak"], "end_footprint": whole.footprint["end"]}
        result |= {"committed_sum": 9, "committed_at_peak_requested": 8}
        known_names, unknown_names = (
            {
                name
                for name, value in metrics.summary(
                    trace, result, whole.footprint["floor"], knows_requests=knows
                ).items()
                if value is not None
            }
            for knows in (True, False)
        )
        assert known_names - unknown_names == OF_REQUESTS

    def test_the_warning_is_the_runs(self, unknown):
        assert any("30.0 % of its 1,000 objects" in text for text in run_of(unknown, "tcmalloc").warnings)

    def test_samples_and_classes_have_no_requests_either(self, known, unknown):
        run = run_of(unknown, "go")
        assert set(run.samples["requested"]) == set(run.samples["peak_requested"]) == {None}
        assert run.samples["peak_committed"] == run_of(known, "go").samples["peak_committed"]
        for row in run.classes:
            assert row["requested_bytes"] is row["rounding_bytes"] is None
            assert row["waste_bytes"] >= row["header_bytes"] + row["dead_bytes"]

    def test_the_result_says_what_the_trace_knows(self, unknown, known, collected):
        trace = replay(unknown, find("ideal")).trace
        assert (trace["sizes"], trace["sizes_known"]) == ("class", KNOWN_APART)
        assert not {"sizes", "sizes_known", "frees_seen_by"} & replay(known, find("ideal")).trace.keys()
        assert replay(collected, find("ideal")).trace["frees_seen_by"] == "collector"

    @pytest.mark.parametrize("allocator", ["go", "tcmalloc"])
    def test_waste_leaves_rounding_out_and_adds_up_to_what_is_known(self, known, unknown, allocator):
        whole, part = (explain(run_of(path, allocator, census=True)) for path in (known, unknown))
        assert part.causes["rounding"] is None
        without = {name: held for name, held in whole.causes.items() if name != "rounding"}
        assert {name: held for name, held in part.causes.items() if held is not None} == without
        assert part.waste_bytes == sum(without.values()) == sum(row.waste_bytes for row in part.rows)
        held = part.run.footprint["peak"]
        headers = sum(row["header_bytes"] for row in part.run.classes)
        assert part.waste_bytes == metrics.committed_bytes(held) - held["live"] + headers
        assert "waste that is known" in part.advice
        assert not any("in the mean take" in row.words for row in part.rows)

    @pytest.mark.parametrize("form", ["table", "markdown", "csv", "json", "latex"])
    @pytest.mark.parametrize("verb", ["replay", "waste"])
    def test_every_format_shows_it(self, unknown, verb, form):
        done = harness(verb, unknown, "-a", "go", "--format", form)
        assert (done.returncode, done.stderr) == (0, "")
        if verb == "waste" and form == "json":
            (trace,) = json.loads(done.stdout)
            assert trace["runs"][0]["causes"]["rounding"] is None
        if verb == "replay" and form == "json":
            (run,) = json.loads(done.stdout)["results"][0]["runs"]
            assert run["summary"]["waste_bytes"] is None

    def test_the_table_says_unknown_as_ever(self, unknown):
        printed = harness("replay", unknown, "-a", "go").stdout.splitlines()
        (row,) = (line for line in printed if line.startswith("· rounding and headers"))
        assert row.split()[-1] == "-"

    def test_the_pages_of_waste_say_what_is_missing(self, unknown):
        printed = harness("waste", unknown, "-a", "go").stdout
        assert "and by rounding of sizes up to those of slots what nobody knows" in printed
        (row,) = (line for line in printed.splitlines() if line.startswith("rounding "))
        assert row.split() == ["rounding", "-", "-"]

    def test_figures_are_drawn_of_what_is_known(self, unknown):
        result = replay(unknown, find("go") + find("tcmalloc"), Settings(census=True))
        look = Look(x="events", classes=8)
        for draw in (footprint, waste):
            figure = draw(result, look)
            texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
            assert "requested" not in texts
            assert "rounding" not in texts

    def test_blame_leaves_rounding_out(self, tmp_path):
        rows = [(ALLOC, 1, name, 100) for name in range(400)] + [(FREE, 1, name, 0) for name in range(0, 300)]
        rows += [(ALLOC, 1, 1_000_000, 8 << 20)]
        sites = [1 + row % 3 for row in range(len(rows) - 1)] + [4]
        path = imported(tmp_path / "t.parquet", rows, sizes="class", known=KNOWN_APART, sites=sites)
        _, (found,) = blame_trace(path, find("tcmalloc:start=bare"), "site")
        assert all(group.rounding_bytes is group.requested_bytes is None for group in found.groups)
        assert sum(group.waste_bytes for group in found.groups) + found.nobody_bytes == found.waste_bytes
        held = found.run.footprint["peak"]
        assert found.waste_bytes == metrics.committed_bytes(held) - held["live"]
        assert harness("waste", path, "-a", "tcmalloc", "--by", "site").returncode == 0

    def test_a_gate_judges_what_is_known(self, unknown, tmp_path):
        done = harness("check", "--update", unknown, "-a", "go", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert harness("check", cwd=tmp_path).returncode == 0
        (baseline,) = tmp_path.glob("*.json")
        kept = json.loads(baseline.read_text())
        ((_, trace),) = kept["traces"].items()
        metrics_kept = trace["runs"]["go"]["metrics"]
        assert metrics_kept.get("waste_bytes") is None
        metrics_kept["peak_committed_bytes"] //= 2
        baseline.write_text(json.dumps(kept))
        done = harness("check", cwd=tmp_path)
        assert done.returncode == 1
        assert "committed" in done.stdout
        assert "1 regression" in done.stdout

    def test_a_wrong_trace_is_one_line_as_ever(self, tmp_path):
        path = imported(tmp_path / "t.parquet", [(FREE, 0, 1, 0)], frees="collector")
        fails_with(harness("replay", path), "t.parquet")
