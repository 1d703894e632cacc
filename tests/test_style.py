"""What the tools say of the code: nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NATIVE = [
    str(path.relative_to(ROOT))
    for folder in ("harness", "allocators", "tests")
    for suffix in ("hpp", "cpp", "h", "c")
    for path in sorted((ROOT / folder).rglob(f"*.{suffix}"))
]
TOOLS = {
    "ruff check": ["ruff", "check"],
    "ruff format": ["ruff", "format", "--check"],
    "mypy": ["mypy"],
    "clang-format": ["clang-format", "--dry-run", "-Werror", *NATIVE],
}


@pytest.mark.parametrize("command", TOOLS.values(), ids=TOOLS)
def test_nothing_to_say(command):
    name, *arguments = command
    tool = Path(sys.executable).with_name(name)
    done = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
