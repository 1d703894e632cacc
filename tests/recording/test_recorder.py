"""Real programs, recorded as a user records them; what comes out is read with the checks of every reader."""

from __future__ import annotations

import heapq
import os
import re
import resource
import signal
import subprocess
import sys
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
from support import HARNESS, harness

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC, THREAD_END
from harness.trace import TraceReader


def sizes(path):
    return rows(path)[0]["size"].tolist()


# ---- What is seen -----------------------------------------------------------------------------------


def test_every_entry_point_gives_its_row(build, tmp_path):
    record(tmp_path, build("entry_points.cpp", "-Wno-all"))
    columns, _ = rows(tmp_path / "out.parquet")
    first, last = (int(np.flatnonzero(columns["size"] == mark)[0]) for mark in (1_000_001, 1_000_002))
    seen = [
        (int(columns["op"][row]), int(columns["size"][row]), int(columns["alignment"][row]))
        for row in range(first + 2, last)
    ]
    page = resource.getpagesize()
    freed = (FREE, 0, 0)
    assert seen == [
        *[(ALLOC, 101, 0), (REALLOC, 1021, 0), (REALLOC, 2050, 0), freed],
        *[(ALLOC, 103, 0), freed],
        *[(ALLOC, 104, 0), freed],
        *[(CALLOC, 105, 0), freed],
        *[(ALLOC, 106, 64), freed],
        *[(ALLOC, 512, 256), freed],
        *[(ALLOC, 107, 32), freed],
        *[(ALLOC, 108, page), freed],
        *[(ALLOC, 109, page), freed],
        *[(ALLOC, 0, 0), freed],
        *[(ALLOC, 110, 0), freed],
        *[(ALLOC, 111, 0), freed],
        *[(ALLOC, 112, 0), freed],
        *[(ALLOC, 113, 0), freed],
        *[(ALLOC, 256, 128), freed],
    ]


def test_the_trace_says_what_was_recorded_and_begins_near_zero(build, tmp_path):
    record(tmp_path, build("churn.c"), "1000")
    source = TraceReader(str(tmp_path / "out.parquet")).metadata["source"]
    assert source["program"] == "churn"
    assert source["arguments"] == ["1000"]
    assert source["recorder"].startswith("harness record ")
    assert source["page_bytes"] == resource.getpagesize()
    times = rows(tmp_path / "out.parquet")[0]["time_ns"]
    assert 0 <= times[0] < 1_000_000_000
    assert times[-1] > times[0]


def test_events_carry_the_sizes_that_the_program_asked_for(build, tmp_path):
    record(tmp_path, build("churn.c"), "20000")
    asked = []
    state = 1
    for _ in range(10_000):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        asked.append(16 + (state >> 40) % 256)
    columns, _ = rows(tmp_path / "out.parquet")
    assert columns["size"][columns["op"] == ALLOC].tolist()[-10_000:] == asked


def test_one_line_sums_up_and_quiet_leaves_it_out(build, tmp_path):
    done = record(tmp_path, build("churn.c"), "1000")
    summary = r"harness: \S+: [\d,]+ events, 1 thread, [\d,]+ bytes, [\d.]+ bytes/event\n"
    assert re.fullmatch(summary, done.stderr)
    assert record(tmp_path, build("churn.c"), "1000", options=["--quiet"]).stderr == ""
    assert not list(tmp_path.glob("*.raw"))


def test_an_object_gets_the_lowest_slot_that_is_free(build, tmp_path):
    record(tmp_path, build("churn.c"), "200000")
    columns, _ = rows(tmp_path / "out.parquet")
    free, taken = [], 0
    for op, slot in zip(columns["op"].tolist(), columns["object"].tolist(), strict=True):
        if op == FREE:
            heapq.heappush(free, slot)
        elif op in (ALLOC, CALLOC):
            lowest = heapq.heappop(free) if free else taken
            taken = max(taken, slot + 1)
            assert slot == lowest
    assert taken > 50_000  # Enough for a third level of the tree of free slots.


# ---- Threads ----------------------------------------------------------------------------------------


def check_handover(build, tmp_path, events_per_thread):
    done = record(tmp_path, build("handover.c"), "4", str(events_per_thread))
    # rows() fails on a double free, a free of the unknown and an allocation over a live object.
    columns, totals = rows(tmp_path / "out.parquet")
    assert LOST_ORDER not in done.stderr
    assert totals["threads"] == 5
    assert totals["thread_ends"] == 4
    assert totals["remote_frees"] > 0
    assert totals["reallocations"] > 0
    # Everything but what the main thread's libraries keep is freed.
    assert totals["end_live_objects"] < 20
    assert (np.diff(columns["time_ns"]) >= 0).all()
    return totals


def test_four_threads_that_free_each_others_objects_are_in_true_order(build, tmp_path):
    check_handover(build, tmp_path, 50_000)


