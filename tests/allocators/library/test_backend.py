"""Real libraries as rows of the table, through the engine as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from library_support import needs_library
from support import HARNESS, TRACES, harness, random_rows, write_trace

from allocators.library.backend import Measured
from allocators.library.process import Timed
from harness.allocator import ALLOC, FREE, PARTS, REALLOC, THREAD_END, find
from harness.errors import AllocatorError, TraceError
from harness.replay import Settings, replay

NAMES = ("glibc", "libtcmalloc", "jemalloc", "mimalloc")
MIB = 1 << 20


def runs(path, *texts, **settings):
    specs = [spec for text in texts for spec in find(text)]
    return replay(str(path), specs, Settings(**settings)).runs


@pytest.fixture(params=NAMES)
def name(request):
    """Each library that has an entry point of its own."""
    return needs_library(request.param)


@pytest.fixture(scope="module")
def random_trace(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("random") / "t.parquet", random_rows(20_000, threads=4))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles a shared library from C; returns its path."""
    folder = tmp_path_factory.mktemp("libraries")

    def compiled(name, code):
        source = folder / f"{name}.c"
        source.write_text(code)
        path = folder / f"lib{name}.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-fno-builtin", str(source), "-o", str(path), "-ldl"],
            check=True,
        )
        return path

    return compiled


# A malloc that works: a bump allocator that writes each block's size in front of it.
BUMP = """
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static char heap[64 << 20];
static size_t used, calls;
static void on_call(void);
static void *take(size_t alignment, size_t size) {
  used = (used + 16 + alignment - 1) / alignment * alignment;
  char *block = heap + used;
  memcpy(block - 8, &size, 8);
  used += size;
  return used > sizeof heap ? NULL : block;
}
void *malloc(size_t size) { if (++calls > 300) on_call(); return take(16, size); }
void *calloc(size_t count, size_t size) { return take(16, count * size); }
void free(void *block) { (void)block; }
int posix_memalign(void **block, size_t alignment, size_t size) {
  *block = take(alignment < 16 ? 16 : alignment, size);
  return *block == NULL ? ENOMEM : 0;
}
void *realloc(void *block, size_t size) {
  void *moved = take(16, size);
  size_t old = 0;
  if (block != NULL) { memcpy(&old, (char *)block - 8, 8); memcpy(moved, block, old < size ? old : size); }
  return moved;
}
"""


def bump(on_call, extra=""):
    return BUMP + extra + "\nstatic void on_call(void) { " + on_call + " }\n"


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.stem)
def test_the_model_and_the_library_hold_the_same_bytes_in_every_part_at_every_stop(trace):
    needs_library("libtcmalloc")
    model, real = runs(trace, "tcmalloc:like=installed", "libtcmalloc:timing=off,touch=none")
    for part in (*PARTS, "mapped"):
        assert real.samples[part] == model.samples[part], part
    assert real.footprint["end"] | {"metadata": None} == model.footprint["end"] | {"metadata": None}
    assert not any("like with like" in text for text in real.warnings)


def test_a_library_tells_what_it_holds(name, random_trace):
    (run,) = runs(random_trace, f"{name}:timing=off")
    summary = run.summary
    assert run.kind == "library"
    assert any(digit.isdigit() for digit in run.version)
    assert len(run.samples["mapped"]) == len(run.samples["event"]) == 200
    assert summary["peak_committed_bytes"] >= max(run.samples["requested"])
    assert summary["mean_committed_bytes"] < summary["peak_committed_bytes"]
    assert summary["fragmentation_mean"] > 1
    assert summary["fragmentation_at_peak_requested"] is None
    assert all(
        live >= requested
        for live, requested in zip(run.samples["live"], run.samples["requested"], strict=True)
    )
    assert run.timing is None
    assert run.failure is None


def test_parts_that_are_all_known_add_up(name, random_trace):
    (run,) = runs(random_trace, f"{name}:timing=off")
    for row in zip(*(run.samples[part] for part in (*PARTS, "mapped")), strict=True):
        if None not in row:
            assert sum(row[:-1]) == row[-1]
    if name != "mimalloc":  # Which does not tell its tiers apart.
        assert None not in run.footprint["end"].values() or run.footprint["end"]["metadata"] is None
        assert all(run.footprint["end"][part] is not None for part in PARTS)


