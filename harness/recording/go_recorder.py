"""`harness record --go`: runs a Go program with allocation events in its execution trace, and imports that.

Go's own tracer records; a preloaded library could not see a heap that is no malloc's. What is started here
gets GODEBUG=traceallocfree=1, and where it is `go test` a file to trace to; else the program must trace
itself, and the file that it wrote is looked for. harness/formats/go.py reads it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.errors import HarnessError
from harness.recording.running import check_folder, die_of, signals_for_the_program

_ALLOCATION_EVENTS = "traceallocfree=1"
_MAGIC = b"go 1."
_MAGIC_REST = b" trace\0\0\0"
_HEADER_BYTES = 16

# What of the environment decides how a Go program's heap behaves.
_TELLING_VARIABLES = ("GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG", "GOEXPERIMENT")

# Flags of `go build` and `go test` that take no value (`go help build`, `go help testflag`); any other is
# followed by one, unless it has an equals sign.
_FLAGS_WITHOUT_VALUE = frozenset(
    (
        *("a", "n", "v", "x", "race", "msan", "asan", "cover", "work", "json", "c", "i", "short", "benchmem"),
        *("failfast", "fullpath", "modcacherw", "trimpath", "linkshared", "artifacts"),
    )
)

_HELP = "docs/how-to/go-programs.md"


@dataclass(frozen=True)
class _Run:
    """A command that is to be run, the file that it traces to, if that is known, and where the trace goes."""

    command: list[str]
    traced: str | None
    output: str | None


def record_go(command: list[str], output: str | None, quiet: bool = False) -> int:
    """Run a Go program, import the execution trace that it writes, and return the exit status to leave with.

    `go test` is told to trace; of several packages one after the other is tested, each traced to a file of
    its own. Any other command must write a trace itself: what appeared or changed in the working directory,
    or where an argument says. Raises HarnessError where there is none, or none with allocation events.
    """
    if output is not None:
        if output == "-" or "://" in output:
            raise HarnessError(f"{output}: a recording goes to a local file; give -o OUT.parquet")
        check_folder(output)
    environment = os.environ | {"GODEBUG": _with_allocation_events(os.environ.get("GODEBUG", ""))}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-go-"))
        status = 0
        for run in _runs(command, output, folder, environment):
            before = _traces_of(run.command)
            one = _run(run.command, environment)
            traced = run.traced if run.traced is not None else _newest(before, _traces_of(run.command))
            if traced is None or not _is_trace(traced):
                raise HarnessError(_nothing_traced(run, one))
            target = run.output or f"{Path(traced).stem}.parquet"
            events = _import(traced, target, run.command, environment)
            if not quiet:
                print(
                    f"harness: {target}: {events:,} events, {os.path.getsize(target):,} bytes",
                    file=sys.stderr,
                )
            status = status or one
    if status < 0:
        die_of(-status)
    return status


# ---- What is run ----------------------------------------------------------------------------------------


def _with_allocation_events(debug: str) -> str:
    kept = [part for part in debug.split(",") if part and not part.startswith("traceallocfree=")]
    return ",".join([*kept, _ALLOCATION_EVENTS])


def _runs(
    command: list[str], output: str | None, folder: str, environment: Mapping[str, str]
) -> Iterator[_Run]:
    """Yield what there is to run: the command, or a test of each of its packages."""
    test = GoTest.of(command)
    if test is None or test.traces_itself:
        yield _Run(command, None, output)
        return
    packages = _packages_with_tests(command[0], test.packages, environment)
    if not packages:
        raise HarnessError(
            f"{' '.join(command)}: no test files in {' '.join(test.packages) or 'the package'}"
        )
    stem = None if output is None else output.removesuffix(".parquet")
    for number, package in enumerate(packages):
        # Two packages may end alike, so that the whole path makes the name where there are several.
        name = package.rsplit("/", 1)[-1] if len(packages) == 1 else package.replace("/", "-")
        if stem is None:
            target = f"{name}.parquet"
        else:
            target = output if len(packages) == 1 and output else f"{stem}-{name}.parquet"
        traced = os.path.join(folder, f"{number}.trace")
        yield _Run(test.command(traced, test.packages if len(packages) == 1 else [package]), traced, target)


@dataclass(frozen=True)
class GoTest:
    """A `go test` command, taken apart."""

    before: list[str]  # Up to `test`.
    flags: list[str]  # Between it and the packages.
    packages: list[str]
    after: list[str]

    @classmethod
    def of(cls, command: Sequence[str]) -> GoTest | None:
        """Take a command apart; None where it is no `go test`."""
        if len(command) < 2 or os.path.basename(command[0]) not in ("go", "go.exe") or command[1] != "test":
            return None
        words = list(command[2:])
        begin = 0
        while begin < len(words) and words[begin].startswith("-"):
            name, equals, _ = words[begin].lstrip("-").partition("=")
            if name == "args":
                break
            has_value = not equals and name.removeprefix("test.") not in _FLAGS_WITHOUT_VALUE
            begin += 2 if has_value else 1
        end = begin
        while end < len(words) and not words[end].startswith("-"):
            end += 1
        return cls(list(command[:2]), words[:begin], words[begin:end], words[end:])

    @property
    def traces_itself(self) -> bool:
        """Whether the command says where to trace to."""
        ours = self.after[: self.after.index("-args")] if "-args" in self.after else self.after
        names = {word.lstrip("-").partition("=")[0].removeprefix("test.") for word in (*self.flags, *ours)}
        return "trace" in names

    def command(self, traced: str, packages: list[str]) -> list[str]:
        """Return the command that tests these packages, of which there may be one, and traces to a file."""
        return [*self.before, _trace_flag(traced), *self.flags, *packages, *self.after]


def _trace_flag(traced: str) -> str:
    return f"-trace={traced}"


def _packages_with_tests(go: str, patterns: list[str], environment: Mapping[str, str]) -> list[str]:
    asked = [go, "list", "-json=ImportPath,TestGoFiles,XTestGoFiles", *patterns]
    try:
        done = subprocess.run(asked, env=dict(environment), capture_output=True, text=True, check=False)
    except OSError as error:
        raise HarnessError(f"{go}: cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise HarnessError(f"`{' '.join(asked)}` failed: {done.stderr.strip()[-1000:]}")
    decoder = json.JSONDecoder()
    text = done.stdout.strip()
    found = []
    while text:
        package, end = decoder.raw_decode(text)
        if package.get("TestGoFiles") or package.get("XTestGoFiles"):
            found.append(package["ImportPath"])
        text = text[end:].strip()
    return found


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    sys.stdout.flush()
    with signals_for_the_program() as signals:
        try:
            process = subprocess.Popen(command, env=dict(environment))
        except OSError as error:
            raise HarnessError(f"{command[0]}: cannot be run: {error.strerror}") from error
        signals.process = process
        return process.wait()


# ---- What it left ---------------------------------------------------------------------------------------


def _traces_of(command: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the traces in the working directory and where the command's arguments say: time and size."""
    named = [word.partition("=")[2] or word for word in command[1:]]
    found = {}
    for path in (*(entry.path for entry in os.scandir(".") if entry.is_file()), *named):
        if os.path.isfile(path) and _is_trace(path):
            status = os.stat(path)
            found[os.path.realpath(path)] = (status.st_mtime_ns, status.st_size)
    return found


