"""Casts the cells of other people's tables: each column to an array, and which of its cells could not be.

Cells may be numbers of any type or text: decimal, hexadecimal with 0x or without, whole numbers that a table
of floats has given a fraction of zero, points in time in any unit. mapping.py says what each column means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

# What stands for no address and no value, in lower case: printf's, C++'s, Python's, JSON's words for it.
NOTHING = frozenset({"", "(nil)", "nil", "null", "nullptr", "none", "nan", "na", "n/a"})
_NOTHING_WORDS = pa.array(sorted(NOTHING))
_TRUE = frozenset({"true", "1", "yes", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "f", "n"})
_DECIMAL = re.compile(r"[+-]?[0-9]{1,40}")
_HEXADECIMAL = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,16}")
# Beyond it a float is no exact whole number any more.
_EXACT_FLOAT = 2**53
_MOST_DIGITS = 40

NS_PER_UNIT = {"time_ns": 1, "time_us": 10**3, "time_ms": 10**6, "time_s": 10**9}


class Cells(NamedTuple):
    """A column that was cast: its numbers, 0 where there is none; which cells were empty; which are bad."""

    numbers: NDArray[Any]
    is_nothing: Bools
    is_bad: Bools


def text_of(values: pa.Array) -> pa.Array:
    """Return a column of any type as text without space around it, in Arrow's type string."""
    values = _counted(_plain(values))
    if not pa.types.is_string(values.type):
        try:
            values = values.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            values = pa.array([None if each is None else _one(each) for each in values.to_pylist()])
            values = values.cast(pa.string())
    return pc.ascii_trim_whitespace(values)


def is_text(kind: pa.DataType) -> bool:
    """Say whether a column of this type holds text."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def can_hold(kind: pa.DataType) -> bool:
    """Say whether a column of this type may be cast at all."""
    if pa.types.is_dictionary(kind):
        return can_hold(kind.value_type)
    return bool(
        is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_null(kind)
    )


def is_bare_hexadecimal(values: pa.Array) -> bool:
    """Say whether a column of text holds hexadecimal numbers without 0x: most cells do, one has a letter."""
    if not is_text(values.type):
        return False
    texts = [text for text in strings(text_of(values)) if text.lower() not in NOTHING]
    bare = [text for text in texts if _HEXADECIMAL.fullmatch(text) and text[:2].lower() != "0x"]
    return len(bare) * 2 > len(texts) and any(not text.isdecimal() for text in bare)


def whole_numbers(values: pa.Array, kind: pa.DataType, *, bare_hexadecimal: bool = False) -> Cells:
    """Cast a column to whole numbers of an Arrow integer type."""
    values, nothing = _filled(_counted(_plain(values)))
    try:
        ready = pc.binary_join_element_wise("0x", values, "") if bare_hexadecimal else values
        cast = pc.cast(ready, kind).to_numpy(zero_copy_only=False)
        return Cells(cast, nothing, np.zeros(len(cast), bool))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _one_by_one(values, nothing, kind, lambda cell: _whole(cell, bare_hexadecimal))


def times(values: pa.Array, unit: str) -> Cells:
    """Cast a column of times in a unit of NS_PER_UNIT, or of Arrow's timestamps, to nanoseconds."""
    values, nothing = _filled(_plain(values))
    factor = NS_PER_UNIT[unit]
    if pa.types.is_timestamp(values.type) or pa.types.is_duration(values.type):
        kind = pa.duration("ns") if pa.types.is_duration(values.type) else pa.timestamp("ns")
        if pa.types.is_timestamp(values.type) and values.type.tz is not None:
            kind = pa.timestamp("ns", values.type.tz)
        try:
            values = pc.cast(values, kind).cast(pa.int64())
        except pa.ArrowInvalid:
            return Cells(np.zeros(len(values), np.int64), nothing, np.ones(len(values), bool))
        return Cells(values.fill_null(0).to_numpy(), nothing, np.zeros(len(values), bool))
    try:
        if pa.types.is_integer(values.type):
            whole = pc.multiply_checked(pc.cast(values, pa.int64()), factor)
            return Cells(whole.to_numpy(), nothing, np.zeros(len(values), bool))
        if is_text(values.type):
            return Cells(_unscaled(values, factor), nothing, np.zeros(len(values), bool))
    except pa.ArrowInvalid:
        pass
    return _one_by_one(values, nothing, pa.int64(), lambda cell: _scaled(cell, factor))


def flags(values: pa.Array) -> Cells:
    """Cast a column to 0 and 1."""
    words = text_of(values).dictionary_encode()
    numbers, nothing, bad = [], [], []
    for word in (each.lower() for each in strings(words.dictionary)):
        numbers.append(word in _TRUE)
        nothing.append(word in NOTHING)
        bad.append(word not in _TRUE and word not in _FALSE and word not in NOTHING)
    return _by_word(words, numbers, nothing, bad, np.uint8)


def words(values: pa.Array, meanings: Mapping[str, int]) -> Cells:
    """Look a column's words up, as they stand and then in lower case; what is not among them is bad."""
    encoded = text_of(values).dictionary_encode()
    found = [meanings.get(word, meanings.get(word.lower())) for word in strings(encoded.dictionary)]
    nothing = [False] * len(found)
    return _by_word(
        encoded, [each or 0 for each in found], nothing, [each is None for each in found], np.uint8
    )


