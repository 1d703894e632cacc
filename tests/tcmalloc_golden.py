"""Reads the recorded runs of the real library (tests/golden/tcmalloc) and drives the model through them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from allocators.tcmalloc import Tcmalloc
from allocators.tcmalloc.statistics import RANGE
from harness.allocator import ALLOC, CALLOC, FREE, REALLOC, THREAD_END, EventBatch

FOLDER = Path(__file__).parent / "golden" / "tcmalloc"
_STATES = FOLDER / "states.parquet"
NAMES = sorted(path.stem for path in FOLDER.glob("*.parquet") if path != _STATES)
VERSIONS = ("2.10", "2.18")
_OPS = {"alloc": ALLOC, "calloc": CALLOC, "realloc": REALLOC, "free": FREE, "thread_end": THREAD_END}


class Row(NamedTuple):
    """A line of a recorded script; the address counts from the heap's, None where there is none."""

    op: str
    thread: int
    object: int | None  # None for what the recording's program allocated before the script.
    size: int
    alignment: int
    address: int | None


class Event(NamedTuple):
    """A row of a trace, and the address that the library gave."""

    op: int
    thread: int
    slot: int
    size: int
    alignment: int
    requested: int
    address: int | None
    recorded: bool  # Whether the library's address is known.


class Checkpoint(NamedTuple):
    """All that the library tells of itself."""

    properties: dict[str, int]
    free_list_sizes: dict[tuple[str, int], int]
    ranges: list[tuple[int, int, int, float]]  # Addresses count from the heap's.
    stats_text: str


class Recording(NamedTuple):
    """One run of one version of the library: its events, and between them what no trace holds."""

    events: list[Event]
    calls: list[tuple[int, Row]]  # After so many events.
    checkpoints: list[Checkpoint]
    transfer_num_objects: int
    heap_base: int


class Replayed(NamedTuple):
    """What the model answered."""

    compared: int
    differences: list[str]  # Events whose address is not the library's.
    checkpoints: list[Checkpoint]


def read(name: str, version: str) -> Recording:
    """Return the run of a version by a recording's name."""
    table = pq.read_table(FOLDER / f"{name}.parquet")
    about = json.loads(table.schema.metadata[b"tcmalloc.golden"])
    columns = ("op", "thread", "object", "size", "alignment", f"address_{version.replace('.', '_')}")
    script = _Script()
    for values in zip(*(table[column].to_pylist() for column in columns), strict=True):
        script.add(Row(*values))
    states = pq.read_table(_STATES, filters=[("name", "=", name), ("version", "=", version)]).to_pylist()
    checkpoints = [
        Checkpoint(
            dict(zip(about["properties"], values, strict=True)),
            {(kind, size): total for kind, size, total in json.loads(state["free_list_sizes"])},
            np.frombuffer(state["ranges"], RANGE).tolist(),
            state["stats_text"],
        )
        for values, state in zip(about["checkpoints"][version], states, strict=True)
    ]
    return Recording(
        script.events, script.calls, checkpoints, about["transfer_num_objects"], about["heap_base"]
    )


