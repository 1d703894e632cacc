"""All speeds, ten million live objects included, by one command: the tables of the README's "How fast".

    python tests/benchmarks/suite.py

runs test_speed.py in full, in a minute and a half to four and with 6 GB of memory, and prints Markdown. Ends
with 1 where a benchmark fails. The machine should have nothing else to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.canonical import FULL
from benchmarks.figures import machine, tables

BENCHMARKS = Path(__file__).with_name("test_speed.py")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        command = [sys.executable, "-P", "-m", "pytest", f"--benchmark-json={results}", str(BENCHMARKS)]
        done = subprocess.run(command, env=os.environ | {FULL: "1"}, stdout=sys.stderr, check=False)
        if done.returncode:
            return 1
        benchmarks = json.loads(results.read_text())["benchmarks"]
    print(f"{tables([benchmark['extra_info'] for benchmark in benchmarks], 'pipe')}\n\n{machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
