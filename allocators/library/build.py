"""Finds a real library, and builds the driver that replays a trace into it, cached by all that goes in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from harness.errors import AllocatorError

DRIVER = Path(__file__).parent / "driver"
TIMER = Path(__file__).parent / "timing"

_REMEDY = "install it with `apt-get install libgoogle-perftools-dev` (Fedora: gperftools-devel)"

# The compiler must not know what malloc and free do, or it would leave out pairs of them.
_FLAGS = (
    "-std=c++20",
    "-O2",
    "-pthread",
    *(f"-fno-builtin-{f}" for f in ("malloc", "calloc", "realloc", "free")),
)

_LIBRARY = "libtcmalloc_minimal.so.4"


def find_tcmalloc(path: str | None = None) -> Path:
    """Return the shared library of a path, or the installed libtcmalloc_minimal.

    AllocatorError where there is none.
    """
    if path is not None:
        if not Path(path).is_file():
            raise AllocatorError(f"{path}: there is no such library")
        return Path(path).resolve()
    for line in _linker_cache().splitlines():
        name, _, found = line.partition("=>")
        if name.split(" ")[0].strip() == _LIBRARY and Path(found.strip()).is_file():
            return Path(found.strip())
    raise AllocatorError(f"gperftools' TCMalloc ({_LIBRARY}) is not installed; {_REMEDY}")


def build_driver() -> Path:
    """Return the driver; AllocatorError where there is no compiler, or gperftools' headers are missing."""
    return _built("driver", DRIVER, sorted(DRIVER.glob("*.[ch]pp")))


def build_timer() -> Path:
    """Return the program that times a malloc; AllocatorError where there is no compiler."""
    return _built("timer", TIMER, [*sorted(TIMER.glob("*.cpp")), DRIVER / "protocol.hpp"])


def _built(name: str, folder: Path, sources: list[Path]) -> Path:
    compiler = _compiler()
    digest = hashlib.sha256(repr((compiler, _version(compiler), _FLAGS)).encode())
    for source in sources:
        digest.update(source.read_bytes())
    built = _cache_folder() / f"{name}-{digest.hexdigest()[:16]}"
    if built.exists():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as temporary:
        output = Path(temporary) / name
        units = [str(source) for source in sources if source.suffix == ".cpp"]
        done = subprocess.run(
            [compiler, *_FLAGS, *units, "-o", str(output)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0 and "gperftools/" in done.stderr and "No such file" in done.stderr:
            raise AllocatorError(f"gperftools' headers are not installed; {_REMEDY}")
        if done.returncode != 0:
            raise AllocatorError(f"the program in {folder} does not compile: {done.stderr.strip()[-2000:]}")
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
