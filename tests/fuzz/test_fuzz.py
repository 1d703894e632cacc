"""A short run of the fuzzers, the same inputs each time, to know that they work; and what they have found."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from harness import formats

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from fuzz import native_readers  # noqa: E402
from holds import check  # noqa: E402
from targets import TARGETS  # noqa: E402

ROOT = HERE.parent.parent
# A few seconds' worth, on a busy machine.
EXECUTIONS = 150
NATIVE_EXECUTIONS = 20_000


def needs(is_there, what):
    if is_there:
        return
    if "CI" in os.environ:
        pytest.fail(f"{what} is missing", pytrace=False)
    pytest.skip(f"needs {what}")


def fuzzed(reader, executions, folder):
    command = [
        sys.executable,
        "-P",
        str(HERE / "fuzz.py"),
        "--reader",
        reader,
        "--executions",
        str(executions),
    ]
    return subprocess.run(
        [*command, "--seed", "1", "--keep", str(folder)], capture_output=True, text=True, check=False
    )


def test_every_format_has_a_target():
    ours = {
        entry.name
        for entry in distribution("alloc-harness").entry_points
        if entry.group == formats.ENTRY_POINT_GROUP
    }
    assert set(TARGETS) == ours


def test_every_header_of_the_formats_has_a_target():
    """But for what the others include, and for those that write."""
    headers = {path.name for path in (ROOT / "harness" / "formats").glob("*.hpp")}
    assert set(native_readers()) == headers - SHARED_HEADERS - WRITERS


WRITERS = {"call_text.hpp", "android_text.hpp", "rep_text.hpp"}
SHARED_HEADERS = {"call_sites.hpp", "lines.hpp", "go_wire.hpp", "go_size_classes.hpp"}


def inputs_of(done):
    """How many were run: libFuzzer may count more than it was asked for, as it once did 152 of 150."""
    return int(re.search(r"([\d,]+) inputs", done.stdout)[1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.parametrize("reader", TARGETS)
def test_a_short_run_finds_nothing(reader, tmp_path):
    needs(importlib.util.find_spec("atheris"), "atheris")
    done = fuzzed(reader, EXECUTIONS, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert inputs_of(done) >= EXECUTIONS


@pytest.mark.slow
@pytest.mark.parametrize("reader", native_readers())
def test_a_short_run_under_sanitizers_finds_nothing(reader, tmp_path):
    needs(shutil.which("clang++"), "clang++")
    done = fuzzed(reader, NATIVE_EXECUTIONS, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert inputs_of(done) >= NATIVE_EXECUTIONS


@pytest.mark.slow
def test_what_does_not_hold_is_found(tmp_path):
    """A reader that lets an exception through: the run says so, keeps the input and fails."""
    needs(importlib.util.find_spec("atheris"), "atheris")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import harness.formats.android as android\n"
        "whole = android.Android.read\n"
        "def read(self, path, reading):\n"
        "    if b'realloc' in open(path, 'rb').read():\n"
        "        raise KeyError('a reader broken on purpose')\n"
        "    return whole(self, path, reading)\n"
        "android.Android.read = read\n"
    )
    command = [sys.executable, "-P", str(HERE / "fuzz.py"), "--reader", "android", "--executions", "50"]
    done = subprocess.run(
        [*command, "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(broken)},
    )
    assert done.returncode == 1
    assert "KeyError: 'a reader broken on purpose'" in done.stdout
    assert list((tmp_path / "android" / "artifacts").iterdir())


FOUND = sorted((HERE / "found").glob("*/*"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.parametrize("mapping", range(3))
def test_what_was_found_holds_now(path, mapping, tmp_path):
    if path.parent.name == "memray":
        needs(importlib.util.find_spec("memray"), "memray")
    check(path.parent.name, path.read_bytes(), tmp_path, mapping)
