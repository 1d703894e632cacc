"""What `harness explain` says of an object on Go's heap is what the real Go runtime does with it."""

import re

import numpy as np
import pytest
from go_support import batch_of

from allocators.go.runtime import RuntimeProcess
from harness.allocator import ALLOC, FREE, find
from harness.explanation import explain

PAGE_BYTES = 8192
SIZES = (1, 16, 24, 513, 1025, 32_761, 40_000)
# Around the rules: tiny blocks of every kind, words, the last size without a header, the last with a class.
MORE_SIZES = (
    2,
    3,
    5,
    6,
    7,
    8,
    12,
    15,
    17,
    512,
    520,
    568,
    569,
    1024,
    28_672,
    32_752,
    32_760,
    32_768,
    32_769,
    100_000,
)
# A table that holds what the largest test has alive at once.
OBJECTS = 1 << 15


@pytest.fixture(scope="module")
def runtime(toolchain):
    with RuntimeProcess(toolchain, slots=OBJECTS) as process:
        yield process


@pytest.fixture(scope="module")
def go(toolchain):
    return f"go:version=1.{toolchain.minor}"


def values_of(go, size, *, noscan, alignment=0):
    (found,) = explain(find(go), [size], noscan=noscan, alignment=alignment)
    return found.explanation.values()


