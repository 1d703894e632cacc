"""The programs that the recorder's tests record, compiled once a session."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "programs"

Build = Callable[..., str]


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Build:
    """Compile one of the programs once; returns the path of the executable."""
    folder = tmp_path_factory.mktemp("programs")

    def compile_once(source: str, *options: str, name: str | None = None) -> str:
        target = folder / (name or source.split(".")[0])
        if not target.exists():
            compiler = "g++" if source.endswith("pp") else "gcc"
            command = [compiler, "-O1", "-pthread", str(SOURCES / source), "-o", str(target), *options]
            subprocess.run(command, check=True, capture_output=True)
        return str(target)

    return compile_once