def strings(values: pa.Array) -> list[str]:
    """Return a column of text as Python's; what is no UTF-8 is replaced, null is nothing."""
    return [
        "" if each is None else each.decode(errors="replace") for each in values.cast(pa.binary()).to_pylist()
    ]


def python_values(values: pa.Array) -> list[Any]:
    """Return a column's cells as Python's, points in time as numbers."""
    values = _counted(_plain(values))
    return strings_or_none(values) if is_text(values.type) else list(values.to_pylist())


def _plain(values: pa.Array) -> pa.Array:
    """Return a column without a dictionary, its text in Arrow's type string."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        return pa.array(
            [None if each is None else each.decode(errors="replace") for each in values.to_pylist()]
        )
    if is_text(values.type) and not pa.types.is_string(values.type):
        return values.cast(pa.string())
    return values


def _counted(values: pa.Array) -> pa.Array:
    """Return a column with points in time as numbers: not every one of Arrow's is one of Python's."""
    is_time = pa.types.is_timestamp(values.type) or pa.types.is_duration(values.type)
    return values.cast(pa.int64()) if is_time else values


def _filled(values: pa.Array) -> tuple[pa.Array, Bools]:
    """Return a column with zero for what is nothing, if its type has a zero; and where nothing was."""
    nothing = values.is_null(nan_is_null=True)
    if is_text(values.type):
        values = pc.ascii_trim_whitespace(values)
        nothing = pc.or_(nothing, pc.is_in(pc.ascii_lower(values), _NOTHING_WORDS))
    mask: Bools = nothing.to_numpy(zero_copy_only=False)
    if mask.any():
        if is_text(values.type):
            values = pc.if_else(nothing, "0", values)
        elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            values = pc.if_else(nothing, pa.scalar(0, values.type), values)
    return values, mask


def _one(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _by_word(
    encoded: pa.DictionaryArray,
    numbers: list[Any],
    nothing: list[bool],
    bad: list[bool],
    kind: type[np.generic],
) -> Cells:
    """Spread over a column what was found of each of its words; a null is nothing."""
    at = encoded.indices.fill_null(len(numbers)).to_numpy()
    return Cells(
        np.array([*numbers, 0], kind)[at],
        np.array([*nothing, True], bool)[at],
        np.array([*bad, False], bool)[at],
    )


def _one_by_one(
    values: pa.Array, nothing: Bools, kind: pa.DataType, number: Callable[[Any], int | None]
) -> Cells:
    """Cast what Arrow would not, cell by cell."""
    limits = np.iinfo(kind.to_pandas_dtype())
    numbers = np.zeros(len(values), limits.dtype)
    bad = np.zeros(len(values), bool)
    cells = python_values(values)
    for i in np.flatnonzero(~nothing):
        cell = cells[i]
        found = number(cell)
        if found is None or not limits.min <= found <= limits.max:
            bad[i] = True
        else:
            numbers[i] = found
    return Cells(numbers, nothing, bad)


def strings_or_none(values: pa.Array) -> list[str | None]:
    """Return a column of text as Python's, with its nulls."""
    cells = values.cast(pa.binary()).to_pylist()
    return [None if each is None else each.decode(errors="replace") for each in cells]


def _whole(cell: Any, bare_hexadecimal: bool) -> int | None:
    """Return the whole number in a cell, None where there is none."""
    if isinstance(cell, int):
        return cell
    if isinstance(cell, str):
        if _HEXADECIMAL.fullmatch(cell) and (bare_hexadecimal or cell[:2] in ("0x", "0X")):
            return int(cell, 16)
        if _DECIMAL.fullmatch(cell):
            return int(cell)
    value = _decimal(cell)
    if value is None or abs(value) >= _EXACT_FLOAT or value != value.to_integral_value():
        return None
    return int(value)


def _scaled(cell: Any, factor: int) -> int | None:
    """Return a time in nanoseconds, the nearest where it is finer than that."""
    value = _decimal(cell)
    if value is None or abs(value) >= Decimal(2**63) / factor:
        return None
    return round(value * factor)


def _decimal(cell: Any) -> Decimal | None:
    try:
        value = Decimal(cell)
    except (InvalidOperation, TypeError, ValueError):
        return None
    # What is larger than any column's numbers is none of them, and would take long to compute with.
    return value if value.is_finite() and value.adjusted() <= _MOST_DIGITS else None


def _unscaled(values: pa.Array, factor: int) -> NDArray[np.int64]:
    """Return decimal text times a power of ten, exactly; ArrowInvalid where that is not possible."""
    digits = len(str(factor)) - 1
    decimals = pc.cast(values, pa.decimal128(38, digits))
    halves = np.frombuffer(decimals.buffers()[1], np.int64)[
        2 * decimals.offset : 2 * (decimals.offset + len(values))
    ]
    low, high = halves[0::2], halves[1::2]
    if not np.array_equal(high, low >> 63):
        raise pa.ArrowInvalid("beyond 64 bits")
    return low.copy()