class _Script:
    """Turns the recorded script into events of a trace: NULL is no object, and objects have dense slots.

    The recording's program keeps what malloc or realloc returned, NULL included, and so forgets an object
    whose allocation failed. After a failed realloc its block is still allocated: the slot stays taken.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: list[tuple[int, Row]] = []
        self._slots: dict[int | None, int] = {}  # Of the objects that the program knows.
        self._sizes: list[int] = []
        self._unused: list[int] = []
        self._held = 0

    def add(self, row: Row) -> None:
        if row.op not in _OPS:
            self.calls.append((len(self.events), row))
        elif row.op == "thread_end":
            self._append(THREAD_END, row, 0, 0)
        elif row.op == "free":
            if row.object in self._slots:
                self._free(row, self._slots.pop(row.object))
        elif row.op == "realloc" and row.size == 0 and row.object in self._slots:
            self._free(row, self._slots.pop(row.object))
        else:
            self._allocate(row)

    def _allocate(self, row: Row) -> None:
        op = _OPS[row.op]
        if row.object in self._slots:
            slot = self._slots[row.object]
        else:
            op = CALLOC if op == CALLOC else ALLOC
            slot = self._unused.pop() if self._unused else len(self._sizes)
            self._sizes += [0] * (slot == len(self._sizes))
        self._resize(slot, row.size)
        self._append(op, row, slot, row.size)
        if row.address is not None:
            self._slots[row.object] = slot
        else:
            self._slots.pop(row.object, None)

    def _free(self, row: Row, slot: int) -> None:
        size = self._sizes[slot]
        self._resize(slot, 0)
        self._append(FREE, row, slot, size)
        self._unused.append(slot)

    def _resize(self, slot: int, size: int) -> None:
        self._held += size - self._sizes[slot]
        self._sizes[slot] = size

    def _append(self, op: int, row: Row, slot: int, size: int) -> None:
        recorded = row.object is not None and op in (ALLOC, CALLOC, REALLOC)
        self.events.append(
            Event(op, row.thread, slot, size, row.alignment, self._held, row.address, recorded)
        )


def replay(recording: Recording, version: str) -> Replayed:
    """Return what the model makes of a recording, with each call carried out where the library had it."""
    model = Tcmalloc(
        version=version,  # type: ignore[arg-type]
        transfer_num_objects=recording.transfer_num_objects,
        heap_base=recording.heap_base,
    )
    model.native.record_placements(True)
    batch = _batch(recording.events)
    checkpoints = []
    done = 0
    for position, call in recording.calls:
        model.feed(EventBatch(*(column[done:position] for column in batch)), np.array([position - done]))
        done = position
        if call.op == "checkpoint":
            checkpoints.append(_checkpoint(model, recording.heap_base))
        else:
            _carry_out(model, call)
    assert done == len(recording.events)  # A recording ends with a checkpoint.
    return _compare(recording, model, checkpoints)


def _checkpoint(model: Tcmalloc, heap_base: int) -> Checkpoint:
    ranges = model.ranges()
    ranges["address"] -= heap_base
    return Checkpoint(model.properties(), model.free_list_sizes(), ranges.tolist(), model.stats_text())


def _carry_out(model: Tcmalloc, call: Row) -> None:
    if call.op == "release_free_memory":
        model.release_free_memory()
    elif call.op == "release_to_system":
        model.release_to_system(call.size)
    elif call.op == "mark_thread_idle":
        model.mark_thread_idle(call.thread)
    elif call.op == "set_release_rate":
        model.set_release_rate(call.size / 1000)
    else:
        model.set_property(call.op.removeprefix("set "), call.size)


def _compare(recording: Recording, model: Tcmalloc, checkpoints: list[Checkpoint]) -> Replayed:
    events, addresses, has_address = (column.tolist() for column in model.native.take_placements())
    placed = {
        event: address - recording.heap_base if has else None
        for event, address, has in zip(events, addresses, has_address, strict=True)
    }
    where: dict[int, int | None] = {}
    compared = 0
    differences = []
    for number, event in enumerate(recording.events):
        if number in placed:
            where[event.slot] = placed[number]
        if event.recorded:
            compared += 1
            if where[event.slot] != event.address:
                differences.append(f"event {number}: {event} was placed at {where[event.slot]}")
    return Replayed(compared, differences, checkpoints)


def _batch(events: list[Event]) -> EventBatch:
    op, thread, slot, size, alignment, requested, _, _ = zip(*events, strict=True)
    return EventBatch(
        op=np.array(op, np.uint8),
        thread=np.array(thread, np.uint16),
        slot=np.array(slot, np.uint32),
        size=np.array(size, np.uint64),
        alignment=np.array(alignment, np.uint32),
        noscan=np.zeros(len(op), np.uint8),
        owner=np.zeros(len(op), np.uint16),
        time_ns=np.zeros(0, np.int64),
        requested=np.array(requested, np.uint64),
    )
