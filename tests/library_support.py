"""What tests of real libraries share: whether they are there."""

from __future__ import annotations

import os

import pytest

from allocators.library import find_tcmalloc
from harness.allocator import find
from harness.errors import AllocatorError


def needs_tcmalloc() -> str:
    """Return the installed library's path; without one fail where CI is set, and skip elsewhere."""
    try:
        return str(find_tcmalloc())
    except AllocatorError as missing:
        return _miss(missing)


def needs_library(name: str) -> str:
    """Return the name of an allocator whose library is installed; without it fail in CI, skip elsewhere."""
    try:
        (spec,) = find(f"{name}:timing=off")
        spec.create().close()
    except AllocatorError as missing:
        return _miss(missing)
    return name


def _miss(missing: AllocatorError) -> str:
    if os.environ.get("CI"):
        pytest.fail(str(missing))
    pytest.skip(str(missing))
