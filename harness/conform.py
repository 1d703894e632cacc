"""A model against the real thing: the same events and calls to both, and every answer compared.

Knows neither allocator. An entry point in the group ``harness.conformance`` names a function that makes the
two subjects of a backend: its model, and its reader of the truth. Both are driven in lock step, a batch at a
time, so that memory does not grow with the length of the trace. Where the real thing can write down what it
does, an entry point in the group ``harness.recordings`` names what reads that: then no real thing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.allocator import ALLOC, CALLOC, OP_NAMES, REALLOC, EventBatch, Spec
from harness.errors import AllocatorError, HarnessError
from harness.trace import AS_IT_STANDS, Noscan, Progress, TraceReader, unnoticed

ENTRY_POINT_GROUP = "harness.conformance"
RECORDINGS_GROUP = "harness.recordings"

# What a subject knows of itself under one name: numbers by key, rows of one type, or a text.
State = Mapping[Any, int | float] | NDArray[Any] | str

# In place of a call: compare here.
CHECKPOINT = "checkpoint"

ADDRESSES = "addresses"

_EXAMPLES = 5
# Once a model has gone astray it stays astray, and nobody reads on.
_ENOUGH_DIFFERENCES = 1000


@dataclass(frozen=True)
class Call:
    """What a program asks of its allocator and no trace holds, after so many of the trace's events."""

    after_event: int
    name: str
    arguments: tuple[str, ...] = ()
    where: str = ""  # File and line, for messages.

    def __str__(self) -> str:
        return " ".join([f"{self.where}:" if self.where else "call", self.name, *self.arguments])


class Subject(Protocol):
    """An allocator that can be asked for all it knows: a model, or the real thing."""

    name: str

    def replay(self, batch: EventBatch) -> NDArray[np.uint64]:
        """Carry out events; return one answer each, an address where it has one."""

    def call(self, call: Call) -> None:
        """Carry out a call; AllocatorError where there is no such call or it is refused."""

    def state(self) -> dict[str, State]:
        """Return all that can be asked, by the name of the aspect."""

    def close(self) -> None:
        """End a process, if there is one."""


class Unrepeatable(Protocol):
    """A model, and a real thing that takes another course each time: compared by what whole runs come to."""

    model_name: str
    truth_name: str

    def model(self) -> dict[str, float]:
        """Return what the model comes to, by name; a name that ends in ``_bytes`` is in bytes."""

    def run(self) -> dict[str, float]:
        """Run the real thing once more; return what it came to, by the same names."""


class Recording(Protocol):
    """What a real allocator wrote down of itself while a program ran: events, and what became of them.

    An entry point names a class without parameters that offers this.
    """

    def recognises(self, head: bytes) -> bool:
        """Say whether a file that begins so, decompressed, is one."""

    def compare(self, path: str, spec: Spec, progress: Progress) -> Report:
        """Replay the recording's events through the model and compare what became of both."""


# Makes the model and the real thing from an allocator's options, the file of the real thing, where one is
# given, and what yields the trace's events, for who has to know beforehand how much is coming.
Subjects = Callable[
    [Mapping[str, Any], str | None, Callable[[], Iterable[EventBatch]]],
    tuple[Subject, Subject] | Unrepeatable,
]


@dataclass
class Aspect:
    """How many answers of one kind were compared, and how many differ."""

    name: str
    compared: int = 0
    differing: int = 0
    examples: list[str] = field(default_factory=list)  # The first differences, in words.

    def add(self, compared: int, differing: int, examples: Iterable[str]) -> None:
        """Count a comparison in."""
        self.compared += compared
        self.differing += differing
        for example in examples:
            if len(self.examples) >= _EXAMPLES:
                break
            self.examples.append(example)


# How far beyond what the real runs came to a model may lie.
SPREAD_MARGIN = 0.05


@dataclass
class Spread:
    """What the model comes to, beside what each run of the real thing came to."""

    name: str
    model: float
    runs: list[float]
    margin: float | None = SPREAD_MARGIN  # None: it is told and not judged.

    @property
    def within(self) -> bool:
        """Whether the model lies between the least and the most of the runs, widened by the margin."""
        if self.margin is None:
            return True
        return min(self.runs) * (1 - self.margin) <= self.model <= max(self.runs) * (1 + self.margin)


