"""The model and the real Go runtime as subjects of a comparison: the same events, and every state compared.

The runtime runs in a process of its own (runtime/), instrumented. What the model cannot choose or know it
takes from that process: the version, the heap that its start left, and the stacks that each cycle scanned.
"""

from __future__ import annotations

import json
import queue
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.allocator import GC, EventBatch
from harness.conform import Call, State
from harness.errors import AllocatorError

from . import AUTO_PROCS, Go
from .runtime import Collector, RuntimeProcess, Toolchain, find_toolchain
from .snapshot import HEAP, PAGE_BYTES, Snapshot

_OLDEST_MINOR, _NEWEST_MINOR = 22, 27

# Both sides count these.
SCALARS = (
    "heap_in_use",
    "heap_free",
    "heap_released",
    "heap_live",
    "heap_marked",
    "total_alloc",
    "total_free",
    "pages_swept",
    "sweep_done",
)
# And these, where the pacer decides.
PACED_SCALARS = ("goal", "trigger", "last_heap_goal", "scavenge_goal")

SPAN = np.dtype(
    [
        (name, "<u8")
        for name in ("base", "pages", "runtime's own", "span class", "slots", "free index", "allocated")
    ]
)
# 64 pages each.
_PAGES = np.dtype([("pages from", "<u8"), ("taken", "<u8"), ("scavenged", "<u8")])
_CYCLE = np.dtype([(name, "<u8") for name in ("live at its start", "marked", "spans of work buffers")])

_NO_STOPS = np.zeros(0, np.int64)

# Events that a batch of the process may have.
_CAPACITY = 1 << 16


def subjects(
    options: Mapping[str, Any], against: str | None, events: Callable[[], Iterable[EventBatch]]
) -> tuple[Model, Runtime] | Production:
    """Start the real runtime, of the installed toolchain or of a given `go`, and make the model of it.

    In the modes in which the runtime repeats itself the two are driven in lock step; with
    collector=concurrent and collections by the pacer they are compared by what whole runs come to.
    AllocatorError where there is no toolchain.
    """
    toolchain = find_toolchain(Path(against) if against else None)
    if collector_of(options) == "default":
        return Production(toolchain, options, events)
    collects = options["gogc"] != "off" or options["memory_limit"] != "off"
    slots, procs = _needs(options, events(), collects)
    process = RuntimeProcess(
        toolchain,
        procs=procs,
        collector=collector_of(options),
        gogc=options["gogc"],
        memory_limit=options["memory_limit"],
        experiments=experiments_of(toolchain, options["greentea"]),
        slots=slots,
        capacity=_CAPACITY,
    )
    try:
        scans: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        start = process.start.snapshot()
        chosen = {
            "version": modelled_version(toolchain),
            "greentea": "on" if start.greentea else "off",
            "procs": procs,
            "scavenge": "growth",  # The real one's background scavenger is held back.
        }
        return Model({**options, **chosen}, start, scans), Runtime(process, start, scans)
    except BaseException:
        process.close()
        raise


def modelled_version(toolchain: Toolchain) -> str:
    """Return the version that models a toolchain; one newer than the model is held against the newest."""
    return f"1.{min(toolchain.minor, _NEWEST_MINOR)}"


def collector_of(options: Mapping[str, Any]) -> Collector:
    """Return how the real runtime collects as the model's options say; AllocatorError where it cannot."""
    if options["scavenge"] == "off":
        raise AllocatorError("go: the real runtime scavenges; set scavenge=background")
    if options["gogc"] == "off" and options["memory_limit"] == "off":
        return "explicit"
    modes: dict[str, Collector] = {"concurrent": "default", "lazy": "lazy", "stopped": "stopped"}
    return modes[options["collector"]]


def experiments_of(toolchain: Toolchain, greentea: Literal["auto", "on", "off"]) -> tuple[str, ...]:
    """Return the GOEXPERIMENTs of a runtime with or without green tea."""
    if greentea == "on" and toolchain.minor == 25:
        return ("greenteagc",)
    if greentea == "off" and toolchain.minor >= 26:
        return ("nogreenteagc",)
    return ()


def _needs(options: Mapping[str, Any], events: Iterable[EventBatch], collects: bool) -> tuple[int, int]:
    """Return how many objects the trace holds at once and on how many Ps it runs."""
    slots = threads = 1
    for batch in events:
        slots = max(slots, int(batch.slot.max(initial=0)) + 1)
        threads = max(threads, int(batch.thread.max(initial=0)) + 1)
        # Which P marks and which are idle is the scheduler's choice: one P where there are collections.
        collects = collects or bool((batch.op == GC).any())
    procs = options["procs"]
    if procs == "auto":
        return slots, 1 if collects else min(threads, AUTO_PROCS)
    return slots, int(procs)


