"""glibc's workloads are read: threads take turns, and wait for each other where the file says so."""

from __future__ import annotations

import gzip

import pytest
from broken_support import expect_one_line_or_a_trace

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC, THREAD_END
from harness.conversion import convert
from harness.errors import TraceError
from harness.formats import Reading, of_source
from harness.trace import TraceReader

# mtrace.h of glibc's branch dj/malloc.
NOP, DONE, MALLOC, CALLOC_, REALLOC_, FREE_, SYNC_W, SYNC_R = range(8)
ALLOC_PTRS, ALLOC_SYNCS, NTHREADS, START_THREAD, MEMALIGN, VALLOC, PVALLOC = range(8, 15)

ORDER = (
    "the order of calls on different threads is known only where one waits for another; "
    "between, they take turns, a call each"
)


def number(value):
    """Seven bits a byte, the highest first, all but the last with the high bit set (trace2wl: add_int)."""
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127 | 128)
    return bytes(reversed(groups))


def operations(*several):
    return b"".join(bytes([code]) + b"".join(map(number, operands)) for code, *operands in several)


def workload(*threads, pointers=100, syncs=9):
    """A file as trace2wl lays it out; a thread is a list of operations."""
    programs = [operations(*thread) for thread in threads]
    start, before = b"", None
    while before != len(start):
        before = len(start)
        at = before
        start = operations((ALLOC_PTRS, pointers), (ALLOC_SYNCS, syncs), (NTHREADS, len(threads)))
        for program in programs:
            start += operations((START_THREAD, at))
            at += len(program)
        start += operations((DONE,))
    return start + b"".join(programs)


def converted(tmp_path, data, **reading):
    (tmp_path / "t.wl").write_bytes(data)
    target = str(tmp_path / "t.parquet")
    result = convert(str(tmp_path / "t.wl"), target, reading=Reading(**reading))
    rows = [
        tuple(int(value) for value in row)
        for raw in TraceReader(target).raw_batches()
        for row in zip(*raw.values(), strict=True)
    ]
    return rows, result.warnings


def test_every_operation_is_read(tmp_path):
    data = workload(
        [
            (NOP,),
            (MALLOC, 1, 300),
            (CALLOC_, 2, 2**40),
            (REALLOC_, 3, 1, 16),
            (REALLOC_, 1, 0, 8),
            (MEMALIGN, 4, 4096, 5),
            (VALLOC, 5, 6),
            (PVALLOC, 6, 4097),
            (REALLOC_, 0, 3, 0),
            (FREE_, 2),
            (FREE_, 0),
            (MALLOC, 0, 10),
            (DONE,),
        ]
    )
    assert converted(tmp_path, data) == (
        [
            (ALLOC, 0, 0, 300, 0),
            (CALLOC, 0, 1, 2**40, 0),
            (REALLOC, 0, 0, 16, 0),
            (ALLOC, 0, 2, 8, 0),
            (ALLOC, 0, 3, 5, 4096),
            (ALLOC, 0, 4, 6, 4096),
            (ALLOC, 0, 5, 8192, 4096),
            (FREE, 0, 0, 0, 0),
            (FREE, 0, 1, 0, 0),
            (THREAD_END, 0, 0, 0, 0),
        ],
        ["left out: 1 allocation that failed"],
    )


# Assembled by hand from the opcodes: thread 0 begins at byte 11, thread 1 at byte 22.
BY_HAND = bytes.fromhex(
    "0803 0901 0a02 0b0b 0b17 01"  # Pointers, syncs, threads, two starts, done.
    "02018100 0601 02020a 0502 01"  # 1 = malloc(128); sync 1 given; 2 = malloc(10); free(2).
    "0701 0501 01"  # Waits for sync 1; free(1).
)


def test_a_thread_waits_for_what_another_one_gives(tmp_path):
    assert converted(tmp_path, BY_HAND) == (
        [
            (ALLOC, 0, 0, 128, 0),
            (ALLOC, 0, 1, 10, 0),
            (FREE, 1, 0, 0, 0),
            (FREE, 0, 1, 0, 0),
            (THREAD_END, 1, 0, 0, 0),
            (THREAD_END, 0, 0, 0, 0),
        ],
        [ORDER],
    )


def test_threads_take_turns_a_call_each(tmp_path):
    data = workload(*([(MALLOC, 2 * at + 1, 1), (MALLOC, 2 * at + 2, 1), (DONE,)] for at in range(3)))
    assert [row[1] for row in converted(tmp_path, data)[0]] == [0, 1, 2] * 3


