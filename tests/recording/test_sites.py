"""Recordings with --sites: which function, on which line, asked for each object of real programs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from recording_support import (
    ENDLESS,
    LOST_ORDER,
    program_of,
    raw_bytes,
    record,
    rows,
    start,
    traces_in,
    wait_for,
)
from support import harness

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC, THREAD_END
from harness.sites import Frame, decode
from harness.trace import TraceReader

SOURCES = Path(__file__).parent / "programs"


def record_sites(folder, *command, options=(), **keywords):
    return record(folder, *command, options=["--sites", *options], **keywords)


class Stacks:
    """The stacks of a trace's allocations, by the size that was asked for."""

    def __init__(self, path):
        reader = TraceReader(str(path))
        self.sites = decode(reader.sites, str(path))
        batches = list(reader.raw_batches(columns=["op", "size", "site"]))
        self.op, self.size, self.site = (
            np.concatenate([batch[name] for batch in batches]) for name in ("op", "size", "site")
        )
        rows(path)

    def of(self, size, op=None):
        """The distinct stacks that asked for `size` bytes."""
        chosen = self.size == size if op is None else (self.size == size) & (self.op == op)
        assert chosen.any(), f"nobody asked for {size} bytes"
        return [self.sites.stack(site) for site in np.unique(self.site[chosen]).tolist()]

    def one(self, size, op=None):
        (stack,) = self.of(size, op)
        return stack


def need(tool, package):
    if shutil.which(tool) is None:
        message = f"{tool} is missing: apt-get install {package}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)


def functions(stack):
    return [frame.function.split("(")[0] for frame in stack]


def line_of(source, mark):
    lines = (SOURCES / source).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"// LINE {mark}"))


def at(function, mark):
    return function, "lines.cpp", line_of("lines.cpp", mark)


def places(stack):
    return [
        (frame.function.split("(")[0], os.path.basename(frame.file), frame.line)
        for frame in stack
        if frame.file is not None
    ]


# ---- Names and lines --------------------------------------------------------------------------------


@pytest.fixture(params=["-O0", "-O2", "-O3 -fno-omit-frame-pointer", "-O2 -no-pie -fno-pie"])
def with_lines(request, build, tmp_path):
    """Record lines.cpp with debug information."""
    options = request.param.split()
    program = build("lines.cpp", "-g", *options, name="lines" + "".join(options))
    record_sites(tmp_path, program)
    return Stacks(tmp_path / "out.parquet")


def test_functions_and_lines_are_found_from_the_innermost_out(with_lines):
    assert places(with_lines.one(10001))[0] == at("direct", "direct")
    assert functions(with_lines.one(10001))[:2] == ["direct", "main"]


def test_an_inlined_function_is_a_frame_of_its_own(with_lines):
    expected = [at("inlined", "inlined"), at("outer", "outer")]
    found = places(with_lines.one(10002))[:2]
    assert [place[1:] for place in found] == [place[1:] for place in expected]
    # addr2line calls what was inlined by the name of the function that it was inlined into.
    need("llvm-symbolizer", "llvm")
    assert found == expected


def test_a_container_leads_to_the_line_that_fills_it(with_lines):
    stack = with_lines.one(10003)
    assert functions(stack)[0] == "operator new"
    assert at("shop::Basket::fill", "fill") in places(stack)
    assert stack[0].module.startswith("libstdc++")


def test_a_reallocation_has_the_site_of_its_own_call(with_lines):
    assert places(with_lines.one(20004, REALLOC))[0] == at("grow", "grow")


def test_two_calls_of_one_function_from_one_frame_are_two_lines(with_lines):
    assert at("twice", "first") in places(with_lines.one(10007))
    assert at("twice", "second") in places(with_lines.one(10008))


def test_recursion_shows_every_level(with_lines):
    assert places(with_lines.one(10005))[:5] == [
        at("dive", "bottom"),
        *[at("dive", "dive")] * 3,
        places(with_lines.one(10005))[4],
    ]
    assert functions(with_lines.one(10005))[4] == "main"


def test_a_frame_that_was_aligned_anew_has_its_caller(with_lines):
    assert places(with_lines.one(10006))[0] == at("aligned_anew", "aligned")
    assert functions(with_lines.one(10006))[:2] == ["aligned_anew", "main"]


