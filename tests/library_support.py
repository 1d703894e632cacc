"""What tests of real libraries share: whether there is one, and a program that uses it."""

from __future__ import annotations

import os

import pytest

from allocators.library import find_tcmalloc
from harness.errors import AllocatorError


def needs_tcmalloc() -> str:
    """Return the installed library's path; without one fail where CI is set, and skip elsewhere."""
    try:
        return str(find_tcmalloc())
    except AllocatorError as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
