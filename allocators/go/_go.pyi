from typing import Any

import numpy as np
from numpy.typing import NDArray

class CollectorMode:
    CONCURRENT: CollectorMode
    LAZY: CollectorMode
    STOPPED: CollectorMode

class Options:
    gogc: int
    memory_limit: int
    procs: int
    greentea: bool
    collector: CollectorMode
    clock_of_trace: bool
    scavenge_growth: bool
    scavenge_in_background: bool
    globals_scan_bytes: int
    stack_scan_bytes: int
    metadata_bytes: int

class Snapshot:
    free_bytes: int
    released_bytes: int
    def add_span(
        self,
        base: int,
        pages: int,
        kind: int,
        span_class: int,
        nelems: int,
        freeindex: int,
        alloc_count: int,
        alloc_count_before_cache: int,
        alloc_bits: list[int],
        /,
    ) -> None: ...
    def add_processor(
        self, base: int, cache: int, scavenged: int, tiny: int, tiny_offset: int, cached: list[int], /
    ) -> None: ...
    def add_central(self, partial: list[int], full: list[int], /) -> None: ...
    def add_chunk(
        self,
        base: int,
        taken: list[int],
        scavenged: list[int],
        in_use: int,
        last_in_use: int,
        generation: int,
        empty: bool,
        /,
    ) -> None: ...

class Go:
    def __init__(self, *, options: Options, snapshot: Snapshot | None) -> None: ...
    def feed(self, batch: Any, stops: NDArray[np.int64]) -> NDArray[np.int64]: ...
    def result(self) -> dict[str, Any]: ...
    def census(self) -> dict[str, Any]: ...
    def record_placements(self, on: bool) -> None: ...
    def take_placements(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]: ...
    def state(self) -> dict[str, int]: ...
    def spans(self) -> dict[str, NDArray[Any]]: ...
    def chunks(self) -> dict[str, NDArray[np.uint64]]: ...
    def begin_recorded_cycle(self) -> None: ...
    def end_recorded_cycle(self, sweeps: bool) -> None: ...
    def record_cycles(self, on: bool) -> None: ...
    def cycle_history(self) -> list[tuple[int, int]]: ...
    def set_stack_scans(self, bytes: list[int]) -> None: ...

def size_class_table(greentea: bool) -> list[tuple[int, int, int, int, int]]: ...
def span_reserve_bytes(span_class: int, greentea: bool) -> int: ...
