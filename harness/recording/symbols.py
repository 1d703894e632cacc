"""Names the addresses of recorded stacks: function, file and line, inlined functions as frames of their own.

Lines come from a module's debug information, in it or in a separate file, through llvm-symbolizer or
addr2line, a batch a module; without any, names come from its symbol tables; without these, a frame is the
module and an offset. recorder.py calls this once the program has ended.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray

from harness.recording._recording import demangle, expand_stacks
from harness.sites import Frame, Sites, Stack

# Both speak alike; llvm-symbolizer is several times as fast on large programs.
_TOOLS = {
    "llvm-symbolizer": ["--output-style=GNU", "--demangle"],
    "addr2line": ["-C"],
}
_DEBUG_FOLDER = "/usr/lib/debug"
_ADDRESSES_A_CALL = 20_000
_NO_MODULE = 2**32 - 1

# ELF: the System V ABI, "Symbol Table".
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_FUNCTION_TYPES = (2, 10)  # STT_FUNC, STT_GNU_IFUNC.
_LINE = re.compile(r"(?P<file>.*):(?P<line>\d+|\?)(?: \(discriminator \d+\))?")
# Stands behind the name in some tables: memcpy@@GLIBC_2.14.
_VERSION = re.compile(r"@@?[A-Za-z_]+[0-9.]*$")


def named_sites(
    modules: Sequence[tuple[str, bytes]],
    module_of: NDArray[np.uint32],
    addresses: NDArray[np.uint64],
    stack_addresses: NDArray[np.uint32],
    offsets: NDArray[np.uint64],
) -> tuple[Sites, list[str]]:
    """Name the frames of stacks, and return them with what stood in the way of better names.

    `modules` are paths and build ids; `addresses` are each in the terms of its module; of these, site n has
    ``stack_addresses[offsets[n]:offsets[n + 1]]``. A module that is gone, or is another one than was
    recorded, gives its name and an offset.
    """
    named = _symbolise(modules, module_of, addresses)
    numbers: dict[Frame, int] = {}
    flat = np.array(
        [numbers.setdefault(frame, len(numbers)) for frames in named.frames for frame in frames], np.int32
    )
    begins = np.cumsum([0, *(len(frames) for frames in named.frames)], dtype=np.int64)
    stack_frames, ends = expand_stacks(stack_addresses, offsets, flat, begins)
    return Sites(list(numbers), stack_frames, ends), named.warnings


@dataclass
class _Symbolised:
    """The frames of each address, innermost first, and what stood in the way of better ones."""

    frames: list[Stack]
    warnings: list[str] = field(default_factory=list)


def _symbolise(
    modules: Sequence[tuple[str, bytes]], module_of: NDArray[np.uint32], addresses: NDArray[np.uint64]
) -> _Symbolised:
    done = _Symbolised([()] * len(addresses))
    tool = _tool()
    lacks_tool = False
    for number, (path, build_id) in enumerate(modules):
        chosen = np.flatnonzero(module_of == number)
        if len(chosen) == 0:
            continue
        wanted = addresses[chosen]
        module = _Module(path, build_id)
        if module.was_replaced:
            done.warnings.append(
                f"{_printable(path)} is not the file that was recorded any more; its functions have no names"
            )
        lines: dict[int, Stack] = {}
        if module.debug_file is not None:
            if tool is None:
                lacks_tool = True
            else:
                lines = _lines(tool, module.debug_file, module.name, wanted)
        names = module.functions(wanted)
        for at, address, name in zip(chosen.tolist(), wanted.tolist(), names, strict=True):
            known = lines.get(address)
            if known is None:
                known = (Frame(name or f"{module.name}+{address:#x}", None, None, module.name),)
            elif known[-1].function == "?":
                known = (*known[:-1], known[-1]._replace(function=name or f"{module.name}+{address:#x}"))
            done.frames[at] = known
    for at in np.flatnonzero(module_of == _NO_MODULE).tolist():
        done.frames[at] = (Frame(f"{int(addresses[at]):#x}"),)
    if lacks_tool:
        done.warnings.append(
            "lines are missing: neither llvm-symbolizer nor addr2line is installed (apt-get install binutils)"
        )
    return done


def _tool() -> list[str] | None:
    for name, options in _TOOLS.items():
        if (found := shutil.which(name)) is not None:
            return [found, *options, "--functions", "--inlines", "--addresses"]
    return None


class _Module:
    """One mapped file: its symbols, and where its debug information is."""

    def __init__(self, path: str, build_id: bytes) -> None:
        self.path = path
        self.name = _printable(os.path.basename(path)) or "?"
        self.debug_file: str | None = None
        self.was_replaced = False
        self._values = np.empty(0, np.uint64)
        self._ends = np.empty(0, np.uint64)
        self._names: list[bytes] = []
        # A foreign trace may name anything, and a pipe would be waited for.
        if not os.path.isfile(path):
            return
        try:
            with open(path, "rb") as file:
                elf = ELFFile(file)
                found = _build_id(elf)
                self.was_replaced = bool(build_id) and found[: len(build_id)] != build_id
                if self.was_replaced:
                    return
                separate = _separate_file(path, found, elf)
                if elf.has_dwarf_info(strict=True):
                    self.debug_file = path
                elif separate is not None:
                    self.debug_file = separate
                self._read_symbols(elf)
            if separate is not None and not self._has_symtab:
                with open(separate, "rb") as file:
                    self._read_symbols(ELFFile(file))
        except (OSError, ELFError):
            return

    def functions(self, addresses: NDArray[np.uint64]) -> list[str | None]:
        """Return the readable name of the function around each address, or None."""
        at = np.searchsorted(self._values, addresses, side="right") - 1
        names: dict[int, str] = {}
        found: list[str | None] = []
        for row, address in zip(at.tolist(), addresses.tolist(), strict=True):
            if row < 0 or address >= self._ends[row]:
                found.append(None)
                continue
            if row not in names:
                names[row] = demangle(_VERSION.sub("", self._names[row].decode(errors="replace")))
            found.append(names[row])
        return found

    _has_symtab = False

    def _read_symbols(self, elf: ELFFile) -> None:
        """Take the functions of .symtab, which has all, or of .dynsym, which has the exported ones."""
        section: Any = elf.get_section_by_name(".symtab")
        self._has_symtab = section is not None and section["sh_type"] == "SHT_SYMTAB"
        if not self._has_symtab:
            section = elf.get_section_by_name(".dynsym")
            if section is None or section["sh_type"] != "SHT_DYNSYM" or len(self._names):
                return
        symbols = np.frombuffer(section.data(), _SYMBOL)
        text = elf.get_section(section["sh_link"]).data()
        chosen = symbols[np.isin(symbols["info"] & 0xF, _FUNCTION_TYPES) & (symbols["section"] != 0)]
        # Of several names for one function the global one: local aliases are the compiler's.
        chosen = chosen[np.lexsort((chosen["size"], chosen["info"] >> 4, chosen["value"]))]
        is_last = np.ones(len(chosen), bool)
        is_last[:-1] = chosen["value"][1:] != chosen["value"][:-1]
        chosen = chosen[is_last]
        self._values = chosen["value"].astype(np.uint64)
        # Assembly may have no size: up to the next function.
        following = np.append(self._values[1:], self._values[-1:] + np.uint64(1))
        self._ends = np.where(chosen["size"] == 0, following, self._values + chosen["size"])
        self._names = [text[offset : text.index(b"\0", offset)] for offset in chosen["name"].tolist()]


def _printable(path: str) -> str:
    """Return a path as text that any file can hold: not every file's name is UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def _build_id(elf: ELFFile) -> bytes:
    segment: Any
    for segment in elf.iter_segments(type="PT_NOTE"):
        for note in segment.iter_notes():
            if note["n_type"] == "NT_GNU_BUILD_ID":
                return bytes.fromhex(note["n_desc"])
    return b""


