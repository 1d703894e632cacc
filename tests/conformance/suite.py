"""The whole suite of the TCMalloc model against the real library, by one command.

    python tests/conformance/suite.py [--traces 500] [--against LIBRARY]

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

sys.path.insert(0, str(Path(__file__).parents[1]))

from conformance import canary
from conformance.cases import Case, Outcome, random_cases, recorded_cases, touching_cases
from conformance.line_coverage import LEAST_SHARE, Lines, build_instrumented, lines_taken, missed_text, total
from conformance.shapes import LARGE_SHAPES
from conformance.workers import run_cases
from tabulate import tabulate
from tqdm import tqdm

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


def coverage_table(lines: dict[str, Lines]) -> str:
    """Return one line a tier, with the lines that were not taken."""
    rows: list[tuple[object, ...]] = [
        (name, len(each.taken), len(each.taken) + len(each.missed), 100 * each.share, missed_text(each))
        for name, each in lines.items()
    ]
    taken, held = sum(len(e.taken) for e in lines.values()), sum(len(e.missed) for e in lines.values())
    rows.append(("all tiers", taken, taken + held, 100 * total(lines), ""))
    return tabulate(rows, ("file", "lines taken", "of", "%", "not taken"), floatfmt=".1f")


def run(cases: list[Case], module: Path | None, against: str | None) -> list[Outcome]:
    """Run cases and tell of each that fails as it comes."""
    order = {case: number for number, case in enumerate(cases)}
    outcomes = []
    # Long ones first, so that both processes end together.
    started = sorted(cases, key=lambda case: not case.source.endswith(".parquet"))
    coming = run_cases(started, module=module, against=against)
    with tqdm(total=len(cases), unit="trace", disable=not sys.stderr.isatty()) as bar:
        for outcome in coming:
            outcomes.append(outcome)
            bar.update()
            if not outcome.passed:
                tqdm.write(failure(outcome), file=sys.stdout)
    return sorted(outcomes, key=lambda outcome: order[outcome.case])


def failure(outcome: Outcome) -> str:
    """Return what differs in a case, and how to run it alone."""
    lines = [f"FAILED {outcome.case}: {outcome.error or f'{outcome.differing} differences'}"]
    lines += [f"  {example}" for example in outcome.examples]
    lines.append(f"  alone: python tests/conformance/suite.py --case {outcome.case}")
    return "\n".join(lines)


def run_canary(cases: list[Case], against: str | None) -> bool:
    """Say of each fault which case noticed it first, and return whether all were, and nothing without one."""
    rows = []
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        for name, outcome in canary.results(Path(folder), cases, against):
            passed &= (outcome is None) == (name == canary.NO_FAULT)
            if outcome is None:
                rows.append((name, "no case", ""))
            else:
                rows.append((name, outcome.case, (outcome.examples or [outcome.error])[0]))
    print(tabulate(rows, ("fault", "noticed by", "first difference")), end="\n\n", flush=True)
    return passed


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
    outcomes = run(arguments.case, None, arguments.against)
    print(table(outcomes))
    return all(outcome.passed for outcome in outcomes)


def run_suite(arguments: argparse.Namespace, folder: Path) -> bool:
    """Run everything and return whether it is as it should be."""
    cases = [*recorded_cases(), *random_cases(arguments.traces), *touching_cases()]
    cases += [] if arguments.no_large else large_cases(folder)
    module = None if arguments.no_coverage else build_instrumented(folder / "instrumented")
    outcomes = run(cases, module, arguments.against)
    print(f"the model against {outcomes[0].real}\n\n{table(outcomes)}\n", flush=True)
    passed = all(outcome.passed for outcome in outcomes)
    if module:
        lines = lines_taken(folder / "instrumented")
        print(f"{coverage_table(lines)}\n", flush=True)
        passed &= total(lines) >= LEAST_SHARE
    if not arguments.no_canary:
        passed &= run_canary(random_cases(FIXED_TRACES), arguments.against)
    return passed


if __name__ == "__main__":
    sys.exit(main())
