"""Writes tests/golden/go from the installed Go 1.27: runs of the real runtime.

Run as `PYTHONPATH=.:tests python tests/allocators/go/make_golden.py`. With --start it writes
allocators/go/snapshots instead: the heap that Go(start="snapshot") begins with, of the installed version.
"""

import json
import sys
from contextlib import closing
from pathlib import Path

import go_support
from test_size_classes import table_of

from allocators.go import SNAPSHOT_FOLDER, Go
from allocators.go.conformance import subjects
from allocators.go.runtime import find_toolchain, start_snapshot
from harness.allocator import options_of

KEPT = Path(__file__).parents[2] / "golden" / "go"


def write_runs(toolchain):
    """Write the size classes of Go's source and a run of each shape."""
    KEPT.mkdir(parents=True, exist_ok=True)
    classes = {"go": toolchain.version, "classes": table_of(toolchain.goroot)}
    (KEPT / "sizeclasses.json").write_text(json.dumps(classes, indent=1) + "\n")
    defaults = {option.name: option.default for option in options_of(Go)}
    for name, options in go_support.GOLDEN.items():
        batch = go_support.batch_of(go_support.SHAPES[name]())
        _, runtime = subjects(defaults | options, str(toolchain.go), lambda batch=batch: [batch])
        with closing(runtime):
            start = runtime.start
            answers = runtime.replay(batch)
            state = runtime.state()
            digest, scans = go_support.digest_of(batch), runtime.scans.get()
        kept = (digest, start, answers, scans, state["cycles"], state["heap"], state["spans"])
        go_support.Golden(*kept).save(KEPT / f"{name}.npz")


def write_start(toolchain):
    """Write the start snapshot of a version."""
    SNAPSHOT_FOLDER.mkdir(exist_ok=True)
    path = SNAPSHOT_FOLDER / f"go1.{toolchain.minor}.json"
    path.write_text(json.dumps(start_snapshot(toolchain).to_json(), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    (write_start if "--start" in sys.argv else write_runs)(find_toolchain())
