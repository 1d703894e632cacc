"""What valgrind's tools write with --trace-malloc=yes is read; what it says is what memcheck counts."""

from __future__ import annotations

import re

import pytest
from recorder_samples import SAMPLES
from recorder_support import (
    FAILED,
    WITHOUT_PVALLOC,
    between_marks,
    converted,
    converted_text,
    losses_of,
    needs_tool,
    rows_of,
    run,
    shared_heap_counts,
    totals_of,
)
from support import harness

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.errors import TraceError
from harness.trace import TraceReader

LOG = SAMPLES["valgrind"]
ROWS = [
    (ALLOC, 0, 10, 0),
    (CALLOC, 1, 16, 0),
    (REALLOC, 0, 100, 0),
    (FREE, 0, 0, 0),
    (ALLOC, 0, 77, 0),
    (FREE, 1, 0, 0),
    (ALLOC, 1, 100, 64),
    (ALLOC, 2, 128, 64),
    (FREE, 2, 0, 0),
    (ALLOC, 2, 8, 0),
]
COLUMNS = ("op", "object", "size", "alignment")


def valgrind(folder, *command, options=("--tool=memcheck", "--leak-check=no")):
    """Run a command under valgrind; return its log, and what the command printed."""
    needs_tool("valgrind")
    log = folder / "v.txt"
    printed = run("valgrind", *options, "--trace-malloc=yes", f"--log-file={log}", *command)
    return log, printed


def summary_of(log):
    """Return allocations, frees and bytes of memcheck's summary, and the bytes and blocks in use at exit."""
    text = log.read_text().replace(",", "")
    totals = re.search(r"total heap usage: (\d+) allocs (\d+) frees (\d+) bytes", text)
    left = re.search(r"in use at exit: (\d+) bytes in (\d+) blocks", text)
    return [int(number) for number in (*totals.groups(), *left.groups())]


def test_every_line_is_read(tmp_path):
    path, _ = converted_text(tmp_path, LOG)
    assert rows_of(path, *COLUMNS) == ROWS
    assert losses_of(path)[1:] == ["left out: 3 allocations that failed"]
    assert TraceReader(path).metadata["source"] == {
        "recorder": "valgrind --trace-malloc=yes",
        "program": "prog",
        "arguments": ["one", "two"],
    }


def test_reallocs_of_nothing_leave_no_call_open(tmp_path):
    lines = [f"--7-- realloc(0x0,5)malloc(5) = 0x{address:X}\n" for address in range(0xA00, 0xB00)]
    path, _ = converted_text(tmp_path, "".join(lines) + "--7-- malloc(6) = 0xC00\n")
    assert rows_of(path, "op", "size") == [*[(ALLOC, 5)] * 256, (ALLOC, 6)]


def test_a_newer_realloc_has_a_result_of_its_own(tmp_path):
    text = "--7-- realloc(0x0,77) = 0xA0\n--7-- realloc(0xA0,0) = 0x0\n--7-- malloc(3) = 0xA0\n"
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path, *COLUMNS) == [(ALLOC, 0, 77, 0), (FREE, 0, 0, 0), (ALLOC, 0, 3, 0)]


def test_aligned_allocations_whose_address_is_not_told_are_counted(tmp_path):
    text = (
        "--7-- posix_memalign(al 64, size 100)\n--7-- free(0xA0)\n"
        "--7-- aligned_alloc(al 64, size 128)malloc(3) = 0xB0\n"
    )
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path, *COLUMNS) == [(ALLOC, 0, 3, 0)]
    assert losses_of(path)[1:] == [
        "left out: 1 free of what was not seen allocated",
        "left out: 2 aligned allocations, whose address this valgrind does not tell",
    ]


def test_a_thread_that_comes_between_a_call_and_its_result_takes_the_first_result(tmp_path):
    path, _ = converted_text(tmp_path, "--7-- malloc(10)malloc(20) = 0xA0\n--7--  = 0xB0\n--7-- free(0xA0)\n")
    assert rows_of(path, *COLUMNS) == [(ALLOC, 0, 20, 0), (ALLOC, 1, 10, 0), (FREE, 0, 0, 0)]


def test_other_processes_in_the_log_are_left_out_and_counted(tmp_path):
    path, _ = converted_text(
        tmp_path, LOG.replace("--7-- free(0x0)", "--8-- free(0xD00)\n--8-- malloc(3) = 0xA\n")
    )
    assert rows_of(path, *COLUMNS) == ROWS
    assert "left out: 2 calls of other processes than the first; log each to its own file" in losses_of(path)


def test_times_are_read_where_lines_carry_them(tmp_path):
    text = "--00:00:01:02.143 7-- malloc(10) = 0xAA0\n--01:00:00:00.000 7-- free(0xAA0)\n"
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path, "op", "time_ns") == [(ALLOC, 62_143_000_000), (FREE, 86_400_000_000_000)]


