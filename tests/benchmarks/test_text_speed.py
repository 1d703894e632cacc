"""A trace of text is read, checked and booked while Arrow's reader of CSV splits the same bytes into columns.

The bytes are Android's text with a space behind each free, so that every line has as many fields and both can
read them. `pytest -s` shows the figures; a loose ratio within one run is held.
"""

from __future__ import annotations

import statistics
import time

import pytest
from benchmarks.canonical import Canonical
from pyarrow import csv
from tabulate import tabulate

from harness.formats._formats import AndroidText
from harness.formats.android import Android

pytestmark = pytest.mark.slow

TRACE = Canonical(100_000, threads=4, remote_free=0.1)
FIELDS = ["thread", "call", "address", "size", "begin", "end"]
ROUNDS = 3
# Ours takes half of Arrow's processor time; what fails is a reader that has become several times as slow.
MOST = 1.5


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "t.android"
    writer = AndroidText()
    names = ("op", "thread", "object", "size", "time_ns")
    with path.open("wb") as file:
        for raw in TRACE.raw_batches():
            for line in writer.lines(**{name: raw[name] for name in names}).splitlines():
                file.write(line + (b" \n" if b" free " in line else b"\n"))
    return str(path)


def ours(path):
    return sum(len(rows["op"]) for rows in Android().read(path).raw_batches())


def arrows(path, use_threads):
    read = csv.ReadOptions(use_threads=use_threads, column_names=FIELDS)
    split = csv.ParseOptions(delimiter=" ", quote_char=False)
    return sum(batch.num_rows for batch in csv.open_csv(path, read, split))


READERS = {
    "harness, rows booked": ours,
    "pyarrow.csv, one thread": lambda path: arrows(path, use_threads=False),
    "pyarrow.csv, as it comes": lambda path: arrows(path, use_threads=True),
}


def test_text_is_read_as_fast_as_arrow_splits_it(text):
    rounds = {name: [] for name in READERS}
    for _ in range(ROUNDS):
        for name, read in READERS.items():
            wall, processor = time.perf_counter(), time.process_time()
            assert read(text) == TRACE.events
            rounds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    wall, processor = (
        {
            name: statistics.median(times[part] for times in found) / TRACE.events * 1e9
            for name, found in rounds.items()
        }
        for part in (0, 1)
    )
    table = [[name, wall[name], processor[name]] for name in READERS]
    print("\n" + tabulate(table, headers=["", "ns an event", "of processor time"], floatfmt=".1f"))
    mine, *others = processor.values()
    assert mine < MOST * min(others)