def test_no_frame_of_the_recorder_is_on_a_stack_and_the_last_one_is_the_start(with_lines):
    for size in (10001, 10002, 10003, 10005, 10006):
        stack = with_lines.one(size)
        assert stack[-1].function == "_start"
        assert not any("harness" in (frame.module or "") for frame in stack)


def test_without_debug_information_functions_have_their_names(build, tmp_path):
    record_sites(tmp_path, build("lines.cpp", "-O1", name="no_lines"))
    stacks = Stacks(tmp_path / "out.parquet")
    assert stacks.one(10001)[0] == Frame("direct()", None, None, "no_lines")
    assert functions(stacks.one(10002))[0] == "outer"
    assert "shop::Basket::fill" in functions(stacks.one(10003))


def test_a_stripped_program_has_module_and_offset_and_exported_names(build, tmp_path):
    record_sites(tmp_path, build("lines.cpp", "-s", name="stripped"))
    stacks = Stacks(tmp_path / "out.parquet")
    (frame, *_) = stacks.one(10001)
    assert re.fullmatch(r"stripped\+0x[0-9a-f]+", frame.function)
    assert frame.file is None
    # libstdc++'s own table of exported names is still there.
    assert stacks.one(10003)[0].function == "operator new(unsigned long)"
    assert len(stacks.one(10005)) >= 6


def test_debug_information_in_a_separate_file_is_found(build, tmp_path):
    whole = build("lines.cpp", "-g", name="whole")
    program, debug = tmp_path / "split", tmp_path / "split.debug"
    subprocess.run(["objcopy", "--only-keep-debug", whole, str(debug)], check=True)
    subprocess.run(
        ["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", whole, str(program)], check=True
    )
    record_sites(tmp_path, str(program))
    assert places(Stacks(tmp_path / "out.parquet").one(10001))[0] == at("direct", "direct")


@pytest.mark.parametrize("tool", ["addr2line", "llvm-symbolizer", None])
def test_any_tool_gives_lines_and_none_is_a_warning(build, tmp_path, tool):
    program = build("lines.cpp", "-g", "-O2", name="lines-O2")
    if tool is not None:
        need(tool, {"addr2line": "binutils", "llvm-symbolizer": "llvm"}[tool])
    folder = tmp_path / "bin"
    folder.mkdir()
    if tool is not None:
        (folder / tool).symlink_to(shutil.which(tool))
    done = record_sites(tmp_path, program, env=os.environ | {"PATH": str(folder)})
    stacks = Stacks(tmp_path / "out.parquet")
    assert functions(stacks.one(10001))[0] == "direct"
    if tool is None:
        assert "lines are missing" in done.stderr
        assert "apt-get install binutils" in done.stderr
        assert stacks.one(10001)[0].file is None
    else:
        assert "warning" not in done.stderr
        assert places(stacks.one(10001))[0] == at("direct", "direct")
        assert [place[2] for place in places(stacks.one(10002))[:2]] == [
            line_of("lines.cpp", "inlined"),
            line_of("lines.cpp", "outer"),
        ]


def test_a_program_that_was_replaced_meanwhile_gets_no_wrong_names(build, tmp_path):
    program, other = tmp_path / "program", build("churn.c")
    shutil.copy(build("lines.cpp", "-g", "-O2", name="lines-O2"), program)
    done = record_sites(tmp_path, "sh", "-c", f"{program}; cp {other} {program}", options=["--follow-fork"])
    assert "is not the file that was recorded any more" in done.stderr
    (trace,) = [trace for trace in traces_in(tmp_path) if 10001 in rows(trace)[0]["size"]]
    assert re.fullmatch(r"program\+0x[0-9a-f]+", Stacks(trace).one(10001)[0].function)


# ---- The stacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 5, 128])
def test_deep_recursion_is_cut_where_it_was_asked_to_be(build, tmp_path, frames):
    program = build("lines.cpp", "-g", "-O2", name="lines-O2")
    record_sites(tmp_path, program, "100000", options=["--frames", str(frames)])
    assert functions(Stacks(tmp_path / "out.parquet").one(10005)) == ["dive"] * frames


