"""The models in memory on one core beside the real libtcmalloc over the same events: a model must keep up.

Ratios within one run are held, never times, and rounds take turns, so that a busy moment of the machine meets
all. `pytest -s` shows the figures; test_speed.py measures more and holds nothing.
"""

from __future__ import annotations

import statistics

import pytest
from benchmarks import turns
from benchmarks.bare import write_events
from benchmarks.canonical import Canonical
from tabulate import tabulate

pytestmark = pytest.mark.slow

MODELS = ("ideal", "tcmalloc", "go")
REAL = "real libtcmalloc"
LIVE = {"100 k": 100_000, "1 M": 1_000_000}
ROUNDS = 5


def ns_an_event(trace, program, path):
    """Medians, by name."""
    batches = trace.batches()
    allocators = {model: turns.of_model(model, batches) for model in MODELS}
    allocators[REAL] = turns.of_real(program, write_events(path, batches))
    return {
        name: statistics.median(seconds) * 1e9 / trace.events
        for name, seconds in turns.take(allocators, ROUNDS).items()
    }


def test_models_keep_up_with_the_real_library_and_do_not_wait_for_memory(bare_tcmalloc, tmp_path, capsys):
    rows = {
        name: ns_an_event(Canonical(live), bare_tcmalloc, tmp_path / "events") for name, live in LIVE.items()
    }
    with capsys.disabled():
        cells = [(name, *row.values()) for name, row in rows.items()]
        print("\nns an event\n" + tabulate(cells, ("objects live", *MODELS, REAL), floatfmt=".1f"))
    few, many = rows.values()
    # Each bound is about three fifths of what a quiet machine shows: a busy one moves a ratio of medians by a
    # fifth, and what these are to notice, a search or a wait for memory that comes into every event's path,
    # costs more than a third. At 1 M the real library waits for memory in its turn, while a model that knows
    # the events to come has fetched it.
    assert few[REAL] >= 1.0 * few["tcmalloc"]
    assert many[REAL] >= 3.0 * many["tcmalloc"]
    # Go's model does more for an event: it follows the clock, marks and sweeps.
    assert few[REAL] >= 0.4 * few["go"]
    assert many[REAL] >= 1.2 * many["go"]
    # Without prefetching a tenfold heap makes Go's model three times as slow; with it both take a quarter
    # longer. The two heaps have rounds of their own, so that a busy minute may meet one alone.
    assert many["go"] < 2 * few["go"]
    assert many["tcmalloc"] < 2 * few["tcmalloc"]
