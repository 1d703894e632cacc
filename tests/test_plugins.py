"""A third party's allocator, built and installed from outside the tree, is one of ours."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import harness, random_rows, write_trace

PLUGINS = Path(__file__).parent / "plugins"
PACKAGE = {"bump": "python_backend", "slab": "native_backend"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with both plugins installed, built in the running environment."""
    folder = tmp_path_factory.mktemp("site")
    harness_dir = subprocess.run(
        [sys.executable, "-P", "-m", "harness.cmake_dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    nanobind_dir = subprocess.run(
        [sys.executable, "-m", "nanobind", "--cmake_dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    defines = {"harness_DIR": harness_dir, "nanobind_DIR": nanobind_dir}
    settings = [f"--config-settings=cmake.define.{name}={value}" for name, value in defines.items()]
    subprocess.run([*pip, "--target", folder, *settings, PLUGINS / "native_backend"], check=True)
    subprocess.run([*pip, "--target", folder, PLUGINS / "python_backend"], check=True)
    return str(folder)


def run(site, *arguments):
    return harness(*arguments, env=os.environ | {"PYTHONPATH": site})


@pytest.mark.slow
def test_both_are_listed(site):
    listed = {entry["name"]: entry for entry in json.loads(run(site, "list", "--format", "json").stdout)}
    assert listed["bump"]["description"] == "Never reuses memory."
    assert listed["slab"]["options"] == [
        {"name": "slab_bytes", "default": 65536, "values": "bytes (512KiB, 4GiB)"}
    ]


@pytest.mark.slow
def test_both_stand_in_the_table(site, tmp_path):
    path = write_trace(tmp_path / "t.parquet", random_rows(1000))
    done = run(site, "replay", path, "-a", "slab:slab_bytes=4KiB|64KiB", "-a", "bump", "-a", "ideal")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].split() == ["slab:slab_bytes=4096", "slab", "bump", "ideal"]


def test_one_in_plain_python_takes_fifteen_lines_at_most():
    module = PLUGINS / "python_backend" / "bump" / "__init__.py"
    tree = ast.parse(module.read_text())
    (backend,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    lines = module.read_text().splitlines()[backend.lineno - 1 : backend.end_lineno]
    assert len([line for line in lines if line.strip()]) <= 15
