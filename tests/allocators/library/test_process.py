"""The driver carries out just the events and calls that it is sent, on the library that it is given."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import numpy as np
import pytest
from library_support import needs_tcmalloc
from support import random_rows

from allocators import watchdog
from allocators.library import UNMOVED, LibraryProcess, build, build_driver, find_tcmalloc
from harness.allocator import ALLOC, CALLOC, FREE, GC, REALLOC, THREAD_END, EventBatch
from harness.errors import AllocatorError
from harness.native._native import Checker

SETTINGS = {"TCMALLOC_TRANSFER_NUM_OBJ": "32"}
MIB = 1 << 20


def events(*rows):
    """Rows of op, thread, object, size and alignment as a checked batch."""
    padded = [(*row, 0, 0, 0)[:5] for row in rows]
    op, thread, name, size, alignment = zip(*padded, strict=True)
    return EventBatch(
        *Checker(noscan_fraction=0.0, override_noscan=False).check(
            np.array(op, np.uint8),
            np.array(thread, np.uint32),
            np.array(name, np.uint64),
            np.array(size, np.uint64),
            np.array(alignment, np.uint32),
            None,
            None,
        )
    )


@pytest.fixture
def start():
    """Starts the library; its processes end with the test."""
    library = find_tcmalloc(needs_tcmalloc())
    running = []

    def run(settings=SETTINGS, **options):
        running.append(LibraryProcess(library, settings, **options))
        return running[-1]

    yield run
    for process in running:
        process.close()


def test_it_knows_the_library(start):
    process = start()
    assert process.version.startswith("2.")
    assert process.page_size == 8192
    assert process.alignment == 16
    assert process.thread_vector_bytes % 16 == 0


def test_an_allocation_lies_in_a_range_in_use(start):
    process = start()
    (address,) = process.replay(events((ALLOC, 0, 0, 5 * MIB))).tolist()
    ranges = process.state().ranges
    (found,) = ranges[ranges["address"] == address].tolist()
    assert found == (address, 5 * MIB, 0, 1.0)
    assert np.all(np.diff(ranges["address"]) > 0)


def test_each_op_has_its_answer(start):
    process = start()
    alloc, calloc, aligned, kept, moved, freed, gc = process.replay(
        events(
            (ALLOC, 0, 0, 100),
            (CALLOC, 0, 1, 50_000),
            (ALLOC, 0, 2, 10, 1 << 20),
            (REALLOC, 0, 0, 101),
            (REALLOC, 0, 0, 5000),
            (FREE, 0, 1),
            (GC, 0, 0),
        )
    ).tolist()
    assert alloc
    assert calloc
    assert aligned % (1 << 20) == 0
    assert kept == UNMOVED
    assert moved not in (UNMOVED, alloc)
    assert freed == gc == 0


def test_two_runs_answer_alike(start):
    batch = events(*random_rows(20_000, threads=1))
    first, second = start(), start()
    answers = [process.replay(batch) for process in (first, second)]
    bases = [
        np.where(a > UNMOVED, a - np.uint64(p.heap_base), 0)
        for a, p in zip(answers, (first, second), strict=True)
    ]
    assert np.array_equal(*bases)
    assert first.state().properties == second.state().properties


def test_threads_free_each_others_objects_end_and_come_back(start):
    process = start()
    rows = random_rows(20_000, threads=4)
    for thread in range(1, 4):
        process.start_thread(thread)
    batch = events(*((op, thread, name, size) for op, thread, name, size in sorted_by_appearance(rows)))
    assert np.count_nonzero(process.replay(batch)) == np.count_nonzero(batch.op == ALLOC)
    caches = thread_heaps(process)
    ends = EventBatch(*(column[:2] for column in events((THREAD_END, 0, 0), (THREAD_END, 1, 0))))
    process.replay(ends._replace(thread=np.array([2, 3], np.uint16)))
    assert thread_heaps(process) == caches - 2
    again = events((ALLOC, 0, 0, 8))._replace(
        thread=np.array([3], np.uint16), slot=np.array([9999], np.uint32)
    )
    assert process.replay(again)[0]
    assert thread_heaps(process) == caches - 1


def sorted_by_appearance(rows):
    """Rows whose threads appear in the order of their numbers."""
    order = list(dict.fromkeys(thread for _, thread, _, _ in rows))
    return [(op, order.index(thread), name, size) for op, thread, name, size in rows]


def thread_heaps(process):
    (line,) = (line for line in process.state().stats_text.splitlines() if "Thread heaps in use" in line)
    return int(line.split()[1])


def test_two_hundred_threads(start):
    process = start()
    rows = [(ALLOC, thread, thread, 64) for thread in range(200)]
    for thread in range(1, 200):
        process.start_thread(thread)
    answers = process.replay(events(*rows))
    assert len(set(answers.tolist())) == 200


def test_an_allocation_above_the_heap_limit_fails_and_a_failed_realloc_leaves_its_block(start):
    process = start(SETTINGS | {"TCMALLOC_HEAP_LIMIT_MB": "30"})
    answers = process.replay(
        events(
            (ALLOC, 0, 0, 40 * MIB),
            (FREE, 0, 0),
            (ALLOC, 0, 1, MIB),
            (REALLOC, 0, 1, 40 * MIB),
            (REALLOC, 0, 1, 100),
        )
    ).tolist()
    assert answers[0] == answers[3] == 0
    assert answers[2] > UNMOVED
    assert answers[4] > UNMOVED


def test_very_many_failures_do_not_stop_the_process(start):
    process = start(SETTINGS | {"TCMALLOC_HEAP_LIMIT_MB": "16"})
    # The library writes a line for each, together more than a pipe holds.
    answers = process.replay(events(*((ALLOC, 0, name, 8000) for name in range(6000))))
    assert np.count_nonzero(answers == 0) > 4000
    assert process.state().properties["generic.heap_size"] < 16 * MIB


def test_calls_are_carried_out(start):
    process = start()
    process.replay(events((ALLOC, 0, 0, 8 * MIB), (FREE, 0, 0)))
    assert process.state().properties["tcmalloc.pageheap_unmapped_bytes"] == 0
    process.call("release_free_memory")
    assert process.state().properties["tcmalloc.pageheap_unmapped_bytes"] >= 8 * MIB
    process.call("set", "max_total_thread_cache_bytes", 3 * MIB)
    assert process.state().properties["tcmalloc.max_total_thread_cache_bytes"] == 3 * MIB
    process.call("set", "tcmalloc.aggressive_memory_decommit", 1)
    assert process.state().properties["tcmalloc.aggressive_memory_decommit"] == 1
    before = thread_heaps(process)
    process.call("mark_thread_idle", 0)
    assert thread_heaps(process) == before - 1
    process.call("set_release_rate", 2.5)
    process.call("release_to_system", 4096)


@pytest.mark.parametrize(
    "call", [("set", "tcmalloc.nonsense", 1), ("mark_thread_idle", 7), ("mark_thread_idle",), ("sweep",)]
)
def test_a_call_that_is_refused_says_so(start, call):
    with pytest.raises(AllocatorError, match=f"{call[0]}"):
        start().call(*call)


def test_free_lists_and_text_tell_of_freed_objects(start):
    process = start()
    rows = [(ALLOC, 0, k, 64) for k in range(100)] + [(FREE, 0, k) for k in range(100)]
    process.replay(events(*rows))
    state = process.state()
    held = sum(size for (kind, class_size), size in state.free_list_sizes.items() if class_size == 64)
    assert held == 8192
    assert "class   5 [       64 bytes ]" in state.stats_text


@pytest.mark.parametrize(("touch", "pages"), [("none", 1), ("first", 1), ("whole", 256)])
def test_resident_pages_are_those_that_were_touched(start, touch, pages):
    process = start(touch=touch, counts_resident=True)
    before = process.state().resident_bytes
    process.replay(events((ALLOC, 0, 0, MIB)))
    grown = process.state().resident_bytes - before
    assert grown == (0 if touch == "none" else pages * 4096)


def test_a_process_that_dies_is_told_in_one_line(start):
    process = start()
    os.kill(process._child._process.pid, signal.SIGKILL)
    with pytest.raises(AllocatorError, match=r"driver's process was ended by SIGKILL$"):
        process.replay(events((ALLOC, 0, 0, 8)))


def test_a_process_that_stands_still_is_ended_and_told_of_in_one_line(start, monkeypatch):
    monkeypatch.setattr(watchdog, "QUIET_SECONDS", 1)
    process = start()
    child = process._child._process
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(AllocatorError) as caught:
        process.replay(events((ALLOC, 0, 0, 8)))
    assert re.fullmatch(
        r"/\S+: the driver's process has stood still for 1 s and was ended; "
        "it was asked to carry out 1 events",
        str(caught.value),
    )
    assert child.wait() == -signal.SIGKILL


def test_another_library_is_told_in_one_line(start):
    start()
    with pytest.raises(
        AllocatorError, match=r"ended with 3: the preloaded library is not gperftools' TCMalloc"
    ):
        LibraryProcess(find_tcmalloc("/lib/x86_64-linux-gnu/libm.so.6"), SETTINGS)


def test_a_missing_library_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(build, "_linker_cache", lambda: "")
    with pytest.raises(
        AllocatorError, match="not installed; install it with `apt-get install libgoogle-perf"
    ):
        find_tcmalloc()
    with pytest.raises(AllocatorError, match=r"^/nowhere\.so: there is no such library$"):
        find_tcmalloc("/nowhere.so")


def test_a_missing_compiler_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(AllocatorError, match=r"no C\+\+ compiler found \(no-such-compiler\)"):
        build_driver()


def test_the_driver_is_built_once(monkeypatch, tmp_path):
    needs_tcmalloc()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = build_driver()
    assert built.parent == tmp_path / "alloc-harness" / "library"
    stamp = built.stat().st_mtime_ns
    assert build_driver().stat().st_mtime_ns == stamp


def test_the_driver_compiles_without_a_warning(tmp_path):
    needs_tcmalloc()
    sources = sorted(str(path) for path in build.DRIVER.glob("*.cpp"))
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]
    subprocess.run(["c++", *build._FLAGS, *warnings, *sources], check=True)
