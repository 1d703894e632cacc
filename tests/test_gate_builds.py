"""The gate on models that are built anew: a byte more is caught, another compiler changes no number."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conformance.builds import ALLOCATORS, build
from conformance.canary import Fault
from support import harness

import allocators
import harness as package

ROOT = Path(__file__).parent.parent
# Where each native module stands in an installation.
NATIVE = {f"_{name}": f"allocators/{name}" for name in ("go", "ideal", "tcmalloc")}
NATIVE["_native"] = "harness/native"

# What a header of a byte would do: of every small object, as far as there are classes.
HEADER = Fault(
    "a byte of header",
    "size_map.hpp",
    (
        (
            "return class_of_index[index_of(size)];",
            "return class_of_index[index_of(std::min(size + 1, kMaxSizeBytes))];",
        ),
    ),
)


def installation(folder, modules):
    """A copy of the installed packages with other native modules; returns the environment that has it."""
    for package_file in (package.__file__, allocators.__file__):
        source = Path(package_file).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, built in modules.items():
        (replaced,) = (folder / NATIVE[name]).glob(f"{name}.*so")
        shutil.copy(built, replaced)
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def with_a_header(tmp_path_factory):
    """An environment in which objects of tcmalloc's model have a header of a byte."""
    folder = tmp_path_factory.mktemp("header")
    changed = folder / "tcmalloc"
    shutil.copytree(ALLOCATORS / "tcmalloc", changed, ignore=shutil.ignore_patterns("*.so", "*.py*"))
    HEADER.put_into(changed)
    modules = build(folder / "project", {"_tcmalloc": changed}, ["-O1"])
    return installation(folder / "installed", modules)


@pytest.mark.slow
def test_a_byte_of_header_is_caught_with_metric_allocator_trace_and_amount(with_a_header, tmp_path):
    report = tmp_path / "check.json"
    done = harness("check", "--json", str(report), cwd=ROOT, env=with_a_header)
    assert done.returncode == 1, done.stderr
    changes = [change for change in json.loads(report.read_text())["changes"] if change["verdict"] != "equal"]
    assert {change["allocator"].partition(":")[0] for change in changes} == {"tcmalloc"}
    (mean,) = (
        change
        for change in changes
        if (change["trace"], change["allocator"], change["metric"])
        == ("traces/redis-server.parquet", "tcmalloc", "mean_committed_bytes")
    )
    assert mean["verdict"] == "regression"
    assert mean["difference"] > mean["allowed"]
    (line,) = (
        line
        for line in done.stdout.splitlines()
        if line.split()[:3] == ["traces/redis-server.parquet", "tcmalloc", "mean_committed_bytes"]
    )
    print("\n" + line)
    amount = f"+{mean['difference'] / 1024:.2f} KiB"
    assert amount in line
    assert line.endswith("regression")
    assert "harness check traces/baseline.json --update" in done.stdout


@pytest.mark.slow
# What is installed is built by GCC, optimised.
@pytest.mark.parametrize(("compiler", "flag"), [("g++", "-O0"), ("clang++", "-O3"), ("clang++", "-O0")])
def test_every_compiler_makes_the_same_numbers_wherever_they_are_loaded(
    compiler, flag, tmp_path, monkeypatch
):
    if shutil.which(compiler) is None:
        missing = f"{compiler} is not installed (Debian: apt-get install clang)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    monkeypatch.setenv("CXX", compiler)
    modules = build(tmp_path / "project", {name: ROOT / folder for name, folder in NATIVE.items()}, [flag])
    environment = installation(tmp_path / "installed", modules)
    for fixed in ([], ["setarch", "-R"]):
        done = harness("check", cwd=ROOT, env=environment, before=fixed)
        assert done.returncode == 0, done.stdout + done.stderr
        print(f"\n{compiler} {flag} {' '.join(fixed) or 'address randomisation on'}: {done.stdout}")
        assert re.fullmatch(
            r"traces/baseline\.json: no regressions, no warnings, no improvements; \d+ equal numbers\n",
            done.stdout,
        )
