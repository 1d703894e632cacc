"""The whole suite of the TCMalloc model against the real library, by one command.

    python tests/conformance/tcmalloc/suite.py [--traces 500] [--against LIBRARY]

runs the committed traces, random programs of every shape, touched pages and two large traces, with the
instrumented model; prints a table and the line coverage of the tiers, and puts six faults into the model.
Ends with 1 where anything differs, where fewer than 95 % of the lines were taken or where a fault passes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from conformance.line_coverage import LEAST_SHARE, build_instrumented, coverage_table, lines_taken, total
from conformance.outcome import Outcome
from conformance.tcmalloc.cases import Case, random_cases, recorded_cases, touching_cases
from conformance.tcmalloc.faults import CANARY
from conformance.tcmalloc.shapes import LARGE_SHAPES
from conformance.workers import run_all
from tabulate import tabulate

from harness.generation import generate

# Random programs that continuous integration runs, and against which every fault is held.
FIXED_TRACES = 78

_LONG_TRACE_EVENTS = 10_000_000


def large_cases(folder: Path) -> list[Case]:
    """Return a trace of ten million events and a heap above 4 GiB."""
    path = folder / "ten_million_events.parquet"
    generate(str(path), events=_LONG_TRACE_EVENTS, live=100_000, seed=7, threads=4, remote_free=0.1)
    return [Case(str(path), 512), *(Case(shape) for shape in LARGE_SHAPES)]


def table(outcomes: Iterable[Outcome]) -> str:
    """Return one line a shape or trace, and the total."""
    rows: dict[str, list[int]] = {}
    seconds: dict[str, float] = {}
    for outcome in outcomes:
        for name in (outcome.case.row, "total"):
            row = rows.setdefault(name, [0] * 5)
            addresses = outcome.compared.get("addresses", 0)
            figures = (
                1,
                outcome.events,
                addresses,
                outcome.checkpoints,
                outcome.differing + bool(outcome.error),
            )
            rows[name] = [a + b for a, b in zip(row, figures, strict=True)]
            seconds[name] = seconds.get(name, 0) + outcome.seconds
    total_row = rows.pop("total", [0] * 5)
    lines = [(name, *row, seconds[name]) for name, row in rows.items()]
    lines.append(("total", *total_row, seconds.get("total", 0)))
    headers = ("shape", "traces", "events", "addresses", "checkpoints", "mismatches", "seconds")
    return tabulate(lines, headers, intfmt=",", floatfmt=".1f")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=500, help="random programs")
    parser.add_argument(
        "--against", metavar="LIBRARY", help="a libtcmalloc_minimal.so other than the installed"
    )
    parser.add_argument("--case", type=Case.parse, action="append", help="SHAPE,SEED,TOUCH: only this one")
    parser.add_argument("--no-coverage", action="store_true", help="without instrumenting the model")
    parser.add_argument("--no-canary", action="store_true", help="without putting faults into the model")
    parser.add_argument("--no-large", action="store_true", help="without the two large traces")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        passed = run_suite(arguments, folder) if not arguments.case else run_some(arguments)
    print(f"{'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s")
    return 0 if passed else 1


def run_some(arguments: argparse.Namespace) -> bool:
    """Run the cases that were asked for."""
    outcomes = run_all("tcmalloc", arguments.case, against=arguments.against)
    print(table(outcomes))
    return all(outcome.passed for outcome in outcomes)


def run_suite(arguments: argparse.Namespace, folder: Path) -> bool:
    """Run everything and return whether it is as it should be."""
    cases = [*recorded_cases(), *random_cases(arguments.traces), *touching_cases()]
    cases += [] if arguments.no_large else large_cases(folder)
    module = None if arguments.no_coverage else build_instrumented(folder / "instrumented", "tcmalloc")
    outcomes = run_all("tcmalloc", cases, module=module, against=arguments.against)
    print(f"the model against {outcomes[0].real}\n\n{table(outcomes)}\n", flush=True)
    passed = all(outcome.passed for outcome in outcomes)
    if module:
        lines = lines_taken(folder / "instrumented", "tcmalloc")
        print(f"{coverage_table(lines)}\n", flush=True)
        passed &= total(lines) >= LEAST_SHARE
    if not arguments.no_canary:
        passed &= CANARY.run(random_cases(FIXED_TRACES), arguments.against)
    return passed


if __name__ == "__main__":
    sys.exit(main())
