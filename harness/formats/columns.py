"""Casts what a file holds to the columns of harness-trace/1, or says in one line which row cannot be cast.

Used by every format whose columns come as Arrow arrays: text, other integer widths, ops and flags by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.allocator import OP_NAMES
from harness.errors import TraceError
from harness.trace import COLUMNS, REQUIRED

_OPS = {name: number for number, name in OP_NAMES.items()} | {str(number): number for number in OP_NAMES}
_FLAGS = {"true": 1, "false": 0, "True": 1, "False": 0, "1": 1, "0": 0}
_EXPECTED_OP = ", ".join(OP_NAMES.values())
_SHOWN_CHARACTERS = 40


def expect_required(path: str, found: list[str]) -> None:
    """Raise TraceError where one of the required columns is missing or a column stands twice."""
    for name in REQUIRED:
        if name not in found:
            listed = ", ".join(shown(each, quoted=False) for each in found)
            raise TraceError(
                f"{path}: column {name} is missing; expected {', '.join(REQUIRED)} "
                f"and found {listed or 'no column at all'}"
            )
    for name in COLUMNS:
        if found.count(name) > 1:
            raise TraceError(f"{path}: column {name} stands {found.count(name)} times, expected once")


def can_cast(name: str, kind: pa.DataType) -> bool:
    """Say whether a column of this type may hold what harness-trace/1 means by the name."""
    if pa.types.is_dictionary(kind):
        return can_cast(name, kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return name == "op"
    if pa.types.is_boolean(kind):
        return name == "noscan"
    return bool(pa.types.is_integer(kind))


def to_numpy(path: str, name: str, values: pa.Array, first_row: int) -> NDArray[Any]:
    """Return an Arrow array, numbers or text, as that column; TraceError names the first bad row."""
    if values.null_count:
        at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise fault(path, first_row + at, name, "null")
    if name in ("op", "noscan") and not pa.types.is_integer(values.type):
        return _named(path, name, values, first_row)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = pa.uint8() if name == "noscan" else COLUMNS[name]
    try:
        cast: NDArray[Any] = pc.cast(values, kind).to_numpy()
    except pa.ArrowInvalid as error:
        at = _first_uncastable(values, kind)
        raise fault(path, first_row + at, name, shown(values[at].as_py())) from error
    if name == "noscan" and len(cast) and cast.max() > 1:
        at = int(np.flatnonzero(cast > 1)[0])
        raise fault(path, first_row + at, name, shown(values[at].as_py()))
    return cast


def fault(path: str, row: int, name: str, found: str) -> TraceError:
    """Return what to raise for a value that does not fit its column."""
    return TraceError(f"{path}: row {row}, column {name}: found {found}, expected {expected(name)}")


def expected(name: str) -> str:
    """Say what the column of that name may hold."""
    if name == "op":
        return _EXPECTED_OP
    if name == "noscan":
        return "true or false"
    limits = np.iinfo(COLUMNS[name].to_pandas_dtype())
    return f"a whole number from {limits.min:,} to {limits.max:,}"


def shown(value: Any, *, quoted: bool = True) -> str:
    """Return a value that was found, short and on one line."""
    text = repr(value) if quoted else str(value)
    text = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _named(path: str, name: str, values: pa.Array, first_row: int) -> NDArray[np.uint8]:
    """Look up names of ops, or flags, in the dictionary that the column is or becomes."""
    if pa.types.is_boolean(values.type):
        flags: NDArray[np.uint8] = values.cast(pa.uint8()).to_numpy()
        return flags
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    known = _OPS if name == "op" else _FLAGS
    words = values.dictionary.to_pylist()
    numbers = np.array([known.get(word, 255) for word in words], np.uint8)
    column: NDArray[np.uint8] = numbers[values.indices.to_numpy()]
    if len(column) and column.max() == 255:
        at = int(np.flatnonzero(column == 255)[0])
        raise fault(path, first_row + at, name, shown(values[at].as_py()))
    return column


def _first_uncastable(values: pa.Array, kind: pa.DataType) -> int:
    low, high = 0, len(values)  # The first `low` rows can be cast, the first `high` cannot.
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pc.cast(values[low:middle], kind)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
