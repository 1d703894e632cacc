"""What must hold of any bytes whatever: they are a valid trace, or one line that says where they are none."""

from __future__ import annotations

import os
import re
import signal
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from targets import TARGETS, WHOLE_FILE, Target

from harness import formats
from harness.allocator import find
from harness.conversion import convert
from harness.errors import HarnessError
from harness.formats import Reading, memray, memray_process
from harness.replay import Settings, replay
from harness.trace import TraceReader

# Where in a file: `line 7`, `rows 3 to 5`, `byte 0x30`.
_PLACE = re.compile(r"\b(?:line|row|record|event|byte|offset|message|batch|frame|block)s? (?:0x)?\d")
_LONGEST_FAULT = 1_000


def check(name: str, data: bytes, folder: Path, mapping: int = 0) -> None:
    """Convert the bytes as a file of a format, strictly and leniently; fail where what must hold does not."""
    target = TARGETS[name]
    source = folder / "input"
    source.write_bytes(data)
    columns = target.mappings[mapping % len(target.mappings)]
    for lenient in (False, True):
        made = folder / "made.parquet"
        made.unlink(missing_ok=True)
        try:
            convert(
                str(source), str(made), from_format=name, reading=Reading(lenient=lenient, columns=columns)
            )
        except HarnessError as error:
            _check_fault(str(error), str(source), target, lenient)
            assert not made.exists(), "a failed conversion left its target behind"
            continue
        for _ in TraceReader(str(made)).checked():
            pass
        replay(str(made), _IDEAL, Settings(samples=2))
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def check_recognition(data: bytes) -> None:
    """Ask every format whether a file that begins so is its own."""
    for name in TARGETS:
        formats.named(name).recognises(data)


def _check_fault(fault: str, source: str, target: Target, lenient: bool) -> None:
    assert "\n" not in fault, f"more than one line: {fault!r}"
    assert len(fault) < _LONGEST_FAULT, f"{len(fault)} characters: {fault}"
    assert source in fault, f"no file: {fault}"
    said = fault.replace(source, "")
    assert _PLACE.search(said) or re.search(WHOLE_FILE, said) or "--map" in said, f"no place: {fault}"
    if lenient and target.refused_when_lenient is not None:
        assert re.search(target.refused_when_lenient, said), f"a lenient reader stopped: {fault}"


class _Forked:
    """In place of a process of its own that has to load Python and memray first: a fork of this one."""

    def __init__(self, command: list[str], **_: object) -> None:
        reading, writing = os.pipe()
        self._number = os.fork()
        if self._number == 0:
            # Nothing that the fuzzer does when a process ends is to be done.
            try:
                for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGALRM):
                    signal.signal(number, signal.SIG_DFL)
                os.dup2(writing, 1)
                os.close(reading)
                sys.argv = ["", command[-1]]
                sys.stdout = os.fdopen(1, "w")
                memray_process.main()
            finally:
                os._exit(0)
        os.close(writing)
        self.stdout = os.fdopen(reading, "rb")
        self._status: int | None = None

    def wait(self) -> int:
        if self._status is None:
            self._status = os.waitpid(self._number, 0)[1]
        return self._status

    def kill(self) -> None:
        if self._status is None:
            os.kill(self._number, signal.SIGKILL)


def quicken() -> None:
    """Spare every input what takes longer than reading it; for a process that does nothing else."""
    memray.subprocess = SimpleNamespace(Popen=_Forked, PIPE=None, DEVNULL=None)
    formats.entry_points = cache(formats.entry_points)


_IDEAL = find("ideal")
