"""The contract between the replay engine and an allocator: what an allocator is handed and what it answers.

The twin of include/harness/allocator.hpp and replay.hpp. An allocator is a class whose options are its
constructor's keywords, whose first docstring line describes it, and which answers feed() and result(). Write
allocate(), release() and footprint() in Python and Allocator derives the rest; write them in C++ and
NativeAllocator wraps the bound class. An entry point in the group ``harness.allocators`` makes it known.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NewType, Protocol

from harness.errors import AllocatorError, HarnessError
from harness.trace_knowledge import Knowledge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.native._native import PythonReplay

ENTRY_POINT_GROUP = "harness.allocators"

# What a replay compares where nothing else is chosen.
DEFAULT_ALLOCATORS = ("go", "tcmalloc", "ideal")

# The ops of harness-trace/1.
ALLOC, CALLOC, REALLOC, FREE, GC, THREAD_END = range(1, 7)
OP_NAMES = {
    ALLOC: "alloc",
    CALLOC: "calloc",
    REALLOC: "realloc",
    FREE: "free",
    GC: "gc",
    THREAD_END: "thread_end",
}

# An option in bytes; on the command line it may carry a unit: 512KiB, 4GiB.
Bytes = NewType("Bytes", int)


class EventBatch(NamedTuple):
    """Checked events as columns of one length; time_ns is empty where the trace has no times."""

    op: NDArray[np.uint8]
    thread: NDArray[np.uint16]  # Dense; an ended thread's number is given to a later thread.
    slot: NDArray[np.uint32]  # Dense object number, reused only after its free.
    size: NDArray[np.uint64]  # Of a free: what its object had asked for.
    alignment: NDArray[np.uint32]  # 0 = default.
    noscan: NDArray[np.uint8]  # Of a free: its object's.
    owner: NDArray[np.uint16]  # The number that the allocating thread had then.
    time_ns: NDArray[np.int64]
    requested: NDArray[np.uint64]  # Bytes that the program holds after the event.

    def part(self, first: int, stop: int | None = None) -> EventBatch:
        """Return the events from `first` up to `stop`, not included, without copying them."""
        return EventBatch._make(column[first:stop] for column in self)


class Request(NamedTuple):
    """One allocation that the program asks for."""

    size: int
    alignment: int
    noscan: bool
    zeroed: bool
    thread: int


class Footprint(NamedTuple):
    """Who holds each mapped byte; the nine parts add up to mapped. None is a part that cannot be known."""

    live: int | None = 0
    dead: int | None = 0
    front_end: int | None = 0
    transfer: int | None = 0
    central: int | None = 0
    tail: int | None = 0
    page_heap: int | None = 0
    released: int | None = 0
    runtime: int | None = 0
    mapped: int | None = 0
    metadata: int | None = None


PARTS = Footprint._fields[:9]

# Columns of what feed() returns, one row a stop; -1 is an unknown part. The peaks are the maxima over the
# events since the last stop.
SAMPLE_COLUMNS = (*Footprint._fields, "peak_mapped", "peak_committed")


class Backend(Protocol):
    """What the engine knows of an allocator.

    Verbs beside replay find by their presence what else a class offers: size_classes() for `harness
    classes`, stats_text() for `--stats-text`, explain() (explanation.py: Explains) for `harness explain`.
    A class attribute COLLECTED_TRACE_OPTIONS holds options that it wants, unless the user chose others, for a
    trace whose deaths a collector saw.
    """

    version: str

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replay a batch; return one row of SAMPLE_COLUMNS per stop, a stop being a count of its events.

        Behind these may stand what `gauge_names` names.
        """

    def result(self) -> dict[str, Any]:
        """Return exact totals, counters and classes of everything fed so far."""


