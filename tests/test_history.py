"""Results over time: what is added, what stays as it is, how commits stand, where numbers change."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support import fails_with, harness, random_rows, write_trace

from harness import __version__, commits, history, history_files, history_report
from harness.commits import Commit
from harness.errors import HarnessError
from harness.results import Run, TraceRuns

METRIC = "peak_committed_bytes"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def result(peak=1024, *, label="go", trace="t.parquet", digest="sha256:0", failure=None, **summary):
    parts = {"mapped": 0, "released": 0}
    run = Run(
        allocator=label,
        label=label,
        description="",
        version="1",
        kind="model",
        options={},
        summary={METRIC: peak, **summary},
        footprint={"floor": parts, "peak": parts, "end": parts},
        counters={},
        classes=[],
        warnings=[],
        failure=failure,
    )
    return TraceRuns({"path": trace, "digest": digest, "events": 3}, [run])


def commit(number):
    return Commit(f"c{number}", BEGIN + timedelta(days=number))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A history's folder, outside of any repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(tmp_path / "history")


def filled(folder, *peaks, **options):
    for number, peak in enumerate(peaks):
        history_files.append(folder, [result(peak, **options)], commit(number))


def loaded(folder, metric=METRIC, **options):
    return history_files.load(folder, metric, **options)


def values(series):
    return [point.value for point in series.points]


def changed(series, least=0.0, metric=METRIC):
    found = history.changes(series, metric, least)
    return [(each.after.commit, each.level, each.after.value, each.verdict) for each in found]


def test_a_history_is_a_dataset_to_any_reader_of_parquet(folder):
    filled(folder, 1000, 1004, gc_cycles=None, waste_bytes=7)
    rows = ds.dataset(folder, format="parquet").to_table().sort_by("date").to_pylist()
    assert [(row["commit"], row["metric"], row["value"]) for row in rows] == [
        ("c0", METRIC, 1000),
        ("c0", "waste_bytes", 7),
        ("c1", METRIC, 1004),
        ("c1", "waste_bytes", 7),
    ]
    assert rows[0].keys() == {
        *("commit", "date", "added", "harness", "trace", "digest", "allocator", "metric", "value")
    }
    assert rows[0]["date"] == BEGIN


def test_each_append_is_a_file_and_leaves_the_others_as_they_are(folder):
    filled(folder, 1, 2)
    before = {path: path.read_bytes() for path in Path(folder).iterdir()}
    history_files.append(folder, [result(3)], commit(2))
    assert len(before) == 2
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(Path(folder).iterdir())) == 3


def test_a_commit_is_added_once_unless_it_replaces(folder):
    filled(folder, 1000)
    with pytest.raises(HarnessError, match=r"has go on t\.parquet of commit c0 already"):
        history_files.append(folder, [result(2000)], commit(0))
    history_files.append(folder, [result(3000, label="tcmalloc")], commit(0))
    history_files.append(folder, [result(2000)], commit(0), replace=True)
    assert [values(series) for series in loaded(folder).series] == [[2000], [3000]]


def test_commits_whose_names_begin_alike_are_apart(folder):
    for end in ("a", "b"):
        history_files.append(folder, [result()], Commit("release-candidate-" + end, BEGIN))
    assert len(loaded(folder).series[0].points) == 2


def test_the_same_run_twice_is_a_fault(folder):
    with pytest.raises(HarnessError, match=r"go on t\.parquet is to be added twice"):
        history_files.append(folder, [result(), result()], commit(0))
    assert not Path(folder).exists()


def test_what_failed_is_left_out(folder):
    history_files.append(folder, [result(), result(label="glibc", failure="no library")], commit(0))
    assert [series.allocator for series in loaded(folder).series] == ["go"]
    with pytest.raises(HarnessError, match="nothing to add"):
        history_files.append(folder, [result(failure="no library")], commit(1))


def test_outside_of_a_repository_commits_stand_by_date(folder):
    for number, peak in ((2, 30), (0, 10), (1, 20)):
        history_files.append(folder, [result(peak)], commit(number))
    found = loaded(folder)
    assert values(found.series[0]) == [10, 20, 30]
    assert not found.by_topology


def test_changes_are_found_with_their_direction(folder):
    filled(folder, 1000, 1000, 1004, 1004, 900)
    (series,) = loaded(folder).series
    assert changed(series) == [("c2", 1000, 1004, "worse"), ("c4", 1004, 900, "better")]


def test_small_changes_are_left_out_and_slow_drift_is_found(folder):
    filled(folder, *range(1000, 1012, 2))
    (series,) = loaded(folder).series
    assert changed(series, 0.005) == [("c3", 1000, 1006, "worse")]


def test_a_change_from_nothing_has_no_percentage(folder):
    filled(folder, 0, 5)
    (change,) = history.changes(loaded(folder).series[0], METRIC)
    assert change.change is None
    assert "from 0 B to 5 B, worse" in history_report.history(loaded(folder), "table")


def test_a_change_beyond_the_digits_of_the_unit_is_shown_in_full(folder):
    filled(folder, 5 << 20, (5 << 20) + 1)
    printed = history_report.history(loaded(folder), "table")
    assert "changed at c1 from 5,242,880 to 5,242,881, +0.00002 %, worse" in printed


def test_a_number_that_judges_nothing_is_changed_and_no_worse(folder):
    filled(folder, 1, peak_requested_bytes=1)
    history_files.append(folder, [result(1, peak_requested_bytes=2)], commit(1))
    (series,) = loaded(folder, "peak_requested_bytes").series
    assert changed(series, metric="peak_requested_bytes") == [("c1", 1, 2, "")]


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        ({}, [("a/t.parquet", "go"), ("b/t.parquet", "go"), ("b/t.parquet", "ideal")]),
        ({"allocator": "ideal"}, [("b/t.parquet", "ideal")]),
        ({"trace": "a/t.parquet"}, [("a/t.parquet", "go")]),
        ({"trace": "t", "allocator": "go"}, [("a/t.parquet", "go"), ("b/t.parquet", "go")]),
    ],
)
def test_traces_and_allocators_are_chosen(folder, asked, labels):
    for trace, label in (("a/t.parquet", "go"), ("b/t.parquet", "go"), ("b/t.parquet", "ideal")):
        history_files.append(folder, [result(trace=trace, label=label)], commit(0))
    assert [(each.trace, each.allocator) for each in loaded(folder, **asked).series] == labels


def test_a_table_has_the_ends_and_the_changes_with_their_reasons(folder):
    filled(folder, 4096, 4096)
    history_files.append(folder, [result(8192, digest="sha256:1")], commit(2), harness="9.9")
    history_files.append(folder, [result(8192, digest="sha256:1")], commit(3), harness="9.9")
    printed = history_report.history(loaded(folder), "table")
    assert "peak committed of t.parquet under go: 4 commits, 1 changed it" in printed
    assert re.search(r"^▁+█+$", printed, re.M)
    rows = [line.split(maxsplit=4) for line in printed.splitlines() if re.match(r"c\d ", line)]
    assert [row[0] for row in rows] == ["c0", "c2", "c3"]
    assert rows[1][4] == (
        f"changed at c2 from 4.00 KiB to 8.00 KiB, +100.0 %, worse, another trace, "
        f"harness {__version__} -> 9.9"
    )
    everything = history_report.history(loaded(folder), "markdown", everything=True)
    assert re.findall(r"^\| (c\d) ", everything, re.M) == ["c0", "c1", "c2", "c3"]


def test_what_never_changed_is_a_line(folder):
    filled(folder, 5, 5, 5)
    printed = history_report.history(loaded(folder), "table")
    assert "3 commits, 0 changed it" in printed
    assert "▁" * 24 in printed


def test_json_and_csv_hold_every_commit_and_whole_bytes(folder):
    filled(folder, 1000, 1000, 1004)
    found = json.loads(history_report.history(loaded(folder), "json"))
    (series,) = found["series"]
    assert (found["schema"], found["unit"], found["order"]) == ("harness-history/1", "bytes", "date")
    assert [point["value"] for point in series["points"]] == [1000, 1000, 1004]
    assert series["changes"] == [
        {"commit": "c2", "from": 1000, "to": 1004, "change": 0.004, "verdict": "worse", "reasons": []}
    ]
    rows = list(csv.DictReader(io.StringIO(history_report.history(loaded(folder), "csv"))))
    assert [(row["commit"], row["value"], row["changed_from"]) for row in rows] == [
        ("c0", "1000", ""),
        ("c1", "1000", ""),
        ("c2", "1004", "1000"),
    ]


@pytest.fixture
def many(folder, monkeypatch):
    """A history of so many files that its rows are kept in the cache."""
    monkeypatch.setattr(history_files, "_WORTH_A_CACHE_FILES", 3)
    filled(folder, 1, 2, 3, waste_bytes=9)
    assert values(loaded(folder).series[0]) == [1, 2, 3]
    return folder


def opened_files(monkeypatch):
    files = []
    plain = history_files._fragment
    monkeypatch.setattr(history_files, "_fragment", lambda file: files.append(file.name) or plain(file))
    return files


def test_what_was_read_once_is_not_read_again(many, monkeypatch):
    files = opened_files(monkeypatch)
    assert values(loaded(many).series[0]) == [1, 2, 3]
    assert files == []
    history_files.append(many, [result(4, waste_bytes=9)], commit(3))
    assert values(loaded(many).series[0]) == [1, 2, 3, 4]
    assert len(files) == 1
    assert values(loaded(many, "waste_bytes").series[0]) == [9, 9, 9, 9]


def test_what_has_gone_from_a_history_goes_from_the_cache(many):
    next(iter(sorted(Path(many).iterdir()))).unlink()
    history_files.append(many, [result(4)], commit(3))
    assert values(loaded(many).series[0]) == [2, 3, 4]


def test_a_broken_cache_is_no_fault(many):
    (cache,) = Path(os.environ["XDG_CACHE_HOME"]).rglob(f"{METRIC}.parquet")
    cache.write_bytes(b"PAR1 no more")
    assert values(loaded(many).series[0]) == [1, 2, 3]


# In a repository, by the command line.


def git(folder, *arguments, date=None):
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a"}
    who |= {"GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}
    if date is not None:
        who |= {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | who, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a trace, whose second commit is dated before the first."""
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    for number, date in enumerate(("2026-01-02T00:00Z", "2026-01-01T00:00Z", "2026-01-03T00:00Z")):
        write_trace(tmp_path / "my.parquet", random_rows(500 + 500 * number))
        git(tmp_path, "add", "my.parquet")
        git(tmp_path, "commit", "-q", "-m", str(number), date=date)
    return tmp_path


