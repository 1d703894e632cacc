"""Distributions of sizes: those that ship with the package, one CSV each in this folder, and a user's own.

A file has the header ``size,weight`` or ``size,weight,live``, a line a size, and comments on lines that begin
with ``#``. `weight` is a share of the allocations and `live` one of the live objects, both in any unit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from harness.errors import HarnessError

_HEADERS = (["size", "weight"], ["size", "weight", "live"])
_MAX_SIZE_BYTES = 2**47 - 1  # The address space, as the reader of traces has it.
_MAX_SIZES = 65_534  # An object remembers the row of its size in 16 bits.


class Distribution(NamedTuple):
    """Sizes in bytes with their weights; `live_weights` is empty where the file has no such column."""

    sizes: list[int]
    weights: list[float]
    live_weights: list[float]


def names() -> list[str]:
    """Return the names of the distributions that ship with the package."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.csv"))


def load(name: str) -> Distribution:
    """Return the distribution of that name, or the one in that CSV file; HarnessError for a fault in it."""
    if name in names():
        return _read(str(Path(__file__).with_name(f"{name}.csv")))
    if "/" not in name and not name.endswith(".csv"):
        raise HarnessError(
            f"--sizes {name}: no such distribution; expected log-normal, {', '.join(names())} or a file.csv"
        )
    return _read(name)


def _read(path: str) -> Distribution:
    lines = [
        (number, line.strip())
        for number, line in enumerate(_text(path).splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise HarnessError(f"{path}: is empty, expected the header size,weight and a line a size")
    (number, header), *lines = lines
    columns = [name.strip() for name in header.split(",")]
    if columns not in _HEADERS:
        raise HarnessError(
            f"{path}: line {number}: found {_shown(header)}, expected the header size,weight or "
            f"size,weight,live"
        )
    found = Distribution([], [], [])
    line_of_size: dict[int, int] = {}
    for number, line in lines:
        values = [value.strip() for value in line.split(",")]
        if len(values) != len(columns):
            raise HarnessError(
                f"{path}: line {number}: found {len(values)} values in {_shown(line)}, "
                f"expected {len(columns)}: {','.join(columns)}"
            )
        size = _size(path, number, values[0])
        if size in line_of_size:
            raise HarnessError(
                f"{path}: line {number}: found size {size} again, which line {line_of_size[size]} has; "
                f"expected each once: add their weights"
            )
        line_of_size[size] = number
        shares = [
            _share(path, number, name, value) for name, value in zip(columns[1:], values[1:], strict=True)
        ]
        if len(set(map(bool, shares))) > 1:
            raise HarnessError(
                f"{path}: line {number}: found weight {values[1]} and live {values[2]}, "
                f"expected both above 0 or both 0"
            )
        if shares[0]:
            found.sizes.append(size)
            for column, share in zip(found[1:], shares, strict=False):
                column.append(share)
    return _checked(path, found)


def _checked(path: str, found: Distribution) -> Distribution:
    if not found.sizes:
        raise HarnessError(f"{path}: no size has a weight, expected one above 0")
    if len(found.sizes) > _MAX_SIZES:
        raise HarnessError(
            f"{path}: found {len(found.sizes):,} sizes, expected {_MAX_SIZES:,} at most: group them"
        )
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise HarnessError(f"{path}: no such file, expected a CSV of size,weight") from error
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: is not text, expected a CSV of size,weight") from error


def _size(path: str, number: int, text: str) -> int:
    # Python's int takes signs, underscores and other scripts' digits as well.
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not 0 <= size <= _MAX_SIZE_BYTES:
        raise HarnessError(
            f"{path}: line {number}: found size {_shown(text)}, expected whole bytes, 0 to {_MAX_SIZE_BYTES}"
        )
    return size


def _share(path: str, number: int, name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    # The bounds keep sums and quotients of shares finite.
    if share != 0 and not 1e-100 <= share <= 1e100:
        raise HarnessError(
            f"{path}: line {number}: found {name} {_shown(text)}, expected 0 or a number from 1e-100 to 1e100"
        )
    return share


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
