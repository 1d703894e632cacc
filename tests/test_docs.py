"""The pages in docs/: their commands run, and their numbers are those that the tool prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import docs_pages
import numpy as np
import pytest
from support import harness, random_rows, write_trace

from harness import metrics, metrics_page
from harness.allocator import find
from harness.costs import shipped
from harness.distributions import load, names
from harness.replay import Settings, replay
from harness.report import cost_text

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE = (DOCS / "generate.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines()
]
METRICS = DOCS / "metrics.md"
COSTS = (DOCS / "costs.md").read_text()
# What a page may load without a thought of it, and a clone keep for ever.
MOST_FIGURE_BYTES = 150_000
FILE = re.search(r"^```\n(# my service.*?)^```", PAGE, re.M | re.S)


def commanded(path):
    blocks = docs_pages.blocks(path)
    marks = [pytest.mark.slow] if any(block.is_slow for block in blocks) else []
    return pytest.param(path, id=str(path.relative_to(DOCS)), marks=marks)


@pytest.mark.parametrize("page", [commanded(path) for path in docs_pages.PAGES if docs_pages.blocks(path)])
def test_the_commands_of_a_page_run_and_print_what_it_shows(page, tmp_path):
    for need in {need for block in docs_pages.blocks(page) for need in block.needs}:
        docs_pages.ask_for(need)
    for block, printed in docs_pages.run(page, tmp_path):
        if block.shown is not None:
            assert docs_pages.missing_of(block.shown, printed) == [], f"{block.commands}\n{printed}"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    (folder / "sizes.csv").write_text(FILE[1])
    ran = [harness(*shlex.split(command)[1:], cwd=folder) for command in COMMANDS]
    assert [done.stderr for done in ran if done.returncode] == []
    return "".join(done.stdout for done in ran)


def test_the_fragmentation_of_the_examples_is_what_replay_prints(printed):
    found = re.findall(r"fragmentation: mean / mean +([\d.]+)", printed)
    assert len(found) == 3
    assert f"| fragmentation: mean / mean | {' | '.join(found)} |" in PAGE


def test_the_fault_of_the_page_is_what_the_file_with_that_fault_gives(tmp_path):
    (tmp_path / "sizes.csv").write_text(FILE[1].replace("16,50", "16,many"))
    done = harness("generate", "-o", "t.parquet", "--events", "1", "--sizes", "sizes.csv", cwd=tmp_path)
    assert f"```\n{done.stderr}```" in PAGE


@pytest.mark.parametrize(("model", "table"), shipped().items())
def test_the_costs_of_the_page_are_those_that_ship(model, table):
    assert f"`{model}`: {table.name}" in COSTS
    section = COSTS.split(f"### {model}\n")[1].split("\n#")[0]
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ([\d,.]+) \|", section, re.M))
    assert rows == {path: cost_text(ns) for path, ns in table.ns.items()}


@pytest.mark.parametrize("name", names())
def test_the_table_of_distributions_is_what_their_files_hold(name):
    sizes, weights, live = map(np.array, load(name))
    share = np.cumsum(weights) / weights.sum()
    median, large = (sizes[np.searchsorted(share, quantile)] for quantile in (0.5, 0.99))
    means = (sizes @ weights / weights.sum(), sizes @ live / live.sum())
    row = [len(sizes), median, large, *(round(mean) for mean in means), sizes.max()]
    assert f"| `{name}` | {' | '.join(f'{number:,}' for number in row)} |" in PAGE


def test_the_page_of_metrics_is_made_of_their_definitions():
    assert METRICS.read_text() == metrics_page.page()


def test_a_run_has_what_the_page_of_metrics_defines_and_nothing_else(tmp_path):
    path = write_trace(tmp_path / "t.parquet", random_rows(2_000))
    run = replay(path, find("go"), Settings(census=True)).runs[0]
    assert set(run.summary) == set(metrics.DEFINITIONS)
    assert set(run.classes[0]) == {column.name for column in metrics.CLASS_COLUMNS}
    assert set(run.samples) == {column.name for column in metrics.SAMPLE_COLUMNS}
    assert set(run.footprint["peak"]) - {"mapped", "metadata"} == {
        column.name for column in metrics.FOOTPRINT.values()
    }


COMPARE = (ROOT / "docs" / "compare.md").read_text()
COMPARED = re.findall(
    r"`(harness compare [^`]*--trace traces/[^`]*)`[^`]*```\n(.*?)^```", COMPARE, re.M | re.S
)


@pytest.mark.parametrize(("command", "shown"), COMPARED, ids=["options", "size classes"])
def test_the_example_of_a_comparison_is_what_it_prints(command, shown):
    done = harness(*shlex.split(command)[1:], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    printed = iter(done.stdout.splitlines())
    # In their order, what is left out marked as such.
    assert [line for line in shown.splitlines() if line != "..." and line not in printed] == []


FIGURES = (DOCS / "plot.md").read_text()


def test_every_figure_is_shown_small_and_made_by_the_command_of_a_page(tmp_path):
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    pages = "".join(path.read_text() for path in sorted(DOCS.rglob("*.md")))
    for command in re.findall(r"^(harness plot traces/.* -o docs/figures/.*)$", pages, re.M):
        done = harness(*shlex.split(command)[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    shown = set(re.findall(r"!\[.*\]\((?:\.\./)?figures/(.*)\)", pages))
    kept = {path.name: path.stat().st_size for path in (DOCS / "figures").iterdir()}
    assert shown == set(kept) == {path.name for path in (tmp_path / "docs" / "figures").iterdir()}
    assert max(kept.values()) < MOST_FIGURE_BYTES


def test_the_other_commands_of_the_page_run_too(tmp_path):
    for name in ("my", "other"):
        write_trace(tmp_path / f"{name}.parquet", random_rows(2000), time_ns=range(2000))
    commands = re.findall(r"^(harness .*my\.parquet.*|harness plot kept .*)$", FIGURES, re.M)
    assert len(commands) == 5
    for command in commands:
        done = harness(*shlex.split(command, comments=True)[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".svg"}
    assert (tmp_path / "figures.svg").exists()