class NativeAllocator:
    """An allocator bound by include/harness/bind.hpp: hands everything to the C++ loop."""

    version = "unknown"
    kind = "model"

    def __init__(self, native: Any) -> None:
        self.native = native

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replay a batch with the GIL released."""
        samples: NDArray[np.int64] = self.native.feed(batch, stops)
        return samples

    def result(self) -> dict[str, Any]:
        """Return the loop's totals, the model's counters and its classes."""
        result: dict[str, Any] = self.native.result()
        return result

    @property
    def gauge_names(self) -> tuple[str, ...]:
        """Names of what stands in a row of feed() behind SAMPLE_COLUMNS."""
        names: tuple[str, ...] = getattr(self.native, "gauge_names", ())
        return names

    def census(self) -> dict[str, Any] | None:
        """Return spans, objects and classes now (harness/census.py); None where there are no spans."""
        if not hasattr(self.native, "census"):
            return None
        told: dict[str, Any] = self.native.census()
        return told


class Allocator(ABC):
    """A simulated allocator in plain Python.

    One that keeps the two numbers below as they change is replayed several times as fast: the loop reads them
    after every event, and asks one without both for a footprint instead.
    """

    version = "1"
    kind = "model"

    mapped_bytes: int
    committed_bytes: int  # Mapped less released.

    _loop: PythonReplay | None = None

    @abstractmethod
    def allocate(self, request: Request) -> Any:
        """Return a block: whatever release() will need. None is a failed allocation."""

    @abstractmethod
    def release(self, block: Any, thread: int) -> None:
        """Take back a block that the program is done with, now or later."""

    @abstractmethod
    def footprint(self) -> Footprint:
        """Say who holds each mapped byte."""

    def reallocate(self, block: Any, request: Request) -> Any:
        """Return the block that holds the object from now on, or None where the old one stands."""
        moved = self.allocate(request)
        if moved is not None:
            self.release(block, request.thread)
        return moved

    def collect(self) -> None:
        """Carry out an explicit garbage collection; a manual allocator has nothing to do."""
        return

    def thread_end(self, thread: int) -> None:
        """Forget an ended thread; an allocator without state per thread has nothing to do."""
        return

    def counters(self) -> dict[str, int]:
        """Return named counts."""
        return {}

    def warnings(self) -> list[str]:
        """Return what was assumed of the trace, for the run's warnings."""
        return []

    def feed(self, batch: EventBatch, stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replay a batch event by event in the loop that all simulated allocators share."""
        from harness.native._native import InvariantError

        try:
            return self._replay().feed(batch, stops)
        except InvariantError as error:
            raise AllocatorError(str(error)) from error

    def result(self) -> dict[str, Any]:
        """Return the totals that feed() kept."""
        return {
            **self._replay().result(),
            "has_realloc": type(self).reallocate is not Allocator.reallocate,
            "counters": self.counters(),
        }

    def _replay(self) -> PythonReplay:
        # By attribute: an object whose __dict__ was asked for is slower at every attribute from then on.
        if self._loop is None:
            from harness.native._native import PythonReplay

            self._loop = PythonReplay(self, Request)
        return self._loop


@dataclass(frozen=True)
class Spec:
    """One allocator with its options, as a user wrote it: ``go:gogc=50``."""

    name: str
    factory: type[Any]
    options: dict[str, Any]  # Every option, defaults included.
    given: frozenset[str] = frozenset()  # The options that the user chose.
    set_by_trace: tuple[str, ...] = ()  # And those that the trace did.

    @property
    def label(self) -> str:
        """The name with the options that differ from their defaults."""
        defaults = {option.name: option.default for option in options_of(self.factory)}
        changed = [f"{name}={option_text(v)}" for name, v in self.options.items() if defaults[name] != v]
        return ":".join([self.name, ",".join(changed)] if changed else [self.name])

    def for_trace(self, metadata: Mapping[str, Any]) -> Spec:
        """Return it with the options that its allocator wants for such a trace, where the user chose none."""
        if not Knowledge.of(metadata).is_collected:
            return self
        wanted: Mapping[str, Any] = getattr(self.factory, "COLLECTED_TRACE_OPTIONS", {})
        changed = {
            name: value
            for name, value in wanted.items()
            if name not in self.given and self.options[name] != value
        }
        if not changed:
            return self
        return replace(self, options=self.options | changed, set_by_trace=tuple(changed))

    def assumed_of_trace(self) -> list[str]:
        """Say which options the trace set, why, and how to have them otherwise."""
        return [
            f"{name}={option_text(self.options[name])}, since the trace has its own program's collections, "
            "each where it found objects dead: a collector that decides for itself finds nothing between "
            f"them; for that choose it: {self.name}:{name}={option.default}"
            for name in self.set_by_trace
            for option in options_of(self.factory)
            if option.name == name
        ]

    def create(self) -> Any:
        """Return a fresh allocator; AllocatorError where an option's value does not fit."""
        try:
            return self.factory(**self.options)
        except HarnessError:
            raise
        except (ValueError, TypeError) as error:
            raise AllocatorError(f"{self.label}: {error}") from error


def option_text(value: Any) -> str:
    """Return an option's value as a user writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Option(NamedTuple):
    """One keyword of an allocator's constructor."""

    name: str
    default: Any
    annotation: Any

    @property
    def values(self) -> str:
        """What the option takes, in words."""
        return _describe(self.annotation)


def registered() -> tuple[dict[str, type[Any]], list[AllocatorError]]:
    """Return every installed allocator's class by name, and the faults of those that do not load."""
    found: dict[str, type[Any]] = {}
    faults = []
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name):
        try:
            found[entry.name] = _load(entry)
        except AllocatorError as fault:
            faults.append(fault)
    return found, faults