def test_replay_adds_what_stands_here_and_history_shows_it(repository):
    done = harness("replay", "my.parquet", "-a", "ideal", "--history", "results/history")
    assert done.returncode == 0, done.stderr
    head = git(repository, "rev-parse", "HEAD")
    assert f"harness: wrote results/history/{head[:12]}-" in done.stderr
    assert "note" not in done.stderr
    (series,) = json.loads(harness("history", METRIC, "--format", "json").stdout)["series"]
    (point,) = series["points"]
    assert (point["commit"], point["date"]) == (head, "2026-01-03T00:00:00+00:00")
    fails_with(
        harness("replay", "gone.parquet", "my.parquet", "-a", "ideal", "--history", "results/history"),
        f"has ideal on my.parquet of commit {head[:10]} already",
    )


def test_an_allocator_is_known_by_the_options_that_the_trace_sets_before_it_is_replayed(repository):
    shutil.copy(Path(__file__).parent.parent / "traces" / "go" / "go-parser.parquet", "go.parquet")
    for _ in range(2):
        done = harness("replay", "go.parquet", "-a", "go", "--history", "h")
    fails_with(done, f"has go:gogc=off on go.parquet of commit {git(repository, 'rev-parse', 'HEAD')[:10]}")
    assert done.stdout == ""


