"""What holds for every test."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from library_support import needs_tcmalloc

from allocators.go.runtime import find_toolchain
from harness.errors import AllocatorError

# A busy machine is no fault of the code. In CI Hypothesis chooses its own profile, without a deadline, too.
settings.register_profile("harness", deadline=None)
if not os.environ.get("CI"):
    settings.load_profile("harness")


@pytest.fixture(scope="session", autouse=True)
def configuration(tmp_path_factory):
    """No settings of the developer's own: a table of costs that was calibrated here would show in results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tcmalloc_library():
    """The installed libtcmalloc; without one a test that asks for it fails in CI, and skips elsewhere."""
    return needs_tcmalloc()


@pytest.fixture(scope="session")
def toolchain():
    """The toolchain of Go; without one a test that asks for it fails in CI, and skips elsewhere."""
    try:
        return find_toolchain()
    except AllocatorError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
