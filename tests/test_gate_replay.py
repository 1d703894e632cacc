"""`harness check` as a user runs it: the baseline of this repository, and one line for whatever is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import xmlschema
from library_support import needs_library
from markdown_it import MarkdownIt
from support import TRACES, fails_with, harness, random_rows, write_trace
from test_cli import give_up_roots_eyes
from test_trace import BAD_FILES, bad_file

from harness import __version__

ROOT = Path(__file__).parent.parent


def test_memory_is_what_the_committed_baseline_says():
    """If not, and it is meant: `harness check --update`, and look at what `git diff` says has changed."""
    done = harness("check", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "no regressions, no warnings, no improvements; " in done.stdout


def test_the_committed_baseline_is_of_every_trace():
    kept = json.loads((ROOT / "traces" / "baseline.json").read_text())
    assert sorted(kept["traces"]) == [path.name for path in TRACES]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two traces and their baseline, outside of any project."""
    folder = tmp_path_factory.mktemp("made")
    for name, seed in (("a", 1), ("b", 2)):
        write_trace(folder / f"{name}.parquet", random_rows(3000, seed=seed))
    done = harness("check", "--update", "a.parquet", "b.parquet", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "harness: wrote harness-baseline.json: 2 traces, 6 runs, 64 numbers\n"
    assert done.stdout == ""
    return folder


@pytest.fixture
def base(made, tmp_path):
    """A copy of that folder, to change."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def kept(folder):
    return json.loads((folder / "harness-baseline.json").read_text())


def changed(folder, change):
    """Change the baseline as if it had been written so."""
    content = kept(folder)
    change(content)
    (folder / "harness-baseline.json").write_text(json.dumps(content, indent=1))


def test_what_was_just_written_holds(base):
    done = harness("check", cwd=base)
    assert done.returncode == 0
    assert (
        done.stdout
        == "harness-baseline.json: no regressions, no warnings, no improvements; 64 equal numbers\n"
    )


def test_it_is_the_same_from_another_folder(base):
    (base / "sub").mkdir()
    done = harness("check", "../harness-baseline.json", cwd=base / "sub")
    assert done.returncode == 0, done.stdout + done.stderr


def test_writing_it_again_changes_no_byte(base):
    before = (base / "harness-baseline.json").read_bytes()
    assert harness("check", "--update", cwd=base).returncode == 0
    assert (base / "harness-baseline.json").read_bytes() == before


def test_worse_options_fail_and_are_named(base):
    done = harness("check", "-a", "tcmalloc:page_size=256KiB", cwd=base)
    assert done.returncode == 1, done.stdout + done.stderr
    label = "tcmalloc:page_size=262144"
    assert f"note: {label} against tcmalloc: options differ: page_size 8192 -> 262144" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "peak_committed_bytes" in line)
    assert row.split()[:3] == ["a.parquet", label, "peak_committed_bytes"]
    assert row.endswith("regression")


def test_only_the_traces_that_are_given_are_replayed(base):
    done = harness("check", "b.parquet", "--json", "found.json", cwd=base)
    assert done.returncode == 0
    assert {change["trace"] for change in json.loads((base / "found.json").read_text())["changes"]} == {
        "b.parquet"
    }


def worse(content):
    content["traces"]["a.parquet"]["runs"]["go"]["metrics"]["peak_committed_bytes"] //= 2


def test_all_outputs_are_made_at_once(base):
    changed(base, worse)
    files = ["--markdown", "found.md", "--junit", "found.xml", "--json", "found.json"]
    done = harness("check", *files, cwd=base, env=os.environ | {"GITHUB_ACTIONS": "true"})
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("::error file=harness-baseline.json,line=")
    html = MarkdownIt("commonmark").enable("table").render((base / "found.md").read_text())
    assert html.count("<table>") == 1
    xmlschema.XMLSchema(str(ROOT / "tests" / "junit.xsd")).validate(str(base / "found.xml"))
    assert json.loads((base / "found.json").read_text())["status"] == 1
    plain = harness("check", cwd=base, env=os.environ | {"GITHUB_ACTIONS": ""})
    assert "::error" not in plain.stdout


def test_a_regression_that_is_accepted_is_the_baseline(base):
    changed(base, worse)
    assert harness("check", cwd=base).returncode == 1
    assert harness("check", "--update", cwd=base).returncode == 0
    assert harness("check", cwd=base).returncode == 0


def test_a_projects_thresholds_count(base):
    changed(base, worse)
    (base / "pyproject.toml").write_text(
        "[tool.harness.check.thresholds]\npeak_committed_bytes = { relative = 3 }\n"
    )
    assert harness("check", cwd=base).returncode == 0
    (base / "strict.toml").write_text("[thresholds]\n")
    assert harness("check", "--config", "strict.toml", cwd=base).returncode == 1


def test_a_program_that_was_recorded_anew_is_compared_where_that_is_said(base):
    write_trace(base / "a.parquet", random_rows(3000, seed=3, live=400))
    before = (base / "harness-baseline.json").read_bytes()
    for arguments in ([], ["--update"]):
        done = harness("check", *arguments, cwd=base)
        fails_with(done, "a.parquet: holds another trace than harness-baseline.json is of", "--new-traces")
    assert (base / "harness-baseline.json").read_bytes() == before
    done = harness("check", "--new-traces", cwd=base)
    assert done.returncode == 1
    (row,) = (
        line
        for line in done.stdout.splitlines()
        if line.split()[:3] == ["a.parquet", "ideal", "peak_committed_bytes"]
    )
    assert row.endswith("regression"), "the program asks for more"
    assert done.stdout.endswith("--update --new-traces\n")
    assert harness("check", "--update", "--new-traces", cwd=base).returncode == 0
    assert harness("check", cwd=base).returncode == 0


def test_new_traces_may_lie_elsewhere(base):
    (base / "new").mkdir()
    shutil.copy(base / "a.parquet", base / "new" / "a.parquet")
    done = harness("check", "--new-traces", "new/a.parquet", "--json", "found.json", cwd=base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {change["trace"] for change in json.loads((base / "found.json").read_text())["changes"]} == {
        "new/a.parquet"
    }


def test_a_trace_is_added_and_the_others_stay(base):
    write_trace(base / "c.parquet", random_rows(100))
    before = kept(base)["traces"]
    assert harness("check", "--update", "c.parquet", cwd=base).returncode == 0
    after = kept(base)["traces"]
    assert sorted(after) == ["a.parquet", "b.parquet", "c.parquet"]
    assert sorted(after["c.parquet"]["runs"]) == ["go", "ideal", "tcmalloc"]
    assert {name: after[name] for name in before} == before


def test_metrics_and_assumptions_are_kept_for_the_next_time(base):
    arguments = ["--metric", "gc_cycles", "--noscan", "0.5", "-a", "go:gogc=50"]
    assert harness("check", "--update", *arguments, cwd=base).returncode == 0
    first = (base / "harness-baseline.json").read_bytes()
    assert kept(base)["noscan"] == "0.5"
    runs = kept(base)["traces"]["a.parquet"]["runs"]
    assert {label: list(run["metrics"]) for label, run in runs.items()} == {"go:gogc=50": ["gc_cycles"]}
    assert harness("check", "--update", cwd=base).returncode == 0
    assert (base / "harness-baseline.json").read_bytes() == first
    assert harness("check", cwd=base).returncode == 0


def test_a_default_that_has_changed_since_is_replayed_as_it_was(base):
    assert harness("check", "--update", "-a", "go:gogc=50", cwd=base).returncode == 0

    def once_default(content):
        for trace in content["traces"].values():
            trace["runs"] = {"go": trace["runs"].pop("go:gogc=50")}

    changed(base, once_default)
    done = harness("check", "--json", "found.json", cwd=base)
    assert done.returncode == 0
    changes = json.loads((base / "found.json").read_text())["changes"]
    assert {(change["allocator"], change["verdict"]) for change in changes} == {("go", "equal")}


def gone(content):
    content["traces"]["a.parquet"]["runs"]["go"]["options"]["gcog"] = 1


def unknown(content):
    content["traces"]["a.parquet"]["runs"]["go"]["allocator"] = "slab"


BAD_BASELINES = {
    "of another version": (lambda content: content.update(harness="0.0.1"), "was written by harness 0.0.1"),
    "of another schema": (lambda content: content.update(schema="harness-baseline/9"), "harness-baseline/9"),
    "of no numbers": (lambda content: content.pop("traces"), "'traces' is missing"),
    "with an option that is gone": (gone, "an option 'gcog' that go no longer has"),
    "with an allocator that is gone": (unknown, "'slab' is no allocator"),
    "with an assumption that is none": (lambda content: content.update(noscan="half"), "noscan half"),
}


@pytest.mark.parametrize(("change", "message"), BAD_BASELINES.values(), ids=BAD_BASELINES)
def test_a_baseline_that_cannot_be_used_is_one_line_and_is_not_overwritten(base, change, message):
    changed(base, change)
    before = (base / "harness-baseline.json").read_bytes()
    for arguments in ([], ["--update"]):
        fails_with(harness("check", *arguments, cwd=base), message)
        assert (base / "harness-baseline.json").read_bytes() == before


def test_a_baseline_of_another_version_is_taken_where_that_is_said(base):
    changed(base, lambda content: content.update(harness="0.0.1"))
    assert harness("check", "--any-version", cwd=base).returncode == 0
    done = harness("check", "--any-version", "--update", "a.parquet", cwd=base)
    fails_with(done, "its version and --noscan hold for all of its traces: update b.parquet, too")
    assert harness("check", "--any-version", "--update", cwd=base).returncode == 0
    assert kept(base)["harness"] == __version__


def test_half_a_baseline_is_one_line_and_is_not_overwritten(base):
    whole = (base / "harness-baseline.json").read_text()
    (base / "harness-baseline.json").write_text(whole[: len(whole) // 2])
    for arguments in ([], ["--update"], ["--update", "a.parquet"]):
        done = harness("check", *arguments, cwd=base)
        fails_with(done, "harness-baseline.json: is no baseline, or not a whole one")
        assert (base / "harness-baseline.json").read_text() == whole[: len(whole) // 2]


def test_somebody_elses_json_is_not_overwritten(base):
    (base / "package.json").write_text('{"name": "mine"}')
    fails_with(harness("check", "package.json", "--update", "a.parquet", cwd=base), "is no baseline")
    assert (base / "package.json").read_text() == '{"name": "mine"}'


def test_a_trace_that_is_missing_is_one_line_and_the_others_are_compared(base):
    (base / "a.parquet").unlink()
    before = (base / "harness-baseline.json").read_bytes()
    done = harness("check", cwd=base)
    fails_with(done, "a.parquet: no such file")
    assert "1 not compared; 32 equal numbers" in done.stdout
    fails_with(harness("check", "--update", cwd=base), "a.parquet: no such file")
    assert (base / "harness-baseline.json").read_bytes() == before


@pytest.mark.parametrize("kind", [kind for kind in BAD_FILES if kind != "missing"])
def test_a_file_that_is_no_trace_is_one_line(base, kind):
    (base / "a.parquet").unlink()
    os.rename(bad_file(base, kind), base / "a.parquet")
    fails_with(harness("check", "--new-traces", cwd=base), "a.parquet")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up what root may")
def test_a_folder_that_may_not_be_written_is_one_line_and_nothing_is_lost(base):
    before = (base / "harness-baseline.json").read_bytes()
    os.chmod(base, 0o555)
    try:
        done = harness("check", "--update", cwd=base, preexec_fn=give_up_roots_eyes)
        fails_with(done, "harness-baseline.json: cannot be written: Permission denied")
        done = harness("check", "--junit", "j.xml", cwd=base, preexec_fn=give_up_roots_eyes)
        fails_with(done, "j.xml: cannot be written: Permission denied")
    finally:
        os.chmod(base, 0o755)
    assert (base / "harness-baseline.json").read_bytes() == before


USAGE = {
    "no baseline": (["gone.json"], "gone.json: no such baseline; make one with `harness check gone.json"),
    "nothing to make one of": (["new.json", "--update"], "say which traces it is to be of"),
    "no folder": (["no/new.json", "--update", "a.parquet"], "there is no folder no"),
    "two baselines": (["a.json", "b.json"], "found 2 baselines, a.json and b.json; expected one"),
    "an unknown trace": (["elsewhere.parquet"], "harness-baseline.json has no such trace"),
    "an unknown metric": (["--update", "--metric", "speed"], "'speed' is no metric"),
    "a metric of a check": (["--metric", "waste_bytes"], "they go with --update"),
    "an output of an update": (["--update", "--junit", "x.xml"], "--junit is for what a check finds"),
    "an unknown allocator": (["-a", "slab"], "'slab' is no allocator"),
    "an allocator that is not kept": (["a.parquet", "-a", "glibc:timing=off"], "the baseline has no glibc"),
    "no fraction": (["--update", "--noscan", "2"], "--noscan 2: expected all, none or a fraction"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE)
def test_wrong_usage_is_one_line(base, arguments, message):
    before = sorted(path.name for path in base.iterdir())
    fails_with(harness("check", *arguments, cwd=base), message)
    assert sorted(path.name for path in base.iterdir()) == before


@pytest.mark.parametrize("others", [[], ["-a", "ideal"], ["-a", "glibc:repetitions=1"]], ids=str)
def test_a_library_that_cannot_be_measured_is_one_line_and_is_not_tried_again(tmp_path, others):
    needs_library("glibc")
    write_trace(tmp_path / "a.parquet", random_rows(1000))
    arguments = ["--update", "a.parquet", "-a", "library:path=gone.so", *others]
    fails_with(harness("check", *arguments, cwd=tmp_path), "gone.so")
    assert not (tmp_path / "harness-baseline.json").exists()


@pytest.mark.slow
def test_a_real_library_is_measured_again_and_only_warned_of(tmp_path):
    name = needs_library("glibc")
    write_trace(tmp_path / "a.parquet", random_rows(20_000))
    done = harness(
        "check", "--update", "a.parquet", "-a", f"{name}:repetitions=1,time_limit_seconds=600", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (run,) = kept(tmp_path)["traces"]["a.parquet"]["runs"].values()
    assert len(run["metrics"]["measured_ns_per_event"]) == 5

    def faster(content):
        (run,) = content["traces"]["a.parquet"]["runs"].values()
        run["metrics"]["measured_ns_per_event"] = [0.5, 0.51, 0.52, 0.53, 0.54]

    changed(tmp_path, faster)
    done = harness("check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if "measured_ns_per_event" in line)
    assert row.endswith("warning")
    (tmp_path / "gate.toml").write_text('[libraries."*"]\nseverity = "fail"\n')
    assert harness("check", "--config", "gate.toml", cwd=tmp_path).returncode == 1
