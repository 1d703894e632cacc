"""Real libraries as rows of the table: memory from one replay in trace order, speed from timed ones after it.

The replay for memory carries out the events batch by batch as they come, and is asked at stops; what stands
in the table is therefore over samples. The events are kept in a temporary file as well, 16 bytes each up to
`timing_events`, from which fresh processes carry them out once more against the clock. README.md says what
each number means.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.allocator import (
    FREE,
    OP_NAMES,
    PARTS,
    SAMPLE_COLUMNS,
    Bytes,
    EventBatch,
    Footprint,
    option_text,
    options_of,
)
from harness.errors import AllocatorError

from .build import find_library, find_tcmalloc
from .footprints import READERS, in_use_bytes
from .process import Child, MeasuredProcess, Statistics, Timed, records_of, start_timing, timed

_UNKNOWN = -1

# One call in so many is timed by itself: a prime, so that no pattern of the program coincides with it.
_SAMPLE_EVERY = 61

# The first run finds cold caches, and is thrown away.
_WARM_UPS = 1

_PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}

# Ops up to this one call the library; the others are none of its functions.
_LAST_CALL = FREE

# The environment variable that an option of TCMalloc stands for (gperftools, docs/tcmalloc.adoc).
TCMALLOC_VARIABLES = {
    "transfer_num_objects": "TCMALLOC_TRANSFER_NUM_OBJ",
    "release_rate": "TCMALLOC_RELEASE_RATE",
    "max_total_thread_cache_bytes": "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES",
    "aggressive_decommit": "TCMALLOC_AGGRESSIVE_DECOMMIT",
    "heap_limit_mb": "TCMALLOC_HEAP_LIMIT_MB",
}

_ELF = b"\x7fELF"


class Measured:
    """What all real libraries share; a subclass says which library it is."""

    version = "installed"
    kind = "library"

    def __init__(
        self,
        *,
        touch: Literal["none", "first", "pages", "whole"] = "pages",
        timing: Literal["on", "off"] = "on",
        mode: Literal["free", "ordered"] = "free",
        repetitions: int = 3,
        timing_events: int = 4_000_000,
        time_limit_seconds: float = 60.0,
    ) -> None:
        for name, value in (("repetitions", repetitions), ("timing_events", timing_events)):
            if value < 1:
                raise AllocatorError(f"{name}={value} is not at least 1")
        if not 0 < time_limit_seconds < 1e6:
            raise AllocatorError(f"time_limit_seconds={time_limit_seconds} lies outside 0 to 1000000")
        self._mode: Literal["free", "ordered"] = mode
        self._repetitions = repetitions
        self._timing_events = timing_events
        self._time_limit_seconds = time_limit_seconds
        self._library = self._find()
        self._environment = self._settings()
        self._spool: IO[bytes] | None = None
        self._events = self._kept_events = 0
        self._timer: Child | None = None
        self._is_closed = False
        self._process = MeasuredProcess(
            self._library, self._environment, touch=touch, time_limit_seconds=time_limit_seconds
        )
        try:
            self._check_about()
            if timing == "on":
                self._spool = tempfile.TemporaryFile()  # noqa: SIM115, since close() closes it.
            self._tally = _Tally(self._process.about.name, self._process.statistics())
        except BaseException:
            self.close()
            raise
        about = self._process.about
        self.version = Path(about.file).name if about.name == "unknown" else about.version

    def _find(self) -> Path | None:
        """Return the library to preload; None is the C library's own malloc."""
        raise NotImplementedError

    def _settings(self) -> dict[str, str]:
        """Return the environment that the library is started with."""
        return {}

    def _check_about(self) -> None:
        """Raise AllocatorError where the process does not use the library, or only in part."""
        about = self._process.about
        if self._library is not None and not _is_same_file(about.file, self._library):
            said = f": {self._process.said}" if self._process.said else ""
            raise AllocatorError(
                f"{self._library}: there is no malloc in it, or it cannot be preloaded{said}"
            )
        # A library need not tell the size of its blocks: their bytes are then unknown.
        missing = [name for name in about.foreign if name != "malloc_usable_size"]
        if missing:
            raise AllocatorError(f"{about.file}: it has malloc, but no {', no '.join(missing)}")

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Carry out a batch; return one row of SAMPLE_COLUMNS a stop, -1 where the library is silent."""
        records = records_of(batch)
        self._keep(records)
        rows = np.empty((len(stops), len(SAMPLE_COLUMNS)), np.int64)
        first = 0
        for index, stop in enumerate(stops.tolist()):
            self._tally.failures += self._process.feed(records[first:stop])
            # The stop before the first event is no sample: what it finds is the floor.
            requested = int(batch.requested[stop - 1]) if stop else None
            rows[index] = self._tally.sample(self._process.statistics(), requested, self._events + stop - 1)
            first = stop
        self._tally.failures += self._process.feed(records[first:])
        self._events += len(records)
        if len(records):
            self._tally.end_requested = int(batch.requested[-1])
        return rows

    def _keep(self, records: NDArray[Any]) -> None:
        """Keep the first `timing_events` records for the timed runs."""
        room = self._timing_events - self._kept_events
        if self._spool is None or room <= 0:
            return
        try:
            self._spool.write(records[:room].data.cast("B"))
        except OSError as error:
            raise AllocatorError(
                f"the events cannot be kept in {tempfile.gettempdir()} for timing ({error.strerror}); "
                f"timing=off does without"
            ) from error
        self._kept_events += min(len(records), room)

    def result(self) -> dict[str, Any]:
        """Return what the samples say, and time the library."""
        result = self._tally.result(self._process.statistics(), self._events)
        # Nothing else is to run beside what is timed.
        self._process.close()
        if self._spool is not None and self._kept_events:
            result["timing"] = self._timing(self._spool)
        return result

    def warnings(self) -> list[str]:
        """Say where the timed runs ended."""
        if self._spool is None or self._kept_events == self._events:
            return []
        return [f"timed over the first {self._kept_events:,} events of {self._events:,} (timing_events)"]

    def close(self) -> None:
        """End all processes and let go of the kept events; any thread may call it, at any time."""
        self._is_closed = True
        self._process.close()
        timer = self._timer
        if timer is not None:
            timer.close()
        if self._spool is not None:
            self._spool.close()

    def _timing(self, spool: IO[bytes]) -> dict[str, Any]:
        spool.flush()
        runs, own = [], []
        for _ in range(_WARM_UPS + self._repetitions):  # In turn, so that a busy machine burdens both alike.
            runs.append(self._time(spool, does_nothing=False, samples=False).ns / self._kept_events)
            own.append(self._time(spool, does_nothing=True, samples=False).ns / self._kept_events)
        runs = runs[_WARM_UPS:]
        sampled = self._time(spool, does_nothing=False, samples=True)
        driver = statistics.median(own[_WARM_UPS:])
        return {
            "kind": "measured",
            "ns_per_event": statistics.median(runs) - driver,
            "low": min(runs) - driver,
            "high": max(runs) - driver,
            "repetitions": self._repetitions,
            "driver_ns_per_event": driver,
            **_latencies(sampled),
            "cost_table": None,
        }

    def _time(self, spool: IO[bytes], *, does_nothing: bool, samples: bool) -> Timed:
        if self._is_closed:
            raise AllocatorError("the run was abandoned")
        self._timer = start_timing(
            None if does_nothing else self._library,
            {} if does_nothing else self._environment,
            spool.fileno(),
            mode=self._mode,
            sample_every=_SAMPLE_EVERY if samples else 0,
            does_nothing=does_nothing,
            time_limit_seconds=self._time_limit_seconds,
        )
        try:
            return timed(self._timer)
        finally:
            self._timer.close()


class Library(Measured):
    """Any shared library with a malloc of its own, by its path: real, in a process of its own."""

    def __init__(
        self,
        *,
        path: str = "",
        touch: Literal["none", "first", "pages", "whole"] = "pages",
        timing: Literal["on", "off"] = "on",
        mode: Literal["free", "ordered"] = "free",
        repetitions: int = 3,
        timing_events: int = 4_000_000,
        time_limit_seconds: float = 60.0,
    ) -> None:
        self._path = path
        super().__init__(
            touch=touch,
            timing=timing,
            mode=mode,
            repetitions=repetitions,
            timing_events=timing_events,
            time_limit_seconds=time_limit_seconds,
        )

    def _find(self) -> Path:
        if not self._path:
            raise AllocatorError("say which library: path=FILE.so")
        path = Path(self._path)
        if not path.is_file():
            raise AllocatorError(f"{path}: there is no such library")
        with path.open("rb") as file:
            if file.read(len(_ELF)) != _ELF:
                raise AllocatorError(f"{path}: this is no shared library")
        absolute = path.absolute()
        if any(letter in str(absolute) for letter in " :"):
            raise AllocatorError(
                f"{path}: a path with a blank or a colon cannot be preloaded; link the library elsewhere"
            )
        return absolute


class Glibc(Measured):
    """The C library's own malloc (ptmalloc), as installed: real, in a process of its own."""

    def _find(self) -> None:
        return None


