"""Tables of any make as traces: the user says which column is which, and what is not said goes by our names.

CSV, JSON Lines, Parquet and Arrow files give batches of columns (Table); MappedTrace makes records of them.
What a cell may hold is cells.py's; whether objects are named by addresses is seen in the first batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.allocator import ALLOC, CALLOC, FREE, GC, OP_NAMES, REALLOC, THREAD_END
from harness.errors import TraceError
from harness.formats import Reading
from harness.formats import cells as cast
from harness.formats._formats import AddressBook
from harness.formats.addresses import REMEDY, AddressTrace, Records
from harness.formats.cells import NS_PER_UNIT, Cells
from harness.formats.columns import expected, shown
from harness.sites import Frame, Sites, Stack, encode
from harness.trace import OPTIONAL, REQUIRED

# Of the names of a table's columns in a message.
_LISTED_CHARACTERS = 400

# What may be mapped, in the order in which a table's faults are told; times in the unit of their name.
MAPPABLE = (
    "op",
    "thread",
    "object",
    "old_object",
    "size",
    "alignment",
    "noscan",
    *NS_PER_UNIT,
    "site",
)
_NEEDED = ("op", "object", "size")

# What programs call the operations, in lower case.
_WORDS = {
    **{str(number): number for number in OP_NAMES},
    **dict.fromkeys(
        ("alloc", "allocate", "allocation", "malloc", "new", "new[]", "operator new", "+"), ALLOC
    ),
    **dict.fromkeys(("memalign", "aligned_alloc", "posix_memalign", "valloc", "pvalloc"), ALLOC),
    **dict.fromkeys(("calloc", "zalloc"), CALLOC),
    **dict.fromkeys(("realloc", "reallocate", "resize", "reallocarray"), REALLOC),
    **dict.fromkeys(("free", "dealloc", "deallocate", "deallocation", "delete", "delete[]"), FREE),
    **dict.fromkeys(("operator delete", "release", "-"), FREE),
    **dict.fromkeys(("gc", "collect"), GC),
    **dict.fromkeys(("thread_end", "thread_done", "thread_exit"), THREAD_END),
}
_OF_OP = {f"op.{name}": number for number, name in OP_NAMES.items()}

# No object lies in the first page of an address space, so that smaller numbers are names.
_FIRST_ADDRESS = 4096

# A frame as harness.sites.Frame prints it: `function (file:line)` or `function (module)`.
_FRAME = re.compile(r"(?P<function>.+?) \((?P<place>[^()]+?)(?::(?P<line>\d{1,9}))?\)")

_NO_THREADS = "the file names no threads: every event stands on thread 0"
_NUMBERED_THREADS = "threads have names: they were numbered in the order in which they appear"


class Batch(NamedTuple):
    """Rows of a table: where each stands, and its columns, of any type, by their names."""

    rows: NDArray[np.uint64]
    columns: Mapping[str, pa.Array]


class Table(Protocol):
    """A file of rows and named columns."""

    path: str
    names: list[str]  # As far as they are known before the last row.
    may_have_more: bool  # Whether rows to come may have columns that are not among the names.
    metadata: dict[str, Any]
    sites: bytes | None

    @property
    def bad_rows(self) -> int:
        """How many rows could not be read, if the reading is lenient."""

    def batches(self, names: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows, a bounded number at a time, with these columns; TraceError where they end early."""


def expect_types(path: str, schema: pa.Schema, names: Sequence[str]) -> None:
    """Raise TraceError where a column is of a type that no cell can be cast from."""
    for name in names:
        found = schema.field(name).type
        if not cast.can_hold(found):
            raise TraceError(f"{path}: column {name}: found type {found}, expected numbers or text")


def is_plain(names: Sequence[str], reading: Reading) -> bool:
    """Say whether a table has the columns of harness-trace/1 by name and is to be read as it stands."""
    return not reading.columns and not reading.lenient and set(REQUIRED) <= set(names)