def test_resident_memory_is_the_programs_and_not_the_drivers(name, tmp_path):
    # One object of 64 MiB lives beside a batch of 200,000 events, which takes the driver 5 MiB.
    rows = [(ALLOC, 0, 0, 64 * MIB), *((op, 0, 1, 100) for _ in range(100_000) for op in (ALLOC, FREE))]
    path = write_trace(tmp_path / "t.parquet", rows)
    specs = [f"{name}:timing=off,touch={touch}" for touch in ("pages", "first", "none")]
    pages, first, none = runs(path, *specs, batch_events=len(rows), samples=1)
    for run, expected in ((pages, 64 * MIB), (first, 0), (none, 0)):
        grown = run.summary["end_resident_bytes"] - run.summary["floor_resident_bytes"]
        assert expected <= grown < expected + MIB, run.label
        assert run.summary["peak_resident_bytes"] >= run.summary["end_resident_bytes"]


def test_threads_of_the_trace_cost_the_library_no_memory_of_the_drivers(tmp_path):
    needs_library("libtcmalloc")
    rows = [(ALLOC, thread, thread, 64) for thread in range(300)]
    model, real = runs(
        write_trace(tmp_path / "t.parquet", rows), "tcmalloc:like=installed", "libtcmalloc:timing=off"
    )
    assert real.samples["live"] == model.samples["live"]
    assert real.footprint["end"]["runtime"] == model.footprint["end"]["runtime"]


def test_a_library_is_timed_less_the_drivers_own_cost(name, random_trace):
    (run,) = runs(random_trace, f"{name}:repetitions=2")
    timing = run.timing
    assert timing["kind"] == "measured"
    assert timing["repetitions"] == 2
    assert timing["driver_ns_per_event"] > 0
    assert timing["low"] <= timing["ns_per_event"] <= timing["high"]
    assert set(timing["ns_by_op"]) == {"alloc", "free"}
    assert timing["latency_ns"]["p50"] <= timing["latency_ns"]["p99"] <= timing["latency_ns"]["p99.9"]
    assert run.summary["measured_ns_per_event"] == timing["ns_per_event"]
    assert run.summary["modelled_ns_per_event"] is None


def test_the_median_of_the_runs_stands_between_least_and_most_without_warm_up_and_driver(
    random_trace, monkeypatch
):
    taken = {False: iter([9e9, 200e4, 120e4, 140e4, 0]), True: iter([9e9, 20e4, 40e4, 60e4])}

    def time_by_script(self, spool, *, does_nothing, samples):
        return Timed(int(next(taken[does_nothing])), np.zeros(0, np.uint32), np.zeros(0))

    monkeypatch.setattr(Measured, "_time", time_by_script)
    (run,) = runs(random_trace, "glibc")
    assert run.timing["driver_ns_per_event"] == 20
    found = (run.timing["low"], run.timing["ns_per_event"], run.timing["high"])
    assert found == (120 / 2 - 20, 140 / 2 - 20, 200 / 2 - 20)
    assert run.timing["ns_by_op"] is run.timing["latency_ns"] is None


@pytest.mark.parametrize("mode", ["free", "ordered"])
def test_threads_that_hand_objects_on_are_timed_in_both_modes(tmp_path, mode):
    # Each object goes through three threads, whose order alone makes the realloc and the free right.
    rows = [
        row
        for k in range(3000)
        for row in (
            (ALLOC, 0, k % 50, 100 + k % 700),
            (REALLOC, 1, k % 50, 3000),
            (FREE, 2, k % 50, 0),
            *(((THREAD_END, 1, 0, 0),) if k % 500 == 499 else ()),
        )
    ]
    (run,) = runs(write_trace(tmp_path / "t.parquet", rows), f"glibc:mode={mode},repetitions=1")
    assert set(run.timing["ns_by_op"]) == {"alloc", "realloc", "free"}


def test_a_slow_malloc_is_seen_to_be_slow(build, random_trace):
    busy = """
      struct timespec begin, now;
      clock_gettime(CLOCK_MONOTONIC, &begin);
      do clock_gettime(CLOCK_MONOTONIC, &now);
      while ((now.tv_sec - begin.tv_sec) * 1000000000L + now.tv_nsec - begin.tv_nsec < 20000);
    """
    slow = build("slow", bump(busy, "#include <time.h>"))
    (run,) = runs(random_trace, f"library:path={slow},timing_events=2000,repetitions=1", samples=2)
    assert 4_000 < run.timing["ns_per_event"] < 20_000
    assert run.timing["ns_by_op"]["alloc"] > 10_000 > 5_000 > run.timing["ns_by_op"]["free"]
    assert run.timing["latency_ns"]["p99"] > 20_000
    assert any("timed over the first 2,000 events of 20,000" in text for text in run.warnings)


