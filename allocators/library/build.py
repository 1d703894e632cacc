"""Finds real libraries, and builds the programs that replay a trace into them, cached by all that goes in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

from harness.errors import AllocatorError

DRIVER = Path(__file__).parent / "driver"

_REMEDY = "install it with `apt-get install libgoogle-perftools-dev` (Fedora: gperftools-devel)"

# The compiler must not know what malloc and free do, or it would leave out pairs of them.
_FLAGS = (
    "-std=c++20",
    "-O2",
    "-pthread",
    *(f"-fno-builtin-{f}" for f in ("malloc", "calloc", "realloc", "free")),
)

_LIBRARY = "libtcmalloc_minimal.so.4"

# Longer than the longest build takes on one slow core.
_BUILD_SECONDS = 1800


def find_library(name: str) -> Path | None:
    """Return the shared library that the dynamic linker knows by a name like ``libjemalloc.so.2``."""
    for line in _linker_cache().splitlines():
        known, _, found = line.partition("=>")
        if known.split(" ")[0].strip() == name and Path(found.strip()).is_file():
            return Path(found.strip())
    return None


def find_tcmalloc(path: str | None = None) -> Path:
    """Return the shared library of a path, or the installed libtcmalloc_minimal.

    AllocatorError where there is none.
    """
    if path is not None:
        if not Path(path).is_file():
            raise AllocatorError(f"{path}: there is no such library")
        return Path(path).resolve()
    found = find_library(_LIBRARY)
    if found is None:
        raise AllocatorError(f"gperftools' TCMalloc ({_LIBRARY}) is not installed; {_REMEDY}")
    return found


# The programs, by name: what models are held against, what is measured, what is timed.
_PROGRAMS = {
    "conform": ("driver.cpp", "tcmalloc.cpp"),
    "measure": ("driver.cpp", "measured.cpp"),
    "time": ("timing.cpp",),
}


def build_driver(program: Literal["conform", "measure", "time"] = "conform") -> Path:
    """Return a program of the folder driver.

    AllocatorError where there is no compiler, or for `conform` where gperftools' headers are missing.
    """
    return _built(program, [DRIVER / name for name in _PROGRAMS[program]])


def _built(program: str, sources: list[Path]) -> Path:
    compiler = _compiler()
    digest = hashlib.sha256(repr((compiler, _version(compiler), _FLAGS)).encode())
    for source in (*sources, *sorted(DRIVER.glob("*.hpp"))):
        digest.update(source.read_bytes())
    built = _cache_folder() / f"{program}-{digest.hexdigest()[:16]}"
    if built.exists():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as temporary:
        output = Path(temporary) / program
        try:
            done = subprocess.run(
                [compiler, *_FLAGS, *map(str, sources), "-o", str(output), "-ldl"],
                capture_output=True,
                text=True,
                check=False,
                timeout=_BUILD_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise AllocatorError(f"{program} was not compiled within {_BUILD_SECONDS} s") from error
        if done.returncode != 0 and "gperftools/" in done.stderr and "No such file" in done.stderr:
            raise AllocatorError(f"gperftools' headers are not installed; {_REMEDY}")
        if done.returncode != 0:
            raise AllocatorError(f"{program} does not compile: {done.stderr.strip()[-2000:]}")
        os.replace(output, built)
    return built


def _compiler() -> str:
    named = os.environ.get("CXX")
    for candidate in (named,) if named else ("c++", "g++", "clang++"):
        found = shutil.which(candidate)
        if found:
            return found
    raise AllocatorError(
        f"no C++ compiler found ({named or 'c++'}); real libraries need one for their driver: "
        f"`apt-get install g++`"
    )


@cache
def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout


def _linker_cache() -> str:
    for ldconfig in ("/sbin/ldconfig", "ldconfig"):
        found = shutil.which(ldconfig)
        if found:
            return subprocess.run([found, "-p"], capture_output=True, text=True, check=False).stdout
    return ""


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "alloc-harness" / "library"
