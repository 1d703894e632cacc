"""What recording costs: the run time above the plain program's, conversion included, beside heaptrack's.

With call stacks, which heaptrack keeps too, and without. Plain, recorded and heaptrack runs take turns, so
that a busy moment of the machine meets all of them. Run with
`pytest -s -m slow tests/benchmarks/test_recording_overhead.py` to see the figures.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import HARNESS

PROGRAMS = Path(__file__).parent.parent / "recording" / "programs"
ROUNDS = 5

# Compiles the standard library's larger modules: a million small objects, deep stacks.
PYTHON_WORK = """
import argparse, ast, asyncio.base_events, inspect, tarfile, turtle, typing
for module in (argparse, ast, asyncio.base_events, inspect, tarfile, turtle, typing) * 3:
    compile(ast.parse(inspect.getsource(module)), module.__name__, "exec")
"""


def seconds(command, folder, **variables):
    begin = time.perf_counter()
    subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begin


def medians(command, folder, **variables):
    """Median seconds of the plain, the recorded, the one recorded with sites, and the heaptrack run."""
    recorded = [*HARNESS, "record", "--quiet", "-o", "out.parquet", "--", *command]
    with_sites = [*HARNESS, "record", "--sites", "--quiet", "-o", "out.parquet", "--", *command]
    heaptrack = ["heaptrack", "-o", "heaptrack", *command]
    variants = (command, recorded, with_sites, heaptrack)
    rounds = [[seconds(variant, folder, **variables) for variant in variants] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def check(name, command, folder, at_most, with_sites_at_most, **variables):
    plain, recorded, with_sites, heaptrack = medians(command, folder, **variables)
    ratio = (recorded - plain) / (heaptrack - plain)
    with_sites_ratio = (with_sites - plain) / (heaptrack - plain)
    print(
        f"\n{name}: plain {plain:.2f} s, recorded {recorded:.2f} s, with sites {with_sites:.2f} s, "
        f"heaptrack {heaptrack:.2f} s; overhead / heaptrack's: {ratio:.2f}, with sites {with_sites_ratio:.2f}"
    )
    assert ratio <= at_most
    assert with_sites_ratio <= with_sites_at_most


def need_heaptrack():
    if shutil.which("heaptrack") is None:
        if os.environ.get("CI"):
            pytest.fail("heaptrack is missing: apt-get install heaptrack")
        pytest.skip("heaptrack is missing: apt-get install heaptrack")


@pytest.mark.slow
def test_recording_a_single_threaded_program_costs_at_most_half_of_heaptrack(tmp_path):
    need_heaptrack()
    command = [os.path.realpath(sys.executable), "-c", PYTHON_WORK]
    # Stacks cost as much as heaptrack's, from 0.8 to 1.0 of them on one machine within a day.
    check("python, one thread", command, tmp_path, at_most=0.5, with_sites_at_most=1.3, PYTHONMALLOC="malloc")


@pytest.mark.slow
def test_recording_four_threads_costs_no_more_than_heaptrack(tmp_path):
    # About half, where the machine is quiet: on two processors four threads, recorder and conversion compete,
    # so that the ratio of one run says little. Its stacks of two frames are heaptrack's best case.
    need_heaptrack()
    program = str(tmp_path / "handover")
    subprocess.run(["gcc", "-O2", "-pthread", str(PROGRAMS / "handover.c"), "-o", program], check=True)
    check("handover, four threads", [program, "4", "2500000"], tmp_path, at_most=1.0, with_sites_at_most=1.5)
