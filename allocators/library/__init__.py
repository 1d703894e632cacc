"""Real allocation libraries, each in a process of its own: what models are held against."""

from .build import build_driver, find_tcmalloc
from .process import RANGE, UNMOVED, LibraryProcess, LibraryState

__all__ = ["RANGE", "UNMOVED", "LibraryProcess", "LibraryState", "build_driver", "find_tcmalloc"]
