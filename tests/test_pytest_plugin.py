"""The pytest plugin: what tests of another project have of it, what they are told, what it costs others."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from support import random_rows, write_trace
from test_layout import modules_after

from harness import benchmark_entries, metrics
from harness.allocator import ALLOC
from harness.replayed import Session

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory):
    """What a replay loads, once: pytester forgets what a run has loaded, and Arrow bears no second time."""
    path = write_trace(tmp_path_factory.mktemp("loaded") / "t.parquet")
    session = Session(Path(path).parent)
    for label in ("go", "tcmalloc", "ideal", "glibc"):
        found = session.replay(path, label, noscan=None, census=label != "glibc")
        assert list(found.told()) == []
    session.keep(session.replay(path, "go", noscan=None, census=False))
    session.update()
    return benchmark_entries


@pytest.fixture
def project(pytester):
    """A project with a trace, whose tests are run in this process."""
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")
    (pytester.path / "traces").mkdir()
    write_trace(pytester.path / "traces" / "my.parquet", random_rows(2000))
    return pytester


def run(project, source, *arguments):
    project.makepyfile(source)
    return project.runpytest(*arguments)


def said(done, *lines):
    done.stdout.fnmatch_lines([f"*{line}*" for line in lines])


READS = """
    def test_memory(replay):
        assert replay("traces/my.parquet", "go").peak_committed_bytes < {limit}
"""
HOLDS = """
    def test_memory(replay):
        replay("traces/my.parquet", "go").assert_no_regression()
