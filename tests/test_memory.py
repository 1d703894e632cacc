"""Memory does not grow with the length of a trace, and a little with the objects that live in it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

EVENTS = 100_000_000
LIVE = 100_000

# The process's own high-water mark: what its parent sees counts the parent's memory before exec, too.
PROGRAM = """
import atexit, sys
atexit.register(lambda: sys.stderr.write(open("/proc/self/status").read()))
"""
HARNESS = PROGRAM + "from harness.cli import main; main()"
ARROW = PROGRAM + "import pyarrow.parquet"


def peak_rss_bytes(*arguments, program=HARNESS):
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.MULTILINE)[1]) * 1024


@pytest.mark.slow
def test_ten_times_the_events_take_the_same_memory(tmp_path, capsys):
    whole, head, out = (str(tmp_path / name) for name in ("whole.parquet", "head.parquet", "out.json"))
    peak_rss_bytes("generate", "-o", whole, "--events", str(EVENTS), "--live", str(LIVE), "--threads", "4")
    peak_rss_bytes("convert", whole, head, "--events", f":{EVENTS // 10}")
    few, many = (
        peak_rss_bytes("replay", path, "--format", "json", "--output", out) for path in (head, whole)
    )
    with capsys.disabled():
        print(f"\npeak RSS: {few / 2**20:.1f} MiB, with ten times the events {many / 2**20:.1f} MiB")
    assert many <= 1.1 * few


@pytest.mark.slow
def test_a_million_live_objects_in_three_models_take_a_hundred_bytes_each(tmp_path, capsys):
    trace, out = (str(tmp_path / name) for name in ("trace.parquet", "out.json"))
    peak_rss_bytes("generate", "-o", trace, "--events", "8000000", "--live", "1000000")
    above = peak_rss_bytes("replay", trace, "--format", "json", "--output", out) - peak_rss_bytes(
        program=ARROW
    )
    with capsys.disabled():
        print(f"\npeak RSS: {above / 2**20:.1f} MiB above a process that has only loaded Arrow")
    assert above <= 100 * 2**20
