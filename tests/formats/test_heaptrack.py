"""heaptrack's raw files are read; what they say is what heaptrack itself counts."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path

import pytest
from recorder_samples import SAMPLES
from recorder_support import (
    CALLS,
    converted,
    converted_text,
    losses_of,
    needs_tool,
    rows_of,
    run,
    shared_heap_counts,
    sites_of,
    totals_of,
)
from support import harness

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.errors import TraceError
from harness.trace import TraceReader

INTERPRET = Path("/usr/lib/heaptrack/libexec/heaptrack_interpret")

# Two modules, one of them loaded anew elsewhere; a stack of two frames and one of one.
RAW = SAMPLES["heaptrack"]
ROWS = [
    (ALLOC, 0, 0, 10, 0, 1),
    (FREE, 0, 0, 0, 5_000_000, 0),
    (ALLOC, 0, 0, 16, 5_000_000, 2),
    (ALLOC, 0, 1, 0, 5_000_000, 3),
    (ALLOC, 0, 2, 32, 5_000_000, 1),
    (FREE, 0, 1, 0, 10_000_000, 0),
]


def heaptrack(folder, *command):
    """Record a command; return the raw file as heaptrack leaves it, and what the command printed."""
    needs_tool("heaptrack")
    printed = run("heaptrack", "--raw", "-o", str(folder / "h"), *command, cwd=folder)
    (raw,) = folder.glob("h.raw.*")
    return raw, printed


def plain(raw):
    return subprocess.run(
        ["zstd" if raw.suffix == ".zst" else "gzip", "-dc", raw], capture_output=True, check=True
    ).stdout


def own_counts(raw):
    """What heaptrack's interpreter counts, and what its analysis prints."""
    done = subprocess.run([INTERPRET], input=plain(raw), capture_output=True, check=True)
    counted = dict(
        re.findall(r"(\w+) allocations: +\t(\d+)", " " + done.stderr.decode().replace("\t", " \t"))
    )
    interpreted = raw.parent / "interpreted.gz"
    interpreted.write_bytes(gzip.compress(done.stdout))
    printed = run("heaptrack_print", "--disable-builtin-suppressions", str(interpreted))
    return {
        "allocations": int(re.search(r"\tallocations: +\t(\d+)", done.stderr.decode())[1]),
        "leaked": int(counted["leaked"]),
        "calls": int(re.search(r"calls to allocation functions: (\d+)", printed)[1]),
        "peak": re.search(r"peak heap memory consumption: (\S+)", printed)[1],
        "leaked_bytes": re.search(r"total memory leaked: (\S+)", printed)[1],
    }, interpreted


def counted(path, loss):
    """Return how many events a loss of a trace is of."""
    return sum(int(text.split()[len(loss.split())]) for text in losses_of(path) if text.startswith(loss))


def frees_dropped_by_heaptrack(raw):
    """Count the frees of addresses that heaptrack has no object at.

    A free that is told once its address is another object's again ends that one; the free of that one then
    finds nothing, and heaptrack counts an object more as leaked.
    """
    live = set()
    dropped = 0
    for line in plain(raw).splitlines():
        if line.startswith(b"+ "):
            live.add(line.split()[3])
        elif line.startswith(b"- "):
            dropped += line[2:] not in live
            live.discard(line[2:])
    return dropped


def live_by_heaptrack(raw, path, own):
    """Return how many objects live at the end: what heaptrack counts, but for the frees that it misplaced."""
    found_by_us = frees_dropped_by_heaptrack(raw) - counted(path, "left out:")
    return own["leaked"] - found_by_us - counted(path, "put in:")


def in_its_units(count):
    """Print bytes as heaptrack does, in powers of ten."""
    for unit in ("B", "K", "M", "G"):
        if count < 1000 or unit == "G":
            return f"{count:.0f}B" if unit == "B" else f"{count:.2f}{unit}"
        count /= 1000
    raise AssertionError


def test_every_line_is_read(tmp_path):
    path, _ = converted_text(tmp_path, RAW)
    assert rows_of(path) == ROWS
    assert losses_of(path)[1:] == ["left out: 1 free of what was not seen allocated"]
    assert TraceReader(path).metadata["source"] == {
        "recorder": "heaptrack",
        "program": "prog one",
        "arguments": ["one", "two"],
        "page_bytes": 4096,
    }