@pytest.mark.slow
def test_ten_million_events_of_four_threads_are_in_true_order(build, tmp_path):
    totals = check_handover(build, tmp_path, 2_700_000)
    assert totals["events"] >= 10_000_000


def test_no_free_of_a_recorded_object_is_lost(build, tmp_path):
    conversion = record_raw(build("handover.c"), tmp_path)
    while conversion.take(1 << 16, True) is not None:
        pass
    counts = conversion.counts()
    assert counts["unseen_frees"] == counts["lost_records"] == counts["unknown_reallocations"] == 0
    assert counts["unknown_frees"] == 0


def record_raw(program, folder, *arguments):
    """Run a program under the library alone; returns the conversion of its raw file."""
    from harness.recording._recording import Conversion
    from harness.recording.recorder import LIBRARY

    output = folder / "alone.parquet"
    environment = os.environ | {"LD_PRELOAD": str(LIBRARY), "HARNESS_RECORD_OUTPUT": str(output)}
    subprocess.run([program, *arguments], env=environment, check=True)
    raw = f"{output}.raw"
    return Conversion(os.fsencode(raw))


def test_a_thread_ends_once_and_what_it_frees_afterwards_starts_no_lasting_thread(build, tmp_path):
    record(tmp_path, build("thread_ends.c"), "50")
    columns, totals = rows(tmp_path / "out.parquet")
    assert len(set(columns["thread"].tolist())) == 51
    last_of_thread = {}
    for op, thread in zip(columns["op"].tolist(), columns["thread"].tolist(), strict=True):
        last_of_thread[thread] = op
    assert [thread for thread, op in last_of_thread.items() if op != THREAD_END] == [0]
    # 40 objects of the keys, and those of the destructors, which are freed in the next round.
    allocations = np.flatnonzero((columns["op"] == ALLOC) & (columns["size"] == 40))
    assert len(allocations) > 50
    assert totals["end_live_objects"] < 50 * 5


# ---- Signals ----------------------------------------------------------------------------------------


def test_a_signal_handler_may_allocate_at_any_point(build, tmp_path):
    bump = build("bump.c", "-shared", "-fPIC", "-fno-builtin", name="libbump.so")
    signals = build("signals.c", bump)
    done = record(tmp_path, signals, "2000")
    columns, _ = rows(tmp_path / "out.parquet")
    ops = [columns["op"][columns["size"] == size] for size in (48, 96)]
    assert len(ops[0]) >= 2000
    assert len(ops[1]) >= 2000
    assert (ops[1] == REALLOC).all()
    assert LOST_ORDER not in done.stderr


def test_errno_is_left_alone(build, tmp_path):
    record(tmp_path, build("keeps_errno.c"))


# ---- Children ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fork", "clone"])
def test_a_forked_child_leaves_its_parents_trace_alone(build, tmp_path, way):
    record(tmp_path, build("children.c"), way)
    seen = sizes(tmp_path / "out.parquet")
    assert seen.count(1111) == 100
    assert seen.count(2222) == 0
    assert traces_in(tmp_path) == [tmp_path / "out.parquet"]


@pytest.mark.parametrize("way", ["vfork", "spawn", "exec"])
def test_an_executed_image_is_not_recorded_unless_followed(build, tmp_path, way):
    record(tmp_path, build("children.c"), way)
    seen = sizes(tmp_path / "out.parquet")
    assert seen.count(1111) == 100
    assert seen.count(4444) == 0
    assert traces_in(tmp_path) == [tmp_path / "out.parquet"]


@pytest.mark.parametrize("way", ["fork", "clone"])
def test_a_followed_child_begins_with_what_it_inherited(build, tmp_path, way):
    record(tmp_path, build("children.c"), way, options=["--follow-fork"])
    child, parent = traces_in(tmp_path)
    assert re.fullmatch(r"out\.\d+\.parquet", child.name)
    assert sizes(parent).count(2222) == 0
    columns, _ = rows(child)
    seen = columns["size"].tolist()
    assert seen.count(2222) == 100
    assert seen.count(1111) == 0
    # The object from before the fork is there, and the child's free of it finds it.
    inherited = columns["object"][seen.index(3333)]
    frees = columns["object"][columns["op"] == FREE]
    assert inherited in frees
    assert seen.index(3333) < seen.index(2222)
    assert not list(tmp_path.glob("*.raw"))


@pytest.mark.parametrize("way", ["vfork", "spawn", "exec"])
def test_a_followed_image_has_a_trace_of_its_own(build, tmp_path, way):
    record(tmp_path, build("children.c"), way, options=["--follow-fork"])
    image, parent = traces_in(tmp_path)
    assert sizes(parent).count(1111) == 100
    assert sizes(image).count(4444) == 100
    assert sizes(image).count(3333) == 0
    assert TraceReader(str(image)).metadata["source"]["arguments"] == ["executed"]