def find(text: str) -> list[Spec]:
    """Parse ``name:key=value|value,key=value`` into one Spec per combination of values.

    AllocatorError for an unknown name, an unknown option or a value that the option does not take.
    """
    name, _, rest = text.partition(":")
    known = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in known:
        raise AllocatorError(
            f"{name!r} is no allocator; there are {', '.join(sorted(known))} (see `harness list`)"
        )
    factory = _load(known[name])
    options = {option.name: option for option in options_of(factory)}
    chosen: dict[str, list[Any]] = {}
    for part in filter(None, rest.split(",")):
        key, equals, values = part.partition("=")
        if key not in options:
            right = ", ".join(options) or "none"
            raise AllocatorError(f"{name} has no option {key!r}; its options are: {right}")
        if not equals:
            raise AllocatorError(f"{name}: option {key!r} needs a value: {key}={options[key].default}")
        chosen[key] = [_parse(name, options[key], value) for value in values.split("|")]
    defaults = {option.name: option.default for option in options.values()}
    return [
        Spec(name, factory, defaults | dict(zip(chosen, combination, strict=True)), frozenset(chosen))
        for combination in product(*chosen.values())
    ]


def options_of(factory: type[Any]) -> list[Option]:
    """Return the keyword-only options of an allocator's constructor."""
    try:
        signature = inspect.signature(factory)
        hints = typing.get_type_hints(factory.__init__)
    except (ValueError, TypeError, NameError):  # A bound class without a Python wrapper has no signature.
        return []
    return [
        Option(p.name, p.default, hints.get(p.name, str))
        for p in signature.parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]


def description_of(factory: type[Any]) -> str:
    """Return the first line of an allocator's docstring."""
    return (inspect.getdoc(factory) or "").partition("\n")[0]


def _load(entry: Any) -> type[Any]:
    try:
        loaded: type[Any] = entry.load()
    except Exception as error:
        raise AllocatorError(
            f"{entry.name}: the allocator registered as {entry.value} cannot be loaded: {error}; "
            f"reinstall or uninstall the package that registers it"
        ) from error
    return loaded


def _alternatives(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        for member in typing.get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation


def _describe(annotation: Any) -> str:
    words = []
    for kind in _alternatives(annotation):
        if typing.get_origin(kind) is Literal:
            words += [str(value) for value in typing.get_args(kind)]
        elif kind is Bytes:
            words.append("bytes (512KiB, 4GiB)")
        elif kind is bool:
            words.append("true, false")
        elif kind is str:
            words.append("text")
        elif kind is int:
            words.append("integer")
        elif kind is float:
            words.append("number")
    return ", ".join(words)


_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_bytes(text: str) -> int:
    """Return the bytes that text like ``512KiB`` means; ValueError where it means none."""
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    if not match or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no size in bytes, KiB, MiB, GiB or TiB")
    return int(match[1]) * _UNITS[match[2]]


def _parse(name: str, option: Option, text: str) -> Any:
    for kind in _alternatives(option.annotation):
        if typing.get_origin(kind) is Literal:
            for value in typing.get_args(kind):
                if text == str(value):
                    return value
        elif kind is bool and text in ("true", "false"):
            return text == "true"
        elif kind is str:
            return text
        elif kind in (int, float, Bytes):
            try:
                return parse_bytes(text) if kind is Bytes else kind(text)
            except ValueError:
                continue
    raise AllocatorError(f"{name}: {option.name}={text} is not understood; it takes {option.values}")