def test_frames_are_in_the_module_that_stood_there_at_the_time(tmp_path):
    path, _ = converted_text(tmp_path, RAW)
    sites = sites_of(path)
    stacks = [[str(frame) for frame in sites.stack(site)] for site in range(len(sites))]
    assert stacks == [[], ["lib a.so+0x11", "prog one+0x10"], ["prog one+0x1012"], ["0x7012"]]


@pytest.mark.parametrize("version", ["v 10100 2", "v 10000", "v 10000 1"])
def test_older_versions_do_not_count_the_characters_of_names(tmp_path, version):
    text = RAW.replace("v 10400 3", version).replace("x d /opt/prog one", "x /opt/prog")
    text = text.replace("m 1 ", "m ").replace("m d /opt/lib a.so", "m /opt/lib.so")
    path, _ = converted_text(tmp_path, text)
    assert rows_of(path) == ROWS
    assert str(sites_of(path).stack(1)[0]) == "lib.so+0x11"


def test_a_realloc_to_nothing_which_is_not_told_ends_soon_after_its_address_comes_again(tmp_path):
    others = "".join(f"+ 7 0 {address:x}\n" for address in range(0x1000, 0x1100))
    path, _ = converted_text(tmp_path, f"v 10400 3\nX a\n+ 5 0 aa0\n+ 6 0 aa0\n{others}- aa0\n")
    rows = rows_of(path, "op", "object", "size")
    assert rows[:2] == [(ALLOC, 0, 5), (ALLOC, 1, 6)]
    assert rows[-3:] == [(ALLOC, 257, 7), (FREE, 0, 0), (FREE, 1, 0)]
    assert losses_of(path)[1:] == ["put in: 1 free that was not seen, of an address given out anew"]


def test_a_realloc_told_after_its_old_address_was_given_out_anew_frees_its_own_object(tmp_path):
    path, _ = converted_text(tmp_path, "v 10400 3\nX a\n+ 5 0 aa0\n+ 6 0 aa0\n- aa0\n+ 9 0 bb0\n- aa0\n")
    rows = [(ALLOC, 0, 5), (ALLOC, 1, 6), (FREE, 0, 0), (ALLOC, 0, 9), (FREE, 1, 0)]
    assert rows_of(path, "op", "object", "size") == rows
    assert losses_of(path)[1:] == ["told late: 1 free, after its address was given out anew"]


FAULTS = [
    ("+ 5 1", "expected a hexadecimal number"),
    ("+ 5 9 aa0", "expected the number of a t line before this one"),
    ("+ 5 1 aa0 7", "expected the end of the line"),
    ("- xyz", "expected a hexadecimal number"),
    ("t 5", "expected a hexadecimal number"),
    ("t 5 77", "expected the number of a t line before this one"),
    ("m ff /lib.so 0", "expected 255 characters more"),
    ("c ffffffffffffffff", "the time is too large"),
    ("Q 5", "expected a line of heaptrack's raw files"),
    ("+ fffffffffffffffff 1 5", "a number is too large"),
]


@pytest.mark.parametrize(("line", "expected"), FAULTS, ids=[text for _, text in FAULTS])
def test_a_bad_line_is_told_with_its_number_or_dropped(tmp_path, line, expected):
    text = RAW.replace("c 5\n", f"c 5\n{line}\n")
    with pytest.raises(
        TraceError, match=rf"t: line 12: found '.*', {re.escape(expected)}.*; --lenient goes on"
    ):
        converted_text(tmp_path, text)
    path, _ = converted_text(tmp_path, text, lenient=True)
    assert rows_of(path, "op", "object", "size") == [(op, name, size) for op, _, name, size, *_ in ROWS]
    assert "dropped: 1 line that could not be read" in losses_of(path)


def test_what_no_heap_can_hold_is_told(tmp_path):
    with pytest.raises(TraceError, match="line 10: found 281474976710656 bytes"):
        converted_text(tmp_path, RAW.replace("+ a 2", "+ 1000000000000 2"))


# ---- The real thing -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, every_call):
    """every_call.cpp's raw file and the trace of it."""
    raw, _ = heaptrack(tmp_path_factory.mktemp("heaptrack"), every_call, "pvalloc")
    return raw, converted(raw)[0]


def as_told(calls):
    """What heaptrack makes of the calls: it does not see memalign and pvalloc, and tells a realloc as two."""
    sizes = [(op, size) for op, size, alignment in calls if (size, alignment) not in ((6, 32), (12, 4096))]
    told = []
    for op, size in sizes:
        told += [(FREE, 0), (ALLOC, size)] if op == REALLOC else [(ALLOC if op == CALLOC else op, size)]
    return told