class MappedTrace(AddressTrace):
    """A table as a trace."""

    def __init__(self, table: Table, reading: Reading) -> None:
        self._table = table
        self._theirs, self._words = _mapping(table, reading)
        optional = [name for name in OPTIONAL if name in self._theirs]
        self._time = next((name for name in NS_PER_UNIT if name in self._theirs), None)
        if self._time is not None and "time_ns" not in optional:
            optional.append("time_ns")
        super().__init__(
            table.path, reading, tuple(name for name in OPTIONAL if name in optional), unit="row"
        )
        self.metadata = dict(table.metadata)
        self.unknown_columns = tuple(name for name in table.names if name not in self._theirs.values())
        # Our own columns by our own names: 0 names an object like any other number.
        self._is_ours = "object" not in reading.columns and set(REQUIRED) <= set(table.names)
        self._names_objects = self._is_ours
        self._bare_hexadecimal = False
        self._thread_numbers: dict[str, int] | None = None
        self._site_numbers: dict[str, int] | None = None
        self._stacks: list[Stack] = []
        self._bad_rows = 0

    def records(self) -> Iterator[Records]:
        """Yield the records of a batch of rows at a time."""
        has_begun = False
        for batch in self._table.batches(list(dict.fromkeys(self._theirs.values()))):
            if not len(batch.rows):
                continue
            if not has_begun:
                self._begin(batch)
                has_begun = True
            records = self._records(batch)
            if len(records["op"]):
                yield records

    @property
    def repairs(self) -> dict[str, int]:
        """What was mended so far, by kind."""
        bad = self._bad_rows + self._table.bad_rows
        return super().repairs | ({"bad_rows": bad} if bad else {})

    @property
    def losses(self) -> list[str]:
        """What of the table was lost so far, in words."""
        texts = super().losses
        if "thread" not in self._theirs:
            texts.append(_NO_THREADS)
        if self._thread_numbers is not None:
            texts.append(_NUMBERED_THREADS)
        return texts

    @property
    def sites(self) -> bytes | None:  # type: ignore[override]
        """The stacks that the table names, or the sites that came with it."""
        if self._site_numbers is None:
            return self._table.sites
        return encode(Sites.of_stacks(self._stacks))

    def _begin(self, batch: Batch) -> None:
        """Decide by the first rows what the table names objects, threads and sites by."""
        named = [
            batch.columns[self._theirs[name]] for name in ("object", "old_object") if name in self._theirs
        ]
        self._bare_hexadecimal = cast.is_bare_hexadecimal(named[0])
        if not self._is_ours:
            numbers = self._addresses("object", batch).numbers
            known = numbers[numbers != 0]
            self._names_objects = not len(known) or bool((known < _FIRST_ADDRESS).any())
        self._book = AddressBook(lenient=self.reading.lenient, unit="row", null_names=self._names_objects)
        if "thread" in self._theirs:
            threads = cast.whole_numbers(batch.columns[self._theirs["thread"]], REQUIRED["thread"])
            # One that is no number may be a slip; where most are none, threads have names.
            if threads.is_bad.sum() * 2 > len(threads.is_bad):
                self._thread_numbers = {}
        if "site" in self._theirs:
            values = batch.columns[self._theirs["site"]]
            if cast.is_text(values.type) and cast.whole_numbers(values, OPTIONAL["site"]).is_bad.any():
                self._site_numbers = {"": 0}
                self._stacks = [()]

    def _records(self, batch: Batch) -> Records:
        count = len(batch.rows)
        column = {name: batch.columns[theirs] for name, theirs in self._theirs.items()}
        op = cast.words(column["op"], self._words)
        allocates = np.isin(op.numbers, (ALLOC, CALLOC, REALLOC))
        has_object = allocates | (op.numbers == FREE)
        checked: dict[str, tuple[Cells, NDArray[np.bool_]]] = {"op": (op, np.ones(count, bool))}

        def take(name: str, found: Cells, needed_where: NDArray[np.bool_]) -> Cells:
            checked[name] = found, needed_where
            return found

        nowhere, everywhere = np.zeros(count, bool), np.ones(count, bool)
        address = take("object", self._addresses("object", batch), has_object & self._names_objects)
        old = address
        if "old_object" in self._theirs:
            old = take("old_object", self._addresses("old_object", batch), nowhere)
        size = take("size", cast.whole_numbers(column["size"], REQUIRED["size"]), allocates)
        records: Records = {
            "op": op.numbers.copy(),
            "address": address.numbers,
            "old_address": old.numbers,
            "size": size.numbers,
            "place": batch.rows,
            "thread": np.zeros(count, np.uint32),
        }
        if "thread" in column:
            records["thread"] = take("thread", self._threads(column["thread"]), everywhere).numbers
        if "alignment" in column:
            found = take("alignment", cast.whole_numbers(column["alignment"], OPTIONAL["alignment"]), nowhere)
            records["alignment"] = found.numbers
        if "noscan" in column:
            records["noscan"] = take("noscan", cast.flags(column["noscan"]), nowhere).numbers
        if self._time is not None:
            found = take(self._time, cast.times(column[self._time], self._time), everywhere)
            records["time_ns"] = found.numbers
        if "site" in column:
            records["site"] = take("site", self._sites(column["site"]), nowhere).numbers
        # A realloc of nothing allocates: by name, too, where 0 may be one.
        records["op"][(op.numbers == REALLOC) & old.is_nothing] = ALLOC
        is_bad = np.zeros(count, bool)
        for found, needed_where in checked.values():
            is_bad |= found.is_bad | (found.is_nothing & needed_where)
        if not is_bad.any():
            return records
        if not self.reading.lenient:
            raise self._fault(batch, int(np.flatnonzero(is_bad)[0]), checked)
        self._bad_rows += int(is_bad.sum())
        return {name: values[~is_bad] for name, values in records.items()}

    def _addresses(self, name: str, batch: Batch) -> Cells:
        values = batch.columns[self._theirs[name]]
        return cast.whole_numbers(values, REQUIRED["object"], bare_hexadecimal=self._bare_hexadecimal)

    def _threads(self, values: pa.Array) -> Cells:
        if self._thread_numbers is None:
            return cast.whole_numbers(values, REQUIRED["thread"])
        return _numbered(values, self._thread_numbers)

    def _sites(self, values: pa.Array) -> Cells:
        if self._site_numbers is None:
            return cast.whole_numbers(values, OPTIONAL["site"])
        found = _numbered(values, self._site_numbers)
        for text in list(self._site_numbers)[len(self._stacks) :]:
            self._stacks.append(_stack(text))
        return found

    def _fault(
        self, batch: Batch, at: int, checked: Mapping[str, tuple[Cells, NDArray[np.bool_]]]
    ) -> TraceError:
        """Return what to raise for the first row that cannot be cast."""
        for name in MAPPABLE:
            if name not in checked:
                continue
            found, needed_where = checked[name]
            if found.is_bad[at] or (found.is_nothing[at] and needed_where[at]):
                break
        theirs = self._theirs[name]
        column = theirs if theirs == name else f"{theirs} ({name})"
        values = cast.python_values(batch.columns[theirs][at : at + 1])
        return TraceError(
            f"{self.path}: row {batch.rows[at]}, column {column}: found {shown(values[0])}, "
            f"expected {self._expected(name)}{REMEDY}"
        )

    def _expected(self, name: str) -> str:
        if name == "op":
            return f"{expected(name)} or what such are called; say others with --map op.alloc=WORD|WORD"
        if name in NS_PER_UNIT:
            return f"a time, {name.removeprefix('time_')}"
        return expected("object" if name == "old_object" else name)


