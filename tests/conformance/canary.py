"""Faults, put into a model one at a time: a suite that lets one pass compares nothing.

A fault is a text of a source file and what takes its place; the text must stand there exactly once.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.builds import ALLOCATORS, build
from conformance.outcome import Case, Outcome
from conformance.workers import run_cases
from tabulate import tabulate


@dataclass(frozen=True)
class Fault:
    """A change of one file."""

    name: str
    file: str
    replacements: tuple[tuple[str, str], ...]

    def put_into(self, folder: Path) -> None:
        """Change a copy of the sources; LookupError where a text is not there exactly once."""
        path = folder / self.file
        text = path.read_text()
        for right, wrong in self.replacements:
            if text.count(right) != 1:
                raise LookupError(
                    f"canary {self.name!r}: {self.file} holds {right!r} {text.count(right)} times, not once; "
                    f"the fault must be described anew"
                )
            text = text.replace(right, wrong)
        path.write_text(text)


# The name of the model that is built as the faulty ones are, and must agree.
NO_FAULT = "none"


@dataclass(frozen=True)
class Canary:
    """The faults of one allocator's model, and the cases that are to notice them."""

    allocator: str
    faults: tuple[Fault, ...]
    first: tuple[str, ...]  # Sources of the cases that find most; they are run first.

    def build_all(self, folder: Path) -> dict[str, Path]:
        """Build one model per fault, and one without any, and return the modules by the faults' names."""
        right = ALLOCATORS / self.allocator
        sources = {"fault_none": right}
        for number, fault in enumerate(self.faults):
            sources[f"fault_{number}"] = folder / f"fault_{number}"
            ignored = shutil.ignore_patterns("*.so", "*.py*", "runtime", "snapshots")
            shutil.copytree(right, folder / f"fault_{number}", ignore=ignored)
            fault.put_into(folder / f"fault_{number}")
        modules = build(folder, sources, ["-O1"])
        faulty = {fault.name: modules[f"fault_{number}"] for number, fault in enumerate(self.faults)}
        return faulty | {NO_FAULT: modules["fault_none"]}

    def first_difference(
        self, module: Path, cases: Sequence[Case], against: str | None = None
    ) -> Outcome | None:
        """Run cases with a faulty model until one fails; None where none does."""
        rank = {source: number for number, source in enumerate(self.first)}
        ordered = sorted(cases, key=lambda case: rank.get(case.source, len(rank)))
        outcomes = run_cases(self.allocator, ordered, module=module, against=against, stop_at_difference=True)
        return next((outcome for outcome in outcomes if not outcome.passed), None)

    def run(self, cases: Sequence[Case], against: str | None = None) -> bool:
        """Print which case noticed each fault first; return whether all were, and nothing without one."""
        rows = []
        passed = True
        with tempfile.TemporaryDirectory() as folder:
            for name, module in self.build_all(Path(folder)).items():
                outcome = self.first_difference(module, cases, against)
                passed &= (outcome is None) == (name == NO_FAULT)
                if outcome is None:
                    rows.append((name, "no case", ""))
                else:
                    rows.append((name, str(outcome.case), (outcome.examples or [outcome.error])[0]))
        print(tabulate(rows, ("fault", "noticed by", "first difference")), end="\n\n", flush=True)
        return passed