def test_libraries_that_come_to_stand_where_another_one_stood_keep_their_names(build, tmp_path):
    for number, name in enumerate(("apple", "berry")):
        flags = ["-shared", "-fPIC", f"-DNAME={name}", f"-DBYTES={10101 + number}"]
        built = build("plugin.c", *flags, name=f"lib{name}.so")
        shutil.copy(built, tmp_path)
    program = build("loads.c")
    # The second path is relative: the name is completed while the program still stands in its folder.
    record_sites(tmp_path, program, str(tmp_path / "libapple.so"), "./libberry.so", cwd=tmp_path)
    stacks = Stacks(tmp_path / "out.parquet")
    assert {tuple(functions(stack)[:3]) for stack in stacks.of(10101)} == {
        ("allocate_in_apple", "enter", "main")
    }
    assert {tuple(functions(stack)[:3]) for stack in stacks.of(10102)} == {
        ("allocate_in_berry", "enter", "main")
    }
    assert {stack[0].module for stack in stacks.of(10102)} == {"libberry.so"}
    # Wherever a library stood, its stacks are the same site, one for each of the two calls.
    assert len(stacks.of(10101)) == 2


def test_code_without_tables_ends_the_stack_and_not_the_program(build, tmp_path):
    record_sites(tmp_path, build("no_tables.c"))
    stacks = Stacks(tmp_path / "out.parquet")
    assert functions(stacks.one(10011)) == ["untabled"]
    assert functions(stacks.one(10012)) == ["liar"]
    (made_at_run_time,) = stacks.one(10013)
    assert re.fullmatch(r"0x[0-9a-f]+", made_at_run_time.function)


def test_a_handler_on_its_own_stack_leads_to_what_was_interrupted(build, tmp_path):
    record_sites(tmp_path, build("handler_stack.c"))
    found = functions(Stacks(tmp_path / "out.parquet").one(10021))
    assert found[:4] == ["in_handler", "leave", "interrupted", "main"]


def test_each_thread_has_its_own_stacks_and_all_share_the_rest(build, tmp_path):
    done = record_sites(tmp_path, build("site_threads.c"), "8", "5000")
    assert LOST_ORDER not in done.stderr
    stacks = Stacks(tmp_path / "out.parquet")
    for thread in range(8):
        assert functions(stacks.one(20000 + thread))[:2] == [f"own_{thread}", "run"]
    for depth in range(20):
        assert functions(stacks.one(30000 + depth)) == [
            *("shared", *["deep"] * (depth + 1), "run"),
            *functions(stacks.one(30000 + depth))[depth + 3 :],
        ]
    # Two hundred stacks and some of the C library's, however many threads found them at once.
    assert len(stacks.sites) < 100


def test_a_thread_with_the_smallest_stack_is_recorded_too(build, tmp_path):
    record_sites(tmp_path, build("small_stack.c"))
    assert functions(Stacks(tmp_path / "out.parquet").one(10031))[:2] == ["on_small_stack", "run"]


def test_only_what_allocates_has_a_site(build, tmp_path):
    record_sites(tmp_path, build("thread_ends.c"), "20")
    stacks = Stacks(tmp_path / "out.parquet")
    allocates = np.isin(stacks.op, (ALLOC, CALLOC, REALLOC))
    assert (stacks.site[np.isin(stacks.op, (FREE, THREAD_END))] == 0).all()
    assert (stacks.site[allocates] != 0).all()
    assert stacks.sites.stack(0) == ()


# ---- What the recorder promises -----------------------------------------------------------------------


def test_a_signal_handler_may_allocate_at_any_point(build, tmp_path):
    bump = build("bump.c", "-shared", "-fPIC", "-fno-builtin", name="libbump.so")
    done = record_sites(tmp_path, build("signals.c", bump), "2000")
    stacks = Stacks(tmp_path / "out.parquet")
    assert LOST_ORDER not in done.stderr
    assert {functions(stack)[0] for stack in stacks.of(48)} == {"handle"}
    # Wherever it was interrupted, be it in the recorder or in the allocator, the walk goes on.
    last = [functions(stack)[-1] for stack in stacks.of(48)]
    assert last.count("_start") > 0.9 * len(last)


def test_four_threads_that_free_each_others_objects_are_in_true_order(build, tmp_path):
    done = record_sites(tmp_path, build("handover.c"), "4", "50000")
    columns, totals = rows(tmp_path / "out.parquet")
    assert LOST_ORDER not in done.stderr
    assert totals["remote_frees"] > 0
    assert (np.diff(columns["time_ns"]) >= 0).all()


def test_with_sites_the_events_are_what_they_are_without(build, tmp_path):
    record(tmp_path, build("churn.c"), "20000")
    plain, _ = rows(tmp_path / "out.parquet")
    record_sites(tmp_path, build("churn.c"), "20000")
    with_sites, _ = rows(tmp_path / "out.parquet")
    for name in ("op", "thread", "object", "size", "alignment"):
        assert (plain[name] == with_sites[name]).all()


