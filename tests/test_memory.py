"""Memory does not grow with the length of a trace."""

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
from harness.cli import main
atexit.register(lambda: sys.stderr.write(open("/proc/self/status").read()))
main()
"""


def peak_rss_bytes(*arguments):
    command = [sys.executable, "-P", "-c", PROGRAM, *arguments]
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
