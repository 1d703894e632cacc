"""`python -m harness.recording.scripts NAME` prints a file that another recorder needs to record for us.

alloc.bt is a script for bpftrace, alloc.conf has prototypes for ltrace; docs/how-to/convert.md uses them.
With a process id behind it, alloc.bt is for a process that runs already.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.errors import HarnessError

FOLDER = Path(__file__).parent
NAMES = ("alloc.bt", "alloc.conf")

# What bpftrace calls the process that it starts (-c).
_STARTED_PROCESS = "cpid"


def text(name: str, pid: int | None = None) -> str:
    """Return a file's text; alloc.bt for a process that runs, if `pid` names one. Raises HarnessError."""
    if name not in NAMES:
        raise HarnessError(f"{name}: found no such script, expected {' or '.join(NAMES)}")
    content = (FOLDER / name).read_text()
    return content if pid is None else content.replace(_STARTED_PROCESS, str(pid))


def main(arguments: list[str]) -> int:
    """Print what was asked for, and return the exit status."""
    if not 1 <= len(arguments) <= 2 or not all(pid.isdecimal() for pid in arguments[1:]):
        print("usage: python -m harness.recording.scripts alloc.bt|alloc.conf [PID]", file=sys.stderr)
        return 2
    try:
        print(text(arguments[0], *(int(pid) for pid in arguments[1:])), end="")
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
