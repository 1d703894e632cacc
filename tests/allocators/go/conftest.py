"""Tests that need a Go toolchain fail in CI where there is none, and are skipped elsewhere."""

import os

import pytest

from allocators.go.runtime import find_toolchain
from harness.errors import AllocatorError


@pytest.fixture(scope="session")
def toolchain():
    try:
        return find_toolchain()
    except AllocatorError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
