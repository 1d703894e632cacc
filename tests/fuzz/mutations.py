"""Changes files as files go wrong: cut, shuffled, with addresses twice, with clocks that go back, wrapped.

Every change follows from the bytes and a number alone, so that a finding can be made again.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Sequence

import pyarrow as pa

_NUMBER = re.compile(rb"0x[0-9a-fA-F]+|[0-9]+")
_ODD_NUMBERS = (
    b"0", b"-1", b"1", b"4095", b"4096", b"4294967295", b"4294967296", b"9223372036854775807",
    b"9223372036854775808", b"18446744073709551615", b"18446744073709551616", b"140737488355328",
    b"0xffffffffffffffff", b"0x10000000000000000", b"1e999", b"nan", b"", b"00000000000000000000000001",
)  # fmt: skip
_LONG_LINE_BYTES = 10_000_000


def mutated(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    """Return the file changed in one to four ways."""
    for _ in range(random_.randint(1, 4)):
        change = random_.choice(_CHANGES)
        data = change(data, random_, tokens)
    return data


def wrapped(data: bytes, how: int) -> bytes:
    """Return the file as `how` has it: as it is; compressed, whole or cut; with a line of ten megabytes."""
    if how % 16 == 1:
        return gzip.compress(data, 1)
    if how % 16 == 2:
        return bytes(pa.compress(data, "zstd", asbytes=True))
    if how % 16 == 3:
        whole = gzip.compress(data, 1)
        return whole[: len(whole) * 3 // 4]
    if how % 64 == 4:
        end = data.find(b"\n", len(data) // 2) + 1
        return (
            data[:end]
            + data[end : end + 40].replace(b"\n", b"") * (_LONG_LINE_BYTES // 40)
            + b"\n"
            + data[end:]
        )
    return data


def _cut(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    return data[: random_.randint(0, len(data))]


def _cut_a_piece(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    first, end = sorted(random_.randint(0, len(data)) for _ in range(2))
    return data[:first] + data[end:]


def _repeat_a_piece(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    first, end = sorted(random_.randint(0, len(data)) for _ in range(2))
    at = random_.randint(0, len(data))
    return data[:at] + data[first:end] * random_.randint(1, 3) + data[at:]


def _shuffle_lines(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    lines = data.splitlines(keepends=True)
    kept = random_.randint(0, 2)  # A head stays often.
    rest = lines[kept:]
    random_.shuffle(rest)
    return b"".join([*lines[:kept], *rest])


def _repeat_a_line(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        lines.insert(random_.randint(0, len(lines)), random_.choice(lines))
    return b"".join(lines)


def _drop_a_line(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        lines.pop(random_.randrange(len(lines)))
    return b"".join(lines)


def _exchange_numbers(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    """An address twice, a free of the unknown, a clock that goes back: one number where another stood."""
    found = list(_NUMBER.finditer(data))
    if len(found) < 2:
        return data
    one, other = random_.choice(found), random_.choice(found)
    return data[: one.start()] + other[0] + data[one.end() :]


def _odd_number(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    chosen = random_.choice(found)
    return data[: chosen.start()] + random_.choice(_ODD_NUMBERS) + data[chosen.end() :]


def _token(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    at = random_.randint(0, len(data))
    return data[:at] + random_.choice([*tokens, b"\n", b",", b"\0", b"\xff", b'"', b"\r"]) + data[at:]


def _flip(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(random_.randint(1, 8)):
        changed[random_.randrange(len(changed))] = random_.randrange(256)
    return bytes(changed)


def _binary_number(data: bytes, random_: random.Random, tokens: Sequence[bytes]) -> bytes:
    """A length or an offset that is off, as binary formats have them."""
    width = random_.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    at = random_.randrange(len(data) - width + 1)
    value = int.from_bytes(data[at : at + width], "little")
    value = random_.choice(
        (0, 1, value + 1, value - 1, value * 2, 2 ** (8 * width) - 1, 2 ** (8 * width - 1))
    )
    return data[:at] + (value % 2 ** (8 * width)).to_bytes(width, "little") + data[at + width :]


_CHANGES: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    _cut,
    _cut_a_piece,
    _repeat_a_piece,
    _shuffle_lines,
    _repeat_a_line,
    _drop_a_line,
    _exchange_numbers,
    _exchange_numbers,
    _odd_number,
    _odd_number,
    _token,
    _flip,
    _binary_number,
)
