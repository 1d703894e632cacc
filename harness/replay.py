"""One trace through many allocators: decodes once, feeds all of them, takes samples, returns runs.

The trace is decoded and checked on the caller's thread, and every allocator works on a thread of its own, in
trace order, with the GIL released. It may lie a few batches behind, so that nobody waits for anybody as long
as all have work. Memory does not grow with the length of the trace.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from harness import costs, metrics
from harness.allocator import PARTS, SAMPLE_COLUMNS, EventBatch, Footprint, Spec, description_of
from harness.census import Census
from harness.errors import AllocatorError, HarnessError, TraceError
from harness.placements import PlacementsWriter
from harness.results import Run, TraceRuns
from harness.trace import (
    AS_IT_STANDS,
    BATCH_EVENTS,
    Noscan,
    Progress,
    TraceReader,
    unnoticed,
)
from harness.trace_knowledge import EXACT, Knowledge

_UNKNOWN = -1


@dataclass(frozen=True)
class Settings:
    """How a replay is done, whatever the allocator."""

    samples: int = 200
    noscan: Noscan = AS_IT_STANDS
    batch_events: int = BATCH_EVENTS
    placements: str | None = None
    stats_text: bool = False  # Whether a run keeps what its allocator would print of itself.
    cost_tables: costs.Tables = field(default_factory=costs.shipped)
    census: bool = False  # Whether the spans are looked at, which takes a second pass up to the peak.


_DEFAULTS = Settings()

# Handing a batch to another thread costs tens of microseconds, what a thousand events do.
_WORTH_A_THREAD_EVENTS = 1024
# Batches that wait for an allocator: one would do for steady work, the others even out what is not.
_WAITING_BATCHES = 2


def replay(
    path: str,
    specs: Sequence[Spec],
    settings: Settings = _DEFAULTS,
    progress: Progress = unnoticed,
) -> TraceRuns:
    """Replay a trace through every allocator; `progress` is called with the number of events just done.

    Raises TraceError for a fault in the trace, AllocatorError where a model breaks its own invariant. A real
    library that fails costs its own run alone, which says so; where no run is left, its fault is raised.
    """
    reader = TraceReader(path)
    specs = [spec.for_trace(reader.metadata) for spec in specs]
    knowledge = Knowledge.of(reader.metadata)
    # Arrow's own threads decode sooner and cost more in all: they are for cores that have nothing to do.
    has_idle_cores = _usable_cores() > len(specs) + 1
    checked = reader.checked(settings.noscan, settings.batch_events, use_threads=has_idle_cores)
    sampler = _Sampler(reader.events, settings.samples)
    is_worth_threads = min(reader.events, settings.batch_events) >= _WORTH_A_THREAD_EVENTS
    runners: list[_Runner] = []
    try:
        for spec in specs:
            runners.append(_Runner(spec, settings))
        for runner in runners:
            runner.start()
        with _Crew(runners) if is_worth_threads else _Alone(runners) as crew:
            for batch in checked:
                if not crew.feed(batch, sampler.take(batch)):
                    break
                progress(len(batch.op))
        totals = checked.totals()
        if settings.census:
            _take_censuses(path, runners, settings, progress)
        assumption = settings.noscan.assumption(reader.has_noscan)
        warnings = [f"the trace: {text}" for text in reader.metadata.get("losses", ())]
        warnings += knowledge.warnings()
        warnings += [assumption] if assumption else []
        told = _Told(totals, sampler.columns, knowledge, warnings)
        runs = [runner.finish(told) for runner in runners]
        _compare_settings(runners, runs)
    except BaseException:
        for runner in runners:
            runner.abandon()
        raise
    finally:
        for runner in runners:
            runner.close()
    if all(runner.failure is not None for runner in runners):
        raise AllocatorError(runners[0].failure)
    trace = {
        "path": path,
        "digest": reader.metadata.get("digest"),
        "synthetic": reader.metadata.get("synthetic", False),
        **_less_than_exact(reader.metadata),
        **totals,
    }
    return TraceRuns(trace, runs)


def survey(
    path: str,
    specs: Sequence[Spec],
    events: Sequence[int],
    settings: Settings = _DEFAULTS,
    progress: Progress = unnoticed,
    watch: Callable[[EventBatch], None] | None = None,
) -> list[Census | None]:
    """Replay each allocator's first so many events and return what spans stand then; None where it has none.

    `watch` is shown every batch, cut after the last event of all. Raises as replay() does.
    """
    reader = TraceReader(path)
    checked = reader.checked(settings.noscan, settings.batch_events)
    surveyors = [
        _Surveyor(spec.for_trace(reader.metadata), count) for spec, count in zip(specs, events, strict=True)
    ]
    left = max(events, default=0)
    with _Crew(surveyors) if left >= _WORTH_A_THREAD_EVENTS else _Alone(surveyors) as crew:
        for batch in checked:
            if not left:
                break
            taken = min(left, len(batch.op))
            part = batch.part(0, taken)
            if watch is not None:
                watch(part)
            if not crew.feed(part, _NO_STOPS):
                break
            progress(taken)
            left -= taken
    return [surveyor.census() for surveyor in surveyors]


def _less_than_exact(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result repeats of a trace that does not know all deaths and sizes exactly."""
    found = {name: metadata[name] for name in ("sizes", "sizes_known") if metadata.get(name, EXACT) != EXACT}
    # By a name of its own, for `frees` is how many there are.
    return found | ({"frees_seen_by": metadata["frees"]} if metadata.get("frees", EXACT) != EXACT else {})


