"""Runs beside the program that is recorded: passes signals on, ends as it ended, checks where to write.

recorder.py and go_recorder.py each start a program; what they owe it stands here.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from harness.errors import HarnessError

# What a terminal or a supervisor sends to end the recording means the program.
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# The terminal sends these to the program as well; harness lives on to convert.
_SURVIVED = (signal.SIGINT, signal.SIGQUIT)


@dataclass
class Signals:
    """Where the signals that harness receives go; the program once it runs."""

    process: subprocess.Popen[bytes] | None = None

    def forward(self, number: int, _: FrameType | None) -> None:
        """Send the program what was sent here."""
        if self.process is not None:
            self.process.send_signal(number)


@contextlib.contextmanager
def signals_for_the_program() -> Iterator[Signals]:
    """Forward signals to the process that is set, for as long as the block lasts."""
    signals = Signals()
    kept = {number: signal.signal(number, signals.forward) for number in _FORWARDED}
    # A handler rather than SIG_IGN, which the program would inherit.
    kept |= {number: signal.signal(number, lambda *_: None) for number in _SURVIVED}
    try:
        yield signals
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def die_of(number: int) -> None:
    """End as the program did, which a signal ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # The program has left its own core.
    with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler to reset.
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def check_folder(path: str) -> None:
    """Raise HarnessError where no file can be put at a path."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise HarnessError(f"{path}: the directory {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise HarnessError(f"{path}: the directory {folder} cannot be written to")
