"""What ltrace writes of allocation functions is read, times and unfinished calls included."""

from __future__ import annotations

import re

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

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC, THREAD_END
from harness.errors import TraceError
from harness.recording import scripts
from harness.trace import TraceReader

FUNCTIONS = "malloc+calloc+realloc+reallocarray+free+posix_memalign+aligned_alloc+memalign+valloc+pvalloc"

CALLED = SAMPLES["ltrace"]
ROWS = [
    (ALLOC, 7, 0, 10, 0),
    (CALLOC, 7, 1, 16, 0),
    (REALLOC, 7, 0, 100, 0),
    (ALLOC, 8, 2, 30, 0),
    (FREE, 7, 0, 0, 0),
    (FREE, 8, 1, 0, 0),
    (ALLOC, 7, 1, 16, 0),
    (THREAD_END, 8, 0, 0, 0),
    (ALLOC, 7, 0, 100, 64),
    (ALLOC, 7, 3, 101, 128),
    (ALLOC, 7, 4, 128, 64),
    (ALLOC, 7, 5, 5, 64),
    (ALLOC, 7, 6, 6, 4096),
    (ALLOC, 7, 7, 21, 0),
]
COLUMNS = ("op", "thread", "object", "size", "alignment")


@pytest.fixture
def prototypes(tmp_path):
    (tmp_path / "alloc.conf").write_text(scripts.text("alloc.conf"))
    return str(tmp_path / "alloc.conf")


def ltrace(folder, *command, options):
    needs_tool("ltrace", "ltrace", "-o", "/dev/null", "/bin/true")
    file = folder / "l.txt"
    return file, run("ltrace", *options, "-o", str(file), *command)


def whole(prototypes, *more):
    """Options to trace every call of a program's libraries."""
    return ["-F", prototypes, "-f", "-L", "-x", FUNCTIONS, *more]


def test_every_line_is_read(tmp_path):
    path, _ = converted_text(tmp_path, CALLED)
    assert rows_of(path, *COLUMNS) == ROWS
    assert losses_of(path) == [
        "ltrace tells no call stacks, and no times without -ttt",
        "left out: 4 allocations that failed",
        "left out: 1 free of what was not seen allocated",
    ]


@pytest.mark.parametrize(
    ("first", "second", "times"),
    [
        ("1795678903.931757", "1795678904.000001", [1_795_678_903_931_757_000, 1_795_678_904_000_001_000]),
        ("07:45:33.574299", "07:45:34.000000", [27_933_574_299_000, 27_934_000_000_000]),
        ("23:59:59", "00:00:01", [86_399_000_000_000, 86_401_000_000_000]),
        ("  0.000000", "  0.000155", [0, 155_000]),
    ],
    ids=["-ttt", "-tt", "-t over midnight", "-r"],
)
@pytest.mark.parametrize("thread", ["", "7 ", "[pid 7] "])
def test_times_of_every_kind_are_read(tmp_path, first, second, times, thread):
    text = f"{thread}{first} malloc(10) = 0xa0\n{thread}{second} free(0xa0) = <void>\n"
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path, "op", "time_ns") == [(ALLOC, times[0]), (FREE, times[1])]
    assert {row[0] for row in rows_of(path, "thread")} == {7 if thread else 0}


def test_the_callers_address_and_indented_calls_are_read(tmp_path):
    path, _ = converted_text(
        tmp_path, "[0x5652cbca] malloc(10) = 0xa0\n  [0x5652cbca]   free(0xa0) = <void>\n"
    )
    assert rows_of(path, "op", "size") == [(ALLOC, 10), (FREE, 0)]


def test_another_thread_may_have_the_address_before_the_realloc_ends(tmp_path):
    text = (
        "1 malloc(10) = 0xa0\n1 realloc(0xa0, 99 <unfinished ...>\n2 malloc(11) = 0xa0\n"
        "1 <... realloc resumed> ) = 0xb0\n2 free(0xa0) = <void>\n1 free(0xb0) = <void>\n"
    )
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path, "op", "object", "size") == [
        (ALLOC, 0, 10),
        (ALLOC, 1, 11),
        (REALLOC, 0, 99),
        (FREE, 1, 0),
        (FREE, 0, 0),
    ]
    assert len(losses_of(path)) == 1


def test_posix_memalign_without_its_prototype_is_counted(tmp_path):
    path, _ = converted_text(tmp_path, "malloc(1) = 0xa0\nposix_memalign(0x7ffd, 64, 100, 0) = 0\n")
    assert rows_of(path, "op", "size") == [(ALLOC, 1)]
    assert losses_of(path)[1].startswith("left out: 1 posix_memalign, ")


def test_a_program_that_another_one_follows_is_told(tmp_path):
    path, _ = converted_text(tmp_path, "malloc(1) = 0xa0\n--- Called exec() ---\nmalloc(2) = 0xb0\n")
    assert losses_of(path)[1] == "mixed in: 1 program started by exec"


FAULTS = [
    ("7 malloc(10)", "expected '='"),
    ("7 malloc(10", "expected ) and a result"),
    ("7 malloc(ten) = 0x5", "expected a decimal number"),
    ("7 calloc(1) = 0x5", "expected another argument"),
    ("7 <... malloc resumed> ) = 0x5", "expected the begin of this call"),
    ("7 free() = <void>", "expected another field"),
    ("7 calloc(4611686018427387904, 8) = 0x5", "the size is too large"),
]


@pytest.mark.parametrize(("line", "expected"), FAULTS, ids=[line for line, _ in FAULTS])
def test_a_bad_line_is_told_with_its_number_or_dropped(tmp_path, line, expected):
    text = CALLED.replace('7 puts("free(0xbb0)")            = 3', line)
    with pytest.raises(
        TraceError, match=rf"t: line 9: found '.*', {re.escape(expected)}.*; --lenient goes on"
    ):
        converted_text(tmp_path, text)
    path, _ = converted_text(tmp_path, text, lenient=True)
    assert rows_of(path, *COLUMNS) == ROWS
    assert "dropped: 1 line that could not be read" in losses_of(path)


# ---- The real thing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "time", [[], ["-r"], ["-t"], ["-tt"], ["-ttt"]], ids=lambda options: "".join(options)
)
def test_every_call_stands_in_the_trace(tmp_path, every_call, prototypes, time):
    file, _ = ltrace(tmp_path, every_call, "pvalloc", options=whole(prototypes, *time))
    path, _ = converted(file)
    assert between_marks(path) == CALLS
    assert f"left out: {FAILED} allocations that failed" in losses_of(path)
    assert ("time_ns" in TraceReader(path).columns) == bool(time)


def test_the_calls_of_a_programs_own_libraries_are_read(tmp_path, every_call, prototypes):
    file, _ = ltrace(tmp_path, every_call, "pvalloc", options=["-F", prototypes, "-f", "-e", FUNCTIONS])
    path, _ = converted(file)
    # Calls within the C library, such as strdup's, have no line then; its frees have.
    strdup = CALLS.index((ALLOC, 16, 0))
    assert between_marks(path) == CALLS[:strdup] + CALLS[strdup + 2 :]


def test_the_counts_of_threads_are_the_programs(tmp_path, shared_heap, prototypes):
    file, printed = ltrace(tmp_path, shared_heap, "300", options=whole(prototypes, "-ttt"))
    path, _ = converted(file)
    allocations, reallocations, frees = map(int, printed.split())
    assert shared_heap_counts(path) == (allocations, reallocations, frees, 0)
    threads = {thread for op, thread in rows_of(path, "op", "thread") if op == THREAD_END}
    assert len(threads) == 5
