"""Memory does not grow with the length of a trace."""

from __future__ import annotations

import os

import pytest
from support import HARNESS

EVENTS = 100_000_000
LIVE = 100_000


def peak_rss_bytes(*arguments):
    pid = os.posix_spawn(HARNESS[0], [*HARNESS, *arguments], os.environ)
    _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return usage.ru_maxrss * 1024


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
