"""What tests of the readers of other recorders share: the tools, programs of ours, and what a trace holds."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.conversion import ConversionResult, convert
from harness.formats import Reading
from harness.sites import Sites, decode
from harness.trace import TraceReader

PROGRAMS = Path(__file__).parent / "formats" / "programs"

# What every_call.cpp marks begin and end with.
MARK_BYTES = 1_111_111

# The program's calls between its marks, as op, size and alignment; what fails stands in no trace.
CALLS = [
    (ALLOC, 10, 0),
    (CALLOC, 16, 0),
    (REALLOC, 5000, 0),
    (REALLOC, 5, 0),
    (FREE, 0, 0),
    (FREE, 0, 0),  # A realloc to nothing.
    (ALLOC, 77, 0),
    (FREE, 0, 0),
    (ALLOC, 100, 64),
    (FREE, 0, 0),
    (ALLOC, 128, 64),
    (FREE, 0, 0),
    (ALLOC, 6, 32),
    (FREE, 0, 0),
    (ALLOC, 11, 4096),
    (FREE, 0, 0),
    (ALLOC, 12, 4096),  # pvalloc.
    (FREE, 0, 0),
    (ALLOC, 21, 0),
    (REALLOC, 2100, 0),
    (FREE, 0, 0),
    (ALLOC, 0, 0),
    (FREE, 0, 0),
    (ALLOC, 8, 0),
    (FREE, 0, 0),
    (ALLOC, 16, 0),  # strdup.
    (FREE, 0, 0),
    *((op, size, 0) for each in (21, 22, 23, 24) for op, size in ((ALLOC, each), (FREE, 0))),
    *(row for size in (64, 128, 192) for row in ((ALLOC, size, 64), (FREE, 0, 0))),
    (ALLOC, 25, 0),
    (FREE, 0, 0),
]
PVALLOC = CALLS.index((ALLOC, 12, 4096))
WITHOUT_PVALLOC = CALLS[:PVALLOC] + CALLS[PVALLOC + 2 :]
FAILED = 3


# Debian's packages that are not called like their tools.
PACKAGES = {"mtrace": "libc-devtools"}


def needs_tool(name: str, *trial: str) -> None:
    """Go on with a tool; without it fail in CI and skip elsewhere. Skip where it may not do the trial."""
    if shutil.which(name) is None:
        missing = f"{name} is not installed (apt-get install {PACKAGES.get(name, name)})"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    if trial and subprocess.run(trial, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{name} may not do its work here: {' '.join(trial)}")


def build(source: str, folder: Path, *options: str) -> str:
    """Compile one of the programs, without a call left out; return its path."""
    target = folder / source.split(".")[0]
    compiler = "g++" if source.endswith("pp") else "gcc"
    command = [
        compiler,
        "-g",
        "-O1",
        "-w",
        "-fno-builtin",
        "-pthread",
        str(PROGRAMS / source),
        "-o",
        str(target),
    ]
    subprocess.run([*command, *options], check=True)
    return str(target)


def run(*command: str, **options: Any) -> str:
    """Run a tool that has to succeed; return what it printed, on either stream."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}"
    return done.stdout


def converted(source: Path | str, **reading: Any) -> tuple[str, ConversionResult]:
    """Convert a file that its format is recognised of; return the trace's path and the result."""
    target = f"{source}.parquet"
    return target, convert(str(source), target, reading=Reading(**reading))


def converted_text(folder: Path, text: str | bytes, **reading: Any) -> tuple[str, ConversionResult]:
    """Convert a text."""
    (folder / "t").write_bytes(text if isinstance(text, bytes) else text.encode())
    return converted(folder / "t", **reading)


def rows_of(path: str, *names: str) -> list[tuple[int, ...]]:
    """Return columns of a trace, row by row."""
    reader = TraceReader(path)
    return [
        tuple(int(value) for value in row)
        for raw in reader.raw_batches()
        for row in zip(*(raw[name] for name in names or reader.columns), strict=True)
    ]


def between_marks(path: str) -> list[tuple[int, ...]]:
    """Return op, size and, if known, alignment of the rows between every_call.cpp's marks."""
    has_alignment = "alignment" in TraceReader(path).columns
    rows = rows_of(path, "op", "size", *(["alignment"] if has_alignment else []))
    marks = [at for at, row in enumerate(rows) if row[:2] == (ALLOC, MARK_BYTES)]
    assert len(marks) == 2
    return rows[marks[0] + 2 : marks[1]]


def shared_heap_counts(path: str) -> tuple[int, int, int, int]:
    """Return the allocations, reallocations and frees of shared_heap.c's objects, and how many stay."""
    counts = {ALLOC: 0, REALLOC: 0, FREE: 0}
    live = set()
    for op, name, size in rows_of(path, "op", "object", "size"):
        is_ours = name in live if op in (REALLOC, FREE) else size % 2 == 1 and 20_001 <= size <= 29_999
        if not is_ours:
            continue
        counts[op] += 1
        live = live - {name} if op == FREE else live | {name}
    return counts[ALLOC], counts[REALLOC], counts[FREE], len(live)


def totals_of(path: str) -> dict[str, int]:
    """Return a trace's allocations, reallocs, frees, all bytes, the most at once, and what stays."""
    live: dict[int, int] = {}
    found = {"allocations": 0, "reallocations": 0, "frees": 0, "bytes": 0, "peak": 0}
    requested = 0
    for op, name, size in rows_of(path, "op", "object", "size"):
        requested -= live.pop(name, 0) if op in (FREE, REALLOC) else 0
        if op in (ALLOC, CALLOC, REALLOC):
            live[name] = size
            requested += size
            found["bytes"] += size
        kind = {ALLOC: "allocations", CALLOC: "allocations", REALLOC: "reallocations", FREE: "frees"}.get(op)
        if kind is not None:
            found[kind] += 1
        found["peak"] = max(found["peak"], requested)
    return found | {"live": len(live), "live_bytes": requested}


def sites_of(path: str) -> Sites:
    """Return a trace's sites."""
    return decode(TraceReader(path).sites, path)


def losses_of(path: str) -> list[str]:
    """Return what a trace says was lost."""
    losses: list[str] = TraceReader(path).metadata["losses"]
    return losses