@pytest.mark.parametrize("way", ["fork", "clone"])
def test_a_followed_child_has_the_sites_of_what_it_inherited(build, tmp_path, way):
    record_sites(tmp_path, build("children.c"), way, options=["--follow-fork"])
    child, parent = traces_in(tmp_path)
    stacks = Stacks(child)
    assert functions(stacks.one(3333))[0] == "main"
    assert functions(stacks.one(2222))[:2] == ["allocate", "main"]
    assert functions(Stacks(parent).one(1111))[:2] == ["allocate", "main"]


@pytest.mark.parametrize("way", ["vfork", "spawn", "exec"])
def test_a_followed_image_has_sites_of_its_own(build, tmp_path, way):
    record_sites(tmp_path, build("children.c"), way, options=["--follow-fork"])
    image, _ = traces_in(tmp_path)
    assert functions(Stacks(image).one(4444))[:2] == ["allocate", "main"]


def test_threads_that_fork_while_others_find_new_stacks_leave_no_child_hanging(build, tmp_path):
    program = build("forks_in_threads.c")
    record_sites(tmp_path, program, "60", options=["--follow-fork"], timeout=120)
    children = [trace for trace in traces_in(tmp_path) if trace.name != "out.parquet"]
    assert len(children) == 60
    for child in children[::10]:
        assert functions(Stacks(child).one(5151))[:2] == ["in_child", "main"]


def test_what_a_killed_program_did_until_then_has_its_sites(build, tmp_path):
    recorder = start(tmp_path, build("site_threads.c"), "4", "100000000", options=["--sites"])
    program = program_of(recorder)
    wait_for(lambda: raw_bytes(tmp_path / "out.parquet.raw") > 3 << 20)
    os.kill(program, signal.SIGKILL)
    _, errors = recorder.communicate()
    assert recorder.returncode == -signal.SIGKILL
    assert LOST_ORDER not in errors
    assert functions(Stacks(tmp_path / "out.parquet").of(20001)[0])[0] == "own_1"


def test_a_recording_whose_harness_was_killed_is_recovered_with_its_sites(build, tmp_path):
    recorder = start(tmp_path, build("handover.c"), *ENDLESS, options=["--sites"])
    raw = tmp_path / "out.parquet.raw"
    program = program_of(recorder)
    wait_for(lambda: raw_bytes(raw) > 3 << 20)
    recorder.kill()
    recorder.wait()
    os.kill(program, signal.SIGKILL)
    recorder.communicate()
    done = harness("record", "--recover", str(raw))
    assert done.returncode == 0, done.stderr
    stacks = Stacks(tmp_path / "out.parquet")
    assert (stacks.site[np.isin(stacks.op, (ALLOC, CALLOC, REALLOC))] != 0).all()


def test_more_stacks_than_the_table_holds_are_still_one_site_each(build, tmp_path):
    # An address space so small that the table of known stacks is halved again and again.
    program = 'ulimit -v 100000; exec "$0" "$@"'
    record_sites(
        tmp_path, "sh", "-c", program, build("site_threads.c"), "1", "2000", options=["--follow-fork"]
    )
    (trace,) = [trace for trace in traces_in(tmp_path) if 30000 in rows(trace)[0]["size"]]
    assert functions(Stacks(trace).one(30000))[:2] == ["shared", "deep"]


# ---- The command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", ["0", "129"])
def test_a_number_of_frames_that_cannot_be_is_one_line(build, tmp_path, frames):
    done = record_sites(tmp_path, build("churn.c"), "10", options=["--frames", frames], status=2)
    assert done.stderr.count("\n") == 1
    assert f"--frames: found {frames}, expected 1 to 128" in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_frames_without_sites_are_refused(build, tmp_path):
    done = record(tmp_path, build("churn.c"), "10", options=["--frames", "5"], status=2)
    assert "--frames goes with --sites" in done.stderr


def test_children_do_not_see_the_recorders_variables(tmp_path):
    done = record_sites(tmp_path, "sh", "-c", "env")
    assert "HARNESS_RECORD" not in done.stdout


def test_without_sites_a_trace_has_none(build, tmp_path):
    record(tmp_path, build("churn.c"), "100")
    reader = TraceReader(str(tmp_path / "out.parquet"))
    assert reader.sites is None
    assert "site" not in reader.columns
