"""Runs a program under the recording library, converts what it wrote, and recovers interrupted recordings.

preload.c is the library inside the program, raw.h the raw file between the two, convert.hpp the converter,
symbols.py what names the addresses of its stacks. What a program must be to be recorded stands in program.py.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.errors import HarnessError
from harness.recording.program import resolve
from harness.recording.running import check_folder, die_of, signals_for_the_program

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.recording._recording import Conversion

LIBRARY = Path(__file__).parent / "libharness_record.so"
RAW_SUFFIX = ".raw"

# The library reads these; see preload.c.
_OUTPUT_VARIABLE = "HARNESS_RECORD_OUTPUT"
_FOLLOW_VARIABLE = "HARNESS_RECORD_FOLLOW"
_FRAMES_VARIABLE = "HARNESS_RECORD_FRAMES"

# Frames of a stack that are kept: enough to leave the containers of a library, and what a recursive program
# repeats makes no new site below them.
DEFAULT_FRAMES = 32

_TIME_RESOLUTION_NS = 1000  # CLOCK_TICKS in preload.c.

_BATCH_ROWS = 1 << 16
_QUEUED_BATCHES = 16
_POLL_SECONDS = 0.05


@dataclass
class Recorded:
    """What became of one raw file."""

    path: str
    counts: dict[str, int]
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return one line: events, threads, file size in bytes, bytes an event."""
        events, threads = self.counts["events"], self.counts["threads"]
        size_bytes = os.path.getsize(self.path)
        return (
            f"{self.path}: {events:,} events, {threads:,} {'thread' if threads == 1 else 'threads'}, "
            f"{size_bytes:,} bytes, {size_bytes / events:.2f} bytes/event"
        )


def record(
    command: list[str],
    output: str | None,
    follow_fork: bool = False,
    quiet: bool = False,
    sites: bool = False,
    frames: int = DEFAULT_FRAMES,
) -> int:
    """Run a command, write the trace of its allocations, and return the exit status to leave with.

    With `sites` each allocation's call stack is kept, the innermost `frames` of it. Where the program died
    of a signal, so does this process, once the trace is written. Raises HarnessError where the program cannot
    be recorded, before it is run.
    """
    path = output if output is not None else f"{os.path.basename(command[0])}.parquet"
    if sites:
        _check_sites(frames)
    program, command = resolve(command)
    _check_output(path, follow_fork)
    if not LIBRARY.exists():
        raise HarnessError(f"{LIBRARY.name} is not installed beside the package; reinstall alloc-harness")
    raw = path + RAW_SUFFIX
    environment = dict(os.environ)
    preload = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{LIBRARY}:{preload}" if preload else str(LIBRARY)
    environment[_OUTPUT_VARIABLE] = os.path.abspath(path)
    if follow_fork:
        environment[_FOLLOW_VARIABLE] = "1"
    if sites:
        environment[_FRAMES_VARIABLE] = str(frames)
    sys.stdout.flush()
    with signals_for_the_program() as signals:
        try:
            process = subprocess.Popen(command, executable=program, env=environment)
        except OSError as error:
            raise HarnessError(f"{command[0]}: cannot be run: {error.strerror}") from error
        signals.process = process
        try:
            recorded = _convert_while_running(process, raw, path)
        finally:
            status = process.wait()  # Whatever became of the trace, the program is not abandoned.
    if recorded is None:
        raise HarnessError(_nothing_recorded(command[0], raw, status))
    traces = [recorded]
    raws = {raw}
    kept: set[str] = set()
    if follow_fork:
        for child in _children_of(path):
            raws.add(child)
            if _is_alive(child):
                # What it inherited stands in its ancestors' raw files.
                kept |= {child, *(ancestor for ancestor, _ in _ancestors_of(child))}
                recorded.warnings.append(
                    f"{child} is still written to; once its process ended: `harness record --recover {child}`"
                )
            elif (converted := _convert(child, child.removesuffix(RAW_SUFFIX))) is not None:
                traces.append(converted)
    for done in raws - kept:
        _remove(done)
    for trace in traces:
        for warning in trace.warnings:
            print(f"harness: {trace.path}: warning: {warning}", file=sys.stderr)
        if not quiet:
            print(f"harness: {trace.summary()}", file=sys.stderr)
    if status < 0:
        die_of(-status)
    return status