class Jemalloc(Measured):
    """jemalloc, as installed: real, in a process of its own."""

    def _find(self) -> Path:
        return _installed("jemalloc", "libjemalloc.so.2", "libjemalloc2")


class Mimalloc(Measured):
    """mimalloc, as installed: real, in a process of its own."""

    def _find(self) -> Path:
        return _installed("mimalloc", "libmimalloc.so.2", "libmimalloc2.0")


class Libtcmalloc(Measured):
    """gperftools' TCMalloc (libtcmalloc_minimal), as installed: real, in a process of its own."""

    models = "tcmalloc"  # Whose rows stand beside this one's.

    def __init__(
        self,
        *,
        transfer_num_objects: int = 32,
        release_rate: float = 1.0,
        max_total_thread_cache_bytes: Bytes = Bytes(32 << 20),
        aggressive_decommit: bool = False,
        heap_limit_mb: int = 0,
        touch: Literal["none", "first", "pages", "whole"] = "pages",
        timing: Literal["on", "off"] = "on",
        mode: Literal["free", "ordered"] = "free",
        repetitions: int = 3,
        timing_events: int = 4_000_000,
        time_limit_seconds: float = 60.0,
    ) -> None:
        self._chosen: dict[str, Any] = {
            "transfer_num_objects": transfer_num_objects,
            "release_rate": release_rate,
            "max_total_thread_cache_bytes": max_total_thread_cache_bytes,
            "aggressive_decommit": aggressive_decommit,
            "heap_limit_mb": heap_limit_mb,
        }
        super().__init__(
            touch=touch,
            timing=timing,
            mode=mode,
            repetitions=repetitions,
            timing_events=timing_events,
            time_limit_seconds=time_limit_seconds,
        )

    def _find(self) -> Path:
        return find_tcmalloc()

    def _settings(self) -> dict[str, str]:
        defaults = {option.name: option.default for option in options_of(type(self))}
        return {
            TCMALLOC_VARIABLES[name]: option_text(int(value) if isinstance(value, bool) else value)
            for name, value in self._chosen.items()
            if value != defaults[name]
        }

    def differs_from(self, options: Mapping[str, Any]) -> str | None:
        """Say with which options a model would do what this library does; None where it does."""
        from allocators.tcmalloc import Tcmalloc, like_installed

        installed = like_installed()
        modelled = {**options, **installed} if options["like"] == "installed" else options
        wanted = {**installed, **self._chosen, "start": "process"}
        differing = [name for name, value in wanted.items() if modelled[name] != value]
        if not differing:
            return None
        defaults = {option.name: option.default for option in options_of(Tcmalloc)}
        right = [f"{name}={option_text(v)}" for name, v in wanted.items() if v != defaults[name]]
        if all(wanted[name] == {**defaults, **installed}[name] for name in wanted):
            right = ["like=installed"]
        found = ", ".join(f"{name}={option_text(modelled[name])}" for name in differing)
        real = ", ".join(f"{name}={option_text(wanted[name])}" for name in differing)
        return (
            f"it is {self.version} with {real}, the model beside it has {found}: "
            f"to compare like with like say -a tcmalloc:{','.join(right)}"
        )


