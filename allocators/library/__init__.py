"""Real allocation libraries, each in a process of its own: rows of the table, and the truth of models."""

from .build import build_driver, find_library, find_tcmalloc
from .process import RANGE, UNMOVED, About, LibraryProcess, LibraryState, MeasuredProcess, time_events

__all__ = [
    "RANGE",
    "UNMOVED",
    "About",
    "LibraryProcess",
    "LibraryState",
    "MeasuredProcess",
    "about_tcmalloc",
    "build_driver",
    "find_library",
    "find_tcmalloc",
    "time_events",
]

_ANSWER_SECONDS = 60.0


def about_tcmalloc() -> About:
    """Return what the installed libtcmalloc_minimal says of itself; AllocatorError where there is none."""
    process = MeasuredProcess(find_tcmalloc(), {}, touch="none", time_limit_seconds=_ANSWER_SECONDS)
    process.close()
    return process.about