def recover(raw: str, output: str | None = None) -> str:
    """Make a trace of the raw file that an interrupted recording left behind; return the trace's path.

    The raw file is deleted, unless its process still writes to it. Raises HarnessError where it is none.
    """
    path = output if output is not None else raw.removesuffix(RAW_SUFFIX)
    if path == raw:
        path = f"{raw}.parquet"
    check_folder(path)
    recorded = _convert(raw, path)
    if recorded is None:
        raise HarnessError(f"{raw}: holds no event; nothing was recorded before the program ended")
    for warning in recorded.warnings:
        print(f"harness: {path}: warning: {warning}", file=sys.stderr)
    if _is_alive(raw):
        print(f"harness: {raw} stays: its process is still running", file=sys.stderr)
    else:
        _remove(raw)
    return path


# ---- Conversion -------------------------------------------------------------------------------------


def _convert_while_running(process: subprocess.Popen[bytes], raw: str, path: str) -> Recorded | None:
    """Convert behind the running program; None where the library never came to write a file."""
    from harness.recording._recording import Conversion, RawError

    while True:
        ended = _has_ended(process)
        if os.path.exists(raw):
            # The file appears before its header does.
            with contextlib.suppress(RawError):
                conversion = Conversion(os.fsencode(raw))
                break
        if ended:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
    return _write(conversion, raw, path, process)


def _convert(raw: str, path: str) -> Recorded | None:
    """Convert a raw file that nobody writes to any more."""
    return _write(_open_with_ancestors(raw), raw, path, None)


def _open_with_ancestors(raw: str) -> Conversion:
    from harness.recording._recording import Conversion, RawError

    try:
        conversion = Conversion(os.fsencode(raw))
        for ancestor, records in _ancestors_of(raw):
            conversion.inherit(os.fsencode(ancestor), records)
    except RawError as error:
        raise HarnessError(f"{raw}: {error}") from error
    return conversion


def _ancestors_of(raw: str) -> list[tuple[str, int]]:
    """The raw files that a forked child's begins with, the oldest first, and how many records of each."""
    from harness.recording._recording import Conversion

    ancestors: list[tuple[str, int]] = []
    header = Conversion(os.fsencode(raw)).header()
    while header["parent"]:
        parent = os.path.join(os.path.dirname(raw), os.fsdecode(header["parent"]))
        ancestors.insert(0, (parent, header["parent_records"]))
        header = Conversion(os.fsencode(parent)).header()
    return ancestors


def _write(
    conversion: Conversion, raw: str, path: str, process: subprocess.Popen[bytes] | None
) -> Recorded | None:
    from harness.trace import TraceWriter

    header = conversion.header()
    arguments = [os.fsdecode(part) for part in header["command"].split(b"\0")[:-1]] or [""]
    source = {
        "program": os.path.basename(arguments[0]),
        "arguments": arguments[1:],
        "recorder": f"harness record {__version__}",
        "page_bytes": header["page_bytes"],
        "time_resolution_ns": _TIME_RESOLUTION_NS,
    }
    has_sites = header["has_sites"]
    warnings: list[str] = []
    batches = _batches(conversion, process)
    first = next(batches, None)
    if first is None:
        return None
    try:
        with TraceWriter(
            path,
            source=source,
            object_ids="slot",
            synthetic=False,
            optional=("alignment", "time_ns", *(["site"] if has_sites else [])),
        ) as writer:
            writer.write(first)
            for columns in batches:
                writer.write(columns)
            if has_sites:
                writer.sites, warnings = _sites(conversion)
    except OSError as error:
        reason = error.strerror or error
        raise HarnessError(
            f"{path}: cannot be written: {reason}; what was recorded is kept: "
            f"`harness record --recover {raw} -o OUT.parquet`"
        ) from error
    counts = conversion.counts()
    return Recorded(path, counts, _warnings(counts, conversion.stopped()) + warnings)


def _sites(conversion: Conversion) -> tuple[bytes, list[str]]:
    """Return the table of sites as a trace holds it, and what there is to say of it."""
    from harness.recording.symbols import named_sites
    from harness.sites import encode

    found = conversion.sites()
    modules = [(os.fsdecode(path), build_id) for path, build_id in found["modules"]]
    sites, warnings = named_sites(
        modules, found["module"], found["address"], found["frames"], found["offsets"]
    )
    return encode(sites), warnings


