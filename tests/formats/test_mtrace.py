"""What glibc's mtrace() writes is read; what it says is what the script mtrace makes of it."""

from __future__ import annotations

import re
from pathlib import Path

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
    sites_of,
)
from support import harness

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.errors import TraceError

DEBUG_LIBRARY = "libc_malloc_debug.so.0"

CALLED = SAMPLES["mtrace"]
ROWS = [
    (ALLOC, 0, 10, 1),
    (REALLOC, 0, 100, 2),
    (ALLOC, 1, 0, 3),
    (ALLOC, 2, 7, 0),
    (FREE, 0, 0, 0),
]


def mtrace(folder, *command):
    """Run a command that calls mtrace(); return the file and what the command printed."""
    environment = {"LD_PRELOAD": DEBUG_LIBRARY, "MALLOC_TRACE": str(folder / "m.txt")}
    return folder / "m.txt", run("env", *(f"{name}={value}" for name, value in environment.items()), *command)


def test_every_line_is_read(tmp_path):
    path, _ = converted_text(tmp_path, CALLED)
    assert rows_of(path, "op", "object", "size", "site") == ROWS
    assert losses_of(path)[1:3] == [
        "left out: 2 allocations that failed",
        "left out: 1 free of what was not seen allocated",
    ]


def test_callers_are_sites_by_module_and_address(tmp_path):
    path, _ = converted_text(tmp_path, CALLED)
    sites = sites_of(path)
    assert [[str(frame) for frame in sites.stack(site)] for site in range(len(sites))] == [
        [],
        ["a prog+0x1237"],
        ["a prog+0x1238"],
        ["0x7eff"],
        ["a prog+0x123f"],
    ]


def test_a_free_told_after_its_address_was_given_out_anew_finds_its_own_object(tmp_path):
    text = "= Start\n+ 0xaa0 0x5\n+ 0xaa0 0x6\n- 0xaa0\n+ 0xbb0 0x7\n- 0xaa0\n"
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path, "op", "object", "size") == [
        (ALLOC, 0, 5),
        (ALLOC, 1, 6),
        (FREE, 0, 0),
        (ALLOC, 0, 7),
        (FREE, 1, 0),
    ]
    assert losses_of(path)[1:] == ["told late: 1 free, after its address was given out anew"]


def test_a_realloc_told_late_finds_its_own_object(tmp_path):
    text = "= Start\n+ 0xaa0 0x5\n+ 0xaa0 0x6\n< 0xaa0\n> 0xbb0 0x7\n- 0xaa0\n- 0xbb0\n"
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path, "op", "object", "size") == [
        (ALLOC, 0, 5),
        (ALLOC, 1, 6),
        (REALLOC, 0, 7),
        (FREE, 1, 0),
        (FREE, 0, 0),
    ]


FAULTS = [
    ("@ ./prog:[0x12] ? 0x5", "expected +, -, <, > or !"),
    ("@ ./prog:[0x12] + 0x5", "expected a decimal number"),
    ("@ ./prog:[0x12] - zz", "expected a hexadecimal number"),
    ("@ ./prog - 0x5", "expected [ADDRESS] and a sign behind it"),
    ("@ ./prog] - 0x5", "expected [ADDRESS] of the caller"),
    ("@ ./prog:[0x12] - 0x5 0x6", "expected the end of the line"),
    ("> 0x5 0x6", "expected < in the line before"),
    ("what a program printed", "expected +, -, <, > or !"),
]


@pytest.mark.parametrize(("line", "expected"), FAULTS, ids=[line for line, _ in FAULTS])
def test_a_bad_line_is_told_with_its_number_or_dropped(tmp_path, line, expected):
    text = CALLED.replace("+ 0xee0", f"{line}\n+ 0xee0")
    with pytest.raises(
        TraceError, match=rf"t: line 9: found '.*', {re.escape(expected)}.*; --lenient goes on"
    ):
        converted_text(tmp_path, text)
    path, _ = converted_text(tmp_path, text, lenient=True)
    assert rows_of(path, "op", "object", "size") == [row[:3] for row in ROWS]
    assert "dropped: 1 line that could not be read" in losses_of(path)


def test_half_a_realloc_is_told(tmp_path):
    with pytest.raises(TraceError, match="line 3: found '- 0xaa0', expected >, the other half"):
        converted_text(tmp_path, "+ 0xaa0 0x5\n< 0xaa0\n- 0xaa0\n".replace("+", "@ a:[0x1] +", 1))


def test_a_program_that_does_not_call_mtrace_is_told_to(tmp_path):
    (tmp_path / "t").write_text("= Start\n= End\n")
    done = harness("convert", "t", "t.parquet", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "t: found no call of malloc, free, ...; the program has to call mtrace()" in done.stderr


# ---- The real thing -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, every_call):
    """every_call.cpp's file and the trace of it."""
    file, _ = mtrace(tmp_path_factory.mktemp("mtrace"), every_call, "pvalloc")
    return file, converted(file)[0]


def test_every_call_stands_in_the_trace(recorded):
    _, path = recorded
    # mtrace does not tell callocs from mallocs, and rounds what pvalloc takes up to pages, plus one byte.
    expected = [(ALLOC if op == CALLOC else op, 4097 if size == 12 else size) for op, size, _ in CALLS]
    assert between_marks(path) == expected
    # Nor a calloc whose product is too large.
    assert f"left out: {FAILED - 1} allocations that failed" in losses_of(path)


def test_what_the_script_finds_not_freed_is_what_lives_at_the_end(recorded, every_call):
    needs_tool("mtrace")
    file, path = recorded
    live = {}
    for op, name, size in rows_of(path, "op", "object", "size"):
        if op == FREE:
            del live[name]
        else:
            live[name] = size
    printed = run("sh", "-c", f"mtrace {every_call} {file} || true")
    unfreed = [int(size, 16) for size in re.findall(r"^0x[0-9a-f]+ +(0x[0-9a-f]+)  at", printed, re.M)]
    assert sorted(unfreed) == sorted(live.values())
    assert 333 in unfreed
    never = re.findall(r"was never alloc'd", printed)
    said = [
        int(text.split()[2]) for text in losses_of(path) if "free" in text and text.startswith("left out")
    ]
    assert said == [len(never)]


def test_a_site_is_the_line_that_asked(recorded):
    _, path = recorded
    sites = sites_of(path)
    (site,) = [site for _, size, site in rows_of(path, "op", "size", "site") if size == 333]
    (frame,) = sites.stack(site)
    source = (Path(__file__).parent / "programs" / "every_call.cpp").read_text().splitlines()
    assert (frame.function, Path(frame.file).name) == ("main", "every_call.cpp")
    assert source[frame.line - 1].strip().startswith("p = std::malloc(333);")


def test_the_counts_of_threads_are_the_programs(tmp_path, shared_heap):
    file, printed = mtrace(tmp_path, shared_heap, "20000")
    path, _ = converted(file)
    allocations, reallocations, frees = map(int, printed.split())
    assert shared_heap_counts(path) == (allocations, reallocations, frees, 0)