def test_a_compressed_workload_is_recognised_and_read(tmp_path):
    (tmp_path / "unnamed").write_bytes(gzip.compress(BY_HAND))
    assert of_source(str(tmp_path / "unnamed"))[0] == "wl"
    assert convert(str(tmp_path / "unnamed"), str(tmp_path / "t.parquet")).events == 6


LONG = [(MALLOC, 1, 1), (FREE_, 1)] * 100_000


def test_a_long_workload_is_read_in_parts(tmp_path):
    rows, _ = converted(tmp_path, workload([*LONG, (DONE,)], [(MALLOC, 9, 1), (DONE,)]))
    assert len(rows) == 200_003
    assert rows[-2:] == [(FREE, 0, 0, 0, 0), (THREAD_END, 0, 0, 0, 0)]


FAULTS = [
    (
        workload([(MALLOC, 1, 1), (77,)]),
        "byte 12: found an operation of thread 0 that is none, expected operation 0 to",
    ),
    (workload([(15, 1, 1, 1)]), "expected operation 0 to 7 or 12 to 14"),
    (workload([(MALLOC, 100, 1), (DONE,)]), "expected a pointer below 100, not 100"),
    (workload([(SYNC_W, 10), (DONE,)]), "expected a sync below 10, not 10"),
    (workload([(MALLOC, 1, 1)]), "expected more operations up to one that ends them"),
    (workload([(MALLOC, 1, 2**64), (DONE,)]), "expected a number of 64 bits"),
    (workload([(SYNC_R, 3), (DONE,)]), "found thread 0 waiting for sync 3, expected another one to give it"),
    (workload([(FREE_, 1), (DONE,)]), "found a free of 0x1, which is not live"),
    (
        workload([(MALLOC, 1, 1), (MALLOC, 1, 2), (DONE,)]),
        "found an allocation at 0x1, where an object lives",
    ),
    (
        operations((ALLOC_PTRS, 1), (START_THREAD, 99), (DONE,)),
        "expected a thread that begins inside the file",
    ),
    (operations((ALLOC_SYNCS, 1 << 50), (DONE,)), "expected no more syncs than the file has bytes"),
    (
        operations((START_THREAD, 1), (START_THREAD, 1), (DONE,)),
        "expected threads that begin in different places",
    ),
    (operations((MALLOC, 1, 1)), "expected operation 8, 9, 10, 11 or 1"),
]


@pytest.mark.parametrize(("data", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_fault_is_told_with_its_byte(tmp_path, data, message):
    (tmp_path / "t.wl").write_bytes(data)
    with pytest.raises(TraceError, match=r"t\.wl: byte \d+: found ") as caught:
        convert(str(tmp_path / "t.wl"), str(tmp_path / "t.parquet"), from_format="wl")
    assert message in str(caught.value)


def test_a_lenient_reader_mends_and_counts(tmp_path):
    data = workload(
        [(MALLOC, 1, 1), (SYNC_R, 3), (MALLOC, 2, 2), (MALLOC, 2, 3), (DONE,)],
        [(SYNC_R, 4), (FREE_, 1), (77,), (SYNC_R, 5)],
    )
    rows, losses = converted(tmp_path, data, lenient=True)
    assert [row[:4] for row in rows] == [
        (ALLOC, 0, 0, 1),
        (ALLOC, 0, 1, 2),
        (FREE, 0, 1, 0),
        (ALLOC, 0, 1, 3),
        (THREAD_END, 0, 0, 0),
        (FREE, 1, 0, 0),
        (THREAD_END, 1, 0, 0),
    ]
    assert losses == [
        ORDER,
        "put in: 1 free, of an address given out anew",
        "taken for given: 2 waits for syncs that no thread gives",
        "left out: 1 thread's rest, from an operation that could not be read",
    ]


def test_broken_files_are_one_line_or_a_trace(tmp_path):
    data = workload(
        [(MALLOC, 1, 300), (SYNC_W, 1), (REALLOC_, 2, 1, 5), (SYNC_W, 2), (DONE,)],
        [(SYNC_R, 1), (MEMALIGN, 3, 64, 7), (SYNC_R, 2), (FREE_, 2), (DONE,)],
    )
    strict, lenient = expect_one_line_or_a_trace(tmp_path, "wl", data, lines=False)
    assert lenient > strict > 0