FAULTS = [
    ("--7-- malloc(10", "expected a call, NAME(...), or its result"),
    ("--7-- malloc(ten) = 0x5", "expected a decimal number"),
    ("--7-- calloc(1) = 0x5", "expected ','"),
    ("--7-- memalign(64, 5) = 0x5", "expected 'size '"),
    ("--7-- free(0x5", "expected a call, NAME(...), or its result"),
    ("--7-- malloc(10) = nothing", "expected a decimal number"),
    ("--7--  = 0x5", "expected a call before its result"),
    ("--7 8-- malloc(1) = 0x5", "expected ':'"),
]


@pytest.mark.parametrize(("line", "expected"), FAULTS, ids=[line for line, _ in FAULTS])
def test_a_bad_line_is_told_with_its_number_or_dropped(tmp_path, line, expected):
    text = LOG.replace("what the program prints", line)
    with pytest.raises(
        TraceError, match=rf"t: line 7: found '.*', {re.escape(expected)}.*; --lenient goes on"
    ):
        converted_text(tmp_path, text)
    path, _ = converted_text(tmp_path, text, lenient=True)
    assert rows_of(path, *COLUMNS) == ROWS
    assert "dropped: 1 line that could not be read" in losses_of(path)


def test_a_log_without_the_option_is_told_to_have_it(tmp_path):
    (tmp_path / "t").write_text("==7== Memcheck, a memory error detector\n")
    done = harness("convert", "--from", "valgrind", "t", "t.parquet", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--trace-malloc=yes" in done.stderr


# ---- The real thing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["memcheck", "helgrind", "drd", "dhat", "massif"])
def test_every_call_stands_in_every_tools_log(tmp_path, every_call, tool):
    files = {"dhat": ["--dhat-out-file=/dev/null"], "massif": ["--massif-out-file=/dev/null"]}.get(tool, [])
    path, _ = converted(valgrind(tmp_path, every_call, options=[f"--tool={tool}", *files])[0])
    assert between_marks(path) == WITHOUT_PVALLOC
    assert f"left out: {FAILED} allocations that failed" in losses_of(path)


@pytest.mark.parametrize("program", ["python", "threads"])
def test_the_counts_are_memchecks_own(tmp_path, shared_heap, program):
    command = {
        "python": ["/usr/bin/python3", "-c", "x = [bytes(600 + i) for i in range(500)]; del x[::2]"],
        "threads": [shared_heap, "2000"],
    }[program]
    log, printed = valgrind(tmp_path, *command)
    path, _ = converted(log)
    ours = totals_of(path)
    # A realloc is both to memcheck.
    assert summary_of(log) == [
        ours["allocations"] + ours["reallocations"],
        ours["frees"] + ours["reallocations"],
        ours["bytes"],
        ours["live_bytes"],
        ours["live"],
    ]
    if program == "threads":
        allocations, reallocations, frees = map(int, printed.split())
        assert shared_heap_counts(path) == (allocations, reallocations, frees, 0)


def test_the_peak_is_massifs_own(tmp_path, shared_heap):
    massif = tmp_path / "massif.out"
    options = ["--tool=massif", "--peak-inaccuracy=0.0", f"--massif-out-file={massif}", "--time-unit=B"]
    log, _ = valgrind(tmp_path, shared_heap, "2000", options=options)
    path, _ = converted(log)
    peak = max(int(size) for size in re.findall(r"^mem_heap_B=(\d+)", massif.read_text(), re.M))
    assert totals_of(path)["peak"] == peak


def test_a_log_with_times_is_read(tmp_path, every_call):
    path, _ = converted(valgrind(tmp_path, every_call, options=["--time-stamp=yes"])[0])
    times = [time_ns for (time_ns,) in rows_of(path, "time_ns")]
    assert times == sorted(times)
    assert times[-1] > times[0]
    assert between_marks(path) == WITHOUT_PVALLOC


def test_a_forked_child_in_the_same_log_is_left_out(tmp_path):
    code = "import os; p = os.fork(); x = [bytes(99999)] * 9; p and os.waitpid(p, 0)"
    log, _ = valgrind(tmp_path, "/usr/bin/python3", "-c", code)
    path, _ = converted(log)
    assert any("calls of other processes" in text for text in losses_of(path))
    ours = totals_of(path)
    pid = re.search(r"^--(\d+)-- ", log.read_text(), re.M)[1]
    text = log.read_text().replace(",", "")
    allocs = re.search(rf"=={pid}== +total heap usage: (\d+) allocs", text)[1]
    assert ours["allocations"] + ours["reallocations"] == int(allocs)
