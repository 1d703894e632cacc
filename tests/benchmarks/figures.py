"""What was measured, as tables, and on which machine.

A figure is what a benchmark leaves in its extra_info: `ns_per_event`, `events`, `live`, and either
`allocator` and `threads`, for a cell of the first table, or `work` and `events_each`, for a row of the
second.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tabulate import tabulate

from allocators.library import find_tcmalloc
from harness.errors import AllocatorError

REAL_TCMALLOC = "real libtcmalloc"
GLIBC = "glibc malloc"

_ALLOCATORS = ("ideal", "tcmalloc", "go", REAL_TCMALLOC, GLIBC)
_RATED = ("tcmalloc", "go")
_LINE_WIDTH = 120
_EACH = {1: "event", 2: "malloc and its free"}

Figure = dict[str, Any]


def tables(figures: Sequence[Figure], style: str) -> str:
    """Return both tables in one of tabulate's styles, without those that nothing was measured for."""
    of_allocators = [figure for figure in figures if "allocator" in figure]
    of_work = [figure for figure in figures if "work" in figure]
    parts = [_allocators(of_allocators, style)] if of_allocators else []
    parts += [_work(of_work, style)] if of_work else []
    return "\n\n".join(parts)


def machine() -> str:
    """Return where this is: processor, system, compiler and what was measured, in a sentence."""
    parts = (
        f"{_processor()}, {os.cpu_count()} cores",
        f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        _compiler(),
        _tcmalloc(),
        " ".join(platform.libc_ver()),
        f"pyarrow {version('pyarrow')}",
        f"alloc-harness {version('alloc-harness')}",
    )
    return textwrap.fill(f"Measured on {'; '.join(parts)}.", _LINE_WIDTH, break_on_hyphens=False)


def _allocators(figures: Sequence[Figure], style: str) -> str:
    """One row a number of live objects and of threads: ns an event, and rates beside the real library's."""
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for figure in figures:
        row = rows.setdefault((figure["threads"], figure["live"]), {})
        row[figure["allocator"]] = figure["ns_per_event"]
    lines = []
    for (threads, live), row in sorted(rows.items()):
        ratios = [_ratio(row.get(REAL_TCMALLOC), row.get(model)) for model in _RATED]
        name = _count(live) + (f", {threads} threads" if threads > 1 else "")
        lines.append((name, *(row.get(allocator) for allocator in _ALLOCATORS), *ratios))
    headers = ("live objects", *_ALLOCATORS, *(f"{model} : real" for model in _RATED))
    return tabulate(
        lines,
        headers,
        tablefmt=style,
        floatfmt=("", *[".1f"] * len(_ALLOCATORS), *[".2f"] * len(_RATED)),
        missingval="-",
        colalign=("left", *["right"] * (len(headers) - 1)),
    )


def _work(figures: Sequence[Figure], style: str) -> str:
    """One row a kind of work, in the order in which it was measured."""
    lines = [
        (
            figure["work"],
            _count(figure["live"]),
            figure["ns_per_event"] * figure["events_each"],
            _EACH[figure["events_each"]],
            1e3 / figure["ns_per_event"],
        )
        for figure in figures
    ]
    headers = ("work", "live objects", "ns", "for each", "million events a second")
    align = ("left", "right", "right", "left", "right")
    return tabulate(lines, headers, tablefmt=style, floatfmt=".1f", colalign=align)


def _ratio(real_ns: float | None, model_ns: float | None) -> float | None:
    """How many events the model replays while the real library carries out one."""
    return real_ns / model_ns if real_ns and model_ns else None


def _count(number: int) -> str:
    return f"{number // 10**6} M" if number >= 10**6 else f"{number // 10**3} k"


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _compiler() -> str:
    try:
        said = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return "no g++"
    return said.partition("\n")[0]


def _tcmalloc() -> str:
    """The library's own name and version; asked in another process, since loading it changes malloc."""
    ask = (
        "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]);"
        "library.tc_version.restype = ctypes.c_char_p;"
        "print(library.tc_version(None, None, None).decode())"
    )
    try:
        command = [sys.executable, "-c", ask, str(find_tcmalloc())]
    except AllocatorError:
        return "no libtcmalloc"
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
