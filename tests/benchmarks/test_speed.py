"""Nanoseconds an event of everything that has to be fast; test_replay_speed.py holds what must not get lost.

conftest.py prints the figures as tables. `python tests/benchmarks/suite.py` measures ten million live
objects, too.
"""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks import turns
from benchmarks.bare import Bare, write_events
from benchmarks.canonical import FULL, NO_STOPS, Canonical
from benchmarks.figures import GLIBC, REAL_TCMALLOC
from python_ideal import PythonIdeal
from support import HARNESS

from harness.allocator import find
from harness.replay import replay
from harness.trace import BATCH_EVENTS, COLUMNS, RowChecker, TraceReader

pytestmark = pytest.mark.slow

MODELS = ("ideal", "tcmalloc", "go")
ONE_THREAD = [Canonical(live) for live in (1_000, 100_000, 1_000_000)]
if os.environ.get(FULL):
    ONE_THREAD.append(Canonical(10_000_000))
EIGHT_THREADS = Canonical(100_000, threads=8, remote_free=0.2)
# The same trace for all that is done before and after an allocator's work, so that the parts can be added up.
WHOLE = Canonical(100_000)
# Nothing but the mallocs themselves: their memory stays within the cache.
RECORDED = Canonical(1_000)

CLOCK = turns.Clock()

# What the replay reads of a file.
REPLAYED_COLUMNS = [name for name in COLUMNS if name != "site"]


def name_of(trace):
    return f"{trace.live}-live-{trace.threads}-threads"


@pytest.fixture(scope="module")
def trace(request):
    return request.param


@pytest.fixture(scope="module")
def batches(trace):
    return trace.batches()


@pytest.fixture(scope="module")
def seconds_by_allocator(trace, batches, bare_tcmalloc, bare_glibc, rounds, tmp_path_factory):
    allocators = {model: turns.of_model(model, batches) for model in MODELS}
    if trace.threads > 1:
        return turns.take(allocators, rounds)
    events = write_events(tmp_path_factory.mktemp("events") / "events", batches)
    allocators |= {
        REAL_TCMALLOC: turns.of_real(bare_tcmalloc, events),
        GLIBC: turns.of_real(bare_glibc, events),
    }
    seconds = turns.take(allocators, rounds)
    events.unlink()
    return seconds


@pytest.fixture
def measure_turns(measure, trace, seconds_by_allocator):
    def measured(allocator):
        seconds = iter(seconds_by_allocator[allocator])
        measure(lambda: CLOCK.let_pass(next(seconds)), trace, allocator=allocator, threads=trace.threads)

    return measured


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("trace", [*ONE_THREAD, EIGHT_THREADS], indirect=True, ids=name_of)
@pytest.mark.parametrize("model", MODELS)
def test_model(measure_turns, model):
    measure_turns(model)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("trace", ONE_THREAD, indirect=True, ids=name_of)
@pytest.mark.parametrize("malloc", [REAL_TCMALLOC, GLIBC])
def test_real_malloc(measure_turns, malloc):
    measure_turns(malloc)


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory):
    return str(WHOLE.write(tmp_path_factory.mktemp("trace") / "trace.parquet"))


@pytest.fixture(scope="module")
def raw_batches(trace_file):
    return list(TraceReader(trace_file).raw_batches(columns=REPLAYED_COLUMNS))


def drain(batches):
    for _ in batches:
        pass


def test_pyarrow_decoding(measure, trace_file):
    def decode(file):
        columns = [name for name in REPLAYED_COLUMNS if name in file.schema_arrow.names]
        drain(file.iter_batches(BATCH_EVENTS, columns=columns, use_threads=False))

    measure(
        decode,
        WHOLE,
        setup=lambda: pq.ParquetFile(trace_file),
        work="decode: pyarrow alone, on one core",
        events_each=1,
    )


@pytest.fixture
def arrow_cores(request):
    """How many threads pyarrow may decode on; as many as there are cores, unless told otherwise."""
    usual = pa.cpu_count()
    pa.set_cpu_count(request.param or usual)
    yield request.param
    pa.set_cpu_count(usual)


@pytest.mark.parametrize("arrow_cores", [1, None], indirect=True, ids=["one-core", "all-cores"])
def test_reader(measure, trace_file, arrow_cores):
    measure(
        lambda reader: drain(reader.raw_batches(columns=REPLAYED_COLUMNS)),
        WHOLE,
        setup=lambda: TraceReader(trace_file),
        work=f"decode: the reader of traces, on {'one core' if arrow_cores else 'all cores'}",
        events_each=1,
    )


def test_checking(measure, raw_batches):
    def check(checker):
        for raw in raw_batches:
            checker.check(raw)

    measure(check, WHOLE, setup=lambda: RowChecker("trace"), work="check decoded rows", events_each=1)


def test_replay_of_a_file(measure, trace_file):
    specs = [spec for model in MODELS for spec in find(model)]
    measure(
        lambda: replay(trace_file, specs),
        WHOLE,
        work="replay a file with go, tcmalloc and ideal",
        events_each=1,
    )


def test_backend_in_python(measure, raw_batches):
    checker = RowChecker("trace")
    batches = [checker.check(raw) for raw in raw_batches]

    def replay_batches(allocator):
        for batch in batches:
            allocator.feed(batch, NO_STOPS)

    measure(replay_batches, WHOLE, setup=PythonIdeal, work="replay with a backend in Python", events_each=1)


def test_generating(measure):
    measure(lambda: drain(WHOLE.raw_batches()), WHOLE, work="generate", events_each=1)


def test_generating_a_file(measure, tmp_path):
    measure(
        lambda: WHOLE.write(tmp_path / "generated.parquet"),
        WHOLE,
        work="generate and write to a file",
        events_each=1,
    )


@pytest.mark.parametrize("is_recorded", [False, True], ids=["plain", "recorded"])
def test_recording(measure, bare_glibc, is_recorded, tmp_path):
    events = write_events(tmp_path / "events", RECORDED.batches())
    recorder = [*HARNESS, "record", "--quiet", "-o", str(tmp_path / "recorded.parquet"), "--"]
    with Bare(bare_glibc, events, under=recorder if is_recorded else ()) as bare:
        measure(
            lambda _: bare.run(),
            RECORDED,
            setup=bare.start,
            work=f"glibc malloc and free, {'recorded' if is_recorded else 'plain'}",
            events_each=2,
        )
    if is_recorded:
        assert TraceReader(str(tmp_path / "recorded.parquet")).events >= RECORDED.events