def test_every_call_stands_in_the_trace(recorded):
    _, path = recorded
    rows = rows_of(path, "op", "size")
    sizes = [size for op, size in rows if op == ALLOC]
    marks = [at for at, size in enumerate(sizes) if size == 1_111_111]
    expected = [size for op, size in as_told(CALLS) if op == ALLOC]
    assert sizes[marks[0] + 1 : marks[1]] == expected
    # memalign's and pvalloc's, and the object that was freed by a realloc to nothing.
    assert "left out: 2 frees of what was not seen allocated" in losses_of(path)


def test_a_site_is_the_line_that_asked(recorded):
    _, path = recorded
    sites = sites_of(path)
    (site,) = [site for _, size, site in rows_of(path, "op", "size", "site") if size == 333]
    source = (Path(__file__).parent / "programs" / "every_call.cpp").read_text().splitlines()
    frame = next(frame for frame in sites.stack(site) if frame.function == "main")
    assert (Path(frame.file).name, source[frame.line - 1].strip()[:21]) == (
        "every_call.cpp",
        "p = std::malloc(333);",
    )


def test_the_counts_are_heaptracks_own(recorded):
    raw, path = recorded
    own, _ = own_counts(raw)
    ours = totals_of(path)
    assert ours["allocations"] == own["allocations"] == own["calls"]
    assert ours["live"] == live_by_heaptrack(raw, path, own)
    assert in_its_units(ours["peak"]) == own["peak"]


def test_the_counts_of_threads_are_heaptracks_own_and_the_programs(tmp_path, shared_heap):
    raw, printed = heaptrack(tmp_path, shared_heap, "5000")
    allocations, reallocations, frees = map(int, re.search(r"^(\d+) (\d+) (\d+)$", printed, re.M).groups())
    path, _ = converted(raw)
    own, _ = own_counts(raw)
    ours = totals_of(path)
    assert ours["allocations"] == own["allocations"] == own["calls"]
    assert ours["live"] == live_by_heaptrack(raw, path, own)
    if not counted(path, "put in:") and not counted(path, "told late:"):
        assert in_its_units(ours["peak"]) == own["peak"]
        assert in_its_units(ours["live_bytes"]) == own["leaked_bytes"]
    assert shared_heap_counts(path) == (allocations + reallocations, 0, frees + reallocations, 0)


def test_a_python_program_counts_what_heaptrack_counts(tmp_path):
    raw, _ = heaptrack(
        tmp_path, "/usr/bin/python3", "-c", "x = [bytes(600 + i) for i in range(5000)]; del x[::2]"
    )
    own, _ = own_counts(raw)
    ours = totals_of(converted(raw)[0])
    assert ours["allocations"] == own["calls"]
    assert ours["live"] == own["leaked"]
    assert in_its_units(ours["peak"]) == own["peak"]


def test_a_file_is_read_however_it_is_compressed(recorded, tmp_path):
    raw, path = recorded
    digest = TraceReader(path).metadata["digest"]
    text = plain(raw)
    for name, data in {"plain": text, "file.gz": gzip.compress(text)}.items():
        (tmp_path / name).write_bytes(data)
        assert TraceReader(converted(tmp_path / name)[0]).metadata["digest"] == digest


def test_an_interpreted_file_is_refused_in_one_line_that_says_what_to_do(recorded, tmp_path):
    _, interpreted = own_counts(recorded[0])
    done = harness("convert", str(interpreted), str(tmp_path / "t.parquet"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "heaptrack --raw" in done.stderr
    assert not (tmp_path / "t.parquet").exists()


def test_a_forked_child_is_left_out_as_heaptrack_leaves_it_out(tmp_path):
    (tmp_path / "fork.c").write_text(
        "#include <stdlib.h>\n#include <sys/wait.h>\n#include <unistd.h>\n"
        "int main(void) { void* p = malloc(401); if (fork() == 0) { free(p); p = malloc(403); _exit(!p); }"
        " int status; wait(&status); free(p); return status; }\n"
    )
    run("gcc", "-fno-builtin", "-o", str(tmp_path / "fork"), str(tmp_path / "fork.c"))
    path, _ = converted(heaptrack(tmp_path, str(tmp_path / "fork"))[0])
    sizes = [size for _, size in rows_of(path, "op", "size")]
    assert (sizes.count(401), sizes.count(403)) == (1, 0)
