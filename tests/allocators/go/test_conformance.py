"""`harness conform go` as a user runs it."""

from __future__ import annotations

import os

import pytest
from support import TRACES, harness

SMALLEST = str(min(TRACES, key=lambda path: path.stat().st_size))


@pytest.mark.parametrize("options", ["gogc=off", "collector=stopped", "collector=lazy,gogc=50"])
def test_in_a_mode_that_repeats_itself_every_answer_is_the_real_one(options, toolchain):
    done = harness("conform", f"go:{options}", SMALLEST, "--noscan", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "equal"
    assert lines[1].startswith("model of Go 1.")
    assert str(toolchain.go) in lines[1]
    for aspect in ("addresses", "heap", "spans", "pages", "caches of Ps", "central lists"):
        (row,) = (line for line in lines if line.startswith(f"{aspect}  "))
        assert row.split()[-1] == "0"


def test_the_default_mode_is_compared_by_whole_runs(toolchain):
    done = harness("conform", "go:procs=1", SMALLEST, "--noscan", "0.5", "--runs", "3")
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("3 runs of the real one")
    assert lines[1].endswith("GOMAXPROCS=1")
    for quantity in ("cycles", "heap system", "mean heap in use"):
        assert sum(line.startswith(quantity) for line in lines) == 1


def test_without_go_it_says_in_one_line_how_to_get_it():
    environment = os.environ | {"HARNESS_GO": "/nowhere/go"}
    done = harness("conform", "go", SMALLEST, env=environment)
    assert done.returncode == 2
    assert done.stderr == "harness: /nowhere/go cannot be run: No such file or directory\n"


def test_a_runtime_whose_scavenger_is_off_there_is_not(toolchain):
    done = harness("conform", "go:scavenge=off", SMALLEST)
    assert done.returncode == 2
    assert "set scavenge=background" in done.stderr
