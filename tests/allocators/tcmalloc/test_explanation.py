"""What `harness explain` says of an object in TCMalloc is what the installed library does with it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from allocators.library import LibraryProcess
from harness.allocator import ALLOC, FREE, EventBatch, find
from harness.explanation import explain

SIZES = (1, 16, 24, 513, 1025, 32_761, 40_000)
# Around the rules: the first classes, the last one, spans of one object, objects with a span of their own.
MORE_SIZES = (0, 8, 9, 17, 1024, 6657, 13_313, 262_144, 262_145, 1_000_000)

# As many objects a transfer as the library moves by itself, and as the documented table of 88 classes has.
TRANSFERS = (32, 512)

NALLOCX = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.nallocx.restype = ctypes.c_size_t
library.nallocx.argtypes = [ctypes.c_size_t, ctypes.c_int]
print(*(library.nallocx(int(size), 0) for size in sys.argv[2:]))
"""


def values_of(size, allocator="tcmalloc:like=installed", *, alignment=0):
    (found,) = explain(find(allocator), [size], alignment=alignment)
    return found.explanation.values()


def usable_bytes(library, transfer_num_objects, *sizes):
    """What a malloc of each size makes usable, as a process with that setting says."""
    done = subprocess.run(
        [sys.executable, "-c", NALLOCX, library, *map(str, sizes)],
        env=environment(transfer_num_objects),
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


def environment(transfer_num_objects):
    return os.environ | {"TCMALLOC_TRANSFER_NUM_OBJ": str(transfer_num_objects)}


def events(op, objects, size, alignment=0):
    """One op on each of these objects, all of one size, on one thread."""
    count = len(objects)
    return EventBatch(
        op=np.full(count, op, np.uint8),
        thread=np.zeros(count, np.uint16),
        slot=np.array(objects, np.uint32),
        size=np.full(count, size, np.uint64),
        alignment=np.full(count, alignment, np.uint32),
        noscan=np.zeros(count, np.uint8),
        owner=np.zeros(count, np.uint16),
        time_ns=np.zeros(0, np.int64),
        requested=np.zeros(count, np.uint64),
    )


@pytest.fixture(params=TRANSFERS)
def setting(request, tcmalloc_library):
    """The library, a fresh process of it, and the model's options that are to be the same."""
    transfer = request.param
    found = find("tcmalloc:like=installed")[0].create()
    version, page_size = found.version.split()[-1], found._page_bytes
    model = f"tcmalloc:version={version},page_size={page_size},transfer_num_objects={transfer}"
    with LibraryProcess(tcmalloc_library, {"TCMALLOC_TRANSFER_NUM_OBJ": str(transfer)}) as process:
        yield tcmalloc_library, transfer, process, model


@pytest.mark.parametrize("size", [*SIZES, *MORE_SIZES])
class TestAgainstTheLibrary:
    def test_slots_and_neighbours(self, setting, size):
        library, transfer, _, model = setting
        said = values_of(size, model)
        largest = said["largest_bytes"]
        own, reached, following = usable_bytes(library, transfer, size, largest, largest + 1)
        assert said["slot_bytes"] == own == reached
        assert said["next_slot_bytes"] == following > own
        assert said["next_extra_bytes"] == following - own
        assert said["unused_bytes"] == own - size
        assert said["header_bytes"] == 0

    def test_spans(self, setting, size):
        _, _, process, model = setting
        said = values_of(size, model)
        count = max(3 * said["slots_per_span"], 3)
        addresses = process.replay(events(ALLOC, range(count), size))
        ranges = process.state().ranges
        first, length = ranges["address"], ranges["length"]
        # Half-way: of neither the span that the process's start has begun nor the last, which is not full.
        (at,) = ((first <= addresses[count // 2]) & (addresses[count // 2] < first + length)).nonzero()[0]
        inside = addresses[(addresses >= first[at]) & (addresses < first[at] + length[at])]
        offsets = np.sort(inside - first[at]).astype(np.int64)
        assert said["span_bytes"] == length[at] == said["span_pages"] * said["page_bytes"]
        assert said["slots_per_span"] == len(offsets)
        assert offsets[0] == said["header_bytes"]
        assert set(np.diff(offsets).tolist()) <= {said["slot_bytes"]}
        assert said["tail_bytes"] == length[at] - len(offsets) * said["slot_bytes"]

    def test_as_many_objects_move_at_a_time(self, setting, size):
        _, transfer, process, model = setting
        said = values_of(size, model)
        if said["owns_span"]:
            assert said["batch_objects"] == 1
            return
        # Freed objects leave the thread's list a batch at a time, once it has grown long enough, and stand as
        # one in the transfer cache.
        count = (transfer + 2) * said["batch_objects"]
        process.replay(events(ALLOC, range(count), size))
        moved, before = set(), 0
        name = ("tcmalloc.transfer", said["slot_bytes"])
        for first in range(0, count, said["batch_objects"]):
            process.replay(events(FREE, range(first, first + said["batch_objects"]), size))
            now = process.state().free_list_sizes.get(name, 0)
            moved.add((now - before) // said["slot_bytes"])
            before = now
        moved.discard(0)
        assert moved
        assert {objects % said["batch_objects"] for objects in moved} == {0}
        assert min(moved) == said["batch_objects"]

    def test_who_takes_a_freed_slot_and_gives_it_out_again(self, setting, size):
        _, _, process, model = setting
        said = values_of(size, model)
        taken = process.replay(events(ALLOC, [0], size))[0]
        before = process.state()
        process.replay(events(FREE, [0], size))
        after = process.state()
        again = process.replay(events(ALLOC, [0], size))[0]
        holder = {
            "front end": "tcmalloc.thread_cache_free_bytes",
            "central list": "tcmalloc.central_cache_free_bytes",
            "page heap": "tcmalloc.pageheap_free_bytes",
        }[said["freed_to"]]
        assert after.properties[holder] - before.properties[holder] == said["slot_bytes"]
        assert said["is_reused_at_once"] == (taken == again)

    def test_what_the_first_allocation_asks_of_the_system_and_of_the_page_heap(self, setting, size):
        _, _, process, model = setting
        said = values_of(size, model)
        before = process.state().properties
        process.replay(events(ALLOC, [0], size))
        after = process.state().properties
        grown = after["generic.heap_size"] - before["generic.heap_size"]
        taken = before["tcmalloc.pageheap_free_bytes"] + grown - after["tcmalloc.pageheap_free_bytes"]
        assert said["first_os_bytes"] == grown
        assert (said["first_tier"] in ("page heap", "new OS memory")) == (taken > 0)
        assert (said["first_tier"] == "new OS memory") == (grown > 0)


@pytest.mark.parametrize("alignment", [8, 16, 64, 4096, 8192, 65_536])
@pytest.mark.parametrize("size", [0, 24, 513, 300_000])
def test_an_alignment_has_the_slot_that_the_library_gives(tcmalloc_library, size, alignment):
    said = values_of(size, alignment=alignment)
    with LibraryProcess(tcmalloc_library, {}) as process:
        before = process.state().properties["generic.current_allocated_bytes"]
        (address,) = process.replay(events(ALLOC, [0], size, alignment)).tolist()
        grown = process.state().properties["generic.current_allocated_bytes"] - before
    assert address % alignment == 0
    assert said["slot_bytes"] == grown


def test_the_first_refills_are_short_and_later_ones_whole():
    said = values_of(24, "tcmalloc:transfer_num_objects=32")
    assert (said["first_refill_objects"], said["batch_objects"], said["objects_per_refill"]) == (1, 32, 32)
    # A span of 256 holds less than a batch of 512, and a refill begins no second one.
    said = values_of(24, "tcmalloc:transfer_num_objects=512")
    assert (said["batch_objects"], said["slots_per_span"], said["objects_per_refill"]) == (512, 256, 256)


def test_an_empty_heap_asks_the_system_and_a_process_has_memory_from_its_start():
    assert values_of(24, "tcmalloc:start=bare")["first_tier"] == "new OS memory"
    assert values_of(24, "tcmalloc:start=process")["first_tier"] == "page heap"
    # The library's own guard object has allocated and freed a byte.
    assert values_of(1, "tcmalloc:start=process")["first_tier"] == "front end"


def test_pages_and_alignment_of_the_build_change_the_class():
    assert values_of(24, "tcmalloc:alignment=8")["slot_bytes"] == 24
    assert values_of(100_000, "tcmalloc:page_size=256KiB")["page_bytes"] == 256 << 10


def test_where_memory_ends_what_needs_more_is_unknown():
    said = values_of(24, "tcmalloc:heap_limit_mb=1")
    assert said["slot_bytes"] == 32
    assert said["growing_front_end_share"] is said["steady_tier"] is None
