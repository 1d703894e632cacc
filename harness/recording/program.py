"""Says before a program runs whether a preloaded library can see what it allocates.

The dynamic linker loads the library, so the program must have one, of this machine's kind, and must not run
with more rights than its caller. recorder.py asks; nothing here runs anything.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import struct
import sys

from harness.errors import HarnessError

# ELF: the System V ABI, "Object Files".
_ELF_MAGIC = b"\x7fELF"
_ELF_64_BIT = 2
_PROGRAM_HEADER_INTERPRETER = 3
_HEADER_BYTES = 4096
# A script may name a script: the kernel follows this many (binfmt_script, BINPRM_MAX_RECURSION).
_MAX_INTERPRETERS = 5


def resolve(command: list[str]) -> tuple[str, list[str]]:
    """Return the path to execute and its arguments; HarnessError where recording it cannot work.

    A script of ``#!/usr/bin/env NAME`` is run as ``NAME SCRIPT``: env would only execute NAME in its place.
    """
    path = _find(command[0])
    for _ in range(_MAX_INTERPRETERS):
        interpreter = _interpreter_of(path, command[0])
        if interpreter is None:
            _check_elf(path, command[0])
            _check_rights(path, command[0])
            return path, command
        if os.path.basename(interpreter[0]) != "env":
            _check_interpreter(interpreter[0], command[0])
            return path, command
        words = [word for word in shlex.split(" ".join(interpreter[1:])) if word != "-S"]
        if not words or words[0].startswith("-") or "=" in words[0]:
            return path, command
        command = [*words, path, *command[1:]]
        path = _find(words[0])
    raise HarnessError(f"{command[0]}: too many scripts that are run by scripts")


def _find(name: str) -> str:
    path = shutil.which(name) or name
    if not os.path.exists(path):
        raise HarnessError(f"{name}: no such program{'' if '/' in name else ' on the PATH'}")
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        raise HarnessError(f"{name}: is not an executable file")
    return path


def _check_interpreter(path: str, name: str) -> None:
    for _ in range(_MAX_INTERPRETERS):
        if not os.path.exists(path):
            raise HarnessError(f"{name}: its interpreter {path} does not exist")
        interpreter = _interpreter_of(path, name)
        if interpreter is None:
            break
        path = interpreter[0]
    _check_elf(path, f"{name} (run by {path})")
    _check_rights(path, f"{name} (run by {path})")


def _interpreter_of(path: str, name: str) -> list[str] | None:
    """The first line of a script: the interpreter and, as one word, what follows; None for an ELF file."""
    head = _head(path, name)
    if head.startswith(_ELF_MAGIC):
        return None
    words = os.fsdecode(head[2:].split(b"\n", 1)[0]).strip().split(None, 1)
    if not head.startswith(b"#!") or not words:
        raise HarnessError(f"{name}: is neither an ELF program nor a script that names its interpreter")
    return words


def _head(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEADER_BYTES)
    except OSError as error:
        raise HarnessError(f"{name}: cannot be read: {error.strerror}") from error


def _check_elf(path: str, name: str) -> None:
    head = _head(path, name)
    if head[4] != _ELF_64_BIT:
        raise HarnessError(f"{name}: is a 32-bit program; only 64-bit ones can be recorded")
    order = "<" if sys.byteorder == "little" else ">"
    with open(sys.executable, "rb") as ours:
        our_machine = struct.unpack_from(f"{order}H", ours.read(64), 18)[0]
    machine = struct.unpack_from(f"{order}H", head, 18)[0]
    if machine != our_machine:
        raise HarnessError(f"{name}: is a program for another machine (ELF machine {machine})")
    offset = struct.unpack_from(f"{order}Q", head, 32)[0]
    entry_bytes, entries = struct.unpack_from(f"{order}HH", head, 54)
    for entry in range(entries):
        at = offset + entry * entry_bytes
        if at + entry_bytes > len(head):
            return
        if struct.unpack_from(f"{order}I", head, at)[0] != _PROGRAM_HEADER_INTERPRETER:
            continue
        begin, size = (struct.unpack_from(f"{order}Q", head, at + field)[0] for field in (8, 32))
        interpreter = os.fsdecode(head[begin : begin + size].rstrip(b"\0"))
        if "ld-musl" in interpreter:
            raise HarnessError(f"{name}: is linked with musl; only programs of glibc can be recorded")
        return
    raise HarnessError(f"{name}: is statically linked: there is no dynamic linker to load the recorder")


def _check_rights(path: str, name: str) -> None:
    """The linker ignores LD_PRELOAD where a program runs with more rights than its caller (ld.so(8))."""
    status = os.stat(path)
    changes_user = bool(status.st_mode & stat.S_ISUID) and status.st_uid != os.getuid()
    changes_group = bool(status.st_mode & stat.S_ISGID) and status.st_gid != os.getgid()
    if changes_user or changes_group:
        copy = shlex.quote(os.path.basename(path))
        raise HarnessError(
            f"{name}: is set-{'user' if changes_user else 'group'}-ID: the linker loads no recorder into it; "
            f"record a copy without that bit (cp {shlex.quote(path)} ./{copy})"
        )
    if os.getuid() != 0 and _has_capabilities(path):
        raise HarnessError(f"{name}: has file capabilities: the linker loads no recorder into it")


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False
