"""Times a library's malloc over a trace's events; timer.cpp is the program that does it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness.allocator import EventBatch
from harness.errors import AllocatorError

from ..build import build_timer
from ..process import records_of

# Longer than any run; a library that waits for itself would else never be told.
_MOST_SECONDS = 300


def time_events(library: Path, batches: Iterable[EventBatch]) -> tuple[int, int]:
    """Return what a fresh process took in its loop alone and with the library: ns of processor time.

    All events on one thread. AllocatorError where the process fails.
    """
    with tempfile.NamedTemporaryFile(suffix=".events") as file:
        for batch in batches:
            file.write(records_of(batch).tobytes())
        file.flush()
        try:
            done = subprocess.run(
                [str(build_timer()), file.name],
                env={**os.environ, "LD_PRELOAD": str(library)},
                capture_output=True,
                text=True,
                check=False,
                timeout=_MOST_SECONDS,
            )
        except subprocess.TimeoutExpired as late:
            raise AllocatorError(f"{library}: not done after {_MOST_SECONDS} s") from late
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-500:]
        raise AllocatorError(f"{library}: the timing process ended with {done.returncode}: {said}")
    loop_ns, ns = (int(word) for word in done.stdout.split())
    return loop_ns, ns
