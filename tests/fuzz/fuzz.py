"""Fuzzes every reader of traces: `python tests/fuzz/fuzz.py [--minutes 10] [--reader NAME]...`.

A reader is a registered format (targets.py), through the whole of `harness convert`, or a header of
harness/formats by itself, under AddressSanitizer and UndefinedBehaviorSanitizer (native/, with clang). Two
run at a time. What is found is kept, with the command that shows it again.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

NATIVE = HERE / "native"
_COMPILER = (
    *("clang++", "-std=c++20", "-O1", "-g", "-fsanitize=fuzzer,address,undefined"),
    *("-fno-sanitize-recover=all", "-fno-sanitize=unsigned-integer-overflow"),
    *(f"-I{ROOT / 'harness' / 'include'}", f"-I{ROOT / 'harness' / 'formats'}", f"-I{NATIVE}"),
)
# A reader that fails at once is not asked for ever.
_MOST_FINDINGS = 20
_AT_A_TIME = 2


@dataclass
class Outcome:
    """What fuzzing one reader came to."""

    reader: str
    executions: int
    seconds: float
    findings: list[Path]
    faults: list[str]  # The line that says what went wrong, of each.


def native_readers() -> list[str]:
    """Return the readers in C++ that have a target of their own, as `NAME.hpp`."""
    return [f"{path.stem}.hpp" for path in sorted(NATIVE.glob("*.cpp"))]


def fuzz(reader: str, folder: Path, *, seconds: float, executions: int | None, seed: int) -> Outcome:
    """Fuzz one reader for a time, or for a number of inputs; anew where it has failed, until that is over."""
    folder = folder / reader
    corpus, artifacts = folder / "corpus", folder / "artifacts"
    for each in (corpus, artifacts):
        each.mkdir(parents=True, exist_ok=True)
    command = _native(reader, folder) if reader.endswith(".hpp") else _python(reader, folder, corpus)
    begin, done, faults = time.monotonic(), 0, []
    while True:
        left = seconds - (time.monotonic() - begin)
        limit = (
            [f"-runs={executions - done}"] if executions is not None else [f"-max_total_time={int(left) + 1}"]
        )
        ran = subprocess.run(
            [*command, *limit, f"-seed={seed}"], capture_output=True, text=True, check=False, errors="replace"
        )
        counted = (
            re.findall(r"stat::number_of_executed_units: (\d+)", ran.stderr)
            or re.findall(r"^#(\d+)\t", ran.stderr, re.M)
            or ["0"]
        )
        done += int(counted[-1])
        if ran.returncode == 0:
            break
        faults.append(_fault(ran.stdout + ran.stderr))
        seed += 1
        is_over = done >= executions if executions is not None else time.monotonic() - begin >= seconds
        if is_over or len(faults) >= _MOST_FINDINGS or int(counted[-1]) == 0:
            break
    return Outcome(reader, done, time.monotonic() - begin, sorted(artifacts.iterdir()), faults)


def _python(reader: str, folder: Path, corpus: Path) -> list[str]:
    from targets import TARGETS

    if not any(corpus.iterdir()):
        target = TARGETS[reader]
        made = folder / "made"
        made.mkdir(exist_ok=True)
        for number, seed in enumerate(target.seeds(made)):
            for mapping in range(len(target.mappings)):
                (corpus / f"{number}-{mapping}").write_bytes(bytes((0, mapping)) + seed)
    return [sys.executable, "-P", str(HERE / "worker.py"), reader, str(folder)]


def _native(reader: str, folder: Path) -> list[str]:
    name = reader.removesuffix(".hpp")
    program = folder / name
    subprocess.run([*_COMPILER, str(NATIVE / f"{name}.cpp"), "-o", str(program)], check=True)
    corpus = folder / "corpus"
    if not any(corpus.iterdir()):
        from native_seeds import SEEDS

        for number, seed in enumerate(SEEDS.get(name, lambda: [])()):
            (corpus / str(number)).write_bytes(seed)
    return [
        str(program),
        f"-artifact_prefix={folder / 'artifacts'}/",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        str(corpus),
    ]


def _fault(printed: str) -> str:
    """Return the line that says what went wrong: Python's, a sanitizer's, or libFuzzer's own."""
    for pattern in (
        r"Uncaught Python exception: ===\n(.+)",
        r"(.*runtime error: .*)",
        r"(==\d+==\s*ERROR: .*)",
    ):
        told = re.search(pattern, printed)
        if told:
            return told[1]
    return (printed.strip().splitlines() or ["nothing was said"])[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    from targets import TARGETS

    known = [*TARGETS, *native_readers()]
    parser = argparse.ArgumentParser(description="Fuzz every reader of traces.")
    parser.add_argument("--minutes", type=float, default=10, help="for each reader")
    parser.add_argument("--executions", type=int, help="for each reader, in place of a time")
    parser.add_argument("--reader", action="append", choices=known, help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where inputs are kept")
    asked = parser.parse_args(arguments)
    asked.keep.mkdir(parents=True, exist_ok=True)
    failed = False
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        running = [
            pool.submit(
                fuzz,
                reader,
                asked.keep.resolve(),
                seconds=60 * asked.minutes,
                executions=asked.executions,
                seed=asked.seed,
            )
            for reader in asked.reader or known
        ]
        for each in running:
            outcome = each.result()
            failed |= bool(outcome.faults)
            print(
                f"{outcome.reader:20} {outcome.executions:>10,} inputs {outcome.seconds:7.0f} s "
                f"{len(outcome.faults):>3} failures",
                flush=True,
            )
            for fault in dict.fromkeys(outcome.faults):
                print(f"    {fault[:300]}", flush=True)
            for path in outcome.findings:
                print(f"    {path}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
