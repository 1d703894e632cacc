"""The real Go runtime as a row of the table: what the model beside it says, measured.

The trace is kept on disk while it is read and carried out afterwards, when no model works beside it: a
collector that marks on idle cores would find none. Each repetition is a fresh process (runtime/stock.py) and
takes another course; the table shows the median one.
"""

from __future__ import annotations

import os
import statistics
import sys
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.allocator import ALLOC, CALLOC, REALLOC, SAMPLE_COLUMNS, Bytes, EventBatch, Footprint
from harness.errors import AllocatorError

from . import AUTO_PROCS, MAX_PROCS, Go
from .runtime import Manner, Outcome, Spool, StockProcess, find_toolchain, find_version, stock

_UNKNOWN = -1


class RealGo:
    """The real Go runtime: a program of the installed toolchain carries out the trace and measures itself."""

    version = "installed"
    kind = "library"
    models = "go"
    COLLECTED_TRACE_OPTIONS = Go.COLLECTED_TRACE_OPTIONS

    def __init__(
        self,
        *,
        version: Literal["installed", "1.22", "1.23", "1.24", "1.25", "1.26", "1.27"] = "installed",
        gogc: int | Literal["off"] = 100,
        memory_limit: Bytes | Literal["off"] = "off",
        procs: int | Literal["auto"] = "auto",
        repetitions: int = 3,
        time_limit_seconds: int = 600,
    ) -> None:
        self._gogc = gogc if gogc == "off" else _within("gogc", gogc, 0, 2**31 - 1)
        self._memory_limit = (
            memory_limit if memory_limit == "off" else _within("memory_limit", memory_limit, 1, 2**63 - 1)
        )
        if sys.platform != "linux":
            raise AllocatorError(
                "real-go asks the kernel for its memory as Linux tells it, and runs there alone"
            )
        # More Ps than cores would mark in turns with the program.
        cores = len(os.sched_getaffinity(0))
        self._procs = min(AUTO_PROCS, cores) if procs == "auto" else _within("procs", procs, 1, MAX_PROCS)
        self._repetitions = _within("repetitions", repetitions, 1, 1000)
        self._time_limit_seconds = _within("time_limit_seconds", time_limit_seconds, 1, 10**6)
        self._toolchain = find_toolchain() if version == "installed" else find_version(version)
        self.version = self._toolchain.version.removeprefix("go")
        self._spool = Spool()
        self._start: NDArray[Any] | None = None  # One row: a process before the first event.
        self._asked: list[
            tuple[NDArray[np.int64], NDArray[np.int64]]
        ] = []  # Counts of events, and their rows.
        self._requested_at = {0: 0}  # Bytes that the program holds after so many events.
        self._requested = 0
        self._peak_requested = self._events_to_peak_requested = 0
        self._has_threads = False
        self._sizes_rounded_to_words = self._alignments_met_by_size = 0
        self._mean_committed_bytes: list[float] = []  # One a repetition.

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep a batch; return one row of SAMPLE_COLUMNS per stop, which result() fills in.

        Only what is asked before the first event is known at once.
        """
        rows = np.full((len(stops), len(SAMPLE_COLUMNS)), _UNKNOWN, np.int64)
        if len(stops):
            events = self._spool.events + stops
            held = np.append(np.int64(self._requested), batch.requested.astype(np.int64))
            self._requested_at |= zip(events.tolist(), held[stops].tolist(), strict=True)
            self._asked.append((events, rows))
            if events[0] == 0:
                rows[events == 0] = _rows_of(self._at_start())
        if len(batch.op):
            self._note(batch)
            self._spool.append(batch)
        return rows

    def result(self) -> dict[str, Any]:
        """Carry out the trace in a fresh process a repetition; return the median one's memory, and all times.

        Median is the one whose mean of committed bytes is. AllocatorError for whatever goes wrong in one.
        """
        start = self._at_start()
        asked = self._requested_at.keys() - {0}
        # Besides, where the program holds most and where it ends.
        known = self._requested_at | {
            self._events_to_peak_requested: self._peak_requested,
            self._spool.events: self._requested,
        }
        moments = np.array(sorted(known), np.int64)
        runs, replay_ns = [], []
        for _ in range(self._repetitions if self._spool.events else 0):
            run = self._carry_out(moments[1:], "replay")
            runs.append(run._replace(samples=np.concatenate([start, run.samples])))
            replay_ns.append(self._carry_out(moments[:0], "idle").elapsed_ns)
        # Speed is that of the allocator, memory in use that of a program which writes to what it has.
        touched = self._carry_out(moments[1:], "touch").samples
        tables = [_rows_of(run.samples) for run in runs] or [_rows_of(start)]
        is_sample = np.isin(moments, list(asked or known))
        means = [float(_committed(rows)[is_sample].mean()) for rows in tables]
        chosen = means.index(statistics.median_low(means))
        rows, samples = tables[chosen], runs[chosen].samples if runs else start
        for events, row in self._asked:
            row[:] = rows[np.searchsorted(moments, events)]
        self._mean_committed_bytes = means
        committed = _committed(rows)
        peak = int(committed.argmax())
        at_peak_requested = int(np.searchsorted(moments, self._events_to_peak_requested))
        return {
            "committed_sum": None,
            "mean_committed_bytes": means[chosen],
            "over": "samples",
            "peak_mapped": int(rows[:, SAMPLE_COLUMNS.index("mapped")].max()),
            "peak_committed": int(committed[peak]),
            "requested_at_peak_committed": known[int(moments[peak])],
            "peak_committed_event": max(0, int(moments[peak]) - 1),
            "committed_at_peak_requested": int(committed[at_peak_requested]),
            "failed_allocations": 0,
            "has_realloc": False,
            "peak_footprint": _footprint(rows[peak]),
            "end_footprint": _footprint(rows[-1]),
            "counters": self._counters(samples),
            "classes": [],
            "resident": _resident(np.concatenate([start, touched])),
            "timing": self._timing([run.elapsed_ns for run in runs], replay_ns) if runs else None,
        }

    def warnings(self) -> list[str]:
        """Return what was assumed so that a program not written in Go could run, and how its runs differ."""
        texts = []
        words, alignments = self._sizes_rounded_to_words, self._alignments_met_by_size
        if words:
            texts.append(f"{words:,} sizes of objects with pointers were rounded up to whole words")
        if alignments:
            texts.append(f"{alignments:,} alignments above 8 rounded their sizes up to a multiple")
        if self._has_threads:
            texts.append("one goroutine carried out the events of all threads")
        if len(self._mean_committed_bytes) > 1:
            low, high = min(self._mean_committed_bytes) / 2**20, max(self._mean_committed_bytes) / 2**20
            texts.append(
                f"{len(self._mean_committed_bytes)} runs with GOMAXPROCS={self._procs} had {low:.2f} to "
                f"{high:.2f} MiB committed in the mean; memory is that of the median run"
            )
        return texts

    def close(self) -> None:
        """Forget the trace."""
        self._spool.close()

    def _note(self, batch: EventBatch) -> None:
        allocates = np.isin(batch.op, (ALLOC, CALLOC, REALLOC))
        has_odd_words = (batch.noscan == 0) & (batch.size % np.uint64(8) != 0)
        self._sizes_rounded_to_words += int((allocates & has_odd_words).sum())
        self._alignments_met_by_size += int((allocates & (batch.alignment > 8)).sum())
        self._has_threads |= bool(batch.thread.any())
        peak = int(batch.requested.argmax())  # The first of several.
        if batch.requested[peak] > self._peak_requested:
            self._peak_requested = int(batch.requested[peak])
            self._events_to_peak_requested = self._spool.events + peak + 1
        self._requested = int(batch.requested[-1])

    def _at_start(self) -> NDArray[Any]:
        if self._start is None:
            with self._process() as process:
                self._start = process.sample()
        return self._start

    def _carry_out(self, moments: NDArray[np.int64], manner: Manner) -> Outcome:
        with self._process() as process:
            return process.carry_out(self._spool, moments, manner)

    def _process(self) -> StockProcess:
        return StockProcess(
            self._toolchain,
            procs=self._procs,
            gogc=self._gogc,
            memory_limit=self._memory_limit,
            time_limit_seconds=self._time_limit_seconds,
        )

    def _counters(self, samples: NDArray[Any]) -> dict[str, int]:
        """Return the runtime's counts since the first event, named as the model's; its heap at the end."""
        first, last = samples[0], samples[-1]
        since = {
            "gc_cycles": stock.GC_CYCLES,
            "gc_forced": stock.GC_FORCED,
            "gc_cpu_ns": stock.GC_CPU,
            "gc_assist_cpu_ns": stock.GC_ASSIST_CPU,
            "tiny_allocs": stock.TINY_ALLOCS,
        }
        at_end = {
            "gc_goal_bytes": int(last[stock.GC_GOAL]),
            "heap_object_bytes": int(last[stock.HEAP_OBJECTS]) - int(last[stock.TABLE]),
            "heap_unused_bytes": int(last[stock.HEAP_UNUSED]),
            "stack_bytes": int(last[stock.HEAP_STACKS]),
            "object_table_bytes": int(last[stock.TABLE]),
        }
        return {
            "ps": self._procs,
            "sizes_rounded_to_words": self._sizes_rounded_to_words,
            "alignments_met_by_size": self._alignments_met_by_size,
            **{name: int(last[metric]) - int(first[metric]) for name, metric in since.items()},
            **at_end,
        }

    def _timing(self, elapsed_ns: list[int], replay_ns: list[int]) -> dict[str, Any]:
        replay_ns_per_event = statistics.median(replay_ns) / self._spool.events
        per_event = [ns / self._spool.events - replay_ns_per_event for ns in elapsed_ns]
        return {
            "kind": "measured",
            "ns_per_event": statistics.median(per_event),
            "low": min(per_event),
            "high": max(per_event),
            "repetitions": len(per_event),
            "driver_ns_per_event": replay_ns_per_event,
            "ns_by_op": None,
            "latency_ns": None,
            "cost_table": None,
        }


def _rows_of(samples: NDArray[Any]) -> NDArray[np.int64]:
    """Return samples as rows of SAMPLE_COLUMNS: what the runtime's metrics say of a footprint's parts.

    What hangs the objects up is no program's and is left out.
    """
    bytes_of = {name: samples[name].astype(np.int64) for name in samples.dtype.names or ()}
    heap = (
        *(stock.HEAP_OBJECTS, stock.HEAP_UNUSED, stock.HEAP_FREE),
        *(stock.HEAP_RELEASED, stock.HEAP_STACKS),
    )
    mapped = sum(bytes_of[name] for name in heap) - bytes_of[stock.TABLE]
    known = {
        "transfer": np.zeros(len(samples), np.int64),  # Go has no such tier.
        "page_heap": bytes_of[stock.HEAP_FREE],
        "released": bytes_of[stock.HEAP_RELEASED],
        "mapped": mapped,
        "metadata": sum(bytes_of[name] for name in stock.OFF_HEAP),
        "peak_mapped": mapped,
        "peak_committed": mapped - bytes_of[stock.HEAP_RELEASED],
    }
    rows = np.full((len(samples), len(SAMPLE_COLUMNS)), _UNKNOWN, np.int64)
    for name, column in known.items():
        rows[:, SAMPLE_COLUMNS.index(name)] = column
    return rows


def _committed(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    committed: NDArray[np.int64] = rows[:, SAMPLE_COLUMNS.index("peak_committed")]
    return committed


def _footprint(row: NDArray[np.int64]) -> dict[str, int | None]:
    values = [None if value == _UNKNOWN else value for value in row[: len(Footprint._fields)].tolist()]
    return Footprint(*values)._asdict()


def _resident(samples: NDArray[Any]) -> dict[str, int]:
    """Return what the kernel counts as the process's own memory, less what hangs the objects up; bytes."""
    resident = samples[stock.ANONYMOUS].astype(np.int64) - samples[stock.TABLE].astype(np.int64)
    return {"floor": int(resident[0]), "peak": int(resident.max()), "end": int(resident[-1])}


def _within(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AllocatorError(
            f"real-go: {name}={value} is not understood; it takes an integer from {low} to {high}"
        )
    return value
