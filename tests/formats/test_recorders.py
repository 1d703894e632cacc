"""Whatever a recorder's file has become on its way, reading it is a trace or one line, and takes no time."""

from __future__ import annotations

import gzip
import random

import pyarrow as pa
import pytest
from recorder_samples import SAMPLES
from recorder_support import converted_text
from support import fails_with, harness

from harness import formats
from harness.errors import HarnessError
from harness.formats import Description, Reading
from harness.sites import decode
from harness.trace import RowChecker, TraceReader

sample = pytest.mark.parametrize("name", SAMPLES)


def line_of(fault, path):
    assert len(str(fault).splitlines()) == 1
    assert str(fault).startswith(f"{path}: ")
    return str(fault)


def outcome(folder, name, text, *, lenient):
    """Read a text as a format; return how many rows it has, or the line that says what is wrong."""
    path = str(folder / "t")
    (folder / "t").write_bytes(text if isinstance(text, bytes) else text.encode())
    count = 0
    try:
        trace = formats.named(name).read(path, Reading(lenient=lenient))
        checker = RowChecker(path)
        for raw in trace.raw_batches():
            count += len(checker.check(raw).op)
    except HarnessError as fault:
        return line_of(fault, path)
    assert all(said.isprintable() for said in trace.losses)
    decode(trace.sites, path)
    return count


@sample
def test_a_format_is_recognised_by_its_own_files_alone(name):
    for each, text in SAMPLES.items():
        assert formats.named(name).recognises(text.encode()) == (each == name), each


@sample
@pytest.mark.parametrize("compress", [gzip.compress, lambda text: pa.compress(text, "zstd", asbytes=True)])
def test_a_compressed_file_is_read(tmp_path, name, compress):
    digests = set()
    for text in (SAMPLES[name].encode(), compress(SAMPLES[name].encode())):
        path, _ = converted_text(tmp_path, text)
        digests.add(TraceReader(path).metadata["digest"])
    assert len(digests) == 1


@sample
def test_a_file_that_was_cut_anywhere_is_a_trace_or_a_line(tmp_path, name):
    text = SAMPLES[name].encode()
    for end in range(0, len(text), 3):
        outcome(tmp_path, name, text[:end], lenient=bool(end % 2))


@sample
def test_lines_in_any_order_are_a_trace_or_a_line(tmp_path, name):
    lines = SAMPLES[name].splitlines(keepends=True)
    for seed in range(40):
        random.Random(seed).shuffle(lines)
        outcome(tmp_path, name, "".join(lines), lenient=bool(seed % 2))


@sample
def test_lines_that_stand_twice_are_a_trace_or_a_line(tmp_path, name):
    text = "".join(2 * line for line in SAMPLES[name].splitlines(keepends=True))
    for lenient in (False, True):
        outcome(tmp_path, name, text, lenient=lenient)


@sample
def test_changed_bytes_are_a_trace_or_a_line(tmp_path, name):
    for seed in range(100):
        chance = random.Random(seed)
        text = bytearray(SAMPLES[name].encode())
        for _ in range(3):
            text[chance.randrange(len(text))] = chance.choice(b"\0\n 0-9az=()<>[]\xff+")
        outcome(tmp_path, name, bytes(text), lenient=bool(seed % 2))


@sample
def test_bytes_that_are_no_text_are_a_line(tmp_path, name):
    noise = random.Random(1).randbytes(100_000)
    for lenient in (False, True):
        assert isinstance(outcome(tmp_path, name, noise, lenient=lenient), str)


@sample
def test_a_line_without_an_end_is_told_or_dropped(tmp_path, name):
    first, *others = SAMPLES[name].splitlines(keepends=True)
    text = "".join([first, "1" * 10_000_000, "\n", *others])
    assert "a line has at most 1048576 bytes" in outcome(tmp_path, name, text, lenient=False)
    assert outcome(tmp_path, name, text, lenient=True) == outcome(
        tmp_path, name, SAMPLES[name], lenient=False
    )


@sample
def test_an_empty_file_is_one_line_that_says_how_to_get_a_full_one(tmp_path, name):
    (tmp_path / "t").write_bytes(b"")
    for lenient in ([], ["--lenient"]):
        done = harness("convert", "--from", name, *lenient, "t", "t.parquet", cwd=tmp_path)
        fails_with(done, "t: found no call of malloc, free, ...; ")
    assert not (tmp_path / "t.parquet").exists()


@sample
def test_a_file_is_not_written(tmp_path, name):
    with pytest.raises(HarnessError, match=f"files of {name} are only read"):
        formats.named(name).write(str(tmp_path / "t"), Description((), {}, None))