"""


def test_a_run_that_does_not_use_it_loads_nothing_for_it():
    plain = modules_after("import pytest")
    loaded = modules_after("import harness.pytest_plugin") - plain
    assert {name for name in loaded if not name.startswith("harness")} == set()
    assert loaded <= {"harness", "harness.pytest_plugin"}


def test_it_is_loaded_by_its_entry_point_and_loads_nothing_else(project):
    project.makepyfile("""
        import sys

        def test_nothing(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("alloc-harness")
            heavy = ("numpy", "pyarrow", "matplotlib", "tabulate", "harness.replayed", "harness.metrics")
            assert [name for name in heavy if name in sys.modules] == []
    """)
    # In a process of its own: this one has loaded everything.
    done = project.runpytest_subprocess("-p", "no:hypothesispytest", "-p", "no:benchmark")
    done.assert_outcomes(passed=1)


def test_a_test_reads_every_metric_by_name(project):
    done = run(
        project,
        """
        from harness.metrics import DEFINITIONS

        def test_memory(replay):
            found = replay("traces/my.parquet", "tcmalloc:transfer_num_objects=32")
            known = {name: value for name, value in found.run.summary.items() if value is not None}
            assert {name: getattr(found, name) for name in known} == known
            assert set(DEFINITIONS) <= set(dir(found))
            assert found.peak_committed_bytes < 8 << 20
            assert found.run.label == "tcmalloc:transfer_num_objects=32"
            assert found.trace["events"] == 2000
            assert sum(row["allocations"] for row in found.classes) == found.trace["allocations"]
            assert len(found.samples["mapped"]) == 200

        def test_options(replay):
            found = replay("traces/my.parquet", "go", census=True, noscan="all")
            assert 0 < found.span_occupancy_mean <= 1
            assert found.gc_mark_bytes_scan == 0
        """,
    )
    done.assert_outcomes(passed=2)


def test_a_failed_assertion_is_told_in_words(project):
    done = run(project, READS.format(limit="1 << 10"))
    done.assert_outcomes(failed=1)
    said(
        done,
        ">       assert replay(",
        "where * = <traces/my.parquet under go>.peak_committed_bytes",
        "- allocation traces -",
        "traces/my.parquet under go: peak committed is * MiB (*)",
    )


def test_what_another_test_has_read_is_not_told(project):
    source = READS.format(limit="1 << 40") + (
        "    def test_other(replay):\n        assert replay('traces/my.parquet', 'go').gc_cycles < 0\n"
    )
    done = run(project, source)
    said(done, "traces/my.parquet under go: gc cycles is 0 (0)")
    assert "peak committed is" not in done.stdout.str()


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        (
            "replay('traces/my.parquet', 'go').peak_comitted_bytes",
            "AttributeError: 'peak_comitted_bytes' is no metric; did you mean peak_committed_bytes",
        ),
        ("replay('traces/my.parquet', 'go').colour", "'colour' is no metric; docs/metrics.md lists them all"),
        (
            "replay('traces/my.parquet', 'go').span_occupancy_mean",
            "traces/my.parquet under go: span_occupancy_mean is not known of this run; it takes census=True",
        ),
        (
            "replay('traces/my.parquet', 'ideal').gc_cycles",
            "gc_cycles is not known of this run; `.run.summary` has None for it",
        ),
        ("replay('traces/gone.parquet', 'go')", "/traces/gone.parquet: no such file"),
        ("replay('traces/my.parquet', 'gone')", "'gone' is no allocator; there are"),
        ("replay('traces/my.parquet', 'go:gogc=1|2')", "go:gogc=1|2 are 2 allocators; replay() takes one"),
        ("replay('traces/my.parquet', 'go', noscan='2')", "noscan='2': expected 'all', 'none' or a fraction"),
        (
            "replay('traces/my.parquet', 'glibc').assert_no_regression()",
            "traces/my.parquet under glibc: is measured and differs from run to run",
        ),
        (
            "replay('traces/my.parquet', 'go').assert_no_regression()",
            "harness-baseline.json: no such baseline; make one with `pytest --harness-update`",
        ),
    ],
)
def test_what_is_wrong_stands_at_the_line_that_asks(project, expression, told):
    done = run(project, f"def test_memory(replay):\n    {expression}")
    done.assert_outcomes(failed=1)
    said(done, f">       {expression}".replace("[", "[[]"), f"E       *{told}")
    assert "harness/replayed.py" not in done.stdout.str()


MARKED = """
    import pytest

    @pytest.mark.allocation_trace("traces/my.parquet", allocators=["go:gogc=50|100", "ideal"])
    def test_memory(replayed):
        assert replayed.peak_committed_bytes > 0
"""


def test_a_marked_test_runs_for_each_trace_and_allocator(project):
    done = run(project, MARKED, "-v", "--strict-markers")
    done.assert_outcomes(passed=3)
    said(done, "test_memory[[]my-go:gogc=50] PASSED", "test_memory[[]my-go] PASSED", "[[]my-ideal] PASSED")


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("allocation_trace('traces/my.parquet', allocators=['gone'])", "'gone' is no allocator"),
        (
            "allocation_trace('traces/my.parquet', alocators=['go'])",
            "expected @pytest.mark.allocation_trace(*",
        ),
        (
            "allocation_trace('traces/my.parquet', allocators='go')",
            "expected @pytest.mark.allocation_trace(*",
        ),
        ("allocation_trace()", "expected @pytest.mark.allocation_trace(*"),
    ],
)
def test_a_wrong_mark_is_a_fault_of_the_collection(project, mark, told):
    done = run(project, f"import pytest\n@pytest.mark.{mark}\ndef test_memory(replayed): pass")
    done.assert_outcomes(errors=1)
    said(done, told.replace("(*", "(?"))


def test_mark_and_fixture_go_together(project):
    done = run(
        project, "import pytest\n@pytest.mark.allocation_trace('traces/my.parquet')\ndef test_memory(): pass"
    )
    said(done, "a test marked allocation_trace takes the fixture `replayed`")
    done = run(project, "def test_memory(replayed): pass")
    said(done, "the fixture `replayed` needs @pytest.mark.allocation_trace(")


COUNTED = """
    import harness.replay
    plain, seen = harness.replay.replay, []

    def counted(path, *others):
        seen.append(path)
        return plain(path, *others)

    harness.replay.replay = counted
"""


def test_a_trace_is_replayed_once_a_session_and_again_when_it_is_another(project):
    project.makeconftest(COUNTED)
    other = write_trace(project.path / "other.parquet", random_rows(300))
    project.makepyfile(f"""
        import shutil
        from conftest import seen

        def test_one(replay):
            assert replay("traces/my.parquet", "go") is replay("traces/my.parquet", "go")

        def test_two(replay):
            replay("traces/my.parquet", "go:gogc=100")
            assert len(seen) == 1
            shutil.copy({other!r}, "traces/my.parquet")
            assert replay("traces/my.parquet", "go").trace["events"] == 300
            assert len(seen) == 2
    """)
    done = project.runpytest_subprocess()
    done.assert_outcomes(passed=2)


def test_a_path_is_relative_to_rootdir_wherever_the_test_is(project):
    (project.path / "deep").mkdir()
    (project.path / "deep" / "test_deep.py").write_text(
        "def test_memory(replay):\n    replay('traces/my.parquet', 'ideal')\n"
    )
    os.chdir(project.path / "deep")
    project.runpytest("-c", "../tox.ini", "--rootdir", "..").assert_outcomes(passed=1)


def test_a_program_is_recorded_and_replayed(project):
    done = run(
        project,
        """
        def test_memory(record_trace, replay):
            found = replay(record_trace("ls", "/"), "tcmalloc")
            assert 0 < found.peak_requested_bytes < found.peak_committed_bytes

        def test_failing(record_trace):
            record_trace("ls", "/gone")

        def test_dying(record_trace):
            record_trace("bash", "-c", "kill -SEGV $$")
        """,
    )
    done.assert_outcomes(passed=1, failed=2)
    said(
        done,
        "E       AssertionError: ls was recorded and ended with status 2",
        "E       AssertionError: bash was recorded and ended with status -11",
    )


# Against a baseline.


def grown(project):
    """The same program after a change: every object has a tenth more."""
    rows = [(op, thread, name, size * 11 // 10) for op, thread, name, size in random_rows(2000)]
    write_trace(project.path / "traces" / "my.parquet", rows)


def kept(project, file="harness-baseline.json"):
    return json.loads((project.path / file).read_text())["traces"]


def test_a_baseline_is_made_held_and_made_anew(project):
    done = run(project, HOLDS, "--harness-update")
    done.assert_outcomes(passed=1)
    said(done, "alloc-harness: wrote harness-baseline.json: 1 replay")
    assert list(kept(project)["traces/my.parquet"]["runs"]) == ["go"]
    project.runpytest().assert_outcomes(passed=1)
    grown(project)
    done = project.runpytest()
    done.assert_outcomes(failed=1)
    said(done, "holds another trace than *harness-baseline.json is of*; `pytest --harness-update` puts it")
    project.runpytest("--harness-update").assert_outcomes(passed=1)
    project.runpytest().assert_outcomes(passed=1)


def test_a_regression_is_told_in_words(project):
    source = HOLDS.replace("assert_no_regression()", "assert_no_regression(new_trace=True)")
    run(project, source, "--harness-update").assert_outcomes(passed=1)
    grown(project)
    done = project.runpytest()
    done.assert_outcomes(failed=1)
    said(
        done,
        "> *replay(*).assert_no_regression(new_trace=True)",
        "E*traces/my.parquet under go is worse than harness-baseline.json allows",
        "E * peak committed: * MiB, +*iB (+* %) from * MiB; * worse is allowed",
        "E *what else has changed:",
        "E *if it is meant to: pytest --harness-update",
    )


def test_a_bound_is_told_beside_the_baseline(project):
    run(project, HOLDS, "--harness-update")
    project.makepyfile(READS.format(limit="1 << 10"))
    said(project.runpytest(), "traces/my.parquet under go: peak committed is * (*), as in the baseline")
    grown(project)
    said(project.runpytest(), "peak committed is * (*), +*iB (+* %) from * in the baseline")


def test_an_update_of_one_test_keeps_what_the_others_have(project):
    source = HOLDS + HOLDS.replace("test_memory", "test_other").replace('"go"', '"ideal"')
    run(project, source, "--harness-update")
    before = kept(project)
    assert sorted(before["traces/my.parquet"]["runs"]) == ["go", "ideal"]
    project.runpytest("--harness-update", "-k", "test_other").assert_outcomes(passed=1, deselected=1)
    assert kept(project) == before
    grown(project)  # What is of the old trace says nothing of the new one.
    project.runpytest("--harness-update", "-k", "test_other").assert_outcomes(passed=1, deselected=1)
    assert list(kept(project)["traces/my.parquet"]["runs"]) == ["ideal"]


@pytest.mark.parametrize(
    ("ini", "arguments", "file"),
    [
        ("", ["--harness-baseline", "by-option.json"], "by-option.json"),
        ("harness_baseline = by-ini.json", [], "by-ini.json"),
        ("harness_baseline = by-ini.json", ["--harness-baseline", "by-option.json"], "by-option.json"),
    ],
)
def test_the_baseline_is_where_the_options_say(project, ini, arguments, file):
    project.makeini(f"[pytest]\naddopts = -p no:cacheprovider\n{ini}")
    run(project, HOLDS, "--harness-update", *arguments).assert_outcomes(passed=1)
    assert [path.name for path in project.path.glob("*.json")] == [file]
    run(project, HOLDS, *arguments).assert_outcomes(passed=1)


def test_metrics_and_thresholds_are_those_of_the_gate(project):
    (project.path / "pyproject.toml").write_text(
        '[tool.harness.check]\nbaseline = "gate.json"\nmetrics = ["peak_committed_bytes"]\n'
        "[tool.harness.check.new-traces]\npeak_committed_bytes = { relative = 9.0 }\n"
    )
    source = HOLDS.replace("assert_no_regression()", "assert_no_regression(new_trace=True)")
    run(project, source, "--harness-update").assert_outcomes(passed=1)
    runs = kept(project, "gate.json")["traces/my.parquet"]["runs"]
    assert list(runs["go"]["metrics"]) == ["peak_committed_bytes"]
    grown(project)
    project.runpytest().assert_outcomes(passed=1)


def test_the_configuration_is_that_of_rootdir_wherever_pytest_runs(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    table = '[tool.harness.check]\nbaseline = "{}.json"\n'
    (project.path / "pyproject.toml").write_text(table.format("mine"))
    (elsewhere / "pyproject.toml").write_text(table.format("others"))
    project.makepyfile(HOLDS)
    os.chdir(elsewhere)
    root = str(project.path)
    done = project.runpytest(root, "--rootdir", root, "-c", f"{root}/tox.ini", "--harness-update")
    done.assert_outcomes(passed=1)
    assert list(kept(project, "mine.json")) == ["traces/my.parquet"]
    assert not (elsewhere / "others.json").exists()


def test_a_baseline_of_two_kinds_is_a_fault_and_nothing_is_written(project):
    source = HOLDS + HOLDS.replace("test_memory", "test_other").replace('"go"', '"go", noscan="all"')
    done = run(project, source, "--harness-update")
    assert "harness-baseline.json: a baseline has one noscan, found ['None', 'all']" in done.stdout.str()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert not (project.path / "harness-baseline.json").exists()


def test_workers_of_xdist_make_one_baseline(project):
    source = HOLDS + HOLDS.replace("test_memory", "test_other").replace('"go"', '"ideal"')
    project.makepyfile(source)
    done = project.runpytest_subprocess("-n", "2", "--harness-update")
    done.assert_outcomes(passed=2)
    said(done, "alloc-harness: wrote harness-baseline.json: 2 replays")
    assert sorted(kept(project)["traces/my.parquet"]["runs"]) == ["go", "ideal"]
    project.runpytest_subprocess("-n", "2").assert_outcomes(passed=2)


# With pytest-benchmark.

BENCHMARKED = """
    import pytest

    @pytest.mark.allocation_trace("traces/my.parquet", allocators=["go", "ideal"])
    def test_memory(replayed, benchmark):
        pass
"""


def test_results_stand_in_the_json_of_pytest_benchmark(project):
    run(project, BENCHMARKED, "--benchmark-json", "out.json", "-W", "error").assert_outcomes(passed=2)
    entries = {
        each["name"]: each for each in json.loads((project.path / "out.json").read_text())["benchmarks"]
    }
    memory = ("peak_committed_bytes", "mean_committed_bytes", "waste_bytes")
    names = [f"my-{label}-{name}" for label in ("go", "ideal") for name in memory]
    names.remove("my-ideal-waste_bytes")  # It is 0, which pytest-benchmark takes for no time.
    assert set(entries) == {f"test_memory[{name}]" for name in (*names, "my-go-modelled_ns_per_event")}
    peak = entries["test_memory[my-go-peak_committed_bytes]"]
    assert peak["stats"]["mean"] == peak["stats"]["min"] == peak["extra_info"]["peak_committed_bytes"]
    assert peak["params"] == {
        "trace": "traces/my.parquet",
        "allocator": "go",
        "metric": "peak_committed_bytes",
    }
    time = entries["test_memory[my-go-modelled_ns_per_event]"]
    assert time["stats"]["mean"] == pytest.approx(time["extra_info"]["modelled_ns_per_event"] / 1e9)
    for entry in entries.values():
        for name, value in entry["extra_info"].items():
            if name in metrics.DEFINITIONS and metrics.DEFINITIONS[name].unit == "bytes":
                assert type(value) is int, name


def test_the_memory_is_compared_by_name_and_can_fail_a_run(project):
    arguments = ["--benchmark-storage", "kept", "--benchmark-columns", "min"]
    run(project, BENCHMARKED, "--benchmark-save", "before", *arguments).assert_outcomes(passed=2)
    project.runpytest(
        "--benchmark-compare", "--benchmark-compare-fail", "min:1%", *arguments
    ).assert_outcomes(passed=2)
    grown(project)
    done = project.runpytest("--benchmark-compare", "--benchmark-compare-fail", "min:1%", *arguments)
    said(done, "benchmark 'peak_committed_bytes: seconds are bytes': 4 tests")
    said(done, "test_memory[[]my-ideal-peak_committed_bytes] (NOW) *")
    assert "Performance has regressed" in done.stderr.str() + done.stdout.str()
    assert done.ret != 0


def test_a_benchmark_of_the_tests_own_stays_its_own(project):
    source = """
        def test_memory(replay, benchmark):
            replay("traces/my.parquet", "ideal")
            benchmark.pedantic(lambda: None, rounds=2)
    """
    run(project, source, "--benchmark-json", "out.json").assert_outcomes(passed=1)
    found = json.loads((project.path / "out.json").read_text())["benchmarks"]
    assert {each["name"]: each["stats"]["rounds"] for each in found}["test_memory"] == 2
    assert len(found) == 3


def test_without_pytest_benchmark_or_with_it_disabled_all_else_is_the_same(project):
    run(project, BENCHMARKED, "--benchmark-disable").assert_outcomes(passed=2)
    run(project, HOLDS, "-p", "no:benchmark", "--harness-update").assert_outcomes(passed=1)
    run(project, HOLDS, "-p", "no:benchmark").assert_outcomes(passed=1)


# Installed, in a project that has nothing of this one.

BACKEND = '''
from harness.allocator import Allocator, Footprint

WASTED_BYTES_PER_OBJECT = 0


class Pool(Allocator):
    """Keeps what was asked for, and what it wastes."""

    def __init__(self):
        self.mapped_bytes = self.committed_bytes = 0

    def allocate(self, request):
        size = request.size + WASTED_BYTES_PER_OBJECT
        self.mapped_bytes = self.committed_bytes = self.committed_bytes + size
        return size

    def release(self, block, thread):
        self.mapped_bytes = self.committed_bytes = self.committed_bytes - block

    def footprint(self):
        return Footprint(live=self.mapped_bytes, mapped=self.mapped_bytes)
'''
PROJECT = {
    "pool.py": BACKEND,
    "test_pool.py": """
import pytest


@pytest.mark.allocation_trace("traces/my.parquet", allocators=["pool"])
def test_the_pool_holds_no_more_than_it_did(replayed, benchmark):
    replayed.assert_no_regression()


def test_the_pool_is_small(replay):
    assert replay("traces/my.parquet", "pool").peak_committed_bytes < replay(
        "traces/my.parquet", "go"
    ).peak_committed_bytes
""",
    "pyproject.toml": """
[project]
name = "pool"
version = "1"

[project.entry-points."harness.allocators"]
pool = "pool:Pool"

[tool.setuptools]
py-modules = ["pool"]

[tool.pytest.ini_options]
harness_baseline = "memory.json"
""",
}


@pytest.fixture
def elsewhere(tmp_path):
    """A project in an environment of its own, with the installed packages of this one copied or linked."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    for source in Path(sysconfig.get_path("purelib")).iterdir():
        if source.name in ("harness", "allocators") or source.name.startswith("alloc_harness-"):
            shutil.copytree(source, site / source.name)
        elif not source.name.startswith(("_pytest_cov", "__editable__")):
            (site / source.name).symlink_to(source)
    project = tmp_path / "project"
    (project / "traces").mkdir(parents=True)
    for name, text in PROJECT.items():
        (project / name).write_text(text.lstrip("\n"))
    # Small objects, of which a byte is more than the thousandth that the gate lets pass.
    rows = [(op, thread, name, size and size % 64 + 8) for op, thread, name, size in random_rows(20_000)]
    write_trace(
        project / "traces" / "my.parquet", [*rows, *((ALLOC, 0, 10_000 + n, 32) for n in range(9000))]
    )
    python = environment / "bin" / "python"
    # What pip would write for the project, which needs no network this way.
    (site / "pool-1.dist-info").mkdir()
    (site / "pool-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pool\nVersion: 1\n")
    (site / "pool-1.dist-info" / "entry_points.txt").write_text("[harness.allocators]\npool = pool:Pool\n")
    (site / "pool.pth").write_text(f"{project}\n")

    def ran(*arguments):
        done = subprocess.run(
            [python, "-P", "-m", *arguments],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        )
        return done.returncode, done.stdout + done.stderr

    return project, ran


@pytest.mark.slow
def test_a_project_elsewhere_notices_a_byte_an_object(elsewhere):
    project, ran = elsewhere
    save = ["pytest", "-p", "no:cacheprovider", "--benchmark-storage", "kept", "--benchmark-save"]
    status, printed = ran(*save, "before", "--harness-update")
    assert status == 0, printed
    assert "alloc-harness: wrote memory.json: 1 replay" in printed
    status, printed = ran(*save, "same")
    assert status == 0, printed
    (project / "pool.py").write_text(BACKEND.replace("PER_OBJECT = 0", "PER_OBJECT = 1", 1).lstrip("\n"))
    status, printed = ran(*save, "after")
    assert status == 1, printed
    assert "1 failed, 1 passed" in printed
    assert "traces/my.parquet under pool is worse than memory.json allows" in printed
    assert "peak committed: " in printed
    assert "worse is allowed" in printed
    status, printed = ran(
        "pytest_benchmark", "--storage", "kept", "compare", "--columns", "min", "--sort", "name"
    )
    assert status == 0, printed
    assert "benchmark 'peak_committed_bytes: seconds are bytes': 3 tests" in printed
    pattern = r"did\[my-pool-peak_committed_bytes\] \((\d{4}_\w+)\) +([\d,]+)\.0000"
    before, same, after = (int(found.replace(",", "")) for _, found in sorted(re.findall(pattern, printed)))
    assert before == same < after


PAGE = (Path(__file__).parent.parent / "docs" / "pytest.md").read_text()
EXAMPLES = "import pytest\n\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S))


def test_the_examples_of_the_page_are_tests_that_pass(project):
    (project.path / "traces" / "my.parquet").rename(project.path / "traces" / "my-server.parquet")
    run(project, EXAMPLES, "--harness-update").assert_outcomes(passed=6)
    run(project, EXAMPLES).assert_outcomes(passed=6)


def test_the_page_names_the_entries_of_pytest_benchmark():
    for name in (*benchmark_entries.BYTES, "modelled_ns_per_event"):
        assert f"-{name}`" in PAGE or f"-{name}]`" in PAGE
