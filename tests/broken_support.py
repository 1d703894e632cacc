"""Every way in which a file can be broken, for each format's tests: one clear line, or a mended trace."""

from __future__ import annotations

import gzip
import random

from harness.errors import HarnessError
from harness.formats import Reading, named
from harness.formats.addresses import Repaired, mended
from harness.trace import RowChecker


def versions(data, seed=1, lines=True):
    """Yield a file's bytes cut at every byte, turned over, doubled, and with bytes of it changed."""
    chance = random.Random(seed)
    yield b""
    yield from (data[:cut] for cut in range(1, len(data)))
    yield data + data
    yield data + chance.randbytes(300)
    yield chance.randbytes(300)
    yield gzip.compress(data)[: len(data) // 2]
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        yield bytes(changed)
    if lines:
        for _ in range(50):
            shuffled = data.splitlines(keepends=True)
            chance.shuffle(shuffled)
            yield b"".join(shuffled)


def expect_one_line_or_a_trace(tmp_path, form, data, **options):
    """Read every broken version, strictly and leniently; returns how many could be read, of each."""
    read = {False: 0, True: 0}
    path = str(tmp_path / "broken")
    for broken in versions(data, **options):
        (tmp_path / "broken").write_bytes(broken)
        for lenient in read:
            fault = None
            try:
                trace = named(form).read(path, Reading(lenient=lenient))
                checker = RowChecker(path)
                for raw in (Repaired(trace) if lenient else trace).raw_batches():
                    checker.check(raw)
            except HarnessError as error:
                fault = str(error)
            if fault is None:
                read[lenient] += 1
                assert all(isinstance(text, str) for text in [*trace.losses, *mended(trace.repairs)]), broken
            else:
                assert fault.startswith(path), broken
                assert "\n" not in fault, broken
    return read[False], read[True]