def _take_censuses(path: str, runners: Sequence[_Runner], settings: Settings, progress: Progress) -> None:
    """Give each allocator that can count its spans the census of its peak."""
    able = [runner for runner in runners if hasattr(runner.allocator, "census")]
    known = [(runner, event) for runner in able if (event := runner.peak_event()) is not None]
    taken = survey(
        path,
        [runner.spec for runner, _ in known],
        [event + 1 for _, event in known],
        settings,
        progress,
    )
    for (runner, _), census in zip(known, taken, strict=True):
        runner.census = census


def replay_all(
    paths: Sequence[str],
    specs: Sequence[Spec],
    settings: Settings = _DEFAULTS,
    progress: Callable[[str], AbstractContextManager[Progress]] = lambda path: nullcontext(unnoticed),
) -> Iterator[TraceRuns | HarnessError]:
    """Replay several traces; yield in their order the runs of each, or its fault.

    Traces have processes of their own where there are cores for more than one at a time. `progress` is called
    with each path that is replayed here, and makes what replay() takes.
    """
    at_once = min(len(paths), _traces_at_once(specs))
    if at_once < 2:
        for path in paths:
            with progress(path) as told:
                yield _replay_or_fault(path, specs, settings, told)
        return
    # Loaded here, since most replays start without.
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # Spawned: a copy of a process with threads may copy a lock that one of them holds.
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        coming = [pool.submit(_replay_or_fault, path, specs, settings) for path in paths]
        for path, future in zip(paths, coming, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield HarnessError(f"{path}: not replayed: a process was killed, perhaps for want of memory")


def _replay_or_fault(
    path: str, specs: Sequence[Spec], settings: Settings, progress: Progress = unnoticed
) -> TraceRuns | HarnessError:
    try:
        return replay(path, specs, settings, progress)
    except HarnessError as error:
        return error


def _traces_at_once(specs: Sequence[Spec]) -> int:
    """Return how many traces have a core for the reader and one for each allocator."""
    if any(getattr(spec.factory, "kind", "model") == "library" for spec in specs):
        return 1  # A real library is timed, and nobody may work beside it.
    return _usable_cores() // (len(specs) + 1)


def _compare_settings(runners: Sequence[_Runner], runs: Sequence[Run]) -> None:
    """Let each real library say whether the model beside it has other settings than it."""
    for real, run in zip(runners, runs, strict=True):
        if run.failure is not None or not hasattr(real.allocator, "differs_from"):
            continue
        for model in runs:
            if model.allocator != run.models:
                continue
            try:
                text = real.allocator.differs_from(model.options)
            except HarnessError as error:  # What cannot be compared is still worth its rows.
                text = str(error)
            if text:
                run.warnings.append(f"{run.label}: {text}")


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Fed(Protocol):
    """What takes a trace's batches one after the other."""

    spec: Spec

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> None: ...
    def close(self) -> None: ...


class _Alone:
    """Runners that work on the caller's thread."""

    def __init__(self, runners: Sequence[_Fed]) -> None:
        self._runners = runners

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> bool:
        """Replay a batch; true, since a fault is raised."""
        for runner in self._runners:
            runner.feed(batch, stops)
        return True


class _Crew:
    """Runners that work on a thread each; at the block's end all have done what they were given.

    Of several faults the one in the earliest batch is raised, and there the first runner's. A fault of the
    block itself, which is one in a later batch, gives way to it; an interruption does not, and drops the work
    that waits.
    """

    def __init__(self, runners: Sequence[_Fed]) -> None:
        self._workers = [_Worker(runner) for runner in runners]

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        if is_interrupted:
            for worker in self._workers:
                worker.runner.close()  # One that waits for another process stops waiting.
        for worker in self._workers:
            worker.stop(at_once=is_interrupted)
        for worker in self._workers:
            worker.join()
        failed = [worker for worker in self._workers if worker.fault is not None]
        if failed and not is_interrupted:
            first = min(failed, key=lambda worker: worker.done_batches)
            assert first.fault is not None
            raise first.fault

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> bool:
        """Hand a batch to every runner, once each has room for it; false when one has failed."""
        for worker in self._workers:
            worker.waiting.put((batch, stops))
        return all(worker.fault is None for worker in self._workers)


class _Worker(threading.Thread):
    """A runner on a thread of its own."""

    def __init__(self, runner: _Fed) -> None:
        super().__init__(name=runner.spec.label, daemon=True)
        self.waiting: Queue[tuple[EventBatch, NDArray[np.int64]] | None] = Queue(_WAITING_BATCHES)
        self.done_batches = 0
        self.fault: BaseException | None = None
        self.runner = runner
        self._drops = False

    def stop(self, at_once: bool) -> None:
        """End when all that waits is done, or dropped."""
        self._drops = at_once
        self.waiting.put(None)

    def run(self) -> None:
        # After a fault it still takes what it is given, so that nobody waits for it in vain.
        while (given := self.waiting.get()) is not None:
            if self.fault is not None or self._drops:
                continue
            try:
                self.runner.feed(*given)
                self.done_batches += 1
            except BaseException as fault:
                self.fault = fault


class _Sampler:
    """Decides after which events to stop, and what of the trace belongs to each stop."""

    def __init__(self, events: int, samples: int) -> None:
        count = min(samples, events)
        self.stops = np.array([(k + 1) * events // count for k in range(count)], np.int64)
        self.columns: dict[str, list[int | None]] = {
            "event": [],
            "time_ns": [],
            "requested": [],
            "peak_requested": [],
        }
        self._done = 0
        self._peak_requested = 0

    def take(self, batch: EventBatch) -> NDArray[np.int64]:
        """Return the next batch's stops as counts of its events."""
        count = len(batch.op)
        begin, end = np.searchsorted(self.stops, [self._done, self._done + count], side="right")
        local: NDArray[np.int64] = self.stops[begin:end] - self._done
        first = 0
        for stop in local.tolist():
            self._peak_requested = max(self._peak_requested, int(batch.requested[first:stop].max()))
            self.columns["event"].append(self._done + stop)
            self.columns["time_ns"].append(int(batch.time_ns[stop - 1]) if len(batch.time_ns) else None)
            self.columns["requested"].append(int(batch.requested[stop - 1]))
            self.columns["peak_requested"].append(self._peak_requested)
            self._peak_requested = int(batch.requested[stop - 1])
            first = stop
        if first < count:
            self._peak_requested = max(self._peak_requested, int(batch.requested[first:].max()))
        self._done += count
        return local


class _Told(NamedTuple):
    """What the runs of a trace have in common, once it was read."""

    totals: dict[str, int]
    samples: dict[str, list[int | None]]
    knowledge: Knowledge
    warnings: list[str]


class _Surveyor:
    """One allocator on its way to the event at which its spans are looked at."""

    def __init__(self, spec: Spec, events: int) -> None:
        self.spec = spec
        self.allocator = spec.create()
        self._left = events

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> None:
        """Replay the next batch, as far as it is wanted."""
        taken = min(self._left, len(batch.op))
        if taken:
            self.allocator.feed(batch.part(0, taken), stops)
            self._left -= taken

    def close(self) -> None:
        """Do nothing: a model has no more than memory."""

    def census(self) -> Census | None:
        """Return what spans stand now."""
        told = self.allocator.census() if hasattr(self.allocator, "census") else None
        return None if told is None else Census.of(told)


class _Runner:
    """One allocator in the middle of a replay."""

    def __init__(self, spec: Spec, settings: Settings) -> None:
        self.spec = spec
        self.kind: str = getattr(spec.factory, "kind", "model")
        self.failure: str | None = None  # Of a real library, which then does no more.
        self.allocator: Any = None
        self.floor = Footprint()
        self.census: Census | None = None  # Of the peak.
        self._cost_table = settings.cost_tables.get(spec.name)
        self._samples: list[NDArray[np.int64]] = []
        self._placements: PlacementsWriter | None = None
        if self.kind == "library":
            with self._keeping_others():
                self.allocator = spec.create()
        else:
            self.allocator = spec.create()
        self._stats_text = settings.stats_text and hasattr(self.allocator, "stats_text")
        if settings.placements and self.failure is None:
            self._placements = PlacementsWriter(settings.placements, self.allocator)

    @contextmanager
    def _keeping_others(self) -> Iterator[None]:
        """Name the allocator in a fault; one of a real library ends its run and no other."""
        try:
            yield
        except Exception as error:
            what = "" if isinstance(error, HarnessError) else "the allocator failed: "
            text = f"{self.spec.label}: {what}{error}"
            if self.kind == "library" and not isinstance(error, TraceError):
                self.failure = text
                self.close()
                return
            kind = type(error) if isinstance(error, HarnessError) else AllocatorError
            raise kind(text) from error

    def start(self) -> None:
        """Take the floor: the footprint before the first event."""
        if self.failure is None:
            with self._keeping_others():
                rows = self.allocator.feed(_NO_EVENTS, np.zeros(1, np.int64))
                self.floor = _footprint(rows[0].tolist())

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> None:
        """Replay the next batch."""
        if self.failure is not None:
            return
        with self._keeping_others():
            rows = self.allocator.feed(batch, stops)
            if len(rows):  # A long trace has many batches and no more samples than a short one.
                self._samples.append(rows)
        if self._placements is not None:
            self._placements.flush()

    def peak_event(self) -> int | None:
        """Return the first event of most committed bytes, None where that is not known."""
        event: int | None = self.allocator.result().get("peak_committed_event")
        return event

    def abandon(self) -> None:
        """Leave no half-written file."""
        if self._placements is not None:
            self._placements.abandon()

    def close(self) -> None:
        """Let an allocator that has more than memory end it: processes, files."""
        if hasattr(self.allocator, "close"):
            self.allocator.close()

    def finish(self, trace: _Told) -> Run:
        """Return the run."""
        if self._placements is not None:
            self._placements.commit()
        run = None
        if self.failure is None:
            with self._keeping_others():
                run = self._run(trace)
        return self._failed_run(trace) if run is None else run

    def _run(self, trace: _Told) -> Run:
        totals, knows_requests = trace.totals, trace.knowledge.knows_requests
        result: dict[str, Any] = self.allocator.result()
        result["timing"] = result.get("timing") or costs.modelled(
            result["counters"], totals, self._cost_table
        )
        floor = self.floor._asdict()
        if not totals["events"]:
            result["peak_footprint"] = floor
            result["peak_committed"] = metrics.committed_bytes(floor)
        if self.census is not None:
            result["census"] = self.census.summary()
            result["classes"] = [
                then | {name: ever[name] for name in metrics.CLASS_COUNTS}
                for then, ever in zip(self.census.class_rows(), result["classes"], strict=True)
            ]
        assumed = self.spec.assumed_of_trace() + self._assumed(totals, result)
        warnings = [*trace.warnings, *(f"{self.spec.label}: {text}" for text in assumed)]
        if result.get("over") == "samples":
            warnings.append(_OVER_SAMPLES)
        return Run(
            **self._identity(),
            summary=metrics.summary(totals, result, floor, knows_requests=knows_requests),
            footprint={"floor": floor, "peak": result["peak_footprint"], "end": result["end_footprint"]},
            counters=result["counters"],
            classes=metrics.with_shares(result["classes"], knows_requests=knows_requests),
            samples=metrics.samples_of_trace(trace.samples, knows_requests=knows_requests)
            | self._sample_columns(),
            warnings=warnings,
            timing=result["timing"],
            peak_event=result.get("peak_committed_event"),
            stats_text=self.allocator.stats_text() if self._stats_text else None,
        )

    def _failed_run(self, trace: _Told) -> Run:
        nothing = dict.fromkeys(Footprint._fields)
        result = {**metrics.UNKNOWN_RESULT, "peak_footprint": nothing, "end_footprint": nothing}
        return Run(
            **self._identity(),
            summary=metrics.summary(
                trace.totals, result, nothing, knows_requests=trace.knowledge.knows_requests
            ),
            footprint={"floor": nothing, "peak": nothing, "end": nothing},
            counters={},
            classes=[],
            samples={},
            warnings=[],
            failure=self.failure,
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "allocator": self.spec.name,
            "label": self.spec.label,
            "description": description_of(self.spec.factory),
            "version": (self.spec.factory if self.allocator is None else self.allocator).version,
            "kind": self.kind,
            "options": self.spec.options,
            "models": getattr(self.spec.factory, "models", None),
        }

    def _assumed(self, totals: dict[str, int], result: dict[str, Any]) -> list[str]:
        """Say what the allocator could not do as the trace asks."""
        texts: list[str] = []
        if totals["reallocations"] and not result["has_realloc"]:
            count = totals["reallocations"]
            texts.append(f"it has no realloc: {count:,} were a new object and the death of the old one")
        if result["failed_allocations"]:
            texts.append(f"{result['failed_allocations']:,} allocations failed")
        if hasattr(self.allocator, "warnings"):
            texts += self.allocator.warnings()
        return texts

    def _sample_columns(self) -> dict[str, list[int | None]]:
        names = (*SAMPLE_COLUMNS, *getattr(self.allocator, "gauge_names", ()))
        rows = np.concatenate([np.empty((0, len(names)), np.int64), *self._samples])
        return {
            name: [None if value == _UNKNOWN else value for value in rows[:, i].tolist()]
            for i, name in enumerate(names)
        }


def _footprint(row: list[int]) -> Footprint:
    values = [None if value == _UNKNOWN else value for value in row[: len(PARTS) + 2]]
    return Footprint(*values)


# Said once, however many of them stand in a table.
_OVER_SAMPLES = (
    "what is real can be asked at samples only: its peaks and means are over those (see --samples)"
)

_NO_STOPS = np.empty(0, np.int64)
_NO_EVENTS = EventBatch(
    op=np.empty(0, np.uint8),
    thread=np.empty(0, np.uint16),
    slot=np.empty(0, np.uint32),
    size=np.empty(0, np.uint64),
    alignment=np.empty(0, np.uint32),
    noscan=np.empty(0, np.uint8),
    owner=np.empty(0, np.uint16),
    time_ns=np.empty(0, np.int64),
    requested=np.empty(0, np.uint64),
)
