"""The instrumented runtime in its process: what it answers, and what it refuses."""

import numpy as np
import pytest
from go_support import batch_of, churn, pareto_size

from allocators.go.runtime import RuntimeProcess, find_toolchain, slots_of, start_snapshot
from harness.allocator import ALLOC, CALLOC, FREE, GC
from harness.errors import AllocatorError


def test_every_allocation_has_an_address_and_nothing_else_has(toolchain):
    rows = [
        (ALLOC, 0, 0, 100, False),
        (CALLOC, 0, 1, 0, False),
        (FREE, 0, 0, 0, False),
        (GC, 0, 0, 0, False),
        (ALLOC, 0, 0, 50_000, True),
    ]
    with RuntimeProcess(toolchain) as process:
        found = process.replay(batch_of(rows))
        cycles = process.cycles()
    assert (found.addresses != 0).tolist() == [True, False, False, False, True]
    assert found.in_use_bytes_mean > 100_000
    assert len(cycles) == 1
    assert cycles["heap_marked"][0] < cycles["heap_live"][0]


def test_batches_go_through_one_after_the_other(toolchain):
    batch = batch_of(churn(1, 3_000, pareto_size))
    with RuntimeProcess(toolchain, slots=slots_of([batch])) as process:
        whole = process.replay(batch).addresses
    with RuntimeProcess(toolchain, slots=slots_of([batch])) as process:
        parts = [process.replay(batch.part(at, at + 700)).addresses for at in range(0, len(batch.op), 700)]
    # Two processes may begin with other start-up objects: what is compared is that nothing was lost.
    assert ((whole != 0) == (np.concatenate(parts) != 0)).all()


def test_a_trace_with_more_objects_than_it_was_made_for_is_refused(toolchain):
    batch = batch_of([(ALLOC, 0, i, 16, False) for i in range(2000)])
    with RuntimeProcess(toolchain) as process, pytest.raises(AllocatorError, match="holds 1024 objects"):
        process.replay(batch)
    with RuntimeProcess(toolchain, capacity=10) as process, pytest.raises(AllocatorError, match="at most 10"):
        process.replay(batch)


def test_a_process_that_ends_is_told_of_in_one_line(toolchain):
    with RuntimeProcess(toolchain) as process:
        process._child.kill()
        with pytest.raises(AllocatorError, match=r"the program of go1.* ended with status -9"):
            process.state()


def test_the_world_is_stopped_on_one_p_only(toolchain):
    with pytest.raises(AllocatorError, match="set procs=1"):
        RuntimeProcess(toolchain, procs=2, collector="lazy")


def test_a_start_snapshot_holds_what_a_small_process_has(toolchain):
    snapshot = start_snapshot(toolchain)
    assert snapshot.scalars["sweep_done"] == 1
    assert 100_000 < snapshot.scalars["globals_scan"] < 1_000_000
    assert 20_000 < snapshot.scalars["heap_live"] < 100_000


def test_a_toolchain_that_is_none_is_named(tmp_path):
    with pytest.raises(AllocatorError, match="cannot be run"):
        find_toolchain(tmp_path / "go")