def _newest(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> str | None:
    changed = {path: state for path, state in after.items() if before.get(path) != state}
    return max(changed, key=lambda path: changed[path], default=None)


def _is_trace(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError:
        return False
    return head.startswith(_MAGIC) and head.endswith(_MAGIC_REST)


def _nothing_traced(run: _Run, status: int) -> str:
    ended = f"exit status {status}" if status >= 0 else f"signal {-status}"
    if run.traced is not None:
        return f"`{' '.join(run.command)}` wrote no execution trace ({ended})"
    return (
        f"{run.command[0]}: wrote no Go execution trace into the working directory ({ended}); the program "
        f"must call runtime/trace.Start and Stop, or be `go test`; of a running service take one over HTTP "
        f"({_HELP})"
    )


def _import(traced: str, target: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Write the harness trace of an execution trace; return its events."""
    from harness.formats.go import GoTrace
    from harness.trace import TraceWriter

    trace = GoTrace(traced)
    with TraceWriter(target, source={}, optional=("noscan", "time_ns", "site")) as writer:
        for rows in trace.raw_batches():
            writer.write(rows)
        metadata: dict[str, Any] = dict(trace.metadata)
        metadata["source"] |= {
            "program": os.path.basename(command[0]),
            "arguments": [
                word.replace(traced, os.path.basename(traced))
                for word in command[1:]
                if word != _trace_flag(traced)
            ],
            "recorder": f"harness record --go {__version__}",
            "environment": {name: environment[name] for name in _TELLING_VARIABLES if name in environment},
        }
        writer.describe(metadata | {"losses": trace.losses}, trace.sites)
    return writer.events