def test_inside_a_repository_commits_stand_as_git_has_them(repository):
    head = git(repository, "rev-parse", "HEAD")
    for number, name in enumerate(("HEAD~1", "HEAD", "HEAD~2")):
        git(repository, "checkout", "-q", "--detach", head)
        git(repository, "checkout", "-q", "--detach", name)
        done = harness("replay", "my.parquet", "-a", "ideal", "--save", f"run{number}")
        assert done.returncode == 0, done.stderr
        assert harness("history", "add", f"run{number}", "--history", "h").returncode == 0
    (series,) = json.loads(harness("history", METRIC, "--history", "h", "--format", "json").stdout)["series"]
    assert [point["commit"] for point in series["points"]] == git(
        repository, "rev-list", "--reverse", head
    ).split()
    assert [point["date"][:10] for point in series["points"]] == ["2026-01-02", "2026-01-01", "2026-01-03"]
    assert "by date" not in harness("history", METRIC, "--history", "h").stdout


def test_changes_that_are_not_committed_are_told_of(repository):
    write_trace(repository / "my.parquet", random_rows(100))
    done = harness("replay", "my.parquet", "-a", "ideal", "--history", "h")
    head = git(repository, "rev-parse", "HEAD")
    assert f"note: there are changes here that commit {head[:10]} does not have" in done.stderr


def test_a_trace_has_one_name_from_wherever_it_is_replayed(repository):
    (repository / "sub").mkdir()
    for name, path in (("one", "../my.parquet"), ("two", str(repository / "my.parquet"))):
        done = harness("replay", path, "-a", "ideal", "--history", name, cwd=repository / "sub")
        assert done.returncode == 0, done.stderr
        found = json.loads(
            harness("history", METRIC, "--history", f"sub/{name}", "--format", "json", cwd=repository).stdout
        )
        assert [series["trace"] for series in found["series"]] == ["my.parquet"]


