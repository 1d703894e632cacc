"""The table of size classes is the installed library's, whatever number of objects it transfers at once."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from allocators.tcmalloc import Tcmalloc
from harness.allocator import ALLOC, FREE, SAMPLE_COLUMNS, EventBatch

LIBRARY = "libtcmalloc_minimal.so.4"
MAX_SIZE_BYTES = 262_144
NALLOCX = f"""
import ctypes
library = ctypes.CDLL({LIBRARY!r})
library.nallocx.restype = ctypes.c_size_t
library.nallocx.argtypes = [ctypes.c_size_t, ctypes.c_int]
print(*(library.nallocx(size, 0) for size in range({MAX_SIZE_BYTES} + 1)))
"""


def usable_bytes_of_the_library(transfer_num_objects):
    """What a malloc of each size makes usable, as a process with that setting says."""
    environment = os.environ | {"TCMALLOC_TRANSFER_NUM_OBJ": str(transfer_num_objects)}
    done = subprocess.run(
        [sys.executable, "-c", NALLOCX], env=environment, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def usable_bytes_of_the_model(transfer_num_objects):
    """What is live while an object of each size is, by allocating and freeing it."""
    sizes = np.arange(MAX_SIZE_BYTES + 1, dtype=np.uint64)
    count = 2 * len(sizes)
    is_alloc = np.arange(count) % 2 == 0
    batch = EventBatch(
        op=np.where(is_alloc, ALLOC, FREE).astype(np.uint8),
        thread=np.zeros(count, np.uint16),
        slot=np.zeros(count, np.uint32),
        size=np.repeat(sizes, 2),
        alignment=np.zeros(count, np.uint32),
        noscan=np.zeros(count, np.uint8),
        owner=np.zeros(count, np.uint16),
        time_ns=np.zeros(0, np.int64),
        requested=np.where(is_alloc, np.repeat(sizes, 2), np.uint64(0)),
    )
    model = Tcmalloc(transfer_num_objects=transfer_num_objects)
    samples = model.feed(batch, np.arange(1, count, 2))
    return samples[:, SAMPLE_COLUMNS.index("live")].tolist()


@pytest.mark.usefixtures("tcmalloc_library")
@pytest.mark.parametrize("transfer_num_objects", [32, 40, 512])
def test_every_size_is_rounded_as_by_the_library(transfer_num_objects):
    model = usable_bytes_of_the_model(transfer_num_objects)
    assert model == usable_bytes_of_the_library(transfer_num_objects)


# With class 0, which no size has, as the library counts.
@pytest.mark.parametrize(
    ("transfer_num_objects", "entries"), [(32, 86), (35, 86), (36, 87), (39, 87), (40, 88), (512, 88)]
)
def test_the_table_has_so_many_entries(transfer_num_objects, entries):
    assert len(Tcmalloc(transfer_num_objects=transfer_num_objects).size_classes()) + 1 == entries


# Counted in libraries of 2.18.1 that were configured so, by the sizes that nallocx tells apart.
@pytest.mark.parametrize(
    ("page_kib", "alignment", "entries", "entries_of_512"),
    [
        (4, 16, 110, 115),
        (16, 16, 78, 78),
        (32, 16, 78, 78),
        (64, 16, 82, 82),
        (128, 16, 86, 86),
        (256, 16, 89, 89),
        (8, 8, 93, 95),
        (32, 8, 85, 85),
    ],
)
def test_another_page_or_alignment_has_another_table(page_kib, alignment, entries, entries_of_512):
    for transfer_num_objects, expected in ((32, entries), (512, entries_of_512)):
        model = Tcmalloc(
            page_size=page_kib << 10, alignment=alignment, transfer_num_objects=transfer_num_objects
        )
        assert len(model.size_classes()) + 1 == expected


def test_a_row_describes_its_spans():
    rows = {row["object_bytes"]: row for row in Tcmalloc(transfer_num_objects=32).size_classes()}
    assert rows[4608] == {
        "class": 44,
        "object_bytes": 4608,
        "span_bytes": 3 * 8192,
        "objects": 5,
        "tail_waste_bytes": 1536,
        "max_waste": 1 - 5 * 4097 / (3 * 8192),
        "batch_objects": 14,
        "transfer_slots": 16,
        "transfer_slots_max": 16,
    }


@pytest.mark.parametrize("transfer_num_objects", [2, 32, 512, 32_768])
def test_at_most_an_eighth_of_a_span_is_left_over(transfer_num_objects):
    for row in Tcmalloc(transfer_num_objects=transfer_num_objects).size_classes():
        assert row["objects"] * row["object_bytes"] + row["tail_waste_bytes"] == row["span_bytes"]
        assert row["tail_waste_bytes"] <= row["span_bytes"] / 8
        assert row["batch_objects"] <= transfer_num_objects
