"""The real Go runtime, in a process of its own: replays a trace through mallocgc.

Instrumented it tells every address, and is the ground truth of the model beside it: build.py finds a
toolchain and builds the replayer, overlay.py puts hooks into its runtime, process.py drives it, state.py
reads what the hooks write. As it stands it is measured: stock.py drives it.
"""

from .build import Toolchain, find_toolchain, find_version
from .process import Collector, Replayed, RuntimeProcess, slots_of, start_snapshot
from .state import CYCLE
from .stock import Manner, Outcome, Spool, StockProcess

__all__ = [
    "CYCLE",
    "Collector",
    "Manner",
    "Outcome",
    "Replayed",
    "RuntimeProcess",
    "Spool",
    "StockProcess",
    "Toolchain",
    "find_toolchain",
    "find_version",
    "slots_of",
    "start_snapshot",
]
