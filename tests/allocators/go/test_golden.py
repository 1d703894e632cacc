"""The model against kept runs of the real Go 1.27, address by address; no Go needed."""

import queue
from pathlib import Path

import numpy as np
import pytest
from go_support import GOLDEN, SHAPES, Golden, batch_of, digest_of

from allocators.go import Go
from allocators.go.conformance import Model
from harness.allocator import options_of

KEPT = Path(__file__).parents[2] / "golden" / "go"


@pytest.mark.parametrize("name", GOLDEN)
def test_every_address_is_that_of_the_kept_run(name):
    kept = Golden.load(KEPT / f"{name}.npz")
    batch = batch_of(SHAPES[name]())
    assert digest_of(batch) == kept.digest, "the trace is not the one that the run was made with"
    options = {option.name: option.default for option in options_of(Go)}
    scans = queue.SimpleQueue()
    scans.put(kept.scans)
    model = Model(options | GOLDEN[name], kept.start, scans)
    assert np.flatnonzero(model.replay(batch) != kept.answers).tolist() == []
    state = model.state()
    assert state["heap"] == kept.heap
    assert state["spans"].tolist() == kept.spans.tolist()
    assert state["cycles"].tolist() == kept.cycles.tolist()
    assert (len(kept.cycles) > 2) == (GOLDEN[name].get("gogc") != "off")
