"""A Go execution trace as the truth: the spans that a real runtime had, beside the model's on the same events.

With GODEBUG=traceallocfree=1 an unmodified runtime writes down every span, every object and every collection.
The model begins with the spans and objects that were there when the trace began, collects where the runtime
did, and is asked before each collection, and at the end, what spans it has: both have swept by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.allocator import ALLOC, FREE, GC, EventBatch, Spec
from harness.conform import Account, Report, Table
from harness.errors import TraceError
from harness.formats.go import Go as GoFormat
from harness.formats.go import GoTrace
from harness.trace import Progress, RowChecker

from . import Go
from ._go import size_class_table
from .snapshot import PAGE_BYTES, SPAN_CLASSES

_NO_STOPS = np.zeros(0, np.int64)

# Names of objects that fill the slots which are free at the start; the trace's own are small numbers.
_FILLERS = 1 << 40

Columns = dict[str, NDArray[Any]]
Counts = NDArray[np.int64]
