"""The model and the real libtcmalloc as subjects of a comparison: the same events, calls and questions.

The library runs in a process of its own (allocators/library), with the settings that the model's options
stand for. What the model cannot choose it takes from that process: the release, what the library was
configured with when it was built, and where the heap lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocators.library import UNMOVED, LibraryProcess, find_tcmalloc
from allocators.library.backend import TCMALLOC_VARIABLES
from harness.allocator import REALLOC, EventBatch, options_of
from harness.conform import Call, State
from harness.errors import AllocatorError

from . import Tcmalloc, modelled_release

# What a table of results shows and the library counts too: counters by property, a class's bytes by list.
_COUNTED = {
    "page_heap_growths": "tcmalloc.pageheap_reserve_count",
    "page_heap_commits": "tcmalloc.pageheap_commit_count",
    "page_heap_decommits": "tcmalloc.pageheap_decommit_count",
    "page_heap_scavenges": "tcmalloc.pageheap_scavenge_count",
    "released_bytes_total": "tcmalloc.pageheap_total_decommit_bytes",
}
_TIERS = {
    "front_end_bytes": "tcmalloc.thread",
    "transfer_bytes": "tcmalloc.transfer",
    "central_bytes": "tcmalloc.central",
}

_NO_STOPS = np.zeros(0, np.int64)


def subjects(
    options: Mapping[str, Any],
    against: str | None,
    events: Callable[[], Iterable[EventBatch]] = tuple,
) -> tuple[Model, Library]:
    """Start the library, the installed one or that of a path, and make the model of just this library.

    AllocatorError where there is none, where it is older than the model knows, and for a start that no
    process has.
    """
    if options["start"] != "process":
        raise AllocatorError("tcmalloc: a real library is in a process; only start=process can be compared")
    touch = options["touch"]
    path = find_tcmalloc(against)
    process = LibraryProcess(
        path,
        environment(options),
        touch="none" if touch == "off" else touch,
        counts_resident=touch != "off",
    )
    try:
        release = {
            "version": modelled_release(process.version),
            "page_size": process.page_size,
            "alignment": process.alignment,
            "heap_base": process.heap_base,
        }
        return Model({**options, **release}, process.thread_vector_bytes), Library(process)
    except BaseException:
        process.close()
        raise


def environment(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a library that is to do what the model's options say."""
    defaults = {option.name: option.default for option in options_of(Tcmalloc)}
    return {
        variable: str(int(value) if isinstance(value, bool) else value)
        for name, variable in TCMALLOC_VARIABLES.items()
        # The model's default is another than the library's, the documented classes.
        if (value := options[name]) != defaults[name] or name == "transfer_num_objects"
    }


class Model:
    """The model, asked what the library is asked."""

    def __init__(self, options: Mapping[str, Any], thread_vector_bytes: int) -> None:
        self._tcmalloc = Tcmalloc(**options)
        self._tcmalloc.native.record_placements(True)
        self._counts_resident = options["touch"] != "off"
        self._thread_vector_bytes = thread_vector_bytes
        self._threads = _Threads()
        self._events = 0
        self.name = f"model of {self._tcmalloc.version}"

    def replay(self, batch: EventBatch) -> NDArray[np.uint64]:
        """Return one answer an event, as LibraryProcess.replay does."""
        for part in self._threads.split(batch, self._start_thread):
            self._tcmalloc.feed(part, _NO_STOPS)
        answers: NDArray[np.uint64] = (batch.op == REALLOC).astype(np.uint64) * np.uint64(UNMOVED)
        events, addresses, has_address = self._tcmalloc.native.take_placements()
        answers[events - np.uint64(self._events)] = np.where(has_address, addresses, 0)
        self._events += len(batch.op)
        return answers

    def _start_thread(self, thread: int) -> None:
        self._tcmalloc.start_thread(self._thread_vector_bytes)

    def call(self, call: Call) -> None:
        """Carry out a call."""
        carry_out(self._tcmalloc, call)

    def state(self) -> dict[str, State]:
        """Return what the library can be asked, and what a table shows of it."""
        result = self._tcmalloc.result()
        shown = {name: result["counters"][name] for name in _COUNTED}
        for row in result["classes"]:
            for tier, kind in _TIERS.items():
                if row["slot_bytes"] and row[tier]:
                    shown[f"{kind} {row['slot_bytes']}"] = row[tier]
        shown[_SPANS] = int(self._tcmalloc.native.census()["spans"]["bytes"].sum())
        return _state(
            self._tcmalloc.properties(),
            self._tcmalloc.free_list_sizes(),
            self._tcmalloc.ranges(),
            self._tcmalloc.stats_text(),
            self._tcmalloc.touched_resident_bytes() if self._counts_resident else None,
            shown,
        )

    def close(self) -> None:
        """Nothing to end."""


