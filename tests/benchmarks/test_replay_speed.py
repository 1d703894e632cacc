"""Nanoseconds an event: the models in memory on one core, beside the real libtcmalloc over the same events.

Ratios within one run are held, never times. `pytest -s` shows the figures.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tabulate import tabulate

from harness.allocator import FREE, EventBatch, find
from harness.native._native import Checker, Generator

pytestmark = pytest.mark.slow

BARE = Path(__file__).with_name("bare.cpp")
MODELS = ("ideal", "tcmalloc", "go")
LIVE = {"100 k": 100_000, "1 M": 1_000_000}
EVENTS = 6_000_000
BATCH = 1 << 18
ROUNDS = 3
NO_STOPS = np.zeros(0, np.int64)


def batches_of(live):
    """A canonical trace: log-normal sizes of mu 4.5 and sigma 1.5, exponential lifetimes; checked."""
    generator = Generator(
        live=live, seed=1, threads=1, remote_free=0.0, noscan=0.5, size_mu=4.5, size_sigma=1.5
    )
    checker = Checker(noscan_fraction=0.0, override_noscan=False)
    names = ("op", "thread", "object", "size", "alignment", "noscan", "time_ns")
    parts = (generator.next(BATCH) for _ in range(EVENTS // BATCH))
    return [EventBatch(*checker.check(*(part.get(name) for name in names))) for part in parts]


def ns_of_model(name, batches):
    """Of one event; what the model needs to begin is not counted."""
    found = []
    for _ in range(ROUNDS):
        allocator = find(name)[0].create()
        begin = time.perf_counter()
        for batch in batches:
            allocator.feed(batch, NO_STOPS)
        found.append((time.perf_counter() - begin) * 1e9 / sum(len(batch.op) for batch in batches))
    return statistics.median(found)


def ns_of_library(program, batches, path):
    """Of one event of the real library."""
    with path.open("wb") as file:
        for batch in batches:
            rows = np.empty((len(batch.op), 2), np.uint32)
            rows[:, 0], rows[:, 1] = batch.slot, np.where(batch.op == FREE, 2**32 - 1, batch.size)
            file.write(rows.tobytes())
    runs = [subprocess.run([program, path], capture_output=True, check=True) for _ in range(ROUNDS)]
    return statistics.median(float(run.stdout) for run in runs)


@pytest.fixture(scope="module")
def bare(tcmalloc_library, tmp_path_factory):
    """The bare program, linked with the installed library."""
    program = tmp_path_factory.mktemp("bare") / "bare"
    command = [shutil.which("g++") or "g++", "-std=c++20", "-O2", "-fno-builtin-malloc", "-o", str(program)]
    subprocess.run([*command, str(BARE), str(tcmalloc_library)], check=True)
    return program


def test_models_do_not_wait_for_memory(bare, tmp_path, capsys):
    rows = {}
    for name, live in LIVE.items():
        batches = batches_of(live)
        rows[name] = [ns_of_model(model, batches) for model in MODELS]
        rows[name].append(ns_of_library(bare, batches, tmp_path / "events"))
    with capsys.disabled():
        headers = ("objects live", *MODELS, "real libtcmalloc")
        cells = [(name, *figures) for name, figures in rows.items()]
        print("\nns an event\n" + tabulate(cells, headers, floatfmt=".1f"))
    few, many = [dict(zip((*MODELS, "real"), row, strict=True)) for row in rows.values()]
    # Without prefetching a tenfold heap makes Go's model three times as slow.
    assert many["go"] < 2 * few["go"]
    assert many["tcmalloc"] < 1.6 * few["tcmalloc"]
    assert many["tcmalloc"] < many["real"]
