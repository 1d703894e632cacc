"""Synthetic traces: their statistics, their seed, and what cannot be asked for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import harness

from harness.allocator import ALLOC, FREE
from harness.distributions import load, names
from harness.errors import HarnessError
from harness.generation import LIFETIMES, LOG_NORMAL, generate
from harness.inspection import inspect
from harness.native._native import Generator
from harness.trace import TraceReader

EVENTS, LIVE = 300_000, 5_000


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("generate") / "t.parquet")
    generate(path, events=EVENTS, live=LIVE, seed=7, threads=4, remote_free=0.2, noscan=0.3)
    return path


def rows(path):
    batches = list(TraceReader(path).raw_batches())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def lifetimes_by_birth(columns):
    """The events that each object lived, by the event of its birth; those that die within the trace."""
    born, lived = {}, {}
    for event, (op, name) in enumerate(zip(columns["op"].tolist(), columns["object"].tolist(), strict=True)):
        if op == ALLOC:
            born[name] = event
        else:
            birth = born.pop(name)
            lived[birth] = event - birth
    return lived


def test_sizes_are_log_normal(trace):
    columns = rows(trace)
    sizes = columns["size"][columns["op"] == ALLOC].astype(float)
    assert math.isclose(np.median(sizes), math.exp(4.5), rel_tol=0.03)
    deviations = (np.log(sizes) - 4.5) / 1.5
    assert abs(deviations.mean()) < 0.02
    assert abs(deviations.std() - 1) < 0.02
    for within, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert abs((abs(deviations) < within).mean() - share) < 0.01


def test_the_number_of_live_objects_climbs_and_then_stays(trace):
    columns = rows(trace)
    live = np.cumsum(np.where(columns["op"] == ALLOC, 1, -1))
    assert (np.diff(live[:LIVE]) == 1).all()
    steady = live[LIVE:]
    assert math.isclose(steady.mean(), LIVE, rel_tol=0.03)
    # Poisson: six deviations hold nearly always.
    assert abs(steady - LIVE).max() < 6 * math.sqrt(LIVE)


def test_allocations_and_frees_do_not_alternate(trace):
    steady = rows(trace)["op"][LIVE:]
    assert abs((np.diff(steady.astype(int)) == 0).mean() - 0.5) < 0.02


def test_lifetimes_are_exponential(trace):
    """An object dies at an event with probability 1 / (2 live): the mean is twice the live objects."""
    columns = rows(trace)
    lifetimes = lifetimes_by_birth(columns)
    # Those born in steady state, and early enough for nearly all of them to have died.
    births = [event for event in range(LIVE, EVENTS // 2) if columns["op"][event] == ALLOC]
    lived = np.array([lifetimes.get(event, EVENTS) for event in births]) / (2 * LIVE)
    for t in (0.1, 0.5, 1, 2, 3):
        assert abs((lived < t).mean() - (1 - math.exp(-t))) < 0.02


def test_shares_of_remote_frees_and_noscan_objects_are_as_asked(trace):
    inspection = inspect(trace)
    assert abs(inspection.remote_free_share - 0.2) < 0.01
    assert abs(inspection.noscan_share - 0.3) < 0.01
    assert inspection.threads == 4


def test_a_thread_allocates_in_runs(trace):
    columns = rows(trace)
    threads = columns["thread"][columns["op"] == ALLOC]
    # One allocation in 16 draws a thread anew, one in four of them the same.
    assert abs((np.diff(threads.astype(int)) != 0).mean() - 3 / 4 / 16) < 0.005
    assert (np.bincount(threads, minlength=4) > len(threads) / 8).all()


def test_gaps_are_exponential_with_a_mean_of_100_ns(trace):
    gaps = np.diff(rows(trace)["time_ns"])
    assert gaps.min() >= 0
    assert math.isclose(gaps.mean(), 100, rel_tol=0.02)
    assert math.isclose((gaps > 100).mean(), math.exp(-1.005), rel_tol=0.03)


def test_the_trace_says_how_it_was_made(trace):
    metadata = TraceReader(trace).metadata
    assert metadata["synthetic"] is True
    assert metadata["source"]["parameters"] == {
        "events": EVENTS,
        "live": LIVE,
        "seed": 7,
        "threads": 4,
        "remote_free": 0.2,
        "noscan": 0.3,
        "size_mu": 4.5,
        "size_sigma": 1.5,
    }


def digest(path, **parameters):
    generate(str(path), **({"events": 3_000, "live": 100, "seed": 1} | parameters))
    return TraceReader(str(path)).metadata["digest"]


def test_a_seed_gives_one_trace_on_any_machine_and_another_seed_another(tmp_path):
    first = digest(tmp_path / "a.parquet")
    assert digest(tmp_path / "b.parquet") == first
    assert digest(tmp_path / "c.parquet", seed=2) != first
    assert first == "sha256:0c091cee0f2c1b6ba4f03657be61f75b3d74d75c770955514c65c243cb1af0af"


PHASE = {
    "live": 50,
    "threads": 2,
    "remote_free": 0.5,
    "noscan": 0.5,
    "size_mu": 4.5,
    "size_sigma": 1.5,
    "sizes": [],
    "weights": [],
    "live_weights": [],
    "lifetimes": "exponential",
    "short_lived": 0.5,
    "short_life": 10.0,
}
TWO_SIZES = {"sizes": [8, 4096], "weights": [3.0, 1.0], "live_weights": [1.0, 3.0]}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        TWO_SIZES,
        *({"lifetimes": name} for name in ("fifo", "lifo", "mixture")),
        TWO_SIZES | {"lifetimes": "by-size"},
    ],
    ids=["log-normal", "listed", "fifo", "lifo", "mixture", "by-size"],
)
def test_the_first_rows_do_not_depend_on_how_many_follow(changed):
    def take(*counts):
        generator = Generator(seed=3)
        generator.begin_phase(**PHASE | changed)
        batches = [generator.next(count) for count in counts]
        return {name: np.concatenate([batch[name] for batch in batches]).tolist() for name in batches[0]}

    assert take(1_000) == take(1, 333, 666)


class LastFreedFirst:
    """Names objects densely: the last freed name is given first."""

    def __init__(self):
        self.name_of_slot, self.free, self.next = {}, [], itertools.count()

    def of(self, batch):
        return [self.name(op, slot) for op, slot in zip(batch.op, batch.slot.tolist(), strict=True)]

    def name(self, op, slot):
        if op != FREE:
            self.name_of_slot[slot] = self.free.pop() if self.free else next(self.next)
            return self.name_of_slot[slot]
        self.free.append(self.name_of_slot.pop(slot))
        return self.free[-1]


@settings(max_examples=40, deadline=None)
@given(
    events=st.integers(0, 2_000),
    live=st.integers(1, 300),
    seed=st.integers(0, 2**64 - 1),
    threads=st.integers(2, 300),
    remote_free=st.floats(0, 1),
    noscan=st.floats(0, 1),
    size_mu=st.floats(-5, 12),
    size_sigma=st.floats(0, 3),
)
def test_any_arguments_give_a_trace_that_passes_the_checks(tmp_path_factory, events, **parameters):
    path = str(tmp_path_factory.mktemp("generate") / "t.parquet")
    generate(path, events=events, **parameters)
    trace = TraceReader(path).checked()
    batches = list(trace)
    assert trace.totals()["events"] == events
    named = LastFreedFirst()
    for raw, batch in zip(TraceReader(path).raw_batches(), batches, strict=True):
        assert raw["object"].tolist() == named.of(batch)
        assert (batch.size >= 1).all()


@pytest.mark.parametrize("remote_free", [0.0, 1.0])
def test_all_or_none_of_the_frees_are_remote(tmp_path, remote_free):
    path = str(tmp_path / "t.parquet")
    generate(path, events=5_000, live=50, seed=1, threads=3, remote_free=remote_free)
    assert inspect(path).remote_free_share == remote_free


def test_no_deviation_gives_one_size(tmp_path):
    path = str(tmp_path / "t.parquet")
    generate(path, events=500, live=50, seed=1, size_mu=math.log(4096), size_sigma=0.0)
    inspection = inspect(path)
    assert inspection.median_size_bytes == inspection.largest_size_bytes == inspection.mean_size_bytes == 4096


def made(tmp_path, **parameters):
    path = str(tmp_path / "t.parquet")
    generate(path, **({"events": 100_000, "live": 2_000, "seed": 7} | parameters))
    return rows(path)


def test_sizes_come_from_a_list_by_their_weights(tmp_path):
    path = tmp_path / "sizes.csv"
    path.write_text("size,weight\n8,1\n24,0.5\n4096,2.5\n0,1\n")
    columns = made(tmp_path, sizes=str(path))
    sizes = columns["size"][columns["op"] == ALLOC]
    found = dict(zip(*np.unique(sizes, return_counts=True), strict=True))
    assert {size: round(count / len(sizes), 2) for size, count in found.items()} == {
        0: 0.2,
        8: 0.2,
        24: 0.1,
        4096: 0.5,
    }


def test_sizes_come_from_a_published_distribution_by_its_name(tmp_path):
    columns = made(tmp_path, sizes="fleetbench-3")
    sizes = columns["size"][columns["op"] == ALLOC]
    known = load("fleetbench-3")
    weight = dict(zip(known.sizes, np.array(known.weights) / sum(known.weights), strict=True))
    assert set(sizes.tolist()) <= set(weight)
    for size in sorted(weight, key=weight.get)[-20:]:
        expected = weight[size] * len(sizes)
        assert abs((sizes == size).sum() - expected) < 5 * math.sqrt(expected)


def test_first_in_dies_first(tmp_path):
    births = list(lifetimes_by_birth(made(tmp_path, lifetimes="fifo")))
    assert len(births) > 40_000
    assert births == sorted(births)


def test_last_in_dies_first(tmp_path):
    columns = made(tmp_path, lifetimes="lifo")
    stack = []
    for op, name in zip(columns["op"].tolist(), columns["object"].tolist(), strict=True):
        if op == ALLOC:
            stack.append(name)
        else:
            assert stack.pop() == name


@pytest.mark.parametrize("lifetimes", ["fifo", "lifo", "mixture", "by-size"])
def test_the_number_of_live_objects_stays_whoever_dies(tmp_path, lifetimes):
    columns = made(tmp_path, lifetimes=lifetimes, sizes="fleetbench-7", events=200_000)
    live = np.cumsum(np.where(columns["op"] == ALLOC, 1, -1))
    assert (np.diff(live[:2_000]) == 1).all()
    assert math.isclose(live[2_000:].mean(), 2_000, rel_tol=0.05)
    assert abs(live[2_000:] - 2_000).max() < 6 * math.sqrt(2_000)


def test_a_mixture_has_short_lives_and_long_ones(tmp_path):
    columns = made(tmp_path, lifetimes="mixture", short_lived=0.8, short_life=200.0, events=200_000)
    lifetimes = lifetimes_by_birth(columns)
    births = [event for event in range(2_000, 100_000) if columns["op"][event] == ALLOC]
    lived = np.array([lifetimes.get(event, 200_000) for event in births])
    # 80 of the 2,000 are short-lived ones: half the events are allocations, 80 % of these live 200 events.
    long_life = 2 * (2_000 - 80) / 0.2
    for t in (50, 200, 600, 5_000, 20_000):
        expected = 0.8 * (1 - math.exp(-t / 200)) + 0.2 * (1 - math.exp(-t / long_life))
        assert abs((lived < t).mean() - expected) < 0.02


def test_by_size_each_size_holds_its_share_of_the_live_objects(tmp_path):
    path = tmp_path / "sizes.csv"
    path.write_text("size,weight,live\n8,9,1\n64,1,2\n4096,2,1\n")
    columns = made(tmp_path, lifetimes="by-size", sizes=str(path))
    names, is_birth = columns["object"], columns["op"] == ALLOC
    size_of = {}
    deltas = {8: np.zeros(100_000, int), 64: np.zeros(100_000, int), 4096: np.zeros(100_000, int)}
    for event, (name, size, born) in enumerate(
        zip(names.tolist(), columns["size"].tolist(), is_birth, strict=True)
    ):
        if born:
            size_of[name] = size
        deltas[size_of[name]][event] = 1 if born else -1
    for size, share in ((8, 0.25), (64, 0.5), (4096, 0.25)):
        live = np.cumsum(deltas[size])[2_000:]
        assert math.isclose(live.mean(), share * 2_000, rel_tol=0.1)
        assert math.isclose(live[:10_000].mean(), share * 2_000, rel_tol=0.15)  # From the climb on.


def test_phases_let_the_heap_grow_and_shrink_and_change_its_sizes(tmp_path):
    columns = made(
        tmp_path,
        events=None,
        phases=["20000", "30000:live=6000,size_mu=8,threads=3", "40000:live=500,sizes=fleetbench-0"],
    )
    live = np.cumsum(np.where(columns["op"] == ALLOC, 1, -1))
    assert len(live) == 90_000
    assert math.isclose(live[10_000:20_000].mean(), 2_000, rel_tol=0.1)
    assert (np.diff(live[20_000:23_000]) == 1).all()
    assert math.isclose(live[30_000:50_000].mean(), 6_000, rel_tol=0.1)
    assert math.isclose(live[70_000:].mean(), 500, rel_tol=0.1)
    born = columns["op"] == ALLOC
    medians = [
        np.median(columns["size"][part][born[part]]) for part in (slice(20_000), slice(20_000, 50_000))
    ]
    assert math.isclose(medians[1] / medians[0], math.exp(3.5), rel_tol=0.1)
    assert set(columns["size"][50_000:][born[50_000:]].tolist()) <= set(load("fleetbench-0").sizes)
    parts = (slice(20_000), slice(20_000, 50_000), slice(50_000, None))
    assert [int(columns["thread"][part][born[part]].max()) for part in parts] == [0, 2, 0]


def test_the_short_lived_die_soon_even_if_a_phase_ends(tmp_path):
    columns = made(
        tmp_path, events=None, live=600, lifetimes="mixture", short_life=1_000.0, phases=["20000", "20000"]
    )
    lifetimes = lifetimes_by_birth(columns)
    alive = [birth for birth, lived in lifetimes.items() if birth < 20_000 <= birth + lived]
    dead = [birth for birth in alive if birth + lifetimes[birth] < 21_500]
    # 450 of 600 die within 1,000 events in the mean, the others within 3,000; in 1,500 that makes 409.
    assert math.isclose(len(dead) / len(alive), 409 / 600, rel_tol=0.1)


def test_a_phase_begins_as_the_same_trace_without_those_behind_it(tmp_path):
    alone = made(tmp_path, events=20_000)
    first = made(tmp_path, events=None, phases=["20000", "20000:live=10,lifetimes=fifo"])
    assert all((first[name][:20_000] == column).all() for name, column in alone.items())


def test_what_outlives_a_phase_is_older_than_what_the_next_one_makes(tmp_path):
    columns = made(tmp_path, events=None, live=1_000, phases=["5000", "20000:lifetimes=fifo"])
    births = list(lifetimes_by_birth({name: column[:25_000] for name, column in columns.items()}))
    late = [birth for birth in births if birth >= 5_000]
    assert births[-len(late) :] == late == sorted(late)


def test_the_trace_says_how_each_phase_was_made(tmp_path):
    path = str(tmp_path / "t.parquet")
    generate(path, live=10, seed=3, phases=["5", "6:live=20,sizes=fleetbench-1,lifetimes=by-size"])
    common = {"threads": 1, "remote_free": 0.0, "noscan": 0.5}
    assert TraceReader(path).metadata["source"]["parameters"] == {
        "seed": 3,
        "phases": [
            {"events": 5, "live": 10, **common, "size_mu": 4.5, "size_sigma": 1.5},
            {"events": 6, "live": 20, **common, "sizes": "fleetbench-1", "lifetimes": "by-size"},
        ],
    }


PINNED = {
    "fifo": "fa6b157cba8446675b8a502c24265ed1c0dfa91871bd0156dea08ba84174471c",
    "lifo": "ff4bd1391678f5413540b360a7226b7c01fafd1f1b84fb21ea76c2d0d6aea1c5",
    "mixture": "18ae5d24345db291156cbafd8b4602ee7ffc509bd3823ca03d23bff914fc9096",
    "by-size": "0c93db7daa27a331182f76811a475da1d9ea7b003d006616de0f6f45ab57550a",
}


@pytest.mark.parametrize("lifetimes", PINNED)
def test_any_lifetimes_give_one_trace_on_any_machine(tmp_path, lifetimes):
    found = digest(tmp_path / "t.parquet", lifetimes=lifetimes, sizes="fleetbench-5")
    assert found == f"sha256:{PINNED[lifetimes]}"


phase = st.builds(
    lambda events, options: f"{events}:" + ",".join(f"{key}={value}" for key, value in options.items()),
    st.integers(0, 600),
    st.fixed_dictionaries(
        {},
        optional={
            "live": st.integers(50, 300),
            "threads": st.integers(2, 9),
            "remote_free": st.floats(0, 1),
            "sizes": st.sampled_from([LOG_NORMAL, "fleetbench-2", "fleetbench-8"]),
            "lifetimes": st.sampled_from([name for name in LIFETIMES if name != "by-size"]),
        },
    )
    | st.just({"sizes": "fleetbench-8", "lifetimes": "by-size", "live": 70}),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(phase, min_size=1, max_size=6), st.integers(0, 2**64 - 1))
def test_any_phases_give_a_trace_that_passes_the_checks(tmp_path_factory, phases, seed):
    path = str(tmp_path_factory.mktemp("generate") / "t.parquet")
    generate(path, live=100, threads=2, seed=seed, phases=phases)
    trace = TraceReader(path).checked()
    named = LastFreedFirst()
    for raw, batch in zip(TraceReader(path).raw_batches(), trace, strict=True):
        assert raw["object"].tolist() == named.of(batch)
    assert trace.totals()["events"] == sum(int(text.split(":")[0]) for text in phases)


BAD = {
    "events": (-1, "--events -1: expected 0 or more"),
    "live": (0, "--live 0: expected 1 to"),
    "seed": (-1, "--seed -1: expected 0 to"),
    "threads": (65_536, "--threads 65536: expected 1 to 65,535"),
    "remote_free": (1.5, "--remote-free 1.5: expected 0 to 1"),
    "noscan": (-0.1, "--noscan -0.1: expected 0 to 1"),
    "size_mu": (math.nan, "--size-mu nan: expected"),
    "size_sigma": (-1.0, "--size-sigma -1.0: expected 0 to"),
    "sizes": ("fleetbench", "--sizes fleetbench: no such distribution; expected log-normal, fleetbench-0, "),
    "lifetimes": ("weibull", "--lifetimes weibull: expected exponential, fifo, lifo, mixture, by-size"),
    "short_life": (5.0, "--short-life 5: means nothing here; expected --lifetimes mixture"),
    "phases": (["5"], "--events 10: expected none beside --phase"),
}
# What is wrong only beside something else.
BAD_TOGETHER = [
    ({"events": None}, "--events is missing: expected how many to make, or --phase"),
    (
        {"sizes": "fleetbench-0", "size_mu": 2.0},
        "--size-mu 2: means nothing here; expected --sizes log-normal",
    ),
    ({"lifetimes": "by-size"}, "--sizes log-normal --lifetimes by-size: these sizes have no column live"),
    (
        {"lifetimes": "mixture", "short_lived": 0.5, "short_life": 40.0},
        "--short-lived 0.5 --short-life 40 --live 10: leaves no room for the long-lived",
    ),
    ({"lifetimes": "mixture", "short_lived": 1.5}, "--short-lived 1.5: expected 0 to 1"),
]
BAD_PHASES = {
    "x": "events: found 'x', expected a whole number",
    "5:live": "found 'live', expected key=value with a key of live, threads,",
    "5:seed=3": "found 'seed=3', expected key=value with a key of live, threads,",
    "5:live=many": "live: found 'many', expected a whole number",
    "5:noscan=all": "noscan: found 'all', expected a number",
    "5:live=0": "--live 0: expected 1 to",
    "-5": "--events -5: expected 0 or more",
    "5:short_lived=0.5": "short_lived means nothing here; expected lifetimes=mixture",
    "5:remote_free=0.5": "--remote-free 0.5: one thread has no other to free on",
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *bad) for name, bad in BAD.items()], ids=BAD)
def test_an_argument_out_of_range_is_one_line_and_leaves_no_file(tmp_path, name, value, message):
    arguments = {"events": 10, "live": 10, "seed": 1, name: value}
    with pytest.raises(HarnessError) as caught:
        generate(str(tmp_path / "t.parquet"), **arguments)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("changed", "message"), BAD_TOGETHER, ids=lambda value: str(value)[:30])
def test_arguments_that_do_not_go_together_are_one_line_and_leave_no_file(tmp_path, changed, message):
    with pytest.raises(HarnessError) as caught:
        generate(str(tmp_path / "t.parquet"), **({"events": 10, "live": 10, "seed": 1} | changed))
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "message"), BAD_PHASES.items(), ids=BAD_PHASES)
def test_a_phase_that_cannot_be_is_named_and_leaves_no_file(tmp_path, text, message):
    with pytest.raises(HarnessError) as caught:
        generate(str(tmp_path / "t.parquet"), live=10, seed=1, phases=["10", text])
    assert str(caught.value).startswith(f"--phase {text}: {message}")
    assert list(tmp_path.iterdir()) == []


def test_one_thread_cannot_free_on_another(tmp_path):
    with pytest.raises(HarnessError, match="--threads 2 or more"):
        generate(str(tmp_path / "t.parquet"), events=10, live=10, seed=1, remote_free=0.5)


def test_sizes_beyond_the_address_space_are_one_line_and_leave_no_file(tmp_path):
    with pytest.raises(HarnessError, match=r"--size-mu 30 .* more than 2\^47 bytes"):
        generate(str(tmp_path / "t.parquet"), events=1_000, live=100, seed=1, size_mu=30.0, size_sigma=0.0)
    assert list(tmp_path.iterdir()) == []


def test_listed_sizes_beyond_the_address_space_are_one_line_and_leave_no_file(tmp_path):
    path = tmp_path / "sizes.csv"
    path.write_text(f"size,weight\n{2**46},1\n")
    with pytest.raises(HarnessError, match=r"sizes.csv --live 100: .* more than 2\^47 bytes"):
        generate(str(tmp_path / "t.parquet"), events=1_000, live=100, seed=1, sizes=str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_the_help_names_every_distribution_and_every_kind_of_lifetimes():
    text = " ".join(harness("generate", "--help").stdout.split())
    first, *_, last = names()
    assert f"{first} to {last}" in text
    assert "|".join(LIFETIMES) in text


def test_the_verb_writes_a_trace_in_phases(tmp_path):
    path = str(tmp_path / "t.parquet")
    done = harness(
        *("generate", "-o", path, "--live", "100", "--sizes", "fleetbench-4", "--lifetimes", "by-size"),
        *("--phase", "2000", "--phase", "3000:live=20,lifetimes=mixture,short_life=5"),
    )
    assert done.returncode == 0, done.stderr
    assert TraceReader(path).events == 5_000
    assert harness("replay", path).returncode == 0


def test_the_verb_writes_a_trace_that_replays(tmp_path):
    path = str(tmp_path / "t.parquet")
    done = harness("generate", "-o", path, "--events", "2000", "--live", "100")
    assert done.returncode == 0, done.stderr
    assert (np.bincount(rows(path)["op"])[[ALLOC, FREE]] > 500).all()
    assert harness("replay", path, "-a", "ideal").returncode == 0
    failed = harness("generate", "-o", path, "--events", "-5")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
