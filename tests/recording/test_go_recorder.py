"""`harness record --go`: real Go programs and tests are run with allocation events, or what lacks is told."""

from __future__ import annotations

import os

import pytest
from go_traces import built
from support import harness

from harness.inspection import inspect
from harness.recording.go_recorder import GoTest
from harness.trace import TraceReader

MODULE = "module example.com/m\n\ngo 1.23\n"
TEST = """
package %s

import "testing"

var sink []*int

func TestAllocates(t *testing.T) {
	for i := 0; i < 1000; i++ {
		sink = append(sink, new(int))
	}
}
"""


@pytest.fixture
def module(tmp_path):
    """Two packages with tests and one without."""
    (tmp_path / "go.mod").write_text(MODULE)
    for name in ("one", "two", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.go").write_text(f"package {name}\n")
    for name in ("one", "two"):
        (tmp_path / name / "x_test.go").write_text(TEST % name)
    return tmp_path


def recorded(folder, *command, output=None, **environment):
    asked = ["record", "--go", *(["-o", output] if output else []), "--", *map(str, command)]
    return harness(*asked, cwd=folder, env=os.environ | {"GOFLAGS": "", "GOTOOLCHAIN": "local"} | environment)


def source_of(path):
    return TraceReader(str(path)).metadata["source"]


def test_a_package_is_tested_and_its_trace_imported(toolchain, module):
    done = recorded(module, toolchain.go, "test", "-run", "Allocates", "./one", output="t.parquet", GOGC="50")
    assert done.returncode == 0, done.stderr
    assert "ok" in done.stdout
    assert inspect(str(module / "t.parquet")).events_by_kind["alloc"] > 1000
    source = source_of(module / "t.parquet")
    assert source["arguments"] == ["test", "-run", "Allocates", "./one"]
    assert source["environment"] == {"GOGC": "50", "GODEBUG": "traceallocfree=1"}
    assert sorted(path.name for path in module.iterdir()) == ["go.mod", "none", "one", "t.parquet", "two"]


def test_several_packages_are_tested_one_by_one_into_a_trace_each(toolchain, module):
    done = recorded(module, toolchain.go, "test", "./...", output="t.parquet")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in module.glob("*.parquet"))
    assert names == ["t-example.com-m-one.parquet", "t-example.com-m-two.parquet"]


def test_a_package_without_tests_is_told(toolchain, module):
    done = recorded(module, toolchain.go, "test", "./none")
    told = f"harness: {toolchain.go} test ./none: no test files in ./none\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_a_program_that_traces_itself_is_run_and_its_newest_trace_imported(toolchain, tmp_path):
    program = built(toolchain, tmp_path)
    (tmp_path / "older.out").write_bytes(b"go 1.26 trace\0\0\0")
    done = recorded(tmp_path, program, "newer.out", GODEBUG="gctrace=0,traceallocfree=0")
    assert done.returncode == 0, done.stderr
    source = source_of(tmp_path / "newer.parquet")
    assert source["environment"]["GODEBUG"] == "gctrace=0,traceallocfree=1"
    assert source["program"] == "program"
    # Where an argument says, outside of the working directory.
    (tmp_path / "elsewhere").mkdir()
    done = recorded(tmp_path / "elsewhere", program, tmp_path / "third.out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "third.parquet").exists()


def test_a_program_that_writes_no_trace_is_told(tmp_path):
    done = recorded(tmp_path, "sh", "-c", "exit 3")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "harness: sh: wrote no Go execution trace into the working directory (exit status 3)"
    )
    assert done.stderr.count("\n") == 1


def test_the_exit_status_is_the_programs(toolchain, module):
    test = module / "one" / "x_test.go"
    test.write_text(test.read_text().replace("sink = append", "t.Fail(); sink = append"))
    done = recorded(module, toolchain.go, "test", "./one", output="t.parquet")
    assert done.returncode == 1
    assert (module / "t.parquet").exists()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ((), "what to run is missing"),
        (("no-such-program",), "no-such-program: cannot be run: No such file or directory"),
    ],
)
def test_what_cannot_be_run_is_told(tmp_path, command, expected):
    done = recorded(tmp_path, *command)
    assert done.returncode == 2
    assert expected in done.stderr


def test_a_folder_that_is_not_there_is_told_before_the_program_runs(tmp_path):
    done = recorded(tmp_path, "touch", "ran", output="nowhere/t.parquet")
    assert done.returncode == 2
    assert "nowhere does not exist" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("command", "flags", "packages", "after"),
    [
        ("go test", [], [], []),
        ("go test ./... -v", [], ["./..."], ["-v"]),
        (
            "go test -run X -short a b -args -trace=t",
            ["-run", "X", "-short"],
            ["a", "b"],
            ["-args", "-trace=t"],
        ),
        ("/opt/go/bin/go test -run=X -race a", ["-run=X", "-race"], ["a"], []),
    ],
)
def test_flags_and_packages_of_go_test_are_told_apart(command, flags, packages, after):
    found = GoTest.of(command.split())
    assert (found.flags, found.packages, found.after) == (flags, packages, after)
    assert not found.traces_itself


def test_go_test_that_traces_is_left_as_it_is():
    for command in ("go test -trace t.out x", "go test x -test.trace=t.out"):
        assert GoTest.of(command.split()).traces_itself
    assert GoTest.of(["go", "build"]) is None