def _batches(
    conversion: Conversion, process: subprocess.Popen[bytes] | None
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield converted batches while a thread converts the next ones."""
    from harness.recording._recording import RawError

    batches: queue.Queue[dict[str, NDArray[Any]] | BaseException | None] = queue.Queue(_QUEUED_BATCHES)
    abandoned = threading.Event()

    def put(batch: dict[str, NDArray[Any]] | BaseException | None) -> None:
        while not abandoned.is_set():
            with contextlib.suppress(queue.Full):
                batches.put(batch, timeout=_POLL_SECONDS)
                return

    def convert() -> None:
        try:
            while not abandoned.is_set():
                ended = process is None or _has_ended(process)
                columns = conversion.take(_BATCH_ROWS, ended)
                if columns is not None:
                    put(columns)
                elif ended:
                    break
                if columns is None or (not ended and len(columns["op"]) < _BATCH_ROWS):
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_SECONDS)  # type: ignore[union-attr]
            put(None)
        except BaseException as error:
            put(error)

    worker = threading.Thread(target=convert, daemon=True)
    worker.start()
    try:
        while (batch := batches.get()) is not None:
            if isinstance(batch, RawError):
                raise HarnessError(f"the raw file {batch}") from batch
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        abandoned.set()
        worker.join()


def _warnings(counts: dict[str, int], stopped: int) -> list[str]:
    from harness.recording import _recording

    reasons = {
        _recording.DISK_FULL: "the disk was full",
        _recording.FILE_LIMIT: "the limit of the file size (ulimit -f) was reached",
        _recording.WINDOW_FULL: "the limit of the address space (ulimit -v) left no more room",
        _recording.FILE_LOST: "the program closed the raw file, which could not be opened again",
    }
    warnings = []
    if stopped in reasons:
        warnings.append(f"recording stopped before the program did: {reasons[stopped]}")
    if counts["unseen_frees"]:
        warnings.append(
            f"{counts['unseen_frees']:,} frees were not seen and put in where the address came again"
        )
    if counts["lost_records"]:
        warnings.append(f"{counts['lost_records']:,} events of threads that were killed are missing")
    return warnings


# ---- The program ------------------------------------------------------------------------------------


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


def _nothing_recorded(program: str, raw: str, status: int) -> str:
    if os.path.exists(raw):
        _remove(raw)
        return (
            f"{program}: no allocation was seen (exit status {status}): it makes none, or its allocator is "
            f"linked into it, out of a preloaded library's reach"
        )
    return (
        f"{program}: the recording library was not loaded or could not create {raw} (exit status {status}); "
        f"no trace was written"
    )


# ---- Files ------------------------------------------------------------------------------------------


def _check_sites(frames: int) -> None:
    from harness.recording._recording import CAN_RECORD_SITES, MAX_FRAMES

    if not CAN_RECORD_SITES:
        raise HarnessError("--sites: stacks are recorded on x86-64 with glibc 2.35 or newer; leave it out")
    if not 1 <= frames <= MAX_FRAMES:
        raise HarnessError(f"--frames: found {frames}, expected 1 to {MAX_FRAMES}")


def _check_output(path: str, follow_fork: bool) -> None:
    if path == "-" or "://" in path:
        raise HarnessError(f"{path}: a recording goes to a local file; give -o OUT.parquet")
    check_folder(path)
    left = [path + RAW_SUFFIX, *(_children_of(path) if follow_fork else [])]
    for raw in left:
        if os.path.exists(raw):
            raise HarnessError(
                f"{raw} exists: another recording is writing it, or one was interrupted; "
                f"`harness record --recover {raw}` makes a trace of it"
            )


def _children_of(path: str) -> list[str]:
    """The raw files of forked children and executed images, named by preload.c."""
    folder, name = os.path.split(path)
    suffix = ".parquet" + RAW_SUFFIX if name.endswith(".parquet") else RAW_SUFFIX
    stem = name.removesuffix(".parquet")
    found = []
    for entry in os.listdir(folder or "."):
        numbers = entry.removeprefix(f"{stem}.").removesuffix(suffix)
        if entry == f"{stem}.{numbers}{suffix}" and numbers.replace(".", "").isdigit():
            found.append(([int(number) for number in numbers.split(".")], os.path.join(folder, entry)))
    return [child for _, child in sorted(found)]


def _is_alive(raw: str) -> bool:
    """Whether the process that writes a raw file still maps it."""
    from harness.recording._recording import Conversion, RawError

    try:
        pid = Conversion(os.fsencode(raw)).header()["pid"]
        file = os.stat(raw)
        with open(f"/proc/{pid}/maps") as maps:
            return any(line.split()[4:5] == [str(file.st_ino)] for line in maps)
    except (OSError, RawError):
        return False


def _remove(raw: str) -> None:
    # Emptied first: a forked child that lives on would keep the disk space of a deleted file.
    with contextlib.suppress(OSError):
        os.truncate(raw, 0)
    with contextlib.suppress(OSError):
        os.unlink(raw)