def test_a_child_that_outlives_the_program_is_recovered_later(tmp_path):
    script = "sleep 1.5 > /dev/null 2>&1 &"
    done = record(tmp_path, "sh", "-c", script, options=["--follow-fork"])
    (left,) = re.findall(r"--recover (\S+\.raw)`", done.stderr)
    assert TraceReader(str(tmp_path / "out.parquet")).events > 0
    pid = int(Path(left).name.split(".")[1])
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    assert harness("record", "--recover", left).returncode == 0
    assert rows(left.removesuffix(".raw"))[1]["events"] > 0
    assert not os.path.exists(left)


def test_children_do_not_see_the_recorders_variables(tmp_path):
    done = record(tmp_path, "sh", "-c", "env", env=os.environ | {"LD_PRELOAD": ""})
    assert "HARNESS_RECORD" not in done.stdout
    assert "libharness_record" not in done.stdout


def test_what_was_preloaded_before_stays_preloaded(build, tmp_path):
    bump = build("bump.c", "-shared", "-fPIC", "-fno-builtin", name="libbump.so")
    script = f'LD_PRELOAD={bump} exec "$@"'
    command = [*HARNESS, "record", "-o", "out.parquet", "--", "sh", "-c", "echo $LD_PRELOAD"]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == bump


# ---- Ends -------------------------------------------------------------------------------------------


def test_output_and_exit_status_pass_through(tmp_path):
    done = record(
        tmp_path,
        *["sh", "-c", "cat; echo out; echo err >&2; exit 7"],
        options=["--quiet"],
        status=7,
        input="in\n",
    )
    assert done.stdout == "in\nout\n"
    assert done.stderr == "err\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_a_program_that_dies_of_a_signal_is_converted_and_followed_into_death(tmp_path, number):
    record(tmp_path, "sh", "-c", f"kill -{number.value} $$", status=-number)
    rows(tmp_path / "out.parquet")


def test_what_a_killed_program_did_until_then_is_a_valid_trace(build, tmp_path):
    recorder = start(tmp_path, build("handover.c"), *ENDLESS)
    program = program_of(recorder)
    wait_for(lambda: raw_bytes(tmp_path / "out.parquet.raw") > 3 << 20)
    os.kill(program, signal.SIGKILL)
    _, errors = recorder.communicate()
    assert recorder.returncode == -signal.SIGKILL
    assert LOST_ORDER not in errors
    assert rows(tmp_path / "out.parquet")[1]["events"] > 50_000


def test_a_recording_whose_harness_was_killed_is_recovered(build, tmp_path):
    recorder = start(tmp_path, build("handover.c"), *ENDLESS)
    program = program_of(recorder)
    raw = tmp_path / "out.parquet.raw"
    wait_for(lambda: raw_bytes(raw) > 3 << 20)
    recorder.kill()
    recorder.wait()
    os.kill(program, signal.SIGKILL)
    recorder.communicate()  # The program held standard error open.
    assert not (tmp_path / "out.parquet").exists()
    done = harness("record", "--recover", str(raw))
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "out.parquet")[1]["events"] > 50_000
    assert not raw.exists()


def test_an_interrupted_recording_is_not_overwritten(build, tmp_path):
    (tmp_path / "out.parquet.raw").write_bytes(b"kept")
    done = record(tmp_path, build("churn.c"), "10", status=2)
    assert "--recover" in done.stderr
    assert (tmp_path / "out.parquet.raw").read_bytes() == b"kept"


def test_sigterm_goes_to_the_program_and_the_trace_is_written(build, tmp_path):
    recorder = start(tmp_path, build("churn.c"), "100000000")
    program_of(recorder)
    wait_for(lambda: raw_bytes(tmp_path / "out.parquet.raw") > 1 << 20)
    recorder.terminate()
    recorder.communicate()
    assert recorder.returncode == -signal.SIGTERM
    rows(tmp_path / "out.parquet")


def test_an_interrupt_from_the_terminal_ends_the_program_and_not_the_recorder(build, tmp_path):
    recorder = start(tmp_path, build("churn.c"), "100000000", process_group=0)
    program_of(recorder)
    wait_for(lambda: raw_bytes(tmp_path / "out.parquet.raw") > 1 << 20)
    os.killpg(recorder.pid, signal.SIGINT)
    recorder.communicate()
    assert recorder.returncode == -signal.SIGINT
    rows(tmp_path / "out.parquet")


# ---- Limits -----------------------------------------------------------------------------------------


