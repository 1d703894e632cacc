"""Writes tests/golden/go from the installed Go 1.27: runs of the real runtime.

Run as `PYTHONPATH=.:tests python tests/allocators/go/make_golden.py`. With --start it writes
allocators/go/snapshots instead: the heap that Go(start="snapshot") begins with, of the installed version.
"""

import json
import sys
from pathlib import Path

import go_support
from test_size_classes import table_of

from allocators.go import SNAPSHOT_FOLDER
from allocators.go.runtime import find_toolchain, replay, start_snapshot

GOLDEN = Path(__file__).parents[2] / "golden" / "go"


def write_runs(toolchain):
    """Write the size classes of Go's source and a run of each shape."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    classes = {"go": toolchain.version, "classes": table_of(toolchain.goroot)}
    (GOLDEN / "sizeclasses.json").write_text(json.dumps(classes, indent=1) + "\n")
    for name, rows in go_support.SHAPES.items():
        batch = go_support.batch_of(rows())
        run = replay([batch], toolchain=toolchain, procs=go_support.PROCS[name])
        go_support.save_golden(GOLDEN / f"{name}.npz", batch, run)


def write_start(toolchain):
    """Write the start snapshot of a version."""
    SNAPSHOT_FOLDER.mkdir(exist_ok=True)
    path = SNAPSHOT_FOLDER / f"go1.{toolchain.minor}.json"
    path.write_text(json.dumps(start_snapshot(toolchain).to_json(), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    (write_start if "--start" in sys.argv else write_runs)(find_toolchain())
