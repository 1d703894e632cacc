"""`harness conform tcmalloc` as a user runs it, and what it takes the library to be."""

from __future__ import annotations

from contextlib import closing

import pytest
from support import TRACES, harness, random_rows, write_trace

from allocators.library import build
from allocators.tcmalloc.conformance import environment, modelled_release, subjects
from harness.allocator import THREAD_END, find
from harness.conform import compare
from harness.errors import AllocatorError
from harness.trace import TraceReader

SMALLEST = str(min(TRACES, key=lambda path: path.stat().st_size))
ASPECTS = ["addresses", "numeric properties", "free-list sizes", "ranges", "GetStats text"]


def options(text="tcmalloc"):
    return find(text)[0].options


class TestOnTheInstalledLibrary:
    @pytest.fixture(autouse=True)
    def _library(self, tcmalloc_library):
        self.path = tcmalloc_library

    def test_a_recorded_trace_agrees(self):
        done = harness("conform", "tcmalloc", SMALLEST)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "equal"
        assert f"({self.path})" in done.stdout.splitlines()[1]
        for aspect in ASPECTS:
            (row,) = (line for line in done.stdout.splitlines() if line.startswith(aspect))
            assert row.split()[-1] == "0"

    def test_calls_between_the_events_agree(self, tmp_path):
        trace = write_trace(tmp_path / "t.parquet", [*random_rows(4000, threads=3), (THREAD_END, 1, 0, 0)])
        (tmp_path / "t.script").write_text(
            "0 set max_total_thread_cache_bytes 1048576\n"
            "100 set_release_rate 10\n"
            "1000 release_to_system 300000\n"
            "1500 set aggressive_memory_decommit 1\n"
            "2000 mark_thread_idle 1\n"
            "2000 checkpoint\n"
            "2500 mark_thread_temporarily_idle 2\n"
            "3000 release_free_memory\n"
        )
        done = harness("conform", "tcmalloc:transfer_num_objects=32", trace)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "calls: 7" in done.stdout

    def test_touched_pages_are_compared_where_a_policy_is_stated(self, tmp_path):
        trace = write_trace(tmp_path / "t.parquet", random_rows(3000, threads=1))
        done = harness("conform", "tcmalloc:touch=none|first|whole", trace)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [line for line in done.stdout.splitlines() if line.startswith("touched pages")]
        assert [row.split()[-1] for row in rows] == ["0", "0", "0"]

    def test_a_model_of_other_settings_does_not_agree(self, tmp_path):
        trace = write_trace(tmp_path / "t.parquet", random_rows(3000, threads=1))
        model, library = subjects(options("tcmalloc:transfer_num_objects=32"), None)
        library.close()
        other, library = subjects(options("tcmalloc:transfer_num_objects=512"), None)
        with closing(library):
            report = compare(TraceReader(trace).checked(), model, library)
        assert other.name == model.name
        assert not report.agrees
        assert report.aspects["addresses"].differing

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("5 sweep\n", "tcmalloc has no call 'sweep'; it has release_free_memory, "),
            ("5 release_to_system\n", "release_to_system has 0 arguments, expected 1"),
            ("5 set tcmalloc.nonsense 1\n", "refuses: set tcmalloc.nonsense 1"),
            ("5 mark_thread_idle 50\n", "refuses: mark_thread_idle 50"),
            ("5 set heap_limit_mb many\n", "takes numbers, found 'heap_limit_mb many'"),
        ],
    )
    def test_a_call_that_does_not_fit_is_one_line(self, tmp_path, script, message):
        trace = write_trace(tmp_path / "t.parquet")
        (tmp_path / "t.script").write_text(script)
        done = harness("conform", "tcmalloc", trace)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
        assert "t.script: line 1" in done.stderr


def test_an_empty_heap_cannot_be_compared():
    with pytest.raises(AllocatorError, match="only start=process can be compared"):
        subjects(options("tcmalloc:start=bare"), None)


def test_a_missing_library_is_one_line(tmp_path):
    done = harness("conform", "tcmalloc", SMALLEST, "--against", str(tmp_path / "none.so"))
    assert done.returncode == 2
    assert done.stderr == f"harness: {tmp_path}/none.so: there is no such library\n"


def test_without_an_installed_library_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(build, "_linker_cache", lambda: "")
    with pytest.raises(
        AllocatorError, match=r"is not installed; install it with `apt-get install libgoogle-"
    ):
        subjects(options(), None)


def test_settings_stand_for_options_that_differ_from_the_librarys():
    assert environment(options()) == {"TCMALLOC_TRANSFER_NUM_OBJ": "512"}
    chosen = options(
        "tcmalloc:transfer_num_objects=32,release_rate=0.5,aggressive_decommit=true,heap_limit_mb=64,"
        "max_total_thread_cache_bytes=2MiB"
    )
    assert environment(chosen) == {
        "TCMALLOC_TRANSFER_NUM_OBJ": "32",
        "TCMALLOC_RELEASE_RATE": "0.5",
        "TCMALLOC_AGGRESSIVE_DECOMMIT": "1",
        "TCMALLOC_HEAP_LIMIT_MB": "64",
        "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES": "2097152",
    }


@pytest.mark.parametrize(
    ("library", "model"),
    [("2.10", "2.10"), ("2.17.2", "2.17"), ("2.18.1", "2.18"), ("2.19", "2.18"), ("3.0", "2.18")],
)
def test_a_library_is_held_against_the_model_of_its_release_or_the_newest(library, model):
    assert modelled_release(library) == model


def test_a_library_older_than_the_model_is_refused():
    with pytest.raises(AllocatorError, match=r"this library is gperftools 2\.9\.1; the model knows 2\.10"):
        modelled_release("2.9.1")