@dataclass
class Table:
    """Numbers of model and real thing side by side, a row each; of a heading in ``_bytes`` they are bytes.

    Rows stand in the order of their worth: the first `shown` of them are printed, where not all can be.
    """

    title: str
    headings: list[str]
    rows: list[list[str | int | float]]
    shown: int = 12


@dataclass
class Report:
    """What a comparison found."""

    model: str
    truth: str
    trace: str = ""
    events: int = 0
    checkpoints: int = 0
    calls: int = 0
    gave_up: bool = False  # Whether it broke off after very many differences.
    aspects: dict[str, Aspect] = field(default_factory=dict)
    spreads: list[Spread] = field(default_factory=list)  # Where the real thing does not repeat itself.
    tables: list[Table] = field(default_factory=list)  # Of a recording.
    notes: list[str] = field(default_factory=list)  # Why the two may differ.

    @property
    def agrees(self) -> bool:
        """Whether nothing differs, and the model lies within every spread."""
        differs = any(aspect.differing for aspect in self.aspects.values())
        return not differs and all(spread.within for spread in self.spreads)

    def aspect(self, name: str) -> Aspect:
        """Return an aspect by its name, made if it is new."""
        return self.aspects.setdefault(name, Aspect(name))


def conform(
    path: str,
    spec: Spec,
    *,
    against: str | None = None,
    script: str | None = None,
    checkpoints: int = 20,
    runs: int = 10,
    noscan: Noscan = AS_IT_STANDS,
    progress: Progress = unnoticed,
) -> Report:
    """Compare a backend's model with the real thing on a trace.

    Without `script`, the calls are those of a file beside the trace with the suffix ``.script``, if there is
    one. `runs`: of a real thing that takes another course each time. A recording of the real thing is its own
    truth, and is compared with neither. TraceError and HarnessError for faults in these files, AllocatorError
    without the real thing.
    """
    recording = _recording(path, spec.name)
    if recording is not None:
        if against or script or noscan != AS_IT_STANDS:
            raise HarnessError(
                f"{path}: is a recording of the real allocator and its own truth: leave out --against, "
                "--script and --noscan"
            )
        report = recording.compare(path, spec, progress)
        report.trace = path
        return report
    make = _find(spec.name)
    reader = TraceReader(path)
    spec = spec.for_trace(reader.metadata)
    calls = read_script(script) if script else _script_beside(path)
    late = next((call for call in calls if call.after_event > reader.events), None)
    if late:
        raise HarnessError(
            f"{late.where}: after event {late.after_event}, expected at most the trace's {reader.events}"
        )
    stops = [k * reader.events // (checkpoints + 1) for k in range(1, checkpoints + 1)]
    events = partial(reader.checked, noscan)
    made = make(spec.options, against, events)
    if isinstance(made, tuple):
        model, truth = made
        with closing(truth), closing(model):
            report = compare(events(), model, truth, calls=calls, checkpoints=stops, progress=progress)
    else:
        if calls:
            raise HarnessError(
                f"{path}: {spec.name} is compared by whole runs here, and takes no calls between"
            )
        report = compare_runs(made, runs, events=reader.events, progress=progress)
    report.trace = path
    return report


def read_script(path: str) -> list[Call]:
    """Return the calls of a script: lines of ``EVENTS-BEFORE-IT CALL ARGUMENTS``; # begins a comment.

    HarnessError where it cannot be read, and for a line that is none or goes back in the trace.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: the script cannot be read: {error}") from error
    calls: list[Call] = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}: line {number}"
        if len(words) < 2 or not words[0].isdecimal():
            raise HarnessError(f"{where}: found {line.strip()!r}, expected EVENTS-BEFORE-IT CALL ARGUMENTS")
        call = Call(int(words[0]), words[1], tuple(words[2:]), where)
        if calls and call.after_event < calls[-1].after_event:
            raise HarnessError(
                f"{where}: after event {call.after_event}, expected at least {calls[-1].after_event} "
                f"as in the line before"
            )
        calls.append(call)
    return calls


def compare(
    batches: Iterable[EventBatch],
    model: Subject,
    truth: Subject,
    *,
    calls: Sequence[Call] = (),
    checkpoints: Sequence[int] = (),
    progress: Progress = unnoticed,
) -> Report:
    """Drive both subjects through a trace, with the calls between its events, and compare all they answer.

    States are compared before the first event, at every checkpoint (a count of events, or a call of that
    name, after the other calls of its place) and at the end. Breaks off after a thousand differences.
    """
    comparison = _Comparison(model, truth)
    comparison.checkpoint()
    with ThreadPoolExecutor(1) as pool:
        for step in _steps(batches, _plan(calls, checkpoints)):
            if isinstance(step, EventBatch):
                comparison.replay(step, pool)
                progress(len(step.op))
            elif step.name == CHECKPOINT:
                comparison.checkpoint()
            else:
                comparison.call(step)
            if comparison.report.gave_up:
                return comparison.report
    comparison.checkpoint()
    return comparison.report


def compare_runs(both: Unrepeatable, runs: int, *, events: int = 0, progress: Progress = unnoticed) -> Report:
    """Run the real thing so often and say of each quantity whether the model lies within its spread.

    `events`: how many the trace has, of which `progress` hears a part after each run.
    """
    model = both.model()
    found = []
    for number in range(runs):
        found.append(both.run())
        progress(events * (number + 1) // runs - events * number // runs)
    spreads = [Spread(name, value, [run[name] for run in found]) for name, value in model.items()]
    return Report(both.model_name, both.truth_name, events=events, spreads=spreads)


def _find(name: str) -> Subjects:
    known = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in known:
        having = ", ".join(sorted(known)) or "none"
        raise HarnessError(f"{name} cannot be held against a real allocator; those that can: {having}")
    try:
        make: Subjects = known[name].load()
    except ImportError as error:
        raise AllocatorError(f"{name}: {known[name].value} cannot be loaded: {error}") from error
    return make


def _recording(path: str, name: str) -> Recording | None:
    """Return what reads a file as a recording of an allocator, None where it is none."""
    points = [point for point in entry_points(group=RECORDINGS_GROUP) if point.name == name]
    if not points or path == "-" or "://" in path:
        return None
    from harness.formats.text import head_of

    head = head_of(path)
    for point in points:
        try:
            made: Recording = point.load()()
        except ImportError as error:
            raise AllocatorError(f"{name}: {point.value} cannot be loaded: {error}") from error
        if made.recognises(head):
            return made
    return None


def _script_beside(path: str) -> list[Call]:
    beside = Path(path).with_suffix(".script")
    return read_script(str(beside)) if path != "-" and "://" not in path and beside.exists() else []


def _plan(calls: Sequence[Call], checkpoints: Sequence[int]) -> list[Call]:
    planned = [*calls, *(Call(stop, CHECKPOINT) for stop in sorted(set(checkpoints)))]
    return sorted(planned, key=lambda call: call.after_event)


def _steps(batches: Iterable[EventBatch], plan: Sequence[Call]) -> Iterator[EventBatch | Call]:
    """Yield the events in parts, and each call in its place between them."""
    coming = iter(plan)
    call = next(coming, None)
    done = 0
    for batch in batches:
        first, count = 0, len(batch.op)
        while call is not None and call.after_event < done + count:
            stop = call.after_event - done
            if stop > first:
                yield batch.part(first, stop)
                first = stop
            yield call
            call = next(coming, None)
        if first < count:
            yield batch.part(first)
        done += count
    while call is not None:
        yield call
        call = next(coming, None)


class _Comparison:
    """Two subjects in the middle of a trace."""

    def __init__(self, model: Subject, truth: Subject) -> None:
        self._model = model
        self._truth = truth
        self.report = Report(model.name, truth.name)
        self.report.aspect(ADDRESSES)

    def replay(self, batch: EventBatch, pool: ThreadPoolExecutor) -> None:
        """Carry out events on both, at the same time, and compare their answers."""
        coming: Future[NDArray[np.uint64]] = pool.submit(self._truth.replay, batch)
        found = self._model.replay(batch)
        expected = coming.result()
        allocates = (batch.op == ALLOC) | (batch.op == CALLOC) | (batch.op == REALLOC)
        wrong = np.flatnonzero(found != expected)
        examples = (self._wrong_address(batch, row, found, expected) for row in wrong[:_EXAMPLES].tolist())
        self._add(ADDRESSES, int(allocates.sum()), len(wrong), examples)
        self.report.events += len(batch.op)

    def call(self, call: Call) -> None:
        """Carry out a call on both."""
        try:
            self._truth.call(call)
            self._model.call(call)
        except AllocatorError as error:
            raise AllocatorError(f"{call}: {error}") from error
        self.report.calls += 1

    def checkpoint(self) -> None:
        """Compare all that both know of themselves."""
        model, truth = self._model.state(), self._truth.state()
        when = f"after event {self.report.events}"
        for name in truth.keys() | model.keys():
            if name not in model or name not in truth:
                raise AllocatorError(f"{when}: only one side knows its {name}")
        for name, expected in truth.items():
            found = _compared(model[name], expected)
            self._add(name, found.compared, found.differing, (f"{when}: {text}" for text in found.texts))
        self.report.checkpoints += 1

    def _add(self, name: str, compared: int, differing: int, examples: Iterable[str]) -> None:
        self.report.aspect(name).add(compared, differing, examples)
        total = sum(aspect.differing for aspect in self.report.aspects.values())
        self.report.gave_up = total >= _ENOUGH_DIFFERENCES

    def _wrong_address(
        self, batch: EventBatch, row: int, found: NDArray[np.uint64], expected: NDArray[np.uint64]
    ) -> str:
        what = f"{OP_NAMES[int(batch.op[row])]} of {batch.size[row]} B on thread {batch.thread[row]}"
        return f"event {self.report.events + row}, {what}: model {found[row]:#x}, real {expected[row]:#x}"


class _Compared(NamedTuple):
    compared: int
    differing: int
    texts: list[str]  # The differences in words.


def _compared(model: State, truth: State) -> _Compared:
    if isinstance(model, str) and isinstance(truth, str):
        return _compared_texts(model, truth)
    if isinstance(model, np.ndarray) and isinstance(truth, np.ndarray):
        return _compared_rows(model, truth)
    if isinstance(model, Mapping) and isinstance(truth, Mapping):
        return _compared_numbers(model, truth)
    raise AllocatorError(f"a {type(model).__name__} cannot be compared with a {type(truth).__name__}")


def _compared_numbers(model: Mapping[Any, int | float], truth: Mapping[Any, int | float]) -> _Compared:
    keys = [*truth, *(key for key in model if key not in truth)]
    texts = [
        f"{_key_text(key)}: model {model.get(key, 'none')}, real {truth.get(key, 'none')}"
        for key in keys
        if model.get(key) != truth.get(key)
    ]
    return _Compared(len(keys), len(texts), texts)


def _key_text(key: Any) -> str:
    return " ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)


def _compared_rows(model: NDArray[Any], truth: NDArray[Any]) -> _Compared:
    if np.array_equal(model, truth):
        return _Compared(len(truth), 0, [])
    mine, real = dict.fromkeys(model.tolist()), dict.fromkeys(truth.tolist())
    texts = [f"only real: {_row_text(truth, row)}" for row in real if row not in mine]
    texts += [f"only in the model: {_row_text(model, row)}" for row in mine if row not in real]
    texts = texts or [f"the same {len(real)} rows in another order"]
    return _Compared(len(truth), len(texts), texts)


def _row_text(rows: NDArray[Any], row: tuple[Any, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(rows.dtype.names or (), row, strict=True))


def _compared_texts(model: str, truth: str) -> _Compared:
    """Compare line by line, and count bytes."""
    if model == truth:
        return _Compared(len(truth), 0, [])
    pairs = list(zip_longest(model.splitlines(True), truth.splitlines(True), fillvalue=""))
    differing = [(mine, real) for mine, real in pairs if mine != real]
    texts = [f"model {mine!r}, real {real!r}" for mine, real in differing]
    return _Compared(len(truth), sum(max(len(mine), len(real)) for mine, real in differing), texts)
