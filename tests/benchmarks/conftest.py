"""What benchmarks share: real mallocs to hold models beside, and the tables at the end of a run."""

from __future__ import annotations

import pytest
from benchmarks import bare, figures

_FIGURES = pytest.StashKey[list[figures.Figure]]()


@pytest.fixture(scope="session")
def bare_tcmalloc(tcmalloc_library, tmp_path_factory):
    """The bare program on the installed libtcmalloc."""
    return bare.build(tmp_path_factory.mktemp("bare_tcmalloc"), tcmalloc_library)


@pytest.fixture(scope="session")
def bare_glibc(tmp_path_factory):
    """The bare program on the system's own malloc."""
    return bare.build(tmp_path_factory.mktemp("bare_glibc"))


@pytest.fixture(scope="session")
def rounds(pytestconfig):
    """How often each thing is timed: its figure is the median. Once where nobody asks for figures."""
    return 1 if pytestconfig.getoption("benchmark_disable") else 5


@pytest.fixture
def measure(benchmark, rounds, pytestconfig):
    """Measure a target on a trace, with what `setup` returns as its only argument, and keep the figure."""

    def measured(target, trace, *, setup=None, **labels):
        arguments = (lambda: ((setup(),), {})) if setup else None
        benchmark.pedantic(target, setup=arguments, rounds=rounds)
        if benchmark.disabled:  # Asked to run everything once and time nothing.
            return
        benchmark.extra_info.update(
            ns_per_event=benchmark.stats["median"] * 1e9 / trace.events,
            events=trace.events,
            live=trace.live,
            **labels,
        )
        pytestconfig.stash.setdefault(_FIGURES, []).append(dict(benchmark.extra_info))

    return measured


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(_FIGURES, [])
    if found:
        terminalreporter.section("speed, ns an event: medians")
        terminalreporter.write_line(f"{figures.tables(found, 'simple')}\n\n{figures.machine()}")
