"""What git knows of commits: which one stands here, when each was made, and which came before which.

Asks the git command, and nothing where there is none: outside of a repository results have a commit that
their user names.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.errors import HarnessError

# A full name of a commit, SHA-1 or SHA-256. Anything else, git could take for an option.
_NAME = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")


@dataclass(frozen=True)
class Commit:
    """A commit, or whatever else a user calls a state of his program."""

    name: str
    date: datetime
    is_clean: bool = True  # Whether the files that git follows are those of the commit.


def find(name: str | None, date: str | None) -> Commit:
    """Return the commit of a name, or the one that stands here; `date` is ISO 8601, by default git's.

    HarnessError where git does not know it and there is no name with a date.
    """
    known = _known(name or "HEAD")
    if known is not None:
        full, git_date = known
        is_clean = name is not None or _git("status", "--porcelain", "--untracked-files=no") == ""
        return Commit(full, git_date if date is None else parsed(date), is_clean)
    if name is None:
        raise HarnessError(
            "there is no commit here: run it inside a git repository, or say --commit NAME --date DATE"
        )
    if date is None:
        raise HarnessError(f"--commit {name}: git does not know it here; say its --date, as 2026-01-31T12:00")
    return Commit(name, parsed(date))


def parsed(date: str) -> datetime:
    """Return a date of ISO 8601 in UTC, to the second; HarnessError where it is none."""
    try:
        found = datetime.fromisoformat(date)
    except ValueError as error:
        raise HarnessError(f"--date {date}: expected a date, as 2026-01-31T12:00 or 2026-01-31") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)


def order(names: Collection[str]) -> dict[str, int] | None:
    """Return each commit's place, parents before children; None where git does not know them all."""
    if not names or not all(_NAME.match(name) for name in names):
        return None
    listed = _git("rev-list", "--topo-order", "--reverse", "--ignore-missing", "--stdin", given=names)
    places = {name: place for place, name in enumerate((listed or "").split())}
    return {name: places[name] for name in names} if places.keys() >= set(names) else None


def within_repository(path: str) -> str:
    """Return a path relative to the repository that it is in, with slashes; any other as it is."""
    top = None if "://" in path else _git("rev-parse", "--show-toplevel")
    if not top:
        return path
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(top))
    return path if relative.startswith(os.pardir) else relative.replace(os.sep, "/")


def _known(name: str) -> tuple[str, datetime] | None:
    """Return the full name and the date of what git calls so."""
    told = _git("log", "-1", "--format=%H %ct", "--end-of-options", name, "--")
    if not told:
        return None
    full, seconds = told.split()
    return full, datetime.fromtimestamp(int(seconds), UTC)


def _git(*arguments: str, given: Collection[str] = ()) -> str | None:
    """Return what git prints, None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            input="\n".join(given),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
