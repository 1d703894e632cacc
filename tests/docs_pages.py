"""The commands of a page in docs/, and how they are run: in order, by one shell, in a folder of their own.

A comment before a block says what is not plain: `<!-- needs: go libtcmalloc -->`, `<!-- slow -->`,
`<!-- not run: WHY -->`. A block without a language right behind one with commands is what these print.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from library_support import needs_library, needs_tcmalloc
from recorder_support import needs_tool

from allocators.go.runtime import find_toolchain
from harness.errors import AllocatorError

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

# Tests of their own hold more of these than that their commands run.
HELD_ELSEWHERE = ("gate.md", "generate.md", "history.md", "plot.md", "pytest.md")

PAGES = [path for path in sorted(DOCS.rglob("*.md")) if str(path.relative_to(DOCS)) not in HELD_ELSEWHERE]

_BLOCK = re.compile(
    r"^(?P<marks>(?:<!-- (?:needs|slow|not run)\b[^\n]* -->\n)*)"
    r"```sh\n(?P<commands>.*?)^```\n"
    r"(?:\n```\n(?P<shown>.*?)^```$)?",
    re.M | re.S,
)

# What pages take for granted: the repository's folders, a program and its recording. The recording is one of
# traces/, so that it can be compared with what is published of it.
_FOLDERS = ("allocators", "harness", "results", "tests", "traces")
_RECORDED = ROOT / "traces" / "git-log.parquet"
_MARK = "== a block begins =="

# Programs that a block may need; what else it names is a library or Go.
_TOOLS = ("gcc", "heaptrack", "valgrind")


@dataclass(frozen=True)
class Block:
    """Commands that stand together, and what they print as the page has it."""

    commands: str
    shown: str | None
    needs: tuple[str, ...] = ()
    is_slow: bool = False
    is_run: bool = True


def blocks(page: Path) -> list[Block]:
    """Return a page's commands in their order."""
    found = []
    for each in _BLOCK.finditer(page.read_text()):
        marks = dict(re.findall(r"<!-- (needs|slow|not run)(?:: (.*))? -->", each["marks"]))
        needs = tuple(marks.get("needs", "").split())
        found.append(Block(each["commands"], each["shown"], needs, "slow" in marks, "not run" not in marks))
    return found


def ask_for(need: str) -> None:
    """Skip the test, or fail it in CI, where what a block needs is not there."""
    if need == "libtcmalloc":
        needs_tcmalloc()
    elif need in _TOOLS:
        needs_tool(need)
    elif need != "go":  # Go comes with the development dependencies.
        needs_library(need)


def run(page: Path, folder: Path) -> list[tuple[Block, str]]:
    """Run a page's commands; return each block with what it printed, on either stream."""
    wanted = [block for block in blocks(page) if block.is_run]
    script = "".join(f"echo '{_MARK}'\n{block.commands}" for block in wanted)
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=_furnished(folder),
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{page.relative_to(ROOT)}: exit status {done.returncode}\n{done.stdout}"
    return list(zip(wanted, done.stdout.split(f"{_MARK}\n")[1:], strict=True))


def missing_of(shown: str, printed: str) -> list[str]:
    """Return the lines of a page that were not printed, in their order.

    `...` stands for lines left out, `…` within a line for what differs from run to run, its width included.
    """
    lines, wanted = iter(printed.splitlines()), shown.splitlines()
    if "..." not in wanted and len(wanted) != len(printed.splitlines()):
        return [f"{len(printed.splitlines())} lines were printed, {len(wanted)} are shown"]
    return [line for line in wanted if line != "..." and not any(_is_like(line, each) for each in lines)]


def _is_like(line: str, printed: str) -> bool:
    if "…" not in line:
        return line == printed
    pattern = re.escape(" ".join(line.split())).replace("…", ".*")
    return re.fullmatch(pattern, " ".join(printed.split())) is not None


def _furnished(folder: Path) -> Path:
    for name in _FOLDERS:
        (folder / name).symlink_to(ROOT / name)
    (folder / "docs" / "figures").mkdir(parents=True)
    for name in ("my.parquet", "other.parquet"):
        shutil.copy(_RECORDED, folder / name)
    shutil.copy("/bin/echo", folder / "my-program")
    return folder


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment whose harness is the tested one and whose installations stay in the folder."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "harness").write_text(
        f'#!/bin/sh\nexec {sys.executable} -P -c "from harness.cli import main; main()" "$@"\n'
    )
    (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    # Go comes with the development dependencies, whose programs need not be on the PATH.
    with contextlib.suppress(AllocatorError):
        (tools / "go").write_text(f'#!/bin/sh\nexec {find_toolchain().go} "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PIP_TARGET": str(folder / "installed"),
        "PIP_NO_BUILD_ISOLATION": "false",  # Which pip takes for: isolate nothing.
        "PYTHONPATH": str(folder / "installed"),
    }
