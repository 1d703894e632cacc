"""Which lines of the model's tiers a run took: builds the model instrumented, and reads what gcov counted."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conformance.builds import ALLOCATORS, build
from tabulate import tabulate

LEAST_SHARE = 0.95


@dataclass
class Lines:
    """The lines of one file that hold code."""

    taken: set[int]
    missed: set[int]

    @property
    def share(self) -> float:
        """Which share of them was taken."""
        return len(self.taken) / max(1, len(self.taken) + len(self.missed))


def build_instrumented(folder: Path, allocator: str) -> Path:
    """Return an allocator's model as a module that counts the lines that it takes."""
    sources = {"instrumented": ALLOCATORS / allocator}
    return build(folder, sources, ["--coverage", "-O0"])["instrumented"]


def lines_taken(folder: Path, allocator: str) -> dict[str, Lines]:
    """Return the lines of every tier, after all processes that loaded the module have ended."""
    counts: dict[str, dict[int, int]] = {}
    for notes in sorted((folder / "build").rglob("*.gcda")):
        command = ["gcov", "--json-format", "--stdout", str(notes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
        for document in filter(None, done.stdout.splitlines()):
            for each in json.loads(document)["files"]:
                path = Path(each["file"]).resolve()
                if path.parent != (ALLOCATORS / allocator).resolve() or path.suffix != ".hpp":
                    continue
                lines = counts.setdefault(path.name, {})
                for line in each["lines"]:
                    number = line["line_number"]
                    lines[number] = max(lines.get(number, 0), line["count"])
    return {
        name: Lines(
            {n for n, count in lines.items() if count}, {n for n, count in lines.items() if not count}
        )
        for name, lines in sorted(counts.items())
    }


def total(lines: dict[str, Lines]) -> float:
    """Return the share of all tiers' lines that was taken."""
    taken = sum(len(each.taken) for each in lines.values())
    return taken / max(1, taken + sum(len(each.missed) for each in lines.values()))


def missed_text(lines: Lines) -> str:
    """Return the numbers of the lines that were not taken, as ranges."""
    ranges: list[list[int]] = []
    for number in sorted(lines.missed):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)


def coverage_table(lines: dict[str, Lines]) -> str:
    """Return one line a tier, with the lines that were not taken."""
    rows: list[tuple[object, ...]] = [
        (name, len(each.taken), len(each.taken) + len(each.missed), 100 * each.share, missed_text(each))
        for name, each in lines.items()
    ]
    taken, held = sum(len(e.taken) for e in lines.values()), sum(len(e.missed) for e in lines.values())
    rows.append(("all tiers", taken, taken + held, 100 * total(lines), ""))
    return tabulate(rows, ("file", "lines taken", "of", "%", "not taken"), floatfmt=".1f")
