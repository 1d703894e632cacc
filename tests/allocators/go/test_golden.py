"""The model against kept runs of the real Go 1.27, address by address; no Go needed."""

from pathlib import Path

import pytest
from go_support import (
    PROCS,
    SCALARS,
    SHAPES,
    batch_of,
    differing_addresses,
    digest_of,
    feed,
    load_golden,
    model_from,
    model_spans,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "go"


@pytest.mark.parametrize("name", SHAPES)
def test_every_address_is_that_of_the_kept_run(name, tmp_path):
    digest, start, addresses, end, spans = load_golden(GOLDEN / f"{name}.npz")
    batch = batch_of(SHAPES[name]())
    assert digest_of(batch) == digest, "the trace is not the one that the run was made with"
    model = model_from(start, tmp_path, gogc="off", procs=PROCS[name])
    feed(model, batch)
    assert differing_addresses(model, addresses).tolist() == []
    state = model.native.state()
    assert {name: state[name] for name in SCALARS} == {name: end[name] for name in SCALARS}
    assert model_spans(model) == spans
