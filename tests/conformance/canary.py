"""Six faults, put into the model one at a time: a suite that lets one pass compares nothing.

A fault is a text of a source file and what takes its place; the text must stand there exactly once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conformance.builds import SOURCES, build
from conformance.cases import Case, Outcome
from conformance.workers import run_cases


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


FAULTS = (
    Fault(
        "span list first in, first out",
        "page_heap.hpp",
        (
            (
                "if (!normal.empty()) return carve(normal.first, pages);",
                "if (!normal.empty()) return carve(normal.last, pages);",
            ),
        ),
    ),
    Fault(
        "eviction counter off by one",
        "transfer_cache.hpp",
        (("race_counter_ = turn %= caches_.size();", "race_counter_ = (turn %= caches_.size()) + 1;"),),
    ),
    Fault(
        "low-water mark not reset at a scavenge",
        "thread_cache.hpp",
        (("list.low_water = list.length();", ""),),
    ),
    Fault(
        "normal span preferred to a shorter returned one",
        "page_heap.hpp",
        (
            (
                "for (std::uint64_t length = pages; length <= max_pages_; ++length) {",
                "for (std::uint64_t length = pages; length <= max_pages_; ++length) {\n"
                "  const SpanList& normal = normal_.by_pages[length];\n"
                "  if (!normal.empty()) return carve(normal.first, pages);\n"
                "}\n"
                "for (std::uint64_t length = pages; length <= max_pages_; ++length) {",
            ),
        ),
    ),
    Fault(
        "128 instead of 129 release lists",
        "page_heap.hpp",
        (
            (
                "if (release_index_ > max_pages_) release_index_ = 0;",
                "if (release_index_ >= max_pages_) release_index_ = 0;",
            ),
            # The large spans share the last list, so that nothing waits for ever.
            (
                "if (release_index_ < max_pages_) return",
                "if (release_index_ + 1 < max_pages_ || normal_.by_pages[max_pages_].last) return",
            ),
        ),
    ),
    Fault(
        "slow start doubles instead of adding one",
        "thread_cache.hpp",
        (
            (
                "++list.max_length;\n    } else {",
                "list.max_length = std::min(2 * list.max_length, batch);\n    } else {",
            ),
        ),
    ),
)

# The name of the model that is built as the faulty ones are, and must agree.
NO_FAULT = "none"

# Those that find most come first; the others follow.
_FIRST_SHAPES = ("page_spans", "all_classes_consumed", "mixed", "hundred_threads", "waves")


def build_all(folder: Path) -> dict[str, Path]:
    """Build one model per fault, and one without any, and return the modules by the faults' names."""
    sources = {"fault_none": SOURCES}
    for number, fault in enumerate(FAULTS):
        sources[f"fault_{number}"] = folder / f"fault_{number}"
        shutil.copytree(SOURCES, folder / f"fault_{number}", ignore=shutil.ignore_patterns("*.so", "*.py*"))
        fault.put_into(folder / f"fault_{number}")
    modules = build(folder, sources, ["-O1"])
    faulty = {fault.name: modules[f"fault_{number}"] for number, fault in enumerate(FAULTS)}
    return faulty | {NO_FAULT: modules["fault_none"]}


def first_difference(module: Path, cases: list[Case], against: str | None = None) -> Outcome | None:
    """Run cases with a faulty model until one fails; None where none does."""
    rank = {shape: number for number, shape in enumerate(_FIRST_SHAPES)}
    ordered = sorted(cases, key=lambda case: rank.get(case.source, len(rank)))
    failing = (
        outcome
        for outcome in run_cases(ordered, module=module, against=against, stop_at_difference=True)
        if not outcome.passed
    )
    return next(failing, None)


def results(
    folder: Path, cases: list[Case], against: str | None = None
) -> Iterator[tuple[str, Outcome | None]]:
    """Yield each fault with the first case that noticed it."""
    for name, module in build_all(folder).items():
        yield name, first_difference(module, cases, against)
