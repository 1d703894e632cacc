"""Synthetic traces: their statistics, their seed, and what cannot be asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import harness

from harness.allocator import ALLOC, FREE
from harness.errors import HarnessError
from harness.generation import generate
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
    born, lifetimes = {}, {}
    for event, (op, name) in enumerate(zip(columns["op"].tolist(), columns["object"].tolist(), strict=True)):
        if op == ALLOC:
            born[name] = event
        else:
            birth = born.pop(name)
            lifetimes[birth] = event - birth
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


def test_the_first_rows_do_not_depend_on_how_many_follow():
    def take(*counts):
        generator = Generator(
            live=50, seed=3, threads=2, remote_free=0.5, noscan=0.5, size_mu=4.5, size_sigma=1.5
        )
        batches = [generator.next(count) for count in counts]
        return {name: np.concatenate([batch[name] for batch in batches]).tolist() for name in batches[0]}

    assert take(1_000) == take(1, 333, 666)


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
    for raw, batch in zip(TraceReader(path).raw_batches(), batches, strict=True):
        # Dense slots, the last freed first: what the checker itself would call them.
        np.testing.assert_array_equal(raw["object"], batch.slot)
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


BAD = {
    "events": (-1, "--events -1: expected 0 or more"),
    "live": (0, "--live 0: expected 1 to"),
    "seed": (-1, "--seed -1: expected 0 to"),
    "threads": (65_536, "--threads 65536: expected 1 to 65,535"),
    "remote_free": (1.5, "--remote-free 1.5: expected 0 to 1"),
    "noscan": (-0.1, "--noscan -0.1: expected 0 to 1"),
    "size_mu": (math.nan, "--size-mu nan: expected"),
    "size_sigma": (-1.0, "--size-sigma -1.0: expected 0 to"),
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *bad) for name, bad in BAD.items()], ids=BAD)
def test_an_argument_out_of_range_is_one_line_and_leaves_no_file(tmp_path, name, value, message):
    arguments = {"events": 10, "live": 10, "seed": 1, name: value}
    with pytest.raises(HarnessError) as caught:
        generate(str(tmp_path / "t.parquet"), **arguments)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_one_thread_cannot_free_on_another(tmp_path):
    with pytest.raises(HarnessError, match="--threads 2 or more"):
        generate(str(tmp_path / "t.parquet"), events=10, live=10, seed=1, remote_free=0.5)


def test_sizes_beyond_the_address_space_are_one_line_and_leave_no_file(tmp_path):
    with pytest.raises(HarnessError, match=r"--size-mu 30 .* more than 2\^47 bytes"):
        generate(str(tmp_path / "t.parquet"), events=1_000, live=100, seed=1, size_mu=30.0, size_sigma=0.0)
    assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_a_trace_that_replays(tmp_path):
    path = str(tmp_path / "t.parquet")
    done = harness("generate", "-o", path, "--events", "2000", "--live", "100")
    assert done.returncode == 0, done.stderr
    assert (np.bincount(rows(path)["op"])[[ALLOC, FREE]] > 500).all()
    assert harness("replay", path, "-a", "ideal").returncode == 0
    failed = harness("generate", "-o", path, "--events", "-5")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
