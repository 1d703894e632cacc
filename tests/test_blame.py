"""Waste by site: the groups and what nobody is to blame for are the run's waste, and the right lines pay."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import SMALL, TRACES, columns, harness, write_trace

from harness.allocator import ALLOC, FREE, REALLOC, find
from harness.blame import blame_trace
from harness.conversion import convert
from harness.errors import AllocatorError, HarnessError
from harness.sites import Frame, Sites, decode, encode
from harness.trace import TraceReader, TraceWriter

INDEX = Path(__file__).parent.parent / "traces" / "sites" / "index.parquet"
MODELS = ["go", "go:start=snapshot,gogc=50", "tcmalloc", "tcmalloc:start=bare,page_size=4KiB"]

MAIN = Frame("main", "shop.c", 9, "shop")
KEPT = Frame("keep(int)", "shop.c", 3, "shop")
LOST = Frame("lose(int)", "shop.c", 5, "shop")
GROWN = Frame("grow()", "heap.c", 1, "heap")
STACKS = [
    (),
    (Frame("xmalloc", "shop.c", 1, "shop"), KEPT, MAIN),
    (LOST, MAIN),
    (LOST, KEPT, MAIN),
    (GROWN,),
]


def with_sites(path, rows, sites, stacks=STACKS, types=None):
    """Write a trace whose rows have these sites; of a free it says nothing."""
    table = encode(Sites.of_stacks(stacks, types))
    with TraceWriter(str(path), source={"program": "test"}, optional=("site",), sites=table) as writer:
        writer.write(columns(rows, site=sites))
    return str(path)


def peaking_at_the_end(path, rows, sites, **options):
    """Write a trace that ends with an object larger than all before, so that the peak is there."""
    return with_sites(path, [*rows, (ALLOC, 1, 1_000_000, 8 << 20)], [*sites, 4], **options)


def paying(found):
    """The groups without that of the last object."""
    return [
        group for group in found.groups if "grow()" not in group.name and group.name not in ("heap", "Heap")
    ]


def blamed(path, name, by="site", **options):
    _, (found,) = blame_trace(str(path), find(name), by, **options)
    return found


def total(found):
    return sum(group.waste_bytes for group in found.groups) + found.nobody_bytes


# ---- It is the whole, to the byte -------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("path", [INDEX, *TRACES], ids=lambda path: path.stem)
def test_groups_and_nobody_are_the_waste_of_the_summary(name, path, tmp_path):
    if path is not INDEX:
        path = any_site(path, tmp_path / "t.parquet")
    found = blamed(path, name)
    assert total(found) == found.waste_bytes == found.run.summary["waste_bytes"]
    assert found.groups == sorted(found.groups, key=lambda group: (-group.waste_bytes, group.name))


def any_site(path, target):
    """Give a trace a column of sites: one for each power of two of the size."""
    reader = TraceReader(str(path))
    table = encode(Sites.of_stacks([(Frame(f"size{n}", "a.c", n, "program"),) for n in range(65)]))
    names = [name for name in reader.columns if name not in ("op", "thread", "object", "size")]
    with TraceWriter(
        str(target), source={"program": "test"}, optional=(*names, "site"), sites=table
    ) as writer:
        for batch in reader.raw_batches():
            sites = np.ceil(np.log2(batch["size"].astype(float) + 1)).astype(np.uint32)
            writer.write(batch | {"site": sites})
    return target


events = st.lists(
    st.tuples(st.sampled_from([0, 1, 8, 15, 24, 100, 600, 5000, 40_000, 300_000]), st.integers(0, 3)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.data())
@pytest.mark.parametrize("name", ["go", "tcmalloc:start=bare"])
def test_of_any_program_every_byte_has_one_place(tmp_path, name, asked, data):
    rows, sites, alive = [], [], []
    for number, (size, site) in enumerate(asked):
        if alive and data.draw(st.booleans()):
            rows.append((FREE, 1, alive.pop(data.draw(st.integers(0, len(alive) - 1))), 0))
            sites.append(0)
        if alive and size % 2 and data.draw(st.booleans()):
            rows.append((REALLOC, 1, alive[-1], size))
        else:
            rows.append((ALLOC, 1, number, size))
            alive.append(number)
        sites.append(site)
    found = blamed(with_sites(tmp_path / "t.parquet", rows, sites), name)
    assert total(found) == found.run.summary["waste_bytes"]


@pytest.mark.parametrize("batch_events", [7, 40_000])
def test_batches_change_nothing(batch_events):
    from harness.replay import Settings

    whole = blamed(INDEX, "go")
    found = blamed(INDEX, "go", settings=Settings(batch_events=batch_events))
    assert (found.groups, found.nobody) == (whole.groups, whole.nobody)


# ---- The right ones pay -----------------------------------------------------------------------------


def test_who_keeps_one_object_of_each_span_pays_for_the_span(tmp_path):
    # A span holds 64 objects of 128 B (gperftools: two pages' worth); one site keeps one of each 128.
    rows = [(ALLOC, 1, i, 128) for i in range(6_400)]
    sites = [1 if i % 128 == 0 else 2 for i in range(6_400)]
    rows += [(FREE, 1, i, 0) for i in range(6_400) if i % 128]
    rows += [(ALLOC, 1, 10_000, 4 << 20)]
    sites += [0] * (6_400 - 50) + [3]
    path = with_sites(tmp_path / "t.parquet", rows, sites)
    found = blamed(path, "tcmalloc:start=bare,max_total_thread_cache_bytes=512KiB")
    first = found.groups[0]
    assert (first.name, first.objects, first.rounding_bytes) == ("keep(int) (shop.c:3)", 50, 0)
    assert first.pinned_bytes == 50 * (128 * 128 - 128)


def test_rounding_is_paid_by_who_asked_for_an_awkward_size(tmp_path):
    rows = [(ALLOC, 1, i, 1_025 if i % 2 else 1_024) for i in range(1_000)]
    found = blamed(
        peaking_at_the_end(tmp_path / "t.parquet", rows, [i % 2 + 1 for i in range(1_000)]),
        "tcmalloc:start=bare",
    )
    rounding = {group.stack[0].function: group.rounding_bytes for group in paying(found)}
    assert rounding == {"keep(int)": 0, "lose(int)": 500 * (1_152 - 1_025)}


def test_headers_count_as_rounding(tmp_path):
    # Of more than 512 bytes and with pointers: 8 bytes before each object.
    rows = [(ALLOC, 1, i, 1_016) for i in range(100)]
    found = blamed(peaking_at_the_end(tmp_path / "t.parquet", rows, [1] * 100), "go")
    assert paying(found)[0].rounding_bytes == 100 * 8


def test_objects_that_share_a_slot_share_what_is_left_of_it(tmp_path):
    # Go's tiny objects: sixteen of one byte fill a slot, ten bytes of it here are nobody's.
    from harness.replay import Settings
    from harness.trace import Noscan

    rows = [(ALLOC, 1, i, 1) for i in range(6)]
    path = peaking_at_the_end(tmp_path / "t.parquet", rows, [1, 1, 2, 2, 2, 2])
    found = blamed(path, "go", settings=Settings(noscan=Noscan(1.0, True)))
    assert {group.stack[0].function: group.rounding_bytes for group in paying(found)} == {
        "keep(int)": 4,
        "lose(int)": 6,
    }


def test_a_reallocation_is_the_one_that_asked_last(tmp_path):
    rows = [(ALLOC, 1, 0, 1_000), (REALLOC, 1, 0, 5_000)]
    found = blamed(peaking_at_the_end(tmp_path / "t.parquet", rows, [1, 2]), "tcmalloc:start=bare")
    (group,) = paying(found)
    assert (group.stack[0], group.requested_bytes) == (LOST, 5_000)


def test_stacks_with_the_same_frame_to_blame_are_one_group_and_the_costlier_is_shown(tmp_path):
    rows = [(ALLOC, 1, i, 1_025) for i in range(30)]
    found = blamed(
        peaking_at_the_end(tmp_path / "t.parquet", rows, [2] * 10 + [3] * 20), "tcmalloc:start=bare"
    )
    (group,) = paying(found)
    assert (group.sites, group.objects, group.stack) == (2, 30, (LOST, KEPT, MAIN))


@pytest.mark.parametrize(
    ("by", "outward", "names"),
    [
        ("site", 0, {"keep(int) (shop.c:3)", "lose(int) (shop.c:5)"}),
        ("site", 1, {"main (shop.c:9)", "keep(int) (shop.c:3)"}),
        ("function", 0, {"keep(int) (shop.c)", "lose(int) (shop.c)"}),
        ("module", 0, {"shop"}),
    ],
)
def test_groups_are_what_was_asked_for(tmp_path, by, outward, names):
    rows = [(ALLOC, 1, i, 1_025) for i in range(30)]
    path = peaking_at_the_end(tmp_path / "t.parquet", rows, [1, 2, 3] * 10)
    assert {group.name for group in paying(blamed(path, "tcmalloc", by, outward=outward))} == names


def test_types_are_groups_where_the_trace_knows_them(tmp_path):
    rows = [(ALLOC, 1, i, 1_025) for i in range(30)]
    path = peaking_at_the_end(
        tmp_path / "t.parquet", rows, [1, 2, 3] * 10, types=[None, "Node", "Edge", "Node", "Heap"]
    )
    found = blamed(path, "tcmalloc", "type")
    assert {(group.name, group.objects) for group in paying(found)} == {("Node", 20), ("Edge", 10)}


def test_who_is_not_known_has_a_group_of_its_own(tmp_path):
    rows = [(ALLOC, 1, i, 1_025) for i in range(30)]
    found = blamed(peaking_at_the_end(tmp_path / "t.parquet", rows, [0, 99, 1] * 10), "tcmalloc")
    assert {group.name: group.objects for group in paying(found)} == {
        "unknown: its stack was not recorded": 20,
        "keep(int) (shop.c:3)": 10,
    }


def test_sites_without_a_table_are_told_apart_by_number(tmp_path):
    rows = [(ALLOC, 1, 0, 100), (ALLOC, 1, 1, 200), (ALLOC, 1, 2, 8 << 20)]
    path = write_trace(tmp_path / "t.parquet", rows, site=[4, 5, 6])
    assert {group.name for group in blamed(path, "tcmalloc").groups} == {"site 4", "site 5", "site 6"}


# ---- A part of a trace ------------------------------------------------------------------------------


def test_a_cut_keeps_the_sites_of_what_was_alive(tmp_path):
    cut = tmp_path / "cut.parquet"
    convert(str(INDEX), str(cut), events=(20_000, 30_000))
    whole, part = TraceReader(str(INDEX)), TraceReader(str(cut))
    assert decode(part.sites, "x").frames == decode(whole.sites, "x").frames
    names = {group.name for group in blamed(cut, "tcmalloc").groups}
    assert any(name.startswith("Index::add(") for name in names)
    assert not any(name.startswith("unknown") for name in names)


def test_a_thread_of_a_trace_keeps_its_sites(tmp_path):
    rows = [(ALLOC, 1, 0, 100), (ALLOC, 2, 1, 200), (ALLOC, 1, 2, 300)]
    path = with_sites(tmp_path / "t.parquet", rows, [1, 2, 3])
    convert(path, str(tmp_path / "one.parquet"), threads=[1])
    (batch,) = TraceReader(str(tmp_path / "one.parquet")).raw_batches()
    assert batch["site"].tolist() == [1, 3]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_keeps_the_numbers_and_says_that_the_frames_are_lost(tmp_path, suffix):
    done = harness("convert", str(INDEX), str(tmp_path / f"t.{suffix}"))
    assert "the sites' frames stay behind" in done.stderr
    convert(str(tmp_path / f"t.{suffix}"), str(tmp_path / "back.parquet"))
    (here,), (there,) = (
        TraceReader(str(path)).raw_batches(50_000, ["site"]) for path in (INDEX, tmp_path / "back.parquet")
    )
    assert (here["site"] == there["site"]).all()


# ---- What cannot be answered --------------------------------------------------------------------------


def test_a_trace_without_sites_is_refused_with_the_remedy(tmp_path):
    path = write_trace(tmp_path / "t.parquet")
    with pytest.raises(HarnessError, match=r"no column site.*record it with `harness record --sites`"):
        blame_trace(path, find("go"), "site")


def test_a_trace_without_types_is_refused_with_the_way_out():
    with pytest.raises(HarnessError, match="its sites have no column type; --by site needs none"):
        blame_trace(str(INDEX), find("go"), "type")


def test_an_allocator_without_spans_is_refused(tmp_path):
    with pytest.raises(AllocatorError, match="ideal: its waste has nobody to blame"):
        blame_trace(str(INDEX), find("ideal"), "site")


# ---- The command ------------------------------------------------------------------------------------


class TestTheCommand:
    def test_the_table_has_lines_callers_and_who_is_not_to_blame(self):
        printed = harness("waste", str(INDEX), "--by", "site", "-a", "tcmalloc", "--top", "3").stdout
        assert "Index::add (index.cpp:22)" in printed
        assert "read_text (index.cpp:56) < main (index.cpp:62)" in printed
        assert "\nno object to blame  " in printed
        assert "more with" in printed
        assert "free pages, not given back" in printed

    def test_json_holds_every_group_with_its_frames(self):
        done = harness("waste", str(INDEX), "--by", "site", "-a", "go", "-a", "tcmalloc", "--format", "json")
        for run in json.loads(done.stdout)[0]["runs"]:
            groups = sum(group["waste_bytes"] for group in run["groups"])
            assert groups + sum(run["no_object_to_blame"].values()) == run["waste_bytes"]
            assert {"function", "file", "line", "module"} == set(run["groups"][0]["stack"][0])

    def test_csv_adds_up_too(self):
        done = harness("waste", str(INDEX), "--by", "function", "-a", "tcmalloc", "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        found = blamed(INDEX, "tcmalloc")
        assert sum(int(row["waste_bytes"]) for row in rows) == found.waste_bytes
        assert rows[-1]["name"] == "no object to blame"

    @pytest.mark.parametrize("form", ["markdown", "latex"])
    def test_other_formats_print(self, form):
        done = harness("waste", str(INDEX), "--by", "site", "-a", "tcmalloc", "--format", form)
        assert done.returncode == 0
        assert "index.cpp:22" in done.stdout

    def test_a_frame_farther_out_is_blamed_on_demand(self):
        done = harness("waste", str(INDEX), "--by", "site", "--frame", "1", "-a", "tcmalloc")
        assert "read_text (index.cpp:56)" in done.stdout
        assert "Index::add" not in done.stdout

    @pytest.mark.parametrize("by", ["class", "type"])
    def test_a_frame_without_frames_is_refused(self, by):
        done = harness("waste", str(INDEX), "--by", by, "--frame", "1")
        assert done.returncode == 2
        assert "--frame goes with --by site, function or module" in done.stderr

    def test_a_trace_without_sites_is_one_line(self, tmp_path):
        done = harness("waste", write_trace(tmp_path / "t.parquet", SMALL), "--by", "site")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


# ---- The committed trace ------------------------------------------------------------------------------


def test_the_committed_trace_names_nobodys_machine():
    sites = decode(TraceReader(str(INDEX)).sites, "x")
    files = {frame.file for frame in sites.frames if frame.file is not None}
    assert "index.cpp" in files
    assert all(not file.startswith("/") or file.startswith("/usr/include/") for file in files)
    assert all("/" not in (frame.module or "") for frame in sites.frames)


def test_the_committed_traces_lines_are_those_of_its_source():
    source = (INDEX.parent / "index.cpp").read_text().splitlines()
    found = {group.stack[0]: group for group in blamed(INDEX, "tcmalloc").groups}
    growing = next(
        frame
        for frame in found
        if frame.function.startswith("Index::add(") and "push_back" in source[(frame.line or 0) - 1]
    )
    assert found[growing].objects > 1_000
