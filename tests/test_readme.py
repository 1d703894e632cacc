"""The README's commands are those that CI runs, and its numbers those that the tool prints."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from support import harness

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^```sh\n(.*)\n```", README, re.MULTILINE)


def test_the_first_command_replays_a_trace_of_the_repository():
    *_, trace = shlex.split(COMMANDS[0])
    assert (ROOT / trace).exists()


def test_ci_runs_the_second_command():
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_table_is_what_the_first_command_prints():
    *_, trace = shlex.split(COMMANDS[0])
    printed = harness("replay", trace, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}).stdout
    heading, table, *_ = printed.split("\n\n")
    assert f"```\n{heading}\n\n{table}\n```" in README
