"""Tells when a process that is waited for is stuck.

A busy machine, or one on which everything is stopped for minutes, makes every process slow: what counts is
the processor time that it has had itself. Processes that it has started are not in it.
"""

from __future__ import annotations

import signal
import subprocess
import time

# How long an answer is waited for before the watchdog looks.
LOOK_SECONDS = 0.5

# Processor time without any progress: a collection of a heap of 100 GiB takes less.
BUSY_SECONDS = 120.0

# Waiting in which a process has had less processor time than LEAST_SECONDS: less than a hundredth of a core,
# which is what Go's monitor thread alone takes of a program that waits for itself.
QUIET_SECONDS = 180.0
LEAST_SECONDS = 1.0

# How long a process that has been told to end may take for it.
_LAST_SECONDS = 10.0

# The kernel's number for the time that the scheduler gave (CPUCLOCK_SCHED).
_PROCESS_CLOCK = 2


def processor_ns(pid: int) -> int:
    """Return the processor time that a process has had, all threads together; OSError where it has ended."""
    # The clock of another process (clock_getcpuclockid): what others do on the machine is not in it.
    return time.clock_gettime_ns(~pid << 3 | _PROCESS_CLOCK)


class Watchdog:
    """Watches a process from a question to its answer; look() every LOOK_SECONDS."""

    def __init__(
        self, pid: int, *, busy_seconds: float | None = None, quiet_seconds: float | None = None
    ) -> None:
        self._pid = pid
        self._busy_seconds = BUSY_SECONDS if busy_seconds is None else busy_seconds
        self._quiet_seconds = QUIET_SECONDS if quiet_seconds is None else quiet_seconds
        self._begun = self._had = _processor_seconds(pid)
        self._progress = -1
        self._looked = time.monotonic()
        self._waited_seconds = self._quiet_since = 0.0

    def look(self, progress: int = 0) -> str:
        """Return in words why the process is stuck, or nothing; `progress` changes wherever it gets on."""
        now = time.monotonic()
        # Where this process was stopped, so perhaps was the other.
        self._waited_seconds += min(now - self._looked, 2 * LOOK_SECONDS)
        self._looked = now
        had = _processor_seconds(self._pid)
        if progress != self._progress:
            self._progress, self._begun = progress, had
        if had - self._had >= LEAST_SECONDS:
            self._had, self._quiet_since = had, self._waited_seconds
        if had - self._begun >= self._busy_seconds:
            return f"has not got on in {had - self._begun:.0f} s of processor time"
        if self._waited_seconds - self._quiet_since >= self._quiet_seconds:
            return f"has stood still for {self._waited_seconds - self._quiet_since:.0f} s"
        return ""


def ended(process: subprocess.Popen[bytes], *, told: signal.Signals | None = None) -> int:
    """Return the status with which a process ends, by itself or by a signal; killed where it does not."""
    if told is not None:
        process.send_signal(told)
    try:
        return process.wait(_LAST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _processor_seconds(pid: int) -> float:
    """Return the processor time that a process has had, 0 where it has ended: its pipe will tell."""
    try:
        return processor_ns(pid) * 1e-9
    except OSError:
        return 0.0