def test_a_file_size_limit_ends_the_recording_and_not_the_program(build, tmp_path):
    limit = 4 << 20
    churn = build("churn.c")
    program = f'ulimit -f {limit // 512}; exec "$0" "$@"'
    done = record(tmp_path, "sh", "-c", program, churn, "1000000", options=["--follow-fork"])
    assert "recording stopped before the program did: the limit of the file size" in done.stderr
    recorded = max(rows(trace)[1]["events"] for trace in traces_in(tmp_path))
    assert 100_000 < recorded < limit // 24


def test_a_limited_address_space_is_left_to_the_program(build, tmp_path):
    churn = build("churn.c")
    program = 'ulimit -v 262144; exec "$0" "$@"'
    record(tmp_path, "sh", "-c", program, churn, "300000", options=["--follow-fork"])
    assert max(rows(trace)[1]["events"] for trace in traces_in(tmp_path)) > 230_000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_recording_and_leaves_room_for_the_trace(build, small_disk):
    done = record(small_disk, build("churn.c"), "3000000")
    assert "recording stopped before the program did: the disk was full" in done.stderr
    assert 300_000 < rows(small_disk / "out.parquet")[1]["events"] < 1_000_000


def test_a_trace_that_cannot_be_written_leaves_the_recording_to_recover(build, tmp_path, small_disk):
    record_raw(build("churn.c"), tmp_path, "1000000")
    (small_disk / "filler").write_bytes(bytes(23 << 20))
    raw = tmp_path / "alone.parquet.raw"
    done = harness("record", "--recover", str(raw), "-o", str(small_disk / "out.parquet"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr
    assert f"--recover {raw}" in done.stderr
    assert os.listdir(small_disk) == ["filler"]
    assert harness("record", "--recover", str(raw)).returncode == 0


def test_a_program_that_closes_every_file_is_recorded_to_its_end(build, tmp_path):
    done = record(tmp_path, build("closes_files.c"))
    assert "warning" not in done.stderr
    assert rows(tmp_path / "out.parquet")[1]["frees"] >= 500_000


# ---- What cannot be recorded ------------------------------------------------------------------------


def refused(folder, program, *words):
    done = record(folder, program, status=2)
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert not list(folder.glob("out*"))


def test_a_static_program_is_refused(build, tmp_path):
    refused(tmp_path, build("churn.c", "-static", name="static_churn"), "statically linked")
    refused(tmp_path, build("churn.c", "-static-pie", name="static_pie"), "statically linked")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_set_user_id_program_is_refused(build, tmp_path):
    program = tmp_path / "elevated"
    program.write_bytes(Path(build("churn.c")).read_bytes())
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    refused(tmp_path, str(program), "set-user-ID")


def test_a_missing_program_is_refused(tmp_path):
    refused(tmp_path, "no-such-program", "no such program on the PATH")
    refused(tmp_path, str(tmp_path / "missing"), "no such program")


def test_a_file_that_cannot_be_executed_is_refused(tmp_path):
    text = tmp_path / "text"
    text.write_text("hello\n")
    refused(tmp_path, str(text), "not an executable file")
    text.chmod(0o755)
    refused(tmp_path, str(text), "neither an ELF program nor a script")


def test_a_32_bit_program_is_refused(build, tmp_path):
    image = bytearray(Path(build("churn.c")).read_bytes())
    image[4] = 1  # EI_CLASS: ELFCLASS32.
    program = tmp_path / "small"
    program.write_bytes(image)
    program.chmod(0o755)
    refused(tmp_path, str(program), "32-bit")


def test_a_folder_that_does_not_exist_is_said_before_anything_runs(tmp_path):
    marker = tmp_path / "ran"
    done = harness("record", "-o", str(tmp_path / "missing" / "out.parquet"), "--", "touch", str(marker))
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert not marker.exists()


def test_a_program_with_an_allocator_of_its_own_is_said_to_have_one(tmp_path):
    # It allocates nothing that could be seen.
    source = tmp_path / "silent.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", str(source), "-o", str(tmp_path / "silent")], check=True)
    refused(tmp_path, str(tmp_path / "silent"), "no allocation was seen")


@pytest.mark.parametrize("first_line", ["#!{python}", "#!/usr/bin/env {python}"])
def test_a_script_is_recorded_as_its_interpreter(tmp_path, first_line):
    script = tmp_path / "script"
    script.write_text(first_line.format(python=sys.executable) + "\nx = bytearray(7654321)\nprint('ran')\n")
    script.chmod(0o755)
    done = record(tmp_path, str(script))
    assert done.stdout == "ran\n"
    assert 7654322 in sizes(tmp_path / "out.parquet")


def test_what_is_no_raw_file_is_not_recovered(tmp_path):
    (tmp_path / "noise.raw").write_bytes(b"noise" * 3000)
    done = harness("record", "--recover", str(tmp_path / "noise.raw"))
    assert done.returncode == 2
    assert "is no raw file" in done.stderr
    assert (tmp_path / "noise.raw").exists()
