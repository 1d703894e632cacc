"""What fuzzing a header by itself begins from: the texts that the formats' tests keep."""

from __future__ import annotations

from collections.abc import Callable

from go_traces import sample
from goldens import golden


def _lines(*constants: str) -> Callable[[], list[bytes]]:
    """The first byte says how large the blocks are (native/fuzzed_lines.hpp)."""
    return lambda: [bytes((size,)) + golden(name) for name in constants for size in (3, 255)]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "android": _lines("test_android.CALLS"),
    "bpftrace": _lines("test_bpftrace.PRINTED"),
    "heaptrack": _lines("test_heaptrack.RAW"),
    "ltrace": _lines("test_ltrace.CALLED"),
    "mtrace": _lines("test_mtrace.CALLED"),
    "valgrind": _lines("test_valgrind.LOG"),
    "go_trace": lambda: [bytes((size,)) + sample(version) for version in (23, 25, 26) for size in (3, 255)],
}