class _Tally:
    """What the samples of one replay add up to."""

    def __init__(self, name: str, floor: Statistics) -> None:
        self._read = READERS[name]
        self._runtime = in_use_bytes(name, floor.numbers)
        self._floor_resident = self._peak_resident = floor.numbers["resident"]
        self._committed: list[int] = []
        self._has_unknown = False
        self._peak: Footprint | None = None
        self._peak_mapped = self._peak_committed = self._peak_event = self._requested_at_peak = 0
        self.failures = 0
        self.end_requested = 0

    def sample(self, found: Statistics, requested: int | None, event: int) -> list[int]:
        """Return a row of SAMPLE_COLUMNS; with `requested` None it is that of the floor and no sample."""
        footprint = self._footprint(found)
        committed = _committed(footprint)
        if requested is not None:
            self._add(footprint, committed, found, requested, event)
        row = [*footprint, footprint.mapped, committed]
        return [_UNKNOWN if value is None else value for value in row]

    def _add(
        self, footprint: Footprint, committed: int | None, found: Statistics, requested: int, event: int
    ) -> None:
        self._peak_resident = max(self._peak_resident, found.numbers["resident"])
        self._peak_mapped = max(self._peak_mapped, footprint.mapped or 0)
        self._committed.append(0 if committed is None else committed)
        self._has_unknown |= committed is None
        # Where committed bytes are unknown, the fullest moment is that of most mapped ones.
        fullness = footprint.mapped or 0 if committed is None else committed
        if self._peak is None or fullness > self._peak_committed:
            self._peak, self._peak_committed = footprint, fullness
            self._peak_event, self._requested_at_peak = event, requested

    def _footprint(self, found: Statistics) -> Footprint:
        footprint = self._read(found.numbers, found.text, self._runtime)
        # A part that is a difference of the library's numbers is unknown where these do not fit together.
        wrong = {name: None for name in PARTS if (getattr(footprint, name) or 0) < 0}
        return footprint._replace(**wrong)

    def result(self, end: Statistics, events: int) -> dict[str, Any]:
        """Return the keys of NativeAllocator.result(), as far as samples can tell them."""
        footprint = self._footprint(end)
        if self._peak is None:  # No samples were asked for.
            self._add(footprint, _committed(footprint), end, self.end_requested, events - 1)
        assert self._peak is not None
        known = not self._has_unknown
        return {
            "over": "samples",
            "committed_sum": None,
            "mean_committed_bytes": statistics.fmean(self._committed) if known else None,
            "peak_mapped": self._peak_mapped,
            "peak_committed": self._peak_committed if known else None,
            "requested_at_peak_committed": self._requested_at_peak,
            "peak_committed_event": self._peak_event,
            "committed_at_peak_requested": None,
            "failed_allocations": self.failures,
            "has_realloc": True,
            "peak_footprint": self._peak._asdict(),
            "end_footprint": footprint._asdict(),
            "counters": {},
            "classes": [],
            "resident": {
                "floor": self._floor_resident,
                "peak": max(self._peak_resident, end.numbers["resident"]),
                "end": end.numbers["resident"],
            },
        }


def _committed(footprint: Footprint) -> int | None:
    if footprint.mapped is None or footprint.released is None:
        return None
    return footprint.mapped - footprint.released


def _latencies(sampled: Timed) -> dict[str, Any]:
    """Return the mean of each op and the percentiles of all, None where a trace is too short for samples."""
    if not len(sampled.ops):
        return {"ns_by_op": None, "latency_ns": None}
    is_call = sampled.ops <= _LAST_CALL
    by_op = {
        name: float(sampled.latencies_ns[sampled.ops == op].mean())
        for op, name in OP_NAMES.items()
        if op <= _LAST_CALL and (sampled.ops == op).any()
    }
    latencies = sampled.latencies_ns[is_call]
    return {
        "ns_by_op": by_op,
        "latency_ns": {name: float(np.percentile(latencies, at)) for name, at in _PERCENTILES.items()},
    }


def _installed(what: str, name: str, package: str) -> Path:
    found = find_library(name)
    if found is None:
        raise AllocatorError(f"{what} ({name}) is not installed; `apt-get install {package}` installs it")
    return found


def _is_same_file(first: str, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False
