"""The pytest plugin: fixtures that replay traces, the marker of a test's traces, baselines, benchmarks.

pytest loads it wherever alloc-harness is installed, so that it costs a run nothing which does not use it:
what a replay needs is loaded by the first test that asks for one. What such a test gets stands in
replayed.py, its numbers as pytest-benchmark has them in benchmark_entries.py, and how to use it all in
docs/pytest.md.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from harness.replayed import Replayed, Session

_MARKER = "allocation_trace"
_MARKER_HELP = (
    f"{_MARKER}(*traces, allocators=('go', 'tcmalloc'), noscan=None, census=False): "
    "the test runs once for each trace and allocator, which its fixture `replayed` has been replayed through "
    "(alloc-harness)"
)

_SESSION = pytest.StashKey["Session"]()
_OF_TEST = pytest.StashKey["list[Replayed]"]()
# What a worker of pytest-xdist hands to the process that writes the baseline.
_WORKER_OUTPUT = "harness_kept"


class _Case(NamedTuple):
    """One parameter of a marked test."""

    trace: str
    allocator: str
    noscan: str | None
    census: bool


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what says which baseline, and whether it is to be made anew."""
    group = parser.getgroup("alloc-harness", "allocation traces")
    group.addoption(
        "--harness-baseline",
        metavar="FILE",
        help="Baseline of assert_no_regression()  [default: the ini option harness_baseline, else that of "
        "[tool.harness.check], else harness-baseline.json in rootdir].",
    )
    group.addoption(
        "--harness-update",
        action="store_true",
        help="Put what assert_no_regression() is called on into the baseline, and fail nothing.",
    )
    parser.addini("harness_baseline", "Baseline of assert_no_regression(), relative to rootdir.", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, so that --strict-markers takes it."""
    config.addinivalue_line("markers", _MARKER_HELP)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a marked test run once for each of its traces and allocators."""
    marks = list(metafunc.definition.iter_markers(_MARKER))
    if "replayed" in metafunc.fixturenames and marks:
        cases = [case for mark in reversed(marks) for case in _cases(mark)]
        names = [f"{_stem(case.trace)}-{case.allocator}" for case in cases]
        metafunc.parametrize("replayed", cases, indirect=True, ids=names)
    elif any(mark.name == _MARKER for mark in metafunc.definition.own_markers):
        pytest.fail(f"a test marked {_MARKER} takes the fixture `replayed`", pytrace=False)


def _cases(mark: pytest.Mark) -> Iterator[_Case]:
    from harness.allocator import find
    from harness.errors import HarnessError

    said = dict(mark.kwargs)
    allocators = said.pop("allocators", ("go", "tcmalloc"))
    noscan, census = said.pop("noscan", None), said.pop("census", False)
    if said or not mark.args or isinstance(allocators, str):
        pytest.fail(f"expected @pytest.mark.{_MARKER_HELP}", pytrace=False)
    try:
        labels = [spec.label for text in allocators for spec in find(text)]
    except HarnessError as error:
        pytest.fail(f"{_MARKER}: {error}", pytrace=False)
    for trace in mark.args:
        for label in labels:
            yield _Case(str(trace), label, noscan, census)


def _stem(trace: str) -> str:
    return trace.rpartition("/")[2].removesuffix(".parquet")


def _session(config: pytest.Config) -> Session:
    """Return what the tests of this process share: replays, and what goes into the baseline."""
    if _SESSION not in config.stash:
        from harness.replayed import Session

        config.stash[_SESSION] = Session(
            config.rootpath, _baseline(config), is_update=config.getoption("--harness-update")
        )
    return config.stash[_SESSION]


def _baseline(config: pytest.Config) -> Path | None:
    """Return the baseline that this run was told of, None where the project's configuration says."""
    given: str | None = config.getoption("--harness-baseline")
    if given is not None:
        return config.invocation_params.dir / given
    kept: str = config.getini("harness_baseline")
    return config.rootpath / kept if kept else None


@pytest.fixture
def replay(request: pytest.FixtureRequest) -> Iterator[Callable[..., Replayed]]:
    """Replay a trace through an allocator: `replay("t.parquet", "go").peak_committed_bytes`, or any metric.

    A path is relative to rootdir. The same trace and allocator are replayed once a session. With the fixture
    `benchmark` of pytest-benchmark in use, its results have what was replayed.
    """
    session = _session(request.config)
    of_test: list[Replayed] = []
    request.node.stash[_OF_TEST] = of_test
    benchmark = None
    if "benchmark" in request.fixturenames and request.config.pluginmanager.has_plugin("pytest-benchmark"):
        benchmark = request.getfixturevalue("benchmark")  # It ends after this one, and has its entries then.

    def replayed(
        trace: str | Path, allocator: str, *, noscan: str | None = None, census: bool = False
    ) -> Replayed:
        __tracebackhide__ = True
        found = session.replay(str(trace), allocator, noscan=noscan, census=census)
        for before in of_test:
            if before.result is found.result:
                return before
        of_test.append(found)
        return found

    yield replayed
    if benchmark is not None:
        from harness import benchmark_entries

        benchmark_entries.add(benchmark, of_test)


@pytest.fixture
def replayed(request: pytest.FixtureRequest, replay: Callable[..., Replayed]) -> Replayed:
    """Return the replay that the test's marker asks for, `pytest.mark.allocation_trace`."""
    case = getattr(request, "param", None)
    if case is None:
        pytest.fail(f"the fixture `replayed` needs @pytest.mark.{_MARKER_HELP}", pytrace=False)
    found: Replayed = replay(case.trace, case.allocator, noscan=case.noscan, census=case.census)
    return found


@pytest.fixture
def record_trace(tmp_path: Path) -> Callable[..., str]:
    """Run and record a program, `record_trace("./program", "argument")`, and return its trace's path."""

    def recorded(*command: str | Path) -> str:
        __tracebackhide__ = True
        import subprocess
        import sys

        path = str(tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet")
        # In a process of its own, since the recorder dies as its program does.
        recorder = [sys.executable, "-P", "-m", "harness.cli", "record", "--quiet", "-o", path, "--"]
        status = subprocess.run([*recorder, *map(str, command)], check=False).returncode
        if status:
            raise AssertionError(f"{command[0]} was recorded and ended with status {status}")
        return path

    return recorded


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say in words what a failed test has read of its replays."""
    report = yield
    if report.when == "call" and report.failed:
        texts = [text for each in item.stash.get(_OF_TEST, []) for text in each.told()]
        if texts:
            report.sections.append(("allocation traces", "\n".join(texts)))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the baseline, or hand what goes into it to the process that does."""
    found = session.config.stash.get(_SESSION, None)
    if found is None or not found.kept:
        return
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_WORKER_OUTPUT] = found.packed()
        return
    from harness.errors import HarnessError

    try:
        found.update()
    except HarnessError as error:
        found.outcome = str(error)
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker of pytest-xdist hands over."""
    packed = getattr(node, "workeroutput", {}).get(_WORKER_OUTPUT)
    if packed is not None:
        _session(node.config).unpack(packed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say that a baseline was written, or why not."""
    found = config.stash.get(_SESSION, None)
    if found is not None and found.outcome:
        terminalreporter.write_line(f"alloc-harness: {found.outcome}")