def _separate_file(path: str, build_id: bytes, elf: ELFFile) -> str | None:
    """Return where a distribution keeps this module's debug information: by build id, or by its link."""
    candidates = []
    if build_id:
        name = build_id.hex()
        candidates.append(f"{_DEBUG_FOLDER}/.build-id/{name[:2]}/{name[2:]}.debug")
    section = elf.get_section_by_name(".gnu_debuglink")
    if section is not None:
        link = os.fsdecode(section.data().split(b"\0", 1)[0])
        folder = os.path.dirname(os.path.realpath(path))
        candidates += [
            os.path.join(folder, link),
            os.path.join(folder, ".debug", link),
            f"{_DEBUG_FOLDER}{folder}/{link}",
        ]
    for candidate in candidates:
        if os.path.isfile(candidate) and os.path.realpath(candidate) != os.path.realpath(path):
            return candidate
    return None


def _lines(tool: list[str], file: str, module: str, addresses: NDArray[np.uint64]) -> dict[int, Stack]:
    """Ask the tool for the functions and lines of addresses; what it does not know is left out."""
    found: dict[int, Stack] = {}
    for first in range(0, len(addresses), _ADDRESSES_A_CALL):
        asked = "".join(
            f"{address:#x}\n" for address in addresses[first : first + _ADDRESSES_A_CALL].tolist()
        )
        done = subprocess.run(
            [*tool, "-e", file], input=asked, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            return found
        found.update(_parse(done.stdout.splitlines(), module))
    return found


def _parse(lines: Iterable[str], module: str) -> Iterator[tuple[int, Stack]]:
    """Read blocks of an address and, innermost first, a function and a `file:line` in turns."""
    address: int | None = None
    function: str | None = None
    frames: list[Frame] = []
    for line in lines:
        if line.startswith("0x") and function is None:
            if address is not None and _is_known(frames):
                yield address, tuple(frames)
            address, frames = int(line, 16), []
        elif function is None:
            function = line
        else:
            frames.append(_frame(function, line, module))
            function = None
    if address is not None and _is_known(frames):
        yield address, tuple(frames)


def _frame(function: str, place: str, module: str) -> Frame:
    match = _LINE.fullmatch(place)
    file = match["file"] if match is not None else place
    line = int(match["line"]) if match is not None and match["line"].isdigit() else 0
    return Frame(
        "?" if function == "??" else _VERSION.sub("", function),
        None if file in ("??", "") else os.path.normpath(file),
        line or None,
        module,
    )


def _is_known(frames: list[Frame]) -> bool:
    return any(frame.function != "?" or frame.file is not None for frame in frames)
