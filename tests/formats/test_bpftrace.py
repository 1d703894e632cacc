"""What our script for bpftrace prints is read, sorted by time; it counts what a program does."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from recorder_samples import SAMPLES
from recorder_support import (
    CALLS,
    FAILED,
    between_marks,
    converted,
    converted_text,
    losses_of,
    needs_tool,
    rows_of,
    run,
    shared_heap_counts,
)

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.errors import TraceError
from harness.recording import scripts
from harness.trace import TraceReader

PRINTED = SAMPLES["bpftrace"]
ROWS = [
    (ALLOC, 7, 0, 10, 0, 100),
    (CALLOC, 7, 1, 16, 0, 110),
    (ALLOC, 8, 2, 30, 0, 130),
    (ALLOC, 8, 3, 31, 0, 135),
    (REALLOC, 7, 0, 100, 0, 140),
    (FREE, 7, 0, 0, 0, 150),
    (ALLOC, 7, 0, 77, 0, 170),
    (ALLOC, 8, 4, 128, 64, 180),
    (ALLOC, 8, 5, 5, 64, 190),
    (FREE, 8, 0, 0, 0, 240),
]


def bpftrace(folder, command):
    """Run a command under the script; return its lines in order of time, and what the command printed."""
    trial = 'uprobe:libc:malloc /pid == cpid/ { printf("%d", tid); }'
    needs_tool("bpftrace", "bpftrace", "-o", "/dev/null", "-c", "/bin/true", "-e", trial)
    (folder / "alloc.bt").write_text(scripts.text("alloc.bt"))
    options = ["env", "BPFTRACE_PERF_RB_PAGES=8192", "bpftrace", "-B", "full"]
    printed = run(*options, "-o", str(folder / "b.txt"), "-c", command, str(folder / "alloc.bt"))
    run("sort", "-n", "-o", str(folder / "sorted.txt"), str(folder / "b.txt"))
    return folder / "sorted.txt", printed


def test_every_line_is_read(tmp_path):
    path, _ = converted_text(tmp_path, PRINTED)
    assert rows_of(path) == ROWS
    assert losses_of(path)[1:] == [
        "left out: 2 allocations that failed",
        "left out: 1 free of what was not seen allocated",
    ]


def test_events_that_bpftrace_lost_are_counted(tmp_path):
    for said in ("Lost 12 events\nLost 3 events\n", "@lines: 31\n"):
        path, _ = converted_text(tmp_path, PRINTED + said)
        assert rows_of(path) == ROWS
        assert losses_of(path)[-1] == "lost by bpftrace: 15 events; set BPFTRACE_PERF_RB_PAGES higher"
    path, _ = converted_text(tmp_path, PRINTED + "@lines: 16\n")
    assert not any("lost" in text for text in losses_of(path))


def test_a_realloc_whose_end_was_lost_leaves_its_object_where_it_was(tmp_path):
    text = "1 7 malloc 10 0xa0\n2 7 realloc_begin 0xa0\n3 7 free 0xb0\n4 7 free 0xa0\n"
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path, "op", "object", "size") == [(ALLOC, 0, 10), (FREE, 0, 0)]


def test_a_file_that_was_not_sorted_is_told_to_be(tmp_path):
    text = PRINTED.replace("150 7 free", "90 7 free")
    with pytest.raises(
        TraceError, match=r"line 9: found '90 7 free 0xcc0', expected a later time .* sort -n FILE"
    ):
        converted_text(tmp_path, text)
    path, _ = converted_text(tmp_path, text, lenient=True)
    assert "replaced by the one before: 1 time that went back" in losses_of(path)


FAULTS = [
    ("150 7 mlloc 5 0xa", "expected malloc, calloc, realloc_begin, realloc, memalign or free"),
    ("150 7 malloc 5", "expected a hexadecimal number"),
    ("150 7 malloc 0xa", "expected a hexadecimal number"),
    ("150 x malloc 5 0xa", "expected a decimal number"),
    ("150 7 malloc 5 0xa 9", "expected the end of the line"),
    ("150 7 calloc 4611686018427387904 8 0xa", "the size is too large"),
    ("150 7 memalign 8589934592 8 0xa", "the alignment is too large"),
    ("what bpftrace says", "expected a decimal number"),
]


@pytest.mark.parametrize(("line", "expected"), FAULTS, ids=[line for line, _ in FAULTS])
def test_a_bad_line_is_told_with_its_number_or_dropped(tmp_path, line, expected):
    text = PRINTED.replace("160 7", f"{line}\n160 7")
    with pytest.raises(
        TraceError, match=rf"t: line 10: found '.*', {re.escape(expected)}.*; --lenient goes on"
    ):
        converted_text(tmp_path, text)
    path, _ = converted_text(tmp_path, text, lenient=True)
    assert rows_of(path) == ROWS
    assert "dropped: 1 line that could not be read" in losses_of(path)


# ---- The real thing -----------------------------------------------------------------------------------


def test_every_call_stands_in_the_trace(tmp_path, every_call):
    file, _ = bpftrace(tmp_path, f"{every_call} pvalloc")
    path, _ = converted(file)
    assert between_marks(path) == CALLS
    assert f"left out: {FAILED} allocations that failed" in losses_of(path)


def test_the_counts_of_threads_are_the_programs(tmp_path, shared_heap):
    file, printed = bpftrace(tmp_path, f"{shared_heap} 1000")
    path, _ = converted(file)
    (counts,) = re.findall(r"^(\d+) (\d+) (\d+)$", printed, re.M)
    assert shared_heap_counts(path) == (*map(int, counts), 0)
    assert "time_ns" in TraceReader(path).columns


def test_a_process_that_runs_already_is_recorded_from_then_on(tmp_path):
    needs_tool("bpftrace", "bpftrace", "-o", "/dev/null", "-e", "BEGIN { exit(); }")
    code = (
        "import ctypes, sys\nlibc = ctypes.CDLL(None)\nlibc.malloc.restype = ctypes.c_void_p\n"
        "libc.free.argtypes = [ctypes.c_void_p]\np = libc.malloc(777777)\nprint(flush=True)\n"
        "sys.stdin.readline()\nlibc.free(p)\nlibc.free(libc.malloc(888888))\nprint(flush=True)\nsys.stdin.readline()\n"
    )
    program = subprocess.Popen(
        ["/usr/bin/python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        program.stdout.readline()
        script = scripts.text("alloc.bt", program.pid)
        (tmp_path / "pid.bt").write_text(script + 'BEGIN { printf("# begun\\n"); }\n')
        command = ["bpftrace", "-B", "none", "-p", str(program.pid), str(tmp_path / "pid.bt")]
        tracer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = []
        while not any("begun" in line for line in lines):
            if not (line := tracer.stdout.readline()):
                pytest.skip("bpftrace may not trace a process that runs")
            lines.append(line)
        program.stdin.write("\n")
        program.stdin.flush()
        program.stdout.readline()
        program.stdin.close()
        program.wait()
        lines += tracer.communicate(timeout=60)[0].splitlines(keepends=True)
    finally:
        program.kill()
    path, _ = converted_text(
        tmp_path,
        "".join(
            sorted(lines, key=lambda line: int("0" + line.split(" ")[0].strip()) if line[:1].isdigit() else 0)
        ),
    )
    sizes = [size for _, size in rows_of(path, "op", "size")]
    assert (sizes.count(777777), sizes.count(888888)) == (0, 1)
    assert any(text.endswith("of what was not seen allocated") for text in losses_of(path))


def test_the_script_is_printed_for_a_shell(tmp_path):
    def printed(*arguments):
        command = [sys.executable, "-P", "-m", "harness.recording.scripts", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert printed("alloc.bt").stdout == scripts.text("alloc.bt")
    assert "pid == 4711 " in printed("alloc.bt", "4711").stdout
    assert "cpid" not in printed("alloc.bt", "4711").stdout.replace("// ", "")
    for wrong in ([], ["alloc.sh"], ["alloc.bt", "me"]):
        done = printed(*wrong)
        assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, "")
