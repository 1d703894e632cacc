"""Builds the model from sources that are changed or instrumented, as an installation builds it.

All modules of one call share one CMake project, so that what they have in common is compiled once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ALLOCATORS = Path(__file__).parents[2] / "allocators"

_PROJECT = """\
cmake_minimum_required(VERSION 3.18...4.0)
project(conformance LANGUAGES CXX)
set(Python_EXECUTABLE "{python}")
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
find_package(nanobind CONFIG REQUIRED)
find_package(harness CONFIG REQUIRED)
"""

_MODULE = """\
harness_add_allocator({name} "{source}")
target_compile_options({name} PRIVATE {flags})
target_link_options({name} PRIVATE {flags})
"""


def build(folder: Path, modules: Mapping[str, Path], flags: Sequence[str]) -> dict[str, Path]:
    """Build one native module per name from a folder of sources, and return their files by name."""
    project = _PROJECT.format(python=sys.executable)
    for name, sources in modules.items():
        project += _MODULE.format(name=name, source=sources / "module.cpp", flags=" ".join(flags))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "CMakeLists.txt").write_text(project)
    tree = folder / "build"
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}"] if _tool("ninja") else []
    cmake = _tool("cmake") or "cmake"
    prefixes = {
        "harness_DIR": _printed("-P", "-m", "harness.cmake_dir"),
        "nanobind_DIR": _printed("-m", "nanobind", "--cmake_dir"),
    }
    defines = [f"-D{name}={value}" for name, value in prefixes.items()]
    _run([cmake, "-S", str(folder), "-B", str(tree), *generator, *defines])
    _run([cmake, "--build", str(tree), "--parallel", "2"])
    return {name: next(tree.glob(f"{name}.*so")) for name in modules}


def _tool(name: str) -> str | None:
    """Return where a tool is; one of the running environment comes before the system's."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=paths)


def _printed(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
