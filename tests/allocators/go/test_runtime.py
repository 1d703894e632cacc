"""The model against the real Go runtime on this machine: every address, span, page and cycle."""

import functools

import pytest
from go_support import (
    PROCS,
    SCALARS,
    SHAPES,
    assert_same_heap,
    batch_of,
    boundary_size,
    churn,
    differing_addresses,
    feed,
    model_from,
    pareto_size,
)

from allocators.go import Go
from allocators.go.runtime import replay, start_snapshot

# Sizes up to 400 KB, half of them around the rules that decide by size, or none large.
SIZES = {
    "pareto": pareto_size,
    "boundaries": boundary_size,
    "small": functools.partial(pareto_size, least=64, most=3000),
}


@pytest.mark.parametrize("name", SHAPES)
def test_without_collections_every_address_is_the_real_one(name, toolchain, tmp_path):
    batch = batch_of(SHAPES[name]())
    run = replay([batch], toolchain=toolchain, procs=PROCS[name])
    model = model_from(run.start, tmp_path, gogc="off", procs=PROCS[name], **version_of(run))
    feed(model, batch)
    assert differing_addresses(model, run.addresses).tolist() == []
    assert_same_heap(model, run.end)


@pytest.mark.parametrize("sizes", SIZES)
def test_explicit_collections_leave_the_heap_that_the_real_ones_leave(sizes, toolchain, tmp_path):
    rows = churn(5, 60_000, SIZES[sizes], frees_of_256=120, noscan_of_256=160, collect_every=25_000)
    batch = batch_of(rows)
    run = replay([batch], toolchain=toolchain)
    assert len(run.cycles) >= 3
    model = model_from(run.start, tmp_path, gogc="off", **version_of(run))
    feed(model, batch)
    assert differing_addresses(model, run.addresses).tolist() == []
    assert_same_heap(model, run.end)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("gogc", [100, 50])
@pytest.mark.parametrize("sweep", ["stopped", "lazy"])
def test_automatic_collections_are_the_real_ones(sweep, gogc, sizes, toolchain, tmp_path):
    batch = batch_of(churn(gogc, 120_000, SIZES[sizes], frees_of_256=122, noscan_of_256=160))
    every = 20_000
    run = replay([batch], toolchain=toolchain, collector=sweep, gogc=gogc, state_every=every)
    assert len(run.cycles) >= 2
    model = model_from(run.start, tmp_path, gogc=gogc, sweep=sweep, **version_of(run))
    # The one input that the model cannot know: how much stack each cycle found in the replayer.
    model.native.set_stack_scans([cycle.stack_scan for cycle in run.cycles])
    scalars = (*SCALARS, "goal", "trigger")
    for i, state in enumerate(run.states):
        feed(model, batch.part(i * every, (i + 1) * every))
        assert_same_heap(model, state, scalars)
    feed(model, batch.part(len(run.states) * every, len(batch.op)))
    assert_same_heap(model, run.end, scalars)
    assert model.native.cycle_history() == [(cycle.heap_live, cycle.heap_marked) for cycle in run.cycles]
    assert differing_addresses(model, run.addresses).tolist() == []


def test_a_memory_limit_sets_the_goal_that_the_real_one_sets(toolchain, tmp_path):
    batch = batch_of(churn(11, 40_000, pareto_size, frees_of_256=125))
    every, limit = 5_000, 32 << 20  # So that the headroom is the least one, 1 MiB.
    run = replay(
        [batch], toolchain=toolchain, collector="stopped", gogc="off", memory_limit=limit, state_every=every
    )
    assert run.cycles == []
    options = {"gogc": "off", "memory_limit": limit, "sweep": "stopped"}
    model = model_from(run.start, tmp_path, **options, **version_of(run))
    for i, state in enumerate(run.states):
        feed(model, batch.part(i * every, (i + 1) * every))
        assert_same_heap(model, state)
        # What the model leaves out: the memory that the real runtime has taken for itself meanwhile.
        grown = state.metadata_bytes - run.start.metadata_bytes
        assert model.native.state()["goal"] - state.scalars["goal"] == grown
    assert grown > 0


def test_a_start_snapshot_holds_what_a_small_process_has(toolchain):
    snapshot = start_snapshot(toolchain)
    assert snapshot.scalars["sweep_done"] == 1
    assert 100_000 < snapshot.scalars["globals_scan"] < 1_000_000
    assert 20_000 < snapshot.scalars["heap_live"] < 100_000


def version_of(run):
    """The options that make a model of the toolchain's version."""
    minor = run.start.go.removeprefix("go1.").partition(".")[0]
    assert Go(version=f"1.{minor}").version == f"1.{minor}"
    return {"version": f"1.{minor}"}
