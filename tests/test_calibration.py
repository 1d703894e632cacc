"""Fitting costs to times, and what becomes of a calibration where one of the real allocators is missing."""

from __future__ import annotations

import time
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import harness

from harness import calibration
from harness.calibration import Measured, calibrate, fit, nonnegative_least_squares
from harness.errors import AllocatorError
from harness.workloads import synthetic


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 12))
def test_least_squares_without_negatives_cannot_be_made_better(seed, columns, rows):
    random = np.random.default_rng(seed)
    matrix, wanted = random.normal(size=(rows, columns)), random.normal(size=rows)
    x = nonnegative_least_squares(matrix, wanted)
    assert (x >= 0).all()
    # Kuhn and Tucker: no element that is held at 0 wants to rise, and none of the others to move.
    gradient = matrix.T @ (wanted - matrix @ x)
    assert gradient[x == 0].max(initial=0) < 1e-8
    assert np.abs(gradient[x > 0]).max(initial=0) < 1e-8


def test_costs_are_found_that_explain_the_times():
    random = np.random.default_rng(2)
    counts = random.integers(1, 1000, (30, 4)).astype(float)
    true = np.array([3.0, 40.0, 0.5, 700.0])
    found = fit(counts, counts @ true, np.array([5.0, 30.0, 1.0, 500.0]), np.full(30, 1e5))
    assert found == pytest.approx(true, rel=0.02)


def test_a_path_that_no_workload_takes_keeps_its_cost():
    counts = np.array([[100.0, 0.0], [300.0, 0.0]])
    found = fit(counts, np.array([700.0, 2100.0]), np.array([5.0, 123.0]), np.full(2, 20.0))
    assert found == pytest.approx([7.0, 123.0], rel=0.01)


def test_too_short_a_time_is_as_far_off_as_too_long_a_one():
    # One cost, two workloads of the same counts: by ratio, 4 lies in the middle of 2 and 8.
    found = fit(np.ones((2, 1)), np.array([2.0, 8.0]), np.array([4.0]), np.full(2, 100.0))
    assert found == pytest.approx([4.0], rel=0.01)


def test_no_cost_is_negative_even_where_the_times_ask_for_it():
    counts = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    found = fit(counts, np.array([30.0, 20.0, 10.0]), np.array([10.0, 1.0]), np.full(3, 100.0))
    assert found[1] == 0


class Slab:
    """Counts allocations and frees, and takes 7 and 3 ns for them, on a machine with a second of its own."""

    library = "slab 1"
    guesses = MappingProxyType({"allocations": 5.0, "trace.frees": 5.0})

    def counters(self, workload):
        return {"allocations": workload.totals["allocations"]}

    def measure(self, workload):
        return Measured(7 * workload.totals["allocations"] + 3 * workload.totals["frees"], 50.0)

    def close(self):
        self.closed = True


WORKLOADS = list(synthetic())


def test_an_allocator_of_known_costs_is_given_these():
    runs = []
    (found,), faults = calibrate(WORKLOADS, {"slab": Slab}, repetitions=3, progress=runs.append)
    assert faults == []
    assert sum(runs) == 3 * len(WORKLOADS)
    # Nearly as many are freed as allocated: what one of each takes is what times tell.
    assert sum(found.table.ns.values()) == pytest.approx(10, rel=0.02)
    assert found.table.ns["allocations"] > 6 > 4 > found.table.ns["trace.frees"]
    assert all(each.ratio == pytest.approx(1, abs=0.05) for each in found.compared)
    assert 0.8 < found.table.low_ratio < 1 < found.table.high_ratio < 1.2
    assert f"{len(WORKLOADS)} workloads" in found.table.how


def test_a_workload_is_judged_by_costs_that_were_fitted_without_it():
    class Outlier(Slab):
        def measure(self, workload):
            measured = super().measure(workload)
            return measured._replace(ns=3 * measured.ns) if workload.name == "hits" else measured

    (found,), _ = calibrate(WORKLOADS, {"slab": Outlier}, repetitions=1)
    hits = next(each for each in found.compared if each.workload == "hits")
    assert hits.held_out_ratio == pytest.approx(1 / 3, rel=0.05)
    assert hits.ratio > hits.held_out_ratio
    assert found.table.low_ratio == pytest.approx(hits.held_out_ratio, abs=1e-4)


def test_an_allocator_that_is_missing_does_not_lose_the_others():
    def missing():
        raise AllocatorError("no slab is installed; install one")

    found, faults = calibrate(WORKLOADS[:3], {"gone": missing, "slab": Slab}, repetitions=1)
    assert [each.model for each in found] == ["slab"]
    assert [str(fault) for fault in faults] == [
        "costs of gone not measured: no slab is installed; install one"
    ]


def test_a_subject_that_fails_on_the_way_is_closed():
    made = []

    class Failing(Slab):
        def __init__(self):
            made.append(self)

        def measure(self, workload):
            raise AllocatorError("slab 1: the process ended with 3")

    found, faults = calibrate(WORKLOADS[:1], {"slab": Failing}, repetitions=1)
    assert (found, len(faults)) == ([], 1)
    assert made[0].closed


def test_what_cannot_be_told_from_the_loop_is_no_time():
    class Free(Slab):
        def measure(self, workload):
            return Measured(0.0, 50.0)

    _, (fault,) = calibrate(WORKLOADS[:2], {"slab": Free}, repetitions=1)
    assert "no workload took longer than the loop around it" in str(fault)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.parquet"], "none.parquet: no such file"),
        (["-o", "file/costs.json"], "file/costs.json: cannot be written: file is a file, not a folder"),
        (["-o", "costs.json"], "costs.json: is no cost table: it holds no JSON"),
    ],
)
def test_what_cannot_be_is_one_line_and_said_before_anything_is_measured(tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "costs.json").write_text("not a table")
    begin = time.monotonic()
    done = harness("calibrate", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"harness: {message}")
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - begin < 10


def test_go_and_tcmalloc_can_be_calibrated():
    assert {"go", "tcmalloc"} <= set(calibration.registered())