def test_a_commit_may_be_named(repository):
    harness("replay", "my.parquet", "-a", "ideal", "--save", "run")
    first = git(repository, "rev-parse", "HEAD~2")
    assert harness("history", "add", "run", "--commit", "HEAD~2").returncode == 0
    assert harness("history", "add", "run", "--commit", "v1", "--date", "2025-06-01").returncode == 0
    done = harness("history", METRIC, "--format", "csv")
    assert [row["commit"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["v1", first]


def test_order_asks_git_for_nothing_that_is_no_name_of_a_commit(repository, monkeypatch):
    head = git(repository, "rev-parse", "HEAD")
    assert commits.order({head}) is not None
    assert commits.order({head, "0" * 40}) is None
    monkeypatch.setattr(commits, "_git", lambda *_, **__: pytest.fail("git was asked"))
    assert commits.order({head, "--all"}) is None


# Whatever is wrong is one line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([METRIC], "results/history: no history there; make one with `harness replay TRACE --history"),
        ([METRIC, "--history", "empty"], "empty: holds no Parquet files, expected a history"),
        ([METRIC, "--history", "file"], "file: no history there"),
        ([METRIC, "--history", "text"], "text/x.parquet: is no Parquet file, or not a whole one"),
        ([METRIC, "--history", "cut"], "is no Parquet file, or not a whole one"),
        ([METRIC, "--history", "trace"], "trace/t.parquet: is of another schema: found none of a history"),
        ([METRIC, "--history", "later"], "found 'harness-history/2', expected 'harness-history/1'"),
        ([METRIC, "--history", "columns"], "columns/x.parquet: has other columns than 'harness-history/1'"),
        (["peak_comitted_bytes", "--history", "good"], "no metric; did you mean peak_committed_bytes"),
        (["gc_cycles", "--history", "good"], "gc_cycles: no run in it has a number of it"),
        ([METRIC, "-a", "gone", "--history", "good"], "has nothing of what was asked for; it has go on t"),
        ([METRIC, "--least", "-1"], "Invalid value for '--least'"),
        ([], "Missing command"),
        (["add"], "Missing argument 'RUN...'"),
        (["add", "gone.json"], "gone.json: cannot be read: no such file"),
        (["add", "run", "--commit", "v1"], "--commit v1: git does not know it here; say its --date"),
        (["add", "run", "--commit", "v1", "--date", "soon"], "--date soon: expected a date"),
        (["add", "run"], "there is no commit here"),
        (["add", "run", *("--commit", "v", "--date", "2026-01-01"), "--history", "file"], "it is a file"),
        (["add", "run", "run", "--commit", "v", "--date", "2026-01-01"], "is to be added twice"),
    ],
)
def test_what_is_wrong_is_one_line(folder, tmp_path, arguments, message):
    for name in ("empty", "text", "trace", "later", "columns", "cut"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "text" / "x.parquet").write_text("no Parquet at all\n")
    write_trace(tmp_path / "trace" / "t.parquet")
    table = pa.table({"commit": ["c"]})
    for name, schema in (("later", "harness-history/2"), ("columns", "harness-history/1")):
        pq.write_table(
            table.replace_schema_metadata({"harness.history": schema}), tmp_path / name / "x.parquet"
        )
    written = Path(history_files.append(str(tmp_path / "good"), [result()], commit(0)))
    (tmp_path / "cut" / "x.parquet").write_bytes(written.read_bytes()[:-200])
    if "run" in arguments:
        trace = write_trace(tmp_path / "t.parquet")
        harness("replay", trace, "-a", "ideal", "--save", "run", cwd=tmp_path)
    fails_with(harness("history", *arguments, cwd=tmp_path), message)


def test_replay_without_a_commit_is_one_line_before_the_work(tmp_path):
    done = harness("replay", "gone.parquet", "--history", "h", cwd=tmp_path)
    fails_with(done, "there is no commit here: run it inside a git repository")


PAGE = (Path(__file__).parent.parent / "docs" / "history.md").read_text()


def test_the_commands_of_the_page_run(repository):
    commands = re.findall(r"^harness .*", PAGE, re.M)
    assert len(commands) == 5
    for command in commands:
        done = harness(*shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr


def test_the_columns_of_the_page_are_those_of_the_files(folder):
    filled(folder, 1)
    (file,) = Path(folder).iterdir()
    section = PAGE.split("## The files")[1]
    named = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall("`(.*?)`", row)
    ]
    assert named == pq.read_schema(file).names