class Model:
    """The model, asked what the runtime is asked."""

    def __init__(
        self,
        options: Mapping[str, Any],
        start: Snapshot,
        scans: queue.SimpleQueue[list[int] | None],
    ) -> None:
        self._go = go_from(start, options)
        self._native = self._go.native
        self._native.record_placements(True)
        self._native.record_cycles(True)
        self._scans = scans
        self._paced = collector_of(options) != "explicit"
        self._events = 0
        self.name = f"model of Go {self._go.version} {'with' if start.greentea else 'without'} green tea"

    def replay(self, batch: EventBatch) -> NDArray[np.uint64]:
        """Return one address an event, 0 where there is none.

        Waits for the real runtime's answer: how much stack each cycle of these events scanned is the one
        thing that the model cannot know.
        """
        answers = np.zeros(len(batch.op), np.uint64)
        scans = self._scans.get()
        if scans is None:
            return answers
        self._native.set_stack_scans(scans)
        self._go.feed(batch, _NO_STOPS)
        events, addresses, has_address = self._native.take_placements()
        answers[events - np.uint64(self._events)] = np.where(has_address, addresses, 0)
        self._events += len(batch.op)
        return answers

    def call(self, call: Call) -> None:
        """Refuse: what a Go program does beside allocating is in the trace."""
        raise AllocatorError(f"go has no call {call.name!r}; it has checkpoint")

    def state(self) -> dict[str, State]:
        """Return what the runtime can be asked."""
        native = self._native
        columns = native.spans()
        spans = np.zeros(len(columns["base"]), SPAN)
        names = ("base", "pages", "manual", "span_class", "nelems", "freeindex", "alloc_count")
        for field, name in zip(SPAN.names or (), names, strict=True):
            spans[field] = columns[name]
        found = native.chunks()
        return _state(
            native.state(),
            spans,
            _pages(found["base"], found["taken"], found["scavenged"]),
            native.processors(),
            native.central(),
            native.take_cycles(),
            self._paced,
        )

    def close(self) -> None:
        """Nothing to end."""


class Runtime:
    """The real runtime in its process."""

    def __init__(
        self, process: RuntimeProcess, start: Snapshot, scans: queue.SimpleQueue[list[int] | None]
    ) -> None:
        self.start = start
        self.scans = scans
        self._process = process
        self._paced = process.collector != "explicit"
        self._cycles: list[tuple[int, int, int]] = []
        self.name = process.name

    def replay(self, batch: EventBatch) -> NDArray[np.uint64]:
        """Return one address an event, 0 where there is none."""
        scans: list[int] | None = None
        try:
            parts = range(0, len(batch.op), _CAPACITY)
            answers = [self._process.replay(batch.part(at, at + _CAPACITY)).addresses for at in parts]
            cycles = self._process.cycles()
            columns = ("heap_live", "heap_marked", "work_buffer_spans")
            self._cycles += zip(*(cycles[name].tolist() for name in columns), strict=True)
            scans = cycles["stack_scan"].tolist()
        finally:
            self.scans.put(scans)
        return np.concatenate(answers) if answers else np.zeros(0, np.uint64)

    def call(self, call: Call) -> None:
        """Leave it to the model to refuse."""

    def state(self) -> dict[str, State]:
        """Return the heap as it stands."""
        heap = self._process.state()
        rows = heap.spans[np.argsort(heap.spans[:, 0])]
        spans = np.zeros(len(rows), SPAN)
        for field, column in zip(SPAN.names or (), (0, 1, 2, 3, 4, 5, 6), strict=True):
            spans[field] = rows[:, column]
        spans["runtime's own"] = rows[:, 2] != HEAP
        pages = _pages(heap.chunks[:, 0], heap.chunks[:, 1:9].ravel(), heap.chunks[:, 9:17].ravel())
        processors = [
            (
                p.number,
                p.page_cache_base,
                p.page_cache,
                p.page_cache_scavenged,
                p.tiny,
                p.tiny_offset,
                p.cached,
            )
            for p in heap.processors
        ]
        cycles, self._cycles = self._cycles, []
        return _state(heap.scalars, spans, pages, processors, heap.central, cycles, self._paced)

    def close(self) -> None:
        """End the process."""
        self._process.close()


