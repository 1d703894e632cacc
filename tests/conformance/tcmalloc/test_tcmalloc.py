"""The TCMalloc model equals the installed libtcmalloc_minimal: the fixed part of the suite, and its canary.

`python tests/conformance/tcmalloc/suite.py` runs the whole.
"""

from __future__ import annotations

import pytest
from conformance.canary import NO_FAULT
from conformance.tcmalloc.cases import (
    TOUCHES,
    TOUCHING,
    Case,
    random_cases,
    recorded_cases,
    run,
    touching_cases,
)
from conformance.tcmalloc.faults import CANARY
from conformance.tcmalloc.shapes import SHAPES, TRANSFER_BATCHES, program
from conformance.tcmalloc.suite import FIXED_TRACES
from library_support import needs_tcmalloc

pytestmark = pytest.mark.slow

RANDOM = random_cases(FIXED_TRACES)


@pytest.fixture(scope="module", autouse=True)
def library():
    """The installed library; without it these tests fail in CI and are skipped elsewhere."""
    return needs_tcmalloc()


def check(case):
    outcome = run(case)
    assert not outcome.error
    assert not outcome.differing, "\n".join(outcome.examples)
    assert outcome.events > 0
    assert min(outcome.compared.values()) > 0
    return outcome


@pytest.mark.parametrize("case", recorded_cases(), ids=lambda case: f"{case.row}-{case.seed}")
def test_recorded_trace(case):
    check(case)


@pytest.mark.parametrize("case", RANDOM, ids=lambda case: f"{case.source}-{case.seed}")
def test_random_program(case):
    assert check(case).events >= 20_000


@pytest.mark.parametrize("case", touching_cases(), ids=lambda case: f"{case.source}-{case.touch}")
def test_touched_pages(case):
    assert check(case).compared["touched pages"] >= 14


def test_the_fixed_part_has_every_shape_with_several_transfer_batches():
    batches = {shape: set() for shape in SHAPES}
    for case in RANDOM:
        batches[case.source].add(program(case.source, case.seed, 18).options["transfer_num_objects"])
    assert all(len(found) >= 3 for found in batches.values())
    assert set.union(*batches.values()) == set(TRANSFER_BATCHES)
    assert len(TOUCHING) * len(TOUCHES) == 30


@pytest.fixture(scope="module")
def faulty_models(tmp_path_factory):
    """The model built with each fault, by the faults' names."""
    return CANARY.build_all(tmp_path_factory.mktemp("canary"))


@pytest.mark.parametrize("fault", [fault.name for fault in CANARY.faults])
def test_a_fault_in_the_model_is_noticed(fault, faulty_models):
    noticed = CANARY.first_difference(faulty_models[fault], RANDOM)
    assert noticed is not None
    assert noticed.differing > 0, noticed.error


def test_without_a_fault_nothing_is_noticed(faulty_models):
    assert CANARY.first_difference(faulty_models[NO_FAULT], RANDOM[: len(SHAPES)]) is None


def test_the_same_shape_and_seed_give_the_same_program():
    first, second = (program("cache_limits", 5, 18) for _ in range(2))
    assert first.calls == second.calls
    assert all((a == b).all() for a, b in zip(first.events, second.events, strict=True))


def test_a_case_is_named_by_its_text():
    for case in (Case("steady", 7), Case("mixed", 1, "whole"), recorded_cases()[0]):
        assert Case.parse(str(case)) == case
    with pytest.raises(ValueError, match="neither a shape"):
        Case.parse("unsteady,1,off")