class Library:
    """The real library in its process."""

    def __init__(self, process: LibraryProcess) -> None:
        self._process = process
        self._threads = _Threads()
        self.name = f"gperftools {process.version} ({process.library})"

    def replay(self, batch: EventBatch) -> NDArray[np.uint64]:
        """Return one answer an event."""
        parts = self._threads.split(batch, self._process.start_thread)
        return np.concatenate([self._process.replay(part) for part in parts])

    def call(self, call: Call) -> None:
        """Carry out a call."""
        check(call)
        self._process.call(call.name, *call.arguments)

    def state(self) -> dict[str, State]:
        """Return what the library says of itself."""
        state = self._process.state()
        shown = {name: state.properties[counted] for name, counted in _COUNTED.items()}
        for (kind, size), total in state.free_list_sizes.items():
            if kind in _TIERS.values():
                shown[f"{kind} {size}"] = total
        in_use = state.ranges["type"] == _IN_USE
        shown[_SPANS] = int(state.ranges["length"][in_use].sum())
        return _state(*state, shown)

    def close(self) -> None:
        """End the process."""
        self._process.close()


# What a census counts, beside what the library says of its spans.
_SPANS = "bytes of spans in use"
_IN_USE = 0  # malloc_extension.h: base::MallocRange::INUSE.

# How many arguments each call takes.
_CALLS = {
    "release_free_memory": 0,
    "release_to_system": 1,
    "set_release_rate": 1,
    "set": 2,
    "mark_thread_idle": 1,
    "mark_thread_temporarily_idle": 1,
}


def check(call: Call) -> None:
    """Raise AllocatorError for a call that is none, or that has other arguments than it takes."""
    if call.name not in _CALLS:
        raise AllocatorError(f"tcmalloc has no call {call.name!r}; it has {', '.join(_CALLS)} and checkpoint")
    if len(call.arguments) != _CALLS[call.name]:
        raise AllocatorError(f"{call.name} has {len(call.arguments)} arguments, expected {_CALLS[call.name]}")


def carry_out(model: Tcmalloc, call: Call) -> None:
    """Carry out a call on the model; AllocatorError where it is none or an argument does not fit."""
    check(call)
    try:
        match call.name:
            case "release_free_memory":
                model.release_free_memory()
            case "release_to_system":
                model.release_to_system(int(call.arguments[0]))
            case "set_release_rate":
                model.set_release_rate(float(call.arguments[0]))
            case "set":
                model.set_property(call.arguments[0], int(call.arguments[1]))
            case "mark_thread_idle":
                model.mark_thread_idle(int(call.arguments[0]))
            case "mark_thread_temporarily_idle":
                model.mark_thread_temporarily_idle(int(call.arguments[0]))
    except ValueError as error:
        raise AllocatorError(f"{call.name} takes numbers, found {' '.join(call.arguments)!r}") from error


class _Threads:
    """Knows which threads run: the main thread starts another just before that one's first event."""

    def __init__(self) -> None:
        self._started = 1  # Number 0 is the main thread. Numbers come in ascending order.

    def split(self, batch: EventBatch, start: Callable[[int], None]) -> Iterator[EventBatch]:
        """Yield the batch in parts, and start each new thread before the part that begins with it."""
        first = 0
        highest = int(batch.thread.max(initial=0))
        while self._started <= highest:
            row = first + int(np.argmax(batch.thread[first:] == self._started))
            if row > first:
                yield batch.part(first, row)
            start(self._started)
            self._started += 1
            first = row
        yield batch.part(first)


def _state(
    properties: Mapping[str, int],
    free_list_sizes: Mapping[tuple[str, int], int],
    ranges: NDArray[Any],
    stats_text: str,
    resident_bytes: int | None,
    shown: Mapping[str, int],
) -> dict[str, State]:
    state: dict[str, State] = {
        "numeric properties": properties,
        "free-list sizes": free_list_sizes,
        "ranges": ranges,
        "GetStats text": stats_text,
        "classes and counters of the table": shown,
    }
    if resident_bytes is not None:
        state["touched pages"] = {"resident bytes": resident_bytes}
    return state
