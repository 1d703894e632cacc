"""Programs whose calls the tests compare with what other recorders wrote of them, compiled once a session."""

from __future__ import annotations

import pytest
from recorder_support import build


@pytest.fixture(scope="session")
def every_call(tmp_path_factory):
    """A program that calls every allocation function once."""
    return build("every_call.cpp", tmp_path_factory.mktemp("every_call"), "-std=c++17")


@pytest.fixture(scope="session")
def shared_heap(tmp_path_factory):
    """A program whose threads share a heap; it prints what they did."""
    return build("shared_heap.c", tmp_path_factory.mktemp("shared_heap"))
