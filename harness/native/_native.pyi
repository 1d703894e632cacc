from typing import Any

import numpy as np
from numpy.typing import NDArray

class TraceFault(Exception): ...

class Checker:
    def __init__(self, *, noscan_fraction: float, override_noscan: bool) -> None: ...
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
