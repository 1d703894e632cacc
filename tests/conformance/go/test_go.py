"""The Go model equals the real Go runtime, address by address: the fixed part of the suite, and its canary.

`python tests/conformance/go/suite.py` runs the whole.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from conformance.canary import NO_FAULT
from conformance.go import default_mode
from conformance.go.cases import MODES, RECORDED, Case, cases, run
from conformance.go.faults import CANARY
from conformance.go.shapes import LARGE, SHAPES, SMALL, program
from conformance.go.suite import FIXED_BUILDS
from conformance.go.toolchains import BUILDS, toolchain
from go_support import feed
from tabulate import tabulate

from allocators.go import Go
from harness.errors import AllocatorError

pytestmark = pytest.mark.slow

CASES = cases(FIXED_BUILDS, 1)


@pytest.fixture(scope="module", autouse=True)
def toolchains():
    """Two versions of Go; without them these tests fail in CI and are skipped elsewhere."""
    try:
        for build in FIXED_BUILDS:
            toolchain(BUILDS[build][0])
    except AllocatorError as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def check(case):
    outcome = run(case)
    assert not outcome.error
    assert not outcome.differing, "\n".join(outcome.examples)
    assert outcome.events > 0
    assert sum(outcome.compared.values()) > 0
    return outcome


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_address_and_every_state_is_the_real_one(case):
    check(case)


@pytest.mark.parametrize("mode", ["stopped", "lazy"])
def test_a_long_program_collects_often(mode):
    assert check(Case("mixed", mode, FIXED_BUILDS[-1], 2, LARGE)).compared["cycles"] >= 10


def test_the_fixed_part_has_every_mode_and_every_trace_for_two_versions():
    for build in FIXED_BUILDS:
        of_build = [case for case in CASES if case.build == build]
        assert {case.mode for case in of_build} == set(MODES)
        assert {case.source for case in of_build} == {*SHAPES, *map(str, RECORDED)}
        assert len({case.source for case in of_build}) >= 20


# How far a few runs may lie from the model: the whole suite has the bar. On 2 Ps the real runtime needs a
# core that nobody else wants, so that those runs are shown and not judged.
LOOSE = 0.25


@pytest.mark.parametrize("source", ["git-pack-objects", "sqlite3"])
@pytest.mark.parametrize("build", FIXED_BUILDS)
def test_in_the_default_mode_whole_runs_come_to_what_the_real_ones_do(source, build, capsys):
    (path,) = (str(path) for path in RECORDED if path.stem == source)
    found = default_mode.judge(build, 5, [path])
    with capsys.disabled():
        print("\n" + tabulate([each.row for each in found], default_mode.HEADERS))
    assert len(found) == 6
    for each in found:
        assert each.procs > 1 or replace(each.spread, margin=LOOSE).within


@pytest.mark.parametrize(
    ("shape", "mode"), [("boundaries", "stopped"), ("large", "stopped"), ("large", "lazy")]
)
def test_programs_of_the_suite_make_growth_scavenge(shape, mode):
    model = Go(**MODES[mode], start="snapshot")
    feed(model, program(shape, 0, SMALL, False))
    assert dict(model.native.result()["counters"])["released_bytes_total"] > 1 << 20


@pytest.fixture(scope="module")
def faulty_models(tmp_path_factory):
    """The model built with each fault, by the faults' names."""
    return CANARY.build_all(tmp_path_factory.mktemp("canary"))


CANARY_CASES = [case for case in CASES if case.build == FIXED_BUILDS[-1]]


@pytest.mark.parametrize("fault", [fault.name for fault in CANARY.faults])
def test_a_fault_in_the_model_is_noticed(fault, faulty_models):
    noticed = CANARY.first_difference(faulty_models[fault], CANARY_CASES)
    assert noticed is not None
    # What a start leaves already refutes some faults; then the model does not begin.
    assert noticed.differing > 0 or "snapshot" in noticed.error


def test_without_a_fault_nothing_is_noticed(faulty_models):
    first = [case for case in CANARY_CASES if case.source in CANARY.first]
    assert CANARY.first_difference(faulty_models[NO_FAULT], first) is None


def test_the_same_shape_and_seed_give_the_same_program():
    first, second = (program("mixed", 5, 2000, True) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_a_case_is_named_by_its_text():
    for case in (CASES[0], CASES[-1]):
        assert Case.parse(str(case)) == case
    with pytest.raises(ValueError, match="neither a shape"):
        Case.parse("unsteady;lazy;1.27")
