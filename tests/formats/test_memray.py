"""Captures of memray, made here by memray itself: what its own statistics count is what the trace holds."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from support import fails_with, harness

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.conversion import convert
from harness.errors import TraceError
from harness.formats import Reading, of_source
from harness.sites import decode
from harness.trace import TraceReader

if importlib.util.find_spec("memray") is None:
    if "CI" in os.environ:
        pytest.fail("memray is missing; the extra dev has it", pytrace=False)
    pytest.skip("needs memray", allow_module_level=True)

PROGRAM = """
import sys
import threading
import time


def keep(count):
    kept = []
    for i in range(count):
        kept.append(bytearray(600 + i % 5_000))
        if i % 3 == 0:
            kept.pop(len(kept) // 2)
    return kept


def grow():
    text = bytearray()
    for _ in range(2_000):
        text += b"x" * 1_000
    return text


other = threading.Thread(target=keep, args=(500,))
other.start()
whole = keep(1_000), grow()
other.join()
if "wait" in sys.argv:
    print("ready", flush=True)
    time.sleep(60)
"""


def memray(*arguments, **options):
    return [sys.executable, "-P", "-m", "memray", *arguments]


def capture(folder, *options, python_allocator="malloc"):
    """A capture of the program above."""
    (folder / "program.py").write_text(PROGRAM)
    path = folder / "capture.bin"
    subprocess.run(
        memray("run", "--quiet", *options, "-o", str(path), str(folder / "program.py")),
        env=os.environ | {"PYTHONMALLOC": python_allocator},
        check=True,
        capture_output=True,
    )
    return path


def statistics(path):
    """What `memray stats` says of a capture."""
    out = path.with_suffix(".json")
    subprocess.run(
        memray("stats", "--json", "--force", "-o", str(out), str(path)), check=True, capture_output=True
    )
    return json.loads(out.read_text())


def converted(path, **reading):
    target = str(path.with_suffix(".parquet"))
    return convert(str(path), target, reading=Reading(**reading)), TraceReader(target)


def columns_of(reader):
    batches = list(reader.raw_batches())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = capture(tmp_path_factory.mktemp("memray"))
    return path, *converted(path)


def test_a_capture_is_known_by_its_content(plain, tmp_path):
    path = plain[0]
    (tmp_path / "unnamed").write_bytes(path.read_bytes())
    assert of_source(str(tmp_path / "unnamed"))[0] == "memray"


@pytest.mark.parametrize(
    ("options", "python_allocator"),
    [
        ((), "malloc"),
        ((), "pymalloc"),
        (("--trace-python-allocators",), "pymalloc"),
        (("--native",), "malloc"),
    ],
    ids=["malloc", "pymalloc", "python allocators", "native"],
)
def test_counts_bytes_and_peak_are_those_of_memray_stats(tmp_path, options, python_allocator):
    path = capture(tmp_path, *options, python_allocator=python_allocator)
    result, reader = converted(path)
    said = statistics(path)
    rows = columns_of(reader)
    allocates = np.isin(rows["op"], (ALLOC, CALLOC, REALLOC))
    mapped = next((text for text in result.warnings if "mmaps" in text), "0 mmaps of 0 bytes")
    mappings, mapped_bytes = (
        int(number.replace(",", "")) for number in re.search(r"([\d,]+) mmaps of ([\d,]+)", mapped).groups()
    )
    assert allocates.sum() + mappings == said["total_num_allocations"]
    assert rows["size"][allocates].sum() + mapped_bytes == said["total_bytes_allocated"]
    by_kind = said["allocator_type_distribution"]
    calls = {name.removeprefix("PYMALLOC_"): count for name, count in by_kind.items()}
    assert (rows["op"] == CALLOC).sum() == calls["CALLOC"]
    if not mappings:
        trace = reader.checked()
        for _ in trace:
            pass
        assert trace.totals()["peak_requested_bytes"] == said["metadata"]["peak_memory"]


def test_a_realloc_is_one_event(plain):
    path, _, reader = plain
    moves = columns_of(reader)["op"] == REALLOC
    assert 100 < moves.sum() <= statistics(path)["allocator_type_distribution"]["REALLOC"]


def test_every_allocation_has_the_python_stack_that_asked_for_it(plain):
    _, _, reader = plain
    sites = decode(reader.sites, "capture")
    rows = columns_of(reader)
    large = (rows["op"] == ALLOC) & (rows["size"] > 600)
    names = {frame.function for site in set(rows["site"][large].tolist()) for frame in sites.stack(site)}
    assert {"keep", "<module>"} <= names
    assert any(frame.file and frame.file.endswith("program.py") and frame.line for frame in sites.frames)
    assert (rows["site"][rows["op"] == FREE] == 0).all()


def test_native_stacks_have_c_functions_too(tmp_path):
    _, reader = converted(capture(tmp_path, "--native"))
    names = {frame.function for frame in decode(reader.sites, "capture").frames}
    assert "keep" in names
    assert any("Py" in name for name in names - {"keep"})


def test_threads_and_source_are_kept(plain):
    _, _, reader = plain
    assert len(set(columns_of(reader)["thread"].tolist())) == 2
    assert reader.metadata["source"]["recorder"] == "memray"
    assert "program.py" in reader.metadata["source"]["program"]


def test_what_was_there_before_is_named_as_a_loss(plain):
    _, result, _ = plain
    assert "memray keeps no times" in result.warnings
    assert any(
        re.fullmatch(r"left out: [\d,]+ frees? of what was not seen allocated", text)
        for text in result.warnings
    )


def test_sums_are_refused(tmp_path):
    path = capture(tmp_path, "--aggregate")
    with pytest.raises(TraceError, match=r"capture\.bin: was made with --aggregate and holds sums"):
        converted(path)


def test_a_killed_program_leaves_what_it_did_so_far(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    path = tmp_path / "capture.bin"
    with subprocess.Popen(
        memray("run", "--quiet", "-o", str(path), str(tmp_path / "program.py"), "wait"),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONMALLOC": "malloc"},
    ) as running:
        assert running.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        running.send_signal(signal.SIGKILL)
    with pytest.raises(
        TraceError, match=r"record \d+: found the capture's end, expected the end of the program; --lenient"
    ):
        converted(path)
    result, reader = converted(path, lenient=True)
    assert (columns_of(reader)["size"] > 600).sum() > 1_000
    assert "the capture breaks off: what came after is not known" in result.warnings


@pytest.mark.parametrize(("part", "is_compressed"), [(0.3, False), (0.7, False), (0.99, True)])
def test_a_capture_cut_short_is_told_or_read_as_far_as_it_goes(plain, tmp_path, part, is_compressed):
    data = plain[0].read_bytes()
    if not is_compressed:
        data = pa.CompressedInputStream(pa.BufferReader(data), "lz4").read()
    path = tmp_path / "cut.bin"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(
        TraceError, match=r"cut\.bin: record \d+: found the capture's end, expected [\d,]+ records"
    ):
        converted(path)
    result, _ = converted(path, lenient=True)
    assert "the capture breaks off: what came after is not known" in result.warnings


@pytest.mark.parametrize("length", [0, 8, 60, 6_000])
def test_a_head_cut_short_is_one_line(plain, tmp_path, length):
    path = tmp_path / "cut.bin"
    path.write_bytes(plain[0].read_bytes()[:length])
    for lenient in (False, True):
        with pytest.raises(TraceError, match=r"cut\.bin: is damaged: .*") as caught:
            convert(
                str(path), str(tmp_path / "t.parquet"), from_format="memray", reading=Reading(lenient=lenient)
            )
        assert "\n" not in str(caught.value)


def test_a_capture_that_ends_memrays_own_reader_ends_nothing_else(plain, tmp_path):
    (tmp_path / "memray.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    done = harness(
        "convert",
        str(plain[0]),
        str(tmp_path / "t.parquet"),
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    fails_with(done, "capture.bin: is damaged: memray's reader ended with status -11")


def test_without_memray_one_line_says_how_to_get_it(plain, tmp_path):
    (tmp_path / "memray.py").write_text("raise ImportError('not here')\n")
    done = harness(
        "convert",
        str(plain[0]),
        str(tmp_path / "t.parquet"),
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    fails_with(done, "capture.bin: reading captures of memray needs it: pip install 'alloc-harness[memray]'")
