"""What the tests of recordings share: a command recorded as a user records it, and its rows, checked."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
from support import HARNESS, harness

from harness.trace import TraceReader

# Four threads and more events than they come to; few enough to end by themselves should a test go wrong.
ENDLESS = ("4", "25000000")
LOST_ORDER = "were not seen and put in"


def record(folder, *command, options=(), status=0, **keywords):
    """Record a command into folder/out.parquet; returns what the harness process gave back."""
    done = harness("record", "-o", str(folder / "out.parquet"), *options, "--", *command, **keywords)
    assert done.returncode == status, done.stderr
    return done


def rows(path):
    """The columns of a trace, whole, after its rows have passed the checks of the reader."""
    reader = TraceReader(str(path))
    checked = reader.checked()
    for _ in checked:
        pass
    columns = {name: [] for name in ("op", "thread", "object", "size", "alignment", "time_ns")}
    for batch in reader.raw_batches(columns=list(columns)):
        for name in columns:
            columns[name].append(batch[name])
    return {name: np.concatenate(parts) for name, parts in columns.items()}, checked.totals()


def traces_in(folder):
    return sorted(folder.glob("*.parquet"))


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def start(folder, *command, options=(), **keywords):
    return subprocess.Popen(
        [*HARNESS, "record", "-o", str(folder / "out.parquet"), *options, "--", *command],
        stderr=subprocess.PIPE,
        text=True,
        **keywords,
    )


def program_of(recorder):
    """The process id of the program that a recorder runs."""
    children = Path(f"/proc/{recorder.pid}/task/{recorder.pid}/children")
    wait_for(lambda: children.read_text().strip())
    return int(children.read_text().split()[0])


def raw_bytes(path):
    return os.path.getsize(path) if os.path.exists(path) else 0
