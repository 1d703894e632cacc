"""Runs cases in two processes of their own: both processors work, and a crash costs one case."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from conformance.outcome import Case, Outcome
from tqdm import tqdm

PROCESSES = 2

# A model with a fault may go round for ever; less than a test may take (pyproject.toml: timeout).
LONGEST_SECONDS = 900


class _Worker:
    def __init__(self, allocator: str, module: Path | None, against: str | None) -> None:
        command = [sys.executable, "-P", "-m", "conformance.worker", allocator]
        command += ["--module", str(module)] if module else []
        command += ["--against", against] if against else []
        tests = str(Path(__file__).parents[1])
        paths = [tests, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )

    def run(self, case: Case) -> Outcome:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        clock = threading.Timer(LONGEST_SECONDS, self.process.kill)
        clock.start()
        try:
            self.process.stdin.write(f"{case}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            clock.cancel()
        if line:
            return Outcome(**(json.loads(line) | {"case": case}))
        return Outcome(case, error=f"the process that ran it ended with status {self.process.wait()}")

    def end(self) -> None:
        """Let it finish: an instrumented module writes its counts when its process ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run_cases(
    allocator: str,
    cases: Sequence[Case],
    *,
    module: Path | None = None,
    against: str | None = None,
    stop_at_difference: bool = False,
) -> Iterator[Outcome]:
    """Yield the outcome of every case as it comes; with `stop_at_difference`, start none after the first."""
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    done: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        worker = _Worker(allocator, module, against)
        try:
            while not stop.is_set():
                outcome = worker.run(waiting.get_nowait())
                done.put(outcome)
                if worker.process.poll() is not None:
                    worker.end()
                    worker = _Worker(allocator, module, against)
                if stop_at_difference and not outcome.passed:
                    stop.set()
        except queue.Empty:
            pass
        finally:
            worker.end()
            done.put(None)

    threads = [threading.Thread(target=work) for _ in range(min(PROCESSES, len(cases)))]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            outcome = done.get()
            if outcome is None:
                running -= 1
            else:
                yield outcome
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def run_all(
    allocator: str, cases: Sequence[Case], *, module: Path | None = None, against: str | None = None
) -> list[Outcome]:
    """Run cases, show how far it is, tell of each that fails as it comes; return the outcomes in order."""
    order = {case: number for number, case in enumerate(cases)}
    outcomes = []
    # Long ones first, so that both processes end together.
    started = sorted(cases, key=lambda case: not case.source.endswith(".parquet"))
    with tqdm(total=len(cases), unit="trace", disable=not sys.stderr.isatty()) as bar:
        for outcome in run_cases(allocator, started, module=module, against=against):
            outcomes.append(outcome)
            bar.update()
            if not outcome.passed:
                tqdm.write(_failure(allocator, outcome), file=sys.stdout)
    return sorted(outcomes, key=lambda outcome: order[outcome.case])


def _failure(allocator: str, outcome: Outcome) -> str:
    lines = [f"FAILED {outcome.case}: {outcome.error or f'{outcome.differing} differences'}"]
    lines += [f"  {example}" for example in outcome.examples]
    lines.append(f"  alone: python tests/conformance/{allocator}/suite.py --case '{outcome.case}'")
    return "\n".join(lines)
