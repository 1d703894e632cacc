"""What `go build -overlay` puts in the place of the runtime's files: our hooks, and copies that call them.

The copies are made from the installed toolchain at build time and stay in the build's folder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from harness.errors import AllocatorError

HOOKS = Path(__file__).parent / "hooks" / "hooks.go"


class Insertion(NamedTuple):
    """Text that goes before the only line that begins so in a file of package runtime, or in its place."""

    file: str
    line: str
    text: str
    replaces: bool = False


INSERTIONS = (
    # gcStart: the cycle is certain to begin, and the trigger's heap is still as it was.
    Insertion("mgc.go", "\twork.cycles.Add(1)\n", "\tharnessCycleStart()\n"),
    # markroot: a stack is to be scanned, after all other roots.
    Insertion(
        "mgcmark.go",
        "\t\t// the rest is scanning goroutine stacks\n",
        "\t\tharnessGlobalsMarked(gcw)\n",
    ),
    # gcMark: marking has ended, and work buffers are still held.
    Insertion("mgc.go", "\tgcController.resetLive(work.bytesMarked)\n", "\tharnessMarking()\n"),
    # gcMarkTermination: live bytes are the marked ones, and the goal is not set yet.
    Insertion(
        "mgc.go",
        "\t// Update GC trigger and pacing, as well as downstream consumers\n",
        "\tharnessMarked()\n",
    ),
    # gcSweep: wakes the background sweeper.
    Insertion(
        "mgc.go",
        "\tif sweep.parked {\n",
        "\tif sweep.parked && harnessHeldBack&harnessNoBackgroundSweep == 0 {\n",
        replaces=True,
    ),
    # scavengerState.init, shouldStop: stops the background scavenger before it gives back a page.
    Insertion(
        "mgcscavenge.go",
        "\t\t\treturn heapRetained() <= scavenge.gcPercentGoal.Load() &&\n",
        "\t\t\tif harnessHeldBack&harnessNoBackgroundScavenge != 0 {\n\t\t\t\treturn true\n\t\t\t}\n",
    ),
)


def write_overlay(goroot: Path, go_version: str, folder: Path) -> Path:
    """Write hooks, patched copies and the overlay's JSON file into a folder; return the latter.

    AllocatorError where the runtime's source is not the expected one.
    """
    runtime = goroot / "src" / "runtime"
    sources: dict[str, str] = {}
    for insertion in INSERTIONS:
        source = sources.get(insertion.file) or (runtime / insertion.file).read_text()
        sources[insertion.file] = _insert(source, insertion, go_version)
    sources["harness_hooks.go"] = _hooks_for(go_version)
    replace = {}
    for name, source in sources.items():
        (folder / name).write_text(source)
        replace[str(runtime / name)] = str(folder / name)
    overlay = folder / "overlay.json"
    overlay.write_text(json.dumps({"Replace": replace}))
    return overlay


def _insert(source: str, insertion: Insertion, go_version: str) -> str:
    parts = source.split(insertion.line)
    if len(parts) != 2:
        raise AllocatorError(
            f"{go_version}: {insertion.file} has the line {insertion.line.strip()!r} {len(parts) - 1} times, "
            f"expected once; this toolchain cannot be instrumented"
        )
    kept = "" if insertion.replaces else insertion.line
    return parts[0] + insertion.text + kept + parts[1]


def _hooks_for(go_version: str) -> str:
    """Return hooks.go with the names that the runtime used in this version."""
    hooks = HOOKS.read_text()
    match = re.match(r"go1\.(\d+)", go_version)
    if match is not None and int(match[1]) <= 25:
        hooks = hooks.replace("acquirepNoTrace(want)", "acquirep(want)")
    return hooks