def _mapping(table: Table, reading: Reading) -> tuple[dict[str, str], dict[str, int]]:
    """Return what the table calls our columns, and what its ops mean; TraceError where they are not there."""
    words = dict(_WORDS)
    theirs: dict[str, str] = {}
    for ours, named in reading.columns.items():
        if ours in _OF_OP:
            words |= dict.fromkeys((word.strip() for word in named.split("|")), _OF_OP[ours])
        elif ours in MAPPABLE:
            theirs[ours] = named
        else:
            known = ", ".join((*MAPPABLE, *_OF_OP))
            raise TraceError(f"{table.path}: --map {ours}={named}: found {ours}, expected one of {known}")
    for ours, named in theirs.items():
        if named not in table.names and (ours in _NEEDED or not table.may_have_more):
            raise TraceError(f"{table.path}: --map {ours}={named}: there is no column {named}{_found(table)}")
    for name in MAPPABLE:
        if name in table.names and name not in theirs:
            theirs[name] = name
    for name in _NEEDED:
        if name not in theirs:
            raise TraceError(
                f"{table.path}: column {name} is missing; expected {', '.join(REQUIRED)}{_found(table)}; "
                f"say what it is called with --map {name}=..."
            )
    units = [name for name in NS_PER_UNIT if name in theirs]
    if len(units) > 1:
        asked = [name for name in units if name in reading.columns]
        if len(asked) > 1:
            raise TraceError(f"{table.path}: --map: found {' and '.join(asked)}, expected one of them")
        for name in units:
            if name != (asked or units)[0]:
                del theirs[name]
    for named in theirs.values():
        if table.names.count(named) > 1:
            raise TraceError(
                f"{table.path}: column {named} stands {table.names.count(named)} times, expected once"
            )
    return theirs, words


def _found(table: Table) -> str:
    """Say which columns there are, the first of them where they are many."""
    if not table.names:
        return " and found no column at all"
    listed = ", ".join(shown(name, quoted=False) for name in table.names)
    if len(listed) > _LISTED_CHARACTERS:
        return f" and found {len(table.names)} columns: {listed[:_LISTED_CHARACTERS]}..."
    return f" and found {listed}"


def _numbered(values: pa.Array, numbers: dict[str, int]) -> Cells:
    """Number a column's words in the order in which they appear."""
    encoded = cast.text_of(values).dictionary_encode()
    found = [numbers.setdefault(word, len(numbers)) for word in cast.strings(encoded.dictionary)]
    at = encoded.indices.fill_null(len(found)).to_numpy()
    nothing = np.array([*(not word for word in cast.strings(encoded.dictionary)), True], bool)[at]
    return Cells(np.array([*found, 0], np.uint32)[at], nothing, np.zeros(len(at), bool))


def _stack(text: str) -> Stack:
    """Return the frames of a folded stack, which has the outermost first."""
    return tuple(_frame(part.strip()) for part in reversed(text.split(";")) if part.strip())


def _frame(text: str) -> Frame:
    found = _FRAME.fullmatch(text)
    if found is None:
        return Frame(text)
    if found["line"] is None:
        return Frame(found["function"], module=found["place"])
    return Frame(found["function"], found["place"], int(found["line"]))
