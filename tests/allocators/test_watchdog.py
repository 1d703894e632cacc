"""A process is stuck that spins without getting on or stands still, and no other."""

import signal
import subprocess
import sys
import time

import pytest

from allocators.watchdog import LEAST_SECONDS, LOOK_SECONDS, Watchdog, ended, processor_ns

SPINS = "while True: pass"
SLEEPS = "import time; time.sleep(100)"
STAYS = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
time.sleep(100)
"""


@pytest.fixture
def start():
    """Starts Python programs, which end with the test."""
    running = []

    def run(code):
        running.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def looked(watchdog, seconds, progress=lambda: 0):
    """What the watchdog says in so many seconds, or as soon as it says something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(LOOK_SECONDS / 5)
        if said := watchdog.look(progress()):
            return said
    return ""


def test_one_that_spins_is_stuck(start):
    assert looked(Watchdog(start(SPINS).pid, busy_seconds=1, quiet_seconds=1000), 60).startswith(
        "has not got on in 1 s"
    )


def test_one_that_gets_on_is_not(start):
    process = start(SPINS)
    steps = iter(range(1000))
    assert not looked(Watchdog(process.pid, busy_seconds=1), 3, lambda: next(steps))


def test_one_that_stands_still_is_stuck(start):
    assert looked(Watchdog(start(SLEEPS).pid, quiet_seconds=2), 60) == "has stood still for 2 s"


def test_one_that_works_does_not_stand_still(start):
    process = start(SPINS)
    watchdog = Watchdog(process.pid, busy_seconds=1000, quiet_seconds=60)
    assert not looked(watchdog, 1.5)
    # As if it had waited all the time that it is given, but for what it had processor time for.
    while processor_ns(process.pid) < 1.5e9 * LEAST_SECONDS:
        time.sleep(LOOK_SECONDS / 5)
    watchdog._waited_seconds = 60
    assert not watchdog.look()


def test_time_in_which_everything_was_stopped_is_no_waiting(start):
    watchdog = Watchdog(start(SLEEPS).pid, quiet_seconds=60)
    watchdog._looked -= 3600
    assert not watchdog.look()


def test_one_that_has_ended_is_left_to_its_pipe(start):
    process = start("")
    process.wait()
    assert not Watchdog(process.pid).look()


def test_one_that_does_not_end_when_it_is_told_to_is_killed(start, monkeypatch):
    monkeypatch.setattr("allocators.watchdog._LAST_SECONDS", 0.2)
    process = start(STAYS)
    process.stdout.readline()
    assert ended(process, told=signal.SIGTERM) == -signal.SIGKILL