class Production:
    """The model and the real runtime as every program runs: marking beside the program, sweeping behind it.

    One goroutine carries out the events of all threads, as fast as it can, and the model's time is that of
    its table of costs.
    """

    # What a run is judged by; of the model, bytes in use are looked at so often.
    _SAMPLES = 4096

    def __init__(
        self, toolchain: Toolchain, options: Mapping[str, Any], events: Callable[[], Iterable[EventBatch]]
    ) -> None:
        self._toolchain = toolchain
        self._options = options
        self._events = events
        self._slots, self._count = 1, 0
        for batch in events():
            self._slots = max(self._slots, int(batch.slot.max(initial=0)) + 1)
            self._count += len(batch.op)
        self._procs = 1 if options["procs"] == "auto" else int(options["procs"])
        name, self._start = whole_start(self._process)
        self.truth_name = f"{name}, GOMAXPROCS={self._procs}"
        green = "with" if self._start.greentea else "without"
        self.model_name = f"model of Go {modelled_version(toolchain)} {green} green tea"

    def model(self) -> dict[str, float]:
        """Return what the model comes to."""
        chosen = {
            "version": modelled_version(self._toolchain),
            "greentea": "on" if self._start.greentea else "off",
            "procs": self._procs,
            "clock": "cost",
        }
        go = go_from(self._start, {**self._options, **chosen})
        in_use = 0.0
        every = max(1, self._count // self._SAMPLES)
        for batch in self._of_one_thread():
            for at in range(0, len(batch.op), every):
                part = batch.part(at, at + every)
                go.feed(part, _NO_STOPS)
                in_use += go.native.state()["heap_in_use"] * len(part.op)
        state = go.native.state()
        return _run_of(state, state["gc_cycles"], in_use / max(1, self._count))

    def run(self) -> dict[str, float]:
        """Return what one run of the real runtime came to."""
        with self._process() as process:
            mean = process.replay_at_once(self._of_one_thread()).in_use_bytes_mean
            return _run_of(process.state().scalars, len(process.cycles()), mean)

    def _process(self) -> RuntimeProcess:
        return RuntimeProcess(
            self._toolchain,
            procs=self._procs,
            collector="default",
            gogc=self._options["gogc"],
            memory_limit=self._options["memory_limit"],
            experiments=experiments_of(self._toolchain, self._options["greentea"]),
            slots=self._slots,
            capacity=max(1, self._count),
        )

    def _of_one_thread(self) -> Iterator[EventBatch]:
        for batch in self._events():
            yield batch._replace(thread=np.zeros_like(batch.thread))


def _run_of(scalars: Mapping[str, int], cycles: int, in_use_bytes_mean: float) -> dict[str, float]:
    heap = scalars["heap_in_use"] + scalars["heap_free"] + scalars["heap_released"]
    return {"cycles": cycles, "heap_system_bytes": heap, "mean_heap_in_use_bytes": in_use_bytes_mean}


# Processes to begin with, until one is whole.
_STARTS = 10


def whole_start(begin: Callable[[], RuntimeProcess]) -> tuple[str, Snapshot]:
    """Return what a process is called, and how it stood before its first event.

    AllocatorError where no start is whole. The background scavenger takes the pages that it gives back, for
    as long as that lasts: in a process whose state is read just then they are nobody's, and another is begun.
    """
    for attempt in range(1, _STARTS + 1):
        with begin() as process:
            start = process.start.snapshot()
        try:
            start.check()
        except ValueError as fault:
            if attempt == _STARTS:
                raise AllocatorError(f"{process.name}: no start is whole: {fault}") from fault
        else:
            break
    return process.name, start


def go_from(start: Snapshot, options: Mapping[str, Any]) -> Go:
    """Return a model that begins as a process stood."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "start.json"
        path.write_text(json.dumps(start.to_json()))
        return Go(**{**options, "start": "snapshot", "snapshot": str(path)})


def _pages(
    chunks: NDArray[np.uint64], taken: NDArray[np.uint64], scavenged: NDArray[np.uint64]
) -> NDArray[Any]:
    rows = np.zeros(len(taken), _PAGES)
    rows["pages from"] = (
        chunks[:, None] + np.arange(8, dtype=np.uint64) * np.uint64(64 * PAGE_BYTES)
    ).ravel()
    rows["taken"] = taken
    rows["scavenged"] = scavenged
    return rows


def _state(
    scalars: Mapping[str, int],
    spans: NDArray[Any],
    pages: NDArray[Any],
    processors: Iterable[tuple[Any, ...]],
    central: Iterable[tuple[list[int], list[int]]],
    cycles: Iterable[tuple[int, int, int]],
    paced: bool,
) -> dict[str, State]:
    names = (*SCALARS, *PACED_SCALARS) if paced else SCALARS
    # Where no slot is free, Go finds out at the next allocation, and only then moves the index.
    full = spans["allocated"] == spans["slots"]
    spans["free index"][full] = spans["slots"][full]
    caches: dict[Any, int] = {}
    for number, base, cache, scavenged, tiny, tiny_offset, cached in processors:
        p = f"P {number}"
        if cache:
            caches |= {(p, "page cache at"): base, (p, "free pages"): cache, (p, "scavenged"): scavenged}
        caches |= {(p, "tiny block"): tiny, (p, "tiny offset"): tiny_offset if tiny else 0}
        caches |= {(p, "span class", i): base for i, base in enumerate(cached) if base}
    lists = {
        (kind, "swept spans of span class", i): hash(tuple(bases))
        for i, both in enumerate(central)
        for kind, bases in zip(("partial", "full"), both, strict=True)
        if bases
    }
    return {
        "heap": {name: scalars[name] for name in names},
        "spans": spans[np.argsort(spans["base"])],
        "pages": pages,
        "caches of Ps": caches,
        "central lists": lists,
        "cycles": np.array([tuple(cycle) for cycle in cycles], _CYCLE),
    }