def test_a_library_of_ones_own_is_replayed_and_what_it_does_not_tell_is_unknown(build, random_trace):
    (run,) = runs(random_trace, f"library:path={build('bump', bump(''))}")
    assert run.version == "libbump.so"
    assert run.footprint["end"]["live"] is None
    assert run.summary["peak_committed_bytes"] is None
    assert run.summary["peak_mapped_bytes"] > 64 * MIB
    assert run.summary["peak_resident_bytes"] > max(run.samples["requested"])
    assert run.timing["ns_per_event"] is not None


FAULTS = {
    "crashes": ("__builtin_trap();", "", "was ended by SIGILL"),
    "aborts": ('fputs("heap\\nis broken", stderr); _exit(7);', "", "ended with 7: heap is broken"),
    "hangs": ("for (;;) pause();", "", "no answer within 0.5 s (time_limit_seconds)"),
    "spins": ("for (volatile int i = 0;; i = 1) i = 0;", "", "no answer within 0.5 s (time_limit_seconds)"),
    "hangs_at_start": (
        "",
        "__attribute__((constructor)) static void begin(void) { for (;;) pause(); }",
        "no answer within 0.5 s (time_limit_seconds)",
    ),
    "crashes_at_start": (
        "",
        "__attribute__((constructor)) static void begin(void) { raise(SIGSEGV); }",
        "was ended by SIGSEGV",
    ),
    "closes_all_files": (
        "for (int file = 0; file < 100; ++file) close(file);",
        "",
        "the driver's process",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_library_that_fails_costs_its_own_column(build, random_trace, fault):
    on_call, extra, said = FAULTS[fault]
    broken = build(fault, bump(on_call, extra))
    good, bad = runs(random_trace, "ideal", f"library:path={broken},time_limit_seconds=0.5")
    assert good.failure is None
    assert good.summary["peak_committed_bytes"] == good.summary["peak_requested_bytes"]
    assert said in bad.failure
    assert bad.summary["peak_committed_bytes"] is None
    assert bad.summary["peak_requested_bytes"] == good.summary["peak_requested_bytes"]


def test_a_library_that_prints_disturbs_nothing(build, random_trace):
    chatty = build("chatty", bump('[[maybe_unused]] ssize_t n = write(1, "hello\\n", 6);'))
    (run,) = runs(random_trace, f"library:path={chatty},timing=off")
    assert run.failure is None


def test_what_a_library_starts_ends_with_it(build, random_trace, tmp_path):
    numbers = tmp_path / "numbers"
    forking = build(
        "forking",
        bump(
            "static int started; if (started) return; started = 1;"
            'if (fork() == 0) { char text[32]; int length = sprintf(text, "%d\\n", (int)getpid());'
            f'int file = open("{numbers}", O_CREAT | O_APPEND | O_WRONLY, 0600);'
            "if (write(file, text, (size_t)length) < 0) _exit(1); for (;;) pause(); }",
            "#include <fcntl.h>",
        ),
    )
    (run,) = runs(random_trace, f"library:path={forking},repetitions=1")
    assert run.failure is None
    started = [int(line) for line in numbers.read_text().split()]
    assert len(started) >= 2
    assert eventually(lambda: not any(runs_still(number) for number in started))


def runs_still(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def eventually(holds):
    until = time.monotonic() + 10
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


def test_no_descriptor_is_left_behind(random_trace):
    before = len(os.listdir("/proc/self/fd"))
    runs(random_trace, "glibc:repetitions=1")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_fault_of_the_trace_leaves_no_child_behind(tmp_path):
    path = write_trace(tmp_path / "bad.parquet", [*random_rows(5000), (FREE, 0, 10**9, 0)])
    with pytest.raises(TraceError):
        runs(path, "glibc")
    assert not children_of(os.getpid())


def children_of(number):
    return [
        int(child)
        for task in Path(f"/proc/{number}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interruption_ends_all_children_at_once(build, tmp_path, sent, status):
    hanging = build("hanging", bump("for (;;) pause();"))
    path = write_trace(tmp_path / "t.parquet", random_rows(5000))
    running = subprocess.Popen(
        [*HARNESS, "replay", path, "-a", "glibc", "-a", f"library:path={hanging}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Where the tests run in the background of a shell, they ignore the interrupt, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert eventually(lambda: len(children_of(running.pid)) >= 2)
    children = children_of(running.pid)
    time.sleep(0.3)
    running.send_signal(sent)
    assert running.wait(10) == status
    running.communicate()
    assert eventually(lambda: not any(runs_still(child) for child in children))


def test_what_is_no_library_is_one_line(tmp_path, build):
    text = tmp_path / "text.so"
    text.write_text("no library")
    no_malloc = build("nomalloc", "int nothing(void) { return 0; }")
    half = build("half", "#include <stddef.h>\nvoid *malloc(size_t size) { (void)size; return NULL; }")
    blank = tmp_path / "a b.so"
    blank.write_bytes(no_malloc.read_bytes())
    for path, said in (
        ("/nowhere.so", "there is no such library"),
        (text, "this is no shared library"),
        (no_malloc, "there is no malloc in it"),
        (half, "it has malloc, but no calloc, no realloc, no free, no posix_memalign"),
        (blank, "a path with a blank or a colon cannot be preloaded"),
    ):
        (spec,) = find(f"library:path={path}")
        with pytest.raises(AllocatorError, match=said):
            spec.create()
    (spec,) = find("library")
    with pytest.raises(AllocatorError, match="say which library"):
        spec.create()


def test_a_library_that_is_not_installed_is_told_with_its_package(monkeypatch):
    monkeypatch.setattr("allocators.library.build._linker_cache", lambda: "")
    for name, package in (
        ("jemalloc", "apt-get install libjemalloc2"),
        ("mimalloc", "apt-get install libmimalloc2.0"),
        ("libtcmalloc", "apt-get install libgoogle-perftools-dev"),
    ):
        (spec,) = find(name)
        with pytest.raises(AllocatorError, match=package):
            spec.create()


def test_a_failed_library_is_a_column_a_line_and_exit_status_2(build, random_trace):
    broken = build("crashes", bump(FAULTS["crashes"][0]))
    done = harness("replay", random_trace, "-a", "ideal", "-a", f"library:path={broken}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"harness: library:path={broken}: ")
    assert "was ended by SIGILL" in done.stderr
    assert "failed" in done.stdout
    assert "peak committed" in done.stdout


def test_where_every_library_fails_there_is_no_table(random_trace):
    done = harness("replay", random_trace, "-a", "library:path=/nowhere.so")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "harness: library:path=/nowhere.so: /nowhere.so: there is no such library\n"


@pytest.mark.parametrize("option", ["repetitions=0", "timing_events=0", "time_limit_seconds=0", "mode=wild"])
def test_an_option_out_of_range_is_refused(option):
    with pytest.raises(AllocatorError, match=option.partition("=")[0]):
        find(f"glibc:{option}")[0].create()


def test_no_events_are_a_valid_trace(name, tmp_path):
    (run,) = runs(write_trace(tmp_path / "empty.parquet", []), name)
    assert run.timing is None
    assert run.summary["peak_committed_bytes"] == run.summary["floor_committed_bytes"]


def test_without_samples_the_end_stands_for_all(random_trace):
    (run,) = runs(random_trace, "glibc:timing=off", samples=0)
    assert run.summary["peak_committed_bytes"] == run.summary["end_committed_bytes"] > 0


def test_the_options_of_libtcmalloc_reach_the_library(random_trace):
    needs_library("libtcmalloc")
    options = "transfer_num_objects=512,aggressive_decommit=true,max_total_thread_cache_bytes=1MiB"
    release = find("tcmalloc:like=installed")[0].create().version.split()[-1]
    model, real = runs(
        random_trace, f"tcmalloc:version={release},{options}", f"libtcmalloc:timing=off,{options}"
    )
    assert {part: real.samples[part] for part in PARTS} == {part: model.samples[part] for part in PARTS}
    assert max(real.samples["released"]) > 0


def test_a_model_with_other_settings_than_the_library_is_told_the_options(random_trace):
    needs_library("libtcmalloc")
    for mine, library, said in (
        ("tcmalloc", "libtcmalloc:timing=off", "-a tcmalloc:like=installed"),
        (
            "tcmalloc:like=installed",
            "libtcmalloc:timing=off,release_rate=2.0",
            "transfer_num_objects=32,release_rate=2.0",
        ),
        ("tcmalloc:like=installed,start=bare", "libtcmalloc:timing=off", "-a tcmalloc:like=installed"),
    ):
        _, real = runs(random_trace, mine, library)
        (warning,) = [text for text in real.warnings if "like with like" in text]
        assert said in warning


def test_like_installed_leaves_no_other_choice():
    needs_library("libtcmalloc")
    with pytest.raises(AllocatorError, match="like=installed says already what these are: version"):
        find("tcmalloc:like=installed,transfer_num_objects=64")[0].create()
