"""The instrumented runtime in its process: what it answers, and what it refuses."""

import os
import re
import signal

import numpy as np
import pytest
from go_support import batch_of, churn, pareto_size

from allocators import watchdog
from allocators.go.runtime import RuntimeProcess, build, find_toolchain, overlay, slots_of, start_snapshot
from allocators.go.runtime.overlay import Insertion
from allocators.go.snapshot import WORK_BUFFER
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


def test_a_toolchain_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_BUILD_SECONDS", 0.2)
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\nexec sleep 60\n")
    go.chmod(0o755)
    with pytest.raises(AllocatorError, match=r"^`.*/go env .*` was not done within 0\.2 s$"):
        find_toolchain(go)


def test_a_process_that_stands_still_is_ended_and_told_of_in_one_line(toolchain, monkeypatch):
    monkeypatch.setattr(watchdog, "QUIET_SECONDS", 1)
    monkeypatch.setattr(watchdog, "_LAST_SECONDS", 0.2)
    with RuntimeProcess(toolchain) as process:
        process._child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process._child.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(AllocatorError) as caught:
            process.replay(batch_of([(ALLOC, 0, 0, 100, False)]))
        assert process._child.returncode == -signal.SIGKILL
    assert re.fullmatch(
        r"the program of go1\S+ .* has stood still for 1 s and was ended; "
        r"it was asked to carry out 1 events, of which 0 are done, and stood in no known place",
        str(caught.value),
    )


@pytest.fixture
def never_settled(monkeypatch, tmp_path):
    """A replayer that waits for ever for the end of a collection."""
    hooks = tmp_path / "hooks.go"
    hooks.write_text(overlay.HOOKS.read_text().replace("if !isSweepDone() {", "if true {"))
    for module in (overlay, build):
        monkeypatch.setattr(module, "HOOKS", hooks)


@pytest.mark.slow
def test_a_process_that_spins_says_where(toolchain, never_settled, monkeypatch):
    monkeypatch.setattr(watchdog, "BUSY_SECONDS", 1)
    # It spins through the scheduler, and about one time in several hundred that is where it is met.
    for _ in range(3):
        with pytest.raises(AllocatorError) as caught:
            RuntimeProcess(toolchain)
        if "no known place" not in str(caught.value):
            break
    assert re.fullmatch(
        r"the program of go1\S+ .* has not got on in \d+ s of processor time and was ended; "
        r"it was asked for the state of its heap, and stood in .*main\.collect < main\.replay < main\.main.*",
        str(caught.value),
    )
    assert "goroutine 1 " in caught.value.__notes__[0]


# The collection takes its time before it lays its work buffers out for the background sweeper, and that one
# waits for the collection's end between looking for them and parking.
LATE_BUFFERS = (
    Insertion(
        "mgc.go",
        "\t// Prepare workbufs for freeing by the sweeper. We do this\n",
        "\tsystemstack(func() { usleep(20000) })\n",
    ),
    Insertion(
        "mgcsweep.go",
        "\t\tlock(&sweep.lock)\n\t\tif !isSweepDone() {\n",
        "\t\tfor !isSweepDone() {\n\t\t\tGosched()\n\t\t}\n",
    ),
)


@pytest.fixture
def late_buffers(monkeypatch):
    """A runtime in which the background sweeper parks too early in nearly every collection on several Ps."""
    insertions = (*overlay.INSERTIONS, *LATE_BUFFERS)
    for module in (overlay, build):
        monkeypatch.setattr(module, "INSERTIONS", insertions)


@pytest.mark.slow
def test_a_sweeper_that_parks_before_it_has_freed_the_work_buffers_holds_nobody_up(toolchain, late_buffers):
    with RuntimeProcess(toolchain, procs=4) as process:
        process.replay(batch_of([(GC, 0, 0, 0, False)] * 3))
        kinds = process.state().spans[:, 2].tolist()
    assert WORK_BUFFER not in kinds
