"""Real libraries in processes of their own: the other side of driver/protocol.hpp and driver/timing.cpp."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from harness.allocator import EventBatch
from harness.errors import AllocatorError

from ..watchdog import BUSY_SECONDS, Watchdog
from .build import build_driver

# The answer for a realloc that kept its block (protocol.hpp: kUnmoved).
UNMOVED = 1

_RECORD = np.dtype(
    [("op", "u1"), ("alignment_log2", "u1"), ("thread", "<u2"), ("slot", "<u4"), ("size", "<u8")]
)

# A range as MallocExtension::Ranges reports it: type 0 in use, 1 free, 2 given back to the system.
RANGE = np.dtype([("address", "<u8"), ("length", "<u8"), ("type", "<u4"), ("fraction", "<f8")])
_RANGE_SENT = np.dtype(
    {
        "names": list(RANGE.names or ()),
        "formats": [RANGE[name] for name in RANGE.names or ()],
        "offsets": [0, 8, 16, 24],
        "itemsize": 32,
    }
)

# How much of a process's last words is told.
_SAID_BYTES = 500

# How long a process that has ended may keep its last words back: another one may hold the pipe open.
_LAST_WORDS_SECONDS = 1.0

# How long it is waited for an answer before looking whether the process is still there.
_LOOK_SECONDS = 0.2

# Longer than a workload takes; a library that waits for itself would else never be told.
_LONGEST_SECONDS = 300.0

# Frame: kind, count, argument.
_FRAME = struct.Struct("<IIQ")
_REPLAY, _START_THREAD, _CALL, _STATE, _FEED = range(1, 6)

# What a frame asks for, in words.
_ASKED = {
    _REPLAY: "to carry out {count} events",
    _START_THREAD: "to start thread {count}",
    _CALL: "to carry out a call",
    _STATE: "for its state",
    _FEED: "to carry out {count} events",
}

# More processor time than an event takes whose every page is written to; answers to many come at once.
_EVENT_SECONDS = 0.01


class Child:
    """A program of the folder driver with a library preloaded, none where it is None, in a process group.

    `environment` is all of the process's environment that concerns the library. Whatever goes wrong in the
    process is an AllocatorError, an answer that takes longer than `time_limit_seconds` too; without such a
    limit, one that never comes (watchdog.py). close() ends the process and all that it has started.
    """

    def __init__(
        self,
        program: Path,
        arguments: Sequence[str],
        library: Path | None,
        environment: Mapping[str, str],
        *,
        time_limit_seconds: float | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._name = str(library or program)
        self._time_limit_seconds = time_limit_seconds
        self._asked = "to start"
        self._busy_seconds = BUSY_SECONDS
        self._lock = threading.Lock()
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        preload = {} if library is None else {"LD_PRELOAD": str(library)}
        self._answers, answers = os.pipe()
        try:
            self._process = subprocess.Popen(
                [str(program), str(answers), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,  # What a library prints is no answer.
                stderr=subprocess.STDOUT,
                bufsize=0,
                env={**kept, **environment, **preload},
                pass_fds=(answers, *descriptors),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._answers)
            raise
        finally:
            os.close(answers)
        assert self._process.stdin is not None
        self._questions = self._process.stdin.fileno()
        os.set_blocking(self._questions, False)
        # The library says so whenever an allocation fails; nobody reading it would stop the process.
        self._said = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def ask(self, kind: int, count: int, argument: int, payload: bytes | memoryview = b"") -> None:
        """Send a frame with its payload."""
        with self._lock:
            self._asked = _ASKED[kind].format(count=count)
            self._busy_seconds = BUSY_SECONDS + (count * _EVENT_SECONDS if kind in (_REPLAY, _FEED) else 0)
            impatience = self._impatience()
            try:
                for part in (_FRAME.pack(kind, count, argument), payload):
                    view = memoryview(part)
                    while view:
                        self._wait(self._questions, select.POLLOUT, impatience, len(view))
                        view = view[os.write(self._questions, view) :]
            except OSError as error:
                raise self._fault() from error

    def receive(self, length: int) -> bytearray:
        """Return the next bytes of the answer."""
        data = bytearray(length)
        view = memoryview(data)
        with self._lock:
            impatience = self._impatience()
            while view:
                self._wait(self._answers, select.POLLIN, impatience, len(view))
                got = os.readv(self._answers, [view])
                if not got:
                    raise self._fault()
                view = view[got:]
        return data

    @property
    def said(self) -> str:
        """The end of what the process has printed, in one line."""
        return " ".join(self._said.decode(errors="replace").split())

    def close(self) -> None:
        """End the process and all of its group; another thread that waits for an answer gets an error."""
        self._kill()
        with self._lock:
            if self._answers < 0:
                return
            self._process.wait()
            self._listener.join(_LAST_WORDS_SECONDS)
            os.close(self._answers)
            self._answers = -1
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            if not self._listener.is_alive():  # Otherwise a process outside the group still holds the pipe.
                assert self._process.stdout is not None
                self._process.stdout.close()

    def _kill(self) -> None:
        # Until the process is waited for, its number and its group's are nobody else's.
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _has_ended(self) -> bool:
        """Look without waiting for it, which would set its number free."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return (
            self._process.returncode is not None or os.waitid(os.P_PID, self._process.pid, flags) is not None
        )

    def _impatience(self) -> Callable[[int], str]:
        """Return what says why the process is not waited for any longer, given how much is to be moved."""
        if self._answers < 0:
            raise AllocatorError(f"{self._name}: the process has ended")
        limit = self._time_limit_seconds
        if limit is not None:
            until = time.monotonic() + limit
            late = f"no answer within {limit:g} s (time_limit_seconds)"
            return lambda left: late if time.monotonic() > until else ""
        watchdog = Watchdog(self._process.pid, busy_seconds=self._busy_seconds)

        def look(left: int) -> str:
            stuck = watchdog.look(left)
            return stuck and f"the driver's process {stuck} and was ended; it was asked {self._asked}"

        return look

    def _wait(self, descriptor: int, event: int, impatience: Callable[[int], str], left: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(_LOOK_SECONDS * 1000):
            # What the library has started may hold the pipe open beyond the end of its own process.
            if self._has_ended():
                raise self._fault()
            why = impatience(left)
            if why:
                self._kill()
                raise AllocatorError(f"{self._name}: {why}")

    def _listen(self) -> None:
        """Keep the end of what the process prints."""
        assert self._process.stdout is not None
        while heard := self._process.stdout.read(1 << 16):
            self._said = (self._said + heard)[-_SAID_BYTES:]

    def _fault(self) -> AllocatorError:
        """Say what became of a process that no longer answers."""
        until = time.monotonic() + _LAST_WORDS_SECONDS
        while not self._has_ended() and time.monotonic() < until:
            time.sleep(0.01)
        lives = not self._has_ended()
        self._kill()
        status = self._process.wait()
        if lives:
            return AllocatorError(f"{self._name}: the driver's process closed its pipe")
        self._listener.join(_LAST_WORDS_SECONDS)
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        return AllocatorError(
            f"{self._name}: the driver's process {how}" + (f": {self.said}" if self.said else "")
        )


def records_of(batch: EventBatch) -> NDArray[Any]:
    """Return events as the driver's records (protocol.hpp: Record)."""
    records = np.empty(len(batch.op), _RECORD)
    records["op"] = batch.op
    # Exact for powers of two, which alignments are.
    records["alignment_log2"] = np.log2(np.maximum(batch.alignment, 1)) if batch.alignment.any() else 0
    records["thread"] = batch.thread
    records["slot"] = batch.slot
    records["size"] = batch.size
    return records


class LibraryState(NamedTuple):
    """All that the library says of itself at one moment; sizes in bytes."""

    properties: dict[str, int]
    free_list_sizes: dict[tuple[str, int], int]  # By list type and largest object; without empty ones.
    ranges: NDArray[Any]  # Of RANGE, ascending.
    stats_text: str
    resident_bytes: int | None  # None where pages are not counted.


class LibraryProcess:
    """A library preloaded into a fresh process that carries out events and calls one at a time.

    `environment` is all of the process's environment that concerns the library. Address randomisation is off
    where the system allows that, and `heap_base` says where the heap lies in any case. AllocatorError where
    the library is none of gperftools', and for whatever goes wrong in the process.
    """

    def __init__(
        self,
        library: Path,
        environment: Mapping[str, str],
        *,
        touch: Literal["none", "first", "whole"] = "none",
        counts_resident: bool = False,
    ) -> None:
        self.library = library
        self._counts_resident = counts_resident
        self._slots = 0
        arguments = [touch, *(["resident"] if counts_resident else [])]
        self._child = Child(build_driver(), arguments, library, environment)
        try:
            (length,) = struct.unpack("<Q", self._child.receive(8))
            about = self._child.receive(length).decode().splitlines()
            self.version = about[0].split()[-1]
            self.page_size, self.alignment, self.thread_vector_bytes = (int(line) for line in about[1:])
            self.heap_base = int(self.state().ranges["address"].min())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_thread(self, thread: int) -> None:
        """Let the main thread start the thread that will carry out a number's events."""
        self._child.ask(_START_THREAD, thread, 0)
        self._child.receive(8)

    def replay(self, batch: EventBatch) -> NDArray[np.uint64]:
        """Carry out events; return one answer each.

        The address of an allocation or of a realloc that moved, UNMOVED for one that kept its block, and 0
        for a failure and for all other events.
        """
        records = records_of(batch)
        self._slots = max(self._slots, int(batch.slot.max(initial=0)) + 1)
        self._child.ask(_REPLAY, len(records), self._slots, records.data.cast("B"))
        return np.frombuffer(self._child.receive(8 * len(records)), np.uint64)

    def call(self, name: str, *arguments: object) -> None:
        """Carry out what a program can ask of the library; AllocatorError where it refuses.

        A thread's call is carried out on that thread, any other on the main thread.
        """
        thread, text = 0, " ".join([name, *(str(argument) for argument in arguments)])
        if name in ("mark_thread_idle", "mark_thread_temporarily_idle"):
            try:
                thread = int(str(arguments[0]))
            except (IndexError, ValueError) as error:
                raise AllocatorError(f"{text}: expected a thread's number") from error
        data = text.encode()
        self._child.ask(_CALL, thread, len(data), data)
        if struct.unpack("<Q", self._child.receive(8)) != (1,):
            raise AllocatorError(f"the library (gperftools {self.version}) refuses: {text}")

    def state(self) -> LibraryState:
        """Return all that the library says of itself."""
        self._child.ask(_STATE, 0, 0)
        lengths = struct.unpack("<4Q", self._child.receive(32))
        numbers, ranges, text, resident = (self._child.receive(length) for length in lengths)
        properties: dict[str, int] = {}
        free_list_sizes: dict[tuple[str, int], int] = {}
        for line in numbers.decode().splitlines():
            match line.split():
                case [name, value]:
                    properties[name] = int(value)
                case [kind, size, value]:
                    free_list_sizes[kind, int(size)] = int(value)
        return LibraryState(
            properties,
            free_list_sizes,
            np.frombuffer(ranges, _RANGE_SENT).astype(RANGE),
            text.decode(),
            struct.unpack("<Q", resident)[0] if self._counts_resident else None,
        )

    def close(self) -> None:
        """End the process."""
        self._child.close()


class About(NamedTuple):
    """What the driver says of the library that its process was started with."""

    file: str  # That malloc comes from.
    foreign: list[str]  # Functions that come from another file, or from none.
    name: str  # One of glibc, tcmalloc, jemalloc, mimalloc; "unknown" for any other.
    version: str
    page_size: int  # Of tcmalloc, with the alignment; 0 of any other.
    alignment: int


class Statistics(NamedTuple):
    """The library's own numbers by their own names, and the kernel's; text is that of GetStats."""

    numbers: dict[str, int]
    text: str


class MeasuredProcess:
    """A library preloaded into a fresh process that carries out events in trace order, one at a time.

    With None it is the C library's own malloc. Every answer may take `time_limit_seconds`.
    """

    def __init__(
        self,
        library: Path | None,
        environment: Mapping[str, str],
        *,
        touch: Literal["none", "first", "pages", "whole"],
        time_limit_seconds: float,
    ) -> None:
        self._slots = 0
        self._child = Child(
            build_driver("measure"), [touch], library, environment, time_limit_seconds=time_limit_seconds
        )
        try:
            (length,) = struct.unpack("<Q", self._child.receive(8))
            file, foreign, name, version, page_size, alignment, _ = (
                self._child.receive(length).decode().splitlines()
            )
        except BaseException:
            self._child.close()
            raise
        self.about = About(file, foreign.split(), name, version, int(page_size), int(alignment))

    @property
    def said(self) -> str:
        """The end of what the process has printed."""
        return self._child.said

    def feed(self, records: NDArray[Any]) -> int:
        """Carry out records; return the number of allocations that failed."""
        if not len(records):
            return 0
        self._slots = max(self._slots, int(records["slot"].max()) + 1)
        self._child.ask(_FEED, len(records), self._slots, records.data.cast("B"))
        (failures,) = struct.unpack("<Q", self._child.receive(8))
        return int(failures)

    def statistics(self) -> Statistics:
        """Return what the library and the kernel say at this moment."""
        self._child.ask(_STATE, 0, 0)
        lengths = struct.unpack("<4Q", self._child.receive(32))
        numbers, _, text, _ = (self._child.receive(length) for length in lengths)
        pairs = (line.split() for line in numbers.decode().splitlines())
        return Statistics({name: int(value) for name, value in pairs}, text.decode(errors="replace"))

    def close(self) -> None:
        """End the process and all that it has started."""
        self._child.close()


# Answer (timing.cpp), and a sample: an op and how many ticks it took.
_TIMED = struct.Struct("<5Q")
_SAMPLE = np.dtype([("op", "<u4"), ("ticks", "<u4")])


class Timed(NamedTuple):
    """One timed run: its nanoseconds, and of the calls that were timed alone their op and nanoseconds.

    The nanoseconds are processor time of all threads together, without waiting for each other's objects.
    """

    ns: int
    ops: NDArray[np.uint32]
    latencies_ns: NDArray[np.float64]  # Less what reading the clock costs.


def start_timing(
    library: Path | None,
    environment: Mapping[str, str],
    records: int,
    *,
    mode: Literal["free", "ordered"],
    sample_every: int,
    does_nothing: bool,
    time_limit_seconds: float,
) -> Child:
    """Start a process that carries out a file of records once; `records` is its descriptor.

    With `does_nothing` the functions that it calls do nothing, so that its own cost remains.
    """
    functions = "nothing" if does_nothing else "malloc"
    return Child(
        build_driver("time"),
        [str(records), mode, str(sample_every), functions],
        library,
        environment,
        time_limit_seconds=time_limit_seconds,
        descriptors=[records],
    )


def timed(child: Child) -> Timed:
    """Wait for a process of start_timing() and return what it measured."""
    ns, elapsed_ns, ticks, clock_ticks, count = _TIMED.unpack(child.receive(_TIMED.size))
    samples = np.frombuffer(child.receive(count * _SAMPLE.itemsize), _SAMPLE)
    ns_per_tick = elapsed_ns / max(ticks, 1)
    latencies = np.maximum(samples["ticks"].astype(np.float64) - clock_ticks, 0.0) * ns_per_tick
    return Timed(ns, samples["op"], latencies)


def time_events(library: Path, batches: Iterable[EventBatch]) -> tuple[int, int]:
    """Return what events take in the driver alone and with the library: ns of processor time.

    On one thread, in their order, each time in a fresh process. AllocatorError where one fails.
    """
    with tempfile.TemporaryFile() as file:
        for batch in batches:
            records = records_of(batch)
            records["thread"] = 0
            file.write(records.data.cast("B"))
        file.flush()
        taken = []
        for does_nothing in (True, False):
            child = start_timing(
                None if does_nothing else library,
                {},
                file.fileno(),
                mode="free",
                sample_every=0,
                does_nothing=does_nothing,
                time_limit_seconds=_LONGEST_SECONDS,
            )
            try:
                taken.append(timed(child).ns)
            finally:
                child.close()
    driver_ns, ns = taken
    return driver_ns, ns
