"""What costs are measured on: whole programs on one thread, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from support import TRACES, write_trace

from harness import workloads
from harness.allocator import ALLOC, FREE, THREAD_END
from harness.errors import HarnessError, TraceError


def test_all_events_are_of_one_thread_and_no_thread_ends(tmp_path):
    rows = [(ALLOC, 7, 0, 16), (ALLOC, 8, 1, 16), (THREAD_END, 8, 0, 0), (FREE, 7, 1, 0), (FREE, 9, 0, 0)]
    found = workloads.of_trace(write_trace(tmp_path / "threads.parquet", rows))
    (batch,) = found.batches
    assert batch.op.tolist() == [ALLOC, ALLOC, FREE, FREE]
    assert not batch.thread.any()
    assert not batch.owner.any()
    assert (found.totals["threads"], found.totals["remote_frees"], found.totals["events"]) == (1, 0, 4)
    assert (found.name, found.recorded) == ("threads", True)


def test_of_a_long_trace_the_beginning_is_taken(monkeypatch):
    monkeypatch.setattr(workloads, "MOST_EVENTS", 1_000)
    found = workloads.of_trace(str(TRACES[0]))
    assert sum(len(batch.op) for batch in found.batches) == found.totals["events"] == 1_000


def test_a_trace_without_events_is_refused(tmp_path):
    with pytest.raises(HarnessError, match="has no events"):
        workloads.of_trace(write_trace(tmp_path / "none.parquet", []))


def test_a_file_that_is_no_trace_is_a_traces_fault(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        workloads.of_trace(str(tmp_path / "none.parquet"))


@pytest.fixture(scope="module")
def made():
    return list(workloads.synthetic())


def test_made_workloads_are_the_same_every_time(made):
    for one, other in zip(made, workloads.synthetic(), strict=True):
        assert one.name == other.name
        for left, right in zip(one.batches, other.batches, strict=True):
            assert all(np.array_equal(*columns) for columns in zip(left, right, strict=True))


def test_made_workloads_have_names_of_their_own_and_are_short(made):
    assert len({each.name for each in made}) == len(made)
    assert all(1_000 < each.totals["events"] <= 300_000 for each in made)
    assert not any(each.recorded for each in made)
