"""The real Go runtime, instrumented: replays a trace through mallocgc and tells every address.

The ground truth of the model beside it. build.py finds a toolchain and builds the replayer, overlay.py puts
hooks into its runtime, process.py drives it, state.py reads what the hooks write.
"""

from .build import Toolchain, find_toolchain
from .process import Collector, Replayed, RuntimeProcess, slots_of, start_snapshot
from .state import CYCLE

__all__ = [
    "CYCLE",
    "Collector",
    "Replayed",
    "RuntimeProcess",
    "Toolchain",
    "find_toolchain",
    "slots_of",
    "start_snapshot",
]
