"""The published results are what this version prints, and nobody's files are lost by publishing."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support import fails_with, harness, random_rows, write_trace

from harness.costs import shipped, to_json
from harness.publication import MARK

ROOT = Path(__file__).parent.parent
COMMAND = ["replay", *(f"traces/{path.name}" for path in sorted((ROOT / "traces").glob("*.parquet")))]


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What the command of results/README.md writes today."""
    folder = tmp_path_factory.mktemp("published") / "results"
    done = harness(*COMMAND, "--publish", str(folder), cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return texts(folder)


def test_the_published_results_are_those_of_this_version(published):
    """If not: run the command of results/README.md and look at what `git diff results` says has changed."""
    committed = texts(ROOT / "results")
    assert committed.keys() == published.keys()
    changed = [name for name, text in published.items() if committed[name] != text]
    assert changed == [], "publish again: harness replay traces/*.parquet --publish results"


def test_the_page_says_how_it_is_made_and_of_what(published):
    readme = published["README.md"]
    assert "```sh\nharness replay traces/*.parquet --publish results\n```" in readme
    for result in json.loads(published["run.json"])["results"]:
        assert result["trace"]["digest"] in readme
        assert f"](<{Path(result['trace']['path']).stem}.md>)" in readme


def test_the_parts_of_a_row_add_up_to_what_is_committed(published):
    rows = [line for line in published["README.md"].splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 8 * 3
    for row in rows[1:]:
        shares = [float(cell.removesuffix(" % ")) for cell in row.split("|") if cell.endswith(" % ")]
        assert sum(shares) == pytest.approx(100, abs=0.5), row


def test_a_row_of_size_classes_holds_bytes(published):
    rows = list(csv.DictReader(published["classes.csv"].splitlines()))
    assert {row["run"] for row in rows} == {"go", "tcmalloc"}
    assert all(row["waste_bytes"].isdigit() for row in rows)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("traces") / "small.parquet", random_rows(2000))


def test_published_results_are_compared_as_a_run_directory_is(trace, tmp_path):
    assert harness("replay", trace, "--publish", "published", cwd=tmp_path).returncode == 0
    assert harness("replay", trace, "--costs", "default", "--save", "run", cwd=tmp_path).returncode == 0
    done = harness("compare", "published", "run", "--classes", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["traces"]
    differing = [row["name"] for pair in found["pairs"] for row in pair["rows"] if row["a"] != row["b"]]
    assert {name for name in differing if "span" not in name} == set()
    assert "the first has no size classes to compare" in found["pairs"][0]["notes"]


def test_what_was_calibrated_here_is_not_published(trace, tmp_path):
    (tmp_path / "alloc-harness").mkdir()
    dear = {name: replace(table, ns=dict.fromkeys(table.ns, 1000.0)) for name, table in shipped().items()}
    (tmp_path / "alloc-harness" / "costs.json").write_text(to_json(dear))
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}
    for name, variables in (("one", environment), ("two", None)):
        done = harness("replay", trace, "--publish", name, cwd=tmp_path, env=variables)
        assert done.returncode == 0, done.stderr
    renamed = {
        name: text.replace("publish one", "publish two") for name, text in texts(tmp_path / "one").items()
    }
    assert {name: text.replace("compare one", "compare two") for name, text in renamed.items()} == texts(
        tmp_path / "two"
    )


def test_options_stand_in_the_command(trace, tmp_path):
    arguments = ["-a", "go:gogc=50", "-a", "ideal", "--noscan", "all", "--publish", "out"]
    assert harness("replay", trace, *arguments, cwd=tmp_path).returncode == 0
    command = f"harness replay {trace} -a go:gogc=50 -a ideal --noscan all --publish out"
    assert f"```sh\n{command}\n```" in (tmp_path / "out" / "README.md").read_text()


def test_a_page_whose_trace_is_gone_goes_and_others_files_stay(trace, tmp_path):
    folder = tmp_path / "out"
    other = write_trace(tmp_path / "other.parquet", random_rows(100))
    assert harness("replay", trace, other, "-a", "ideal", "--publish", str(folder)).returncode == 0
    (folder / "mine.md").write_text("# mine\n")
    assert harness("replay", trace, "-a", "ideal", "--publish", str(folder)).returncode == 0
    assert sorted(texts(folder)) == ["README.md", "classes.csv", "mine.md", "run.json", "small.md"]
    assert all(
        text.startswith(MARK) for name, text in texts(folder).items() if name in ("README.md", "small.md")
    )


def test_a_bad_trace_leaves_what_was_published(trace, tmp_path):
    folder = tmp_path / "out"
    assert harness("replay", trace, "-a", "ideal", "--publish", str(folder)).returncode == 0
    before = texts(folder)
    fails_with(
        harness("replay", trace, "gone.parquet", "--publish", str(folder)), "gone.parquet: no such file"
    )
    assert texts(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-a", "glibc", "--publish", "new"], "glibc is measured and differs from machine to machine"),
        (["--publish", "project"], "project: holds something else than published results"),
        (["--publish", "file"], "file: cannot be written: it is a file, not a folder"),
        (["--publish", "no/new"], "no/new: cannot be written: there is no folder no"),
        (["elsewhere/gone.parquet", "--publish", "new"], "a page gone.md is there already"),
    ],
)
def test_what_cannot_be_published_is_one_line_before_the_work(tmp_path, arguments, message):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("# Mine\n")
    (tmp_path / "file").write_text("")
    fails_with(harness("replay", "gone.parquet", *arguments, cwd=tmp_path), message)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", "file", "project"]
