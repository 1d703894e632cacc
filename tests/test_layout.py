"""Who may import whom, and what a start must not cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"numpy", "pyarrow"}


def imports(path, *, at_top_level=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_harness_never_imports_allocators():
    for path in (ROOT / "harness").rglob("*.py"):
        assert not any(name.split(".")[0] == "allocators" for name in imports(path)), path


def test_a_backend_knows_the_contract_and_nothing_else_of_harness():
    allowed = ("harness.allocator", "harness.errors", "harness.explanation")
    for path in (ROOT / "allocators").glob("*/__init__.py"):
        foreign = {
            name for name in imports(path) if name.startswith("harness") and not name.startswith(allowed)
        }
        assert not foreign, path


@pytest.mark.parametrize("path", sorted((ROOT / "allocators").glob("*/*.hpp")), ids=lambda path: path.name)
def test_a_tier_includes_no_python_header(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("#include")]
    assert not [line for line in lines if "nanobind" in line or "Python.h" in line or "bind.hpp" in line]


@pytest.mark.parametrize(
    "name",
    [
        "baseline",
        "costs",
        "explanation",
        "explanation_report",
        "gate",
        "gate_report",
        "history",
        "history_report",
        "metrics",
        "replayed",
        "report",
        "results",
        "thresholds",
        "trace_knowledge",
    ],
)
def test_numbers_and_tables_need_neither_arrow_nor_native_code(name):
    loaded = modules_after(f"import harness.{name}")
    assert not loaded & HEAVY
    assert "harness.native._native" not in loaded


@pytest.mark.parametrize("arguments", [["--help"], ["replay", "--help"], ["--version"]])
def test_help_loads_neither_numpy_nor_pyarrow(arguments):
    loaded = modules_after(f"from harness.cli import cli; cli.main({arguments!r}, standalone_mode=False)")
    assert not loaded & HEAVY


def modules_after(code):
    program = f"import sys\n{code}\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())
