from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.allocator import Allocator, EventBatch, Request

class TraceFault(Exception): ...

class Checker:
    def __init__(self, *, noscan_fraction: float, override_noscan: bool, slots_rest: bool = True) -> None: ...
    def check(
        self,
        op: NDArray[np.uint8],
        thread: NDArray[np.uint32],
        object: NDArray[np.uint64],
        size: NDArray[np.uint64],
        alignment: NDArray[np.uint32] | None,
        noscan: NDArray[np.uint8] | None,
        time_ns: NDArray[np.int64] | None,
    ) -> tuple[NDArray[Any], ...]: ...
    def totals(self) -> dict[str, int]: ...

class Inspector:
    def __init__(self) -> None: ...
    def feed(self, batch: EventBatch) -> None: ...
    def quantile(self, per_mille: int) -> int: ...
    def result(self) -> dict[str, Any]: ...

class LiveSet:
    def __init__(self, threads: list[int]) -> None: ...
    def skip(
        self, batch: EventBatch, thread: NDArray[np.uint32], site: NDArray[np.uint32] | None
    ) -> None: ...
    def alive(self) -> dict[str, NDArray[Any]]: ...
    def take(
        self, batch: EventBatch, thread: NDArray[np.uint32], site: NDArray[np.uint32] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]: ...

class InvariantError(Exception): ...

class PythonReplay:
    def __init__(self, allocator: Allocator, request: type[Request]) -> None: ...
    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]: ...
    def result(self) -> dict[str, Any]: ...

class SizeOverflow(Exception): ...

class Generator:
    def __init__(self, *, seed: int) -> None: ...
    def begin_phase(
        self,
        *,
        live: int,
        threads: int,
        remote_free: float,
        noscan: float,
        size_mu: float,
        size_sigma: float,
        sizes: list[int],
        weights: list[float],
        live_weights: list[float],
        lifetimes: str,
        short_lived: float,
        short_life: float,
    ) -> None: ...
    def next(self, count: int) -> dict[str, NDArray[Any]]: ...
