"""Real allocation libraries, each in a process of its own: what models are held against."""

from .build import build_driver, build_timer, find_tcmalloc
from .process import RANGE, UNMOVED, LibraryProcess, LibraryState
from .timing import time_events

__all__ = [
    "RANGE",
    "UNMOVED",
    "LibraryProcess",
    "LibraryState",
    "build_driver",
    "build_timer",
    "find_tcmalloc",
    "time_events",
]