class Placed:
    """Objects of one size, as the real runtime placed them, and the span in which the last but some are."""

    def __init__(self, runtime, size, noscan, count):
        self.addresses = runtime.replay(
            batch_of([(ALLOC, 0, i, size, noscan) for i in range(count)])
        ).addresses
        spans = runtime.state().spans
        bases, ends = spans[:, 0], spans[:, 0] + spans[:, 1] * np.uint64(PAGE_BYTES)
        # Half-way: neither what start-up had left nor the last span, which is not full.
        middle = self.addresses[count // 2]
        (at,) = ((bases <= middle) & (middle < ends)).nonzero()[0]
        self.base, self.pages, _, self.span_class, self.slots = spans[at, :5].tolist()
        inside = (self.addresses >= bases[at]) & (self.addresses < ends[at])
        self.offsets = np.sort(self.addresses[inside] - bases[at]).astype(np.int64)

    @property
    def slot_bytes(self):
        return int(np.diff(self.offsets).max()) if len(self.offsets) > 1 else self.pages * PAGE_BYTES


def placed(runtime, size, noscan, said):
    objects = said["slots_per_span"] * said["objects_per_slot"]
    return Placed(runtime, size, noscan, max(3 * objects, 3))


@pytest.mark.parametrize("noscan", [False, True], ids=["scan", "noscan"])
@pytest.mark.parametrize("size", [*SIZES, *MORE_SIZES])
class TestAgainstTheRealRuntime:
    def test_span_slot_and_header(self, runtime, go, size, noscan):
        said = values_of(go, size, noscan=noscan)
        # A C program's size with pointers is whole words in Go.
        asked = size if noscan else -(-size // 8) * 8
        real = placed(runtime, asked, noscan, said)
        assert said["rounded_bytes"] == asked
        assert said["span_class"] == real.span_class
        assert said["size_class"] == (real.span_class // 2 or None)
        assert said["owns_span"] == (real.span_class < 2)
        assert (said["span_pages"], said["page_bytes"]) == (real.pages, PAGE_BYTES)
        assert said["span_bytes"] == real.pages * PAGE_BYTES
        assert said["slots_per_span"] == real.slots
        if said["shares_slot"]:
            # Blocks of 16 bytes (malloc.go: maxTinySize) with as many objects each.
            assert said["slot_bytes"] == 16
            assert len(real.offsets) == real.slots * said["objects_per_slot"]
            assert set(np.bincount(real.offsets // 16).tolist()) == {said["objects_per_slot"]}
        else:
            assert said["slot_bytes"] == real.slot_bytes
            assert said["header_bytes"] == real.offsets[0]
            assert len(real.offsets) == real.slots
            assert (np.diff(real.offsets) == said["slot_bytes"]).all()
        assert said["tail_bytes"] == real.pages * PAGE_BYTES - real.slots * said["slot_bytes"]
        assert said["unused_bytes"] == said["slot_bytes"] - said["objects_per_slot"] * size

    def test_neighbours(self, runtime, go, size, noscan):
        said = values_of(go, size, noscan=noscan)
        slots = []
        for near in (said["largest_bytes"], said["largest_bytes"] + 1):
            asked = near if noscan else -(-near // 8) * 8
            real = placed(runtime, asked, noscan, values_of(go, near, noscan=noscan))
            is_tiny = noscan and near < 16
            slots.append((16 if is_tiny else real.slot_bytes, is_tiny, real.span_class))
        own, following = slots
        assert own[0] == said["slot_bytes"]
        assert following[0] == said["next_slot_bytes"]
        assert said["next_extra_bytes"] == following[0] - own[0]
        assert own != following or said["owns_span"]

    def test_a_freed_slot_is_not_taken_again_at_once(self, runtime, go, size, noscan):
        asked = size if noscan else -(-size // 8) * 8
        rows = [(ALLOC, 0, 0, asked, noscan), (FREE, 0, 0, 0, noscan), (ALLOC, 0, 0, asked, noscan)]
        first, _, second = runtime.replay(batch_of(rows)).addresses.tolist()
        assert values_of(go, size, noscan=noscan)["is_reused_at_once"] == (first == second)


@pytest.mark.parametrize("greentea", ["on", "off"])
@pytest.mark.parametrize(("noscan", "bitmap_bytes"), [(False, 128), (True, 0)])
def test_what_a_span_keeps_for_the_collector_is_bitmap_and_marks(greentea, noscan, bitmap_bytes):
    said = values_of(f"go:greentea={greentea}", 24, noscan=noscan)
    assert said["span_metadata_bytes"] == bitmap_bytes + (128 if greentea == "on" else 0)


@pytest.mark.parametrize("noscan", [False, True])
@pytest.mark.parametrize(
    ("size", "alignment"), [(1, 8), (1, 16), (5, 64), (24, 32), (24, 4096), (513, 64), (40_000, 16_384)]
)
def test_a_rounded_size_is_served_as_if_it_had_been_asked_for(size, alignment, noscan):
    said = values_of("go", size, noscan=noscan, alignment=alignment)
    asked = values_of("go", said["rounded_bytes"], noscan=noscan)
    assert asked["rounded_bytes"] == asked["requested_bytes"] == said["rounded_bytes"]
    assert said["rounded_bytes"] % (alignment if alignment > 8 else 1) == 0
    for name in ("span_class", "slot_bytes", "header_bytes", "slots_per_span", "objects_per_slot"):
        assert said[name] == asked[name]


def test_an_empty_heap_asks_the_system_then_fills_its_span_and_sweeps_it():
    said = values_of("go", 24, noscan=True)
    assert (said["first_tier"], said["second_tier"]) == ("new OS memory", "front end")
    assert said["objects_per_refill"] == said["slots_per_span"]
    assert said["growing_other_tier"] == "page heap"
    assert said["steady_other_tier"] == "central list"
    assert said["freed_to"] == "no one: dead until a GC"


def test_a_process_that_has_begun_has_spans_in_its_central_lists():
    assert values_of("go:start=snapshot", 24, noscan=False)["first_tier"] == "central list"


def test_objects_of_no_bytes_take_nothing():
    said = values_of("go", 0, noscan=True)
    assert (said["slot_bytes"], said["largest_bytes"], said["next_slot_bytes"]) == (0, 0, 16)


KINDS = [
    (0, True),
    (1, True),
    (9, True),
    (24, True),
    (24, False),
    (513, False),
    (40_000, True),
    (1 << 20, False),
]


def defines(source, name):
    """Whether package runtime has a function, or a method of a type, by this name."""
    receiver, _, function = name.rpartition(".")
    method = rf"\(\w+ \*?{receiver}\) " if receiver else ""
    return re.search(rf"^func {method}{function}\(", source, re.M) is not None


@pytest.mark.parametrize(("size", "noscan"), KINDS)
def test_every_function_that_a_path_names_is_one_of_the_runtime(toolchain, go, size, noscan):
    source = "\n".join(path.read_text() for path in (toolchain.goroot / "src/runtime").glob("*.go"))
    (found,) = explain(find(go), [size], noscan=noscan)
    steps = [step for path in found.explanation.paths for step in path.steps]
    named = {name for step in steps for name in step.functions}
    named |= {name for step in steps for name in re.findall(r"\b[a-z]\w+\.[a-z]\w+\b", step.text)}
    assert "mallocgc" in named
    assert [name for name in sorted(named) if not defines(source, name)] == []


def test_before_1_24_one_function_is_for_all_kinds():
    (found,) = explain(find("go:version=1.23"), [24], noscan=True)
    names = [step.functions for step in found.explanation.paths[0].steps]
    assert names[:2] == [("mallocgc",), ("mallocgc",)]
