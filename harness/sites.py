"""The allocation sites of a trace: which call stack asked for each object, and whom to hold responsible.

A trace's column `site` is an index into a table of stacks, innermost frame first, that stands in the file's
metadata. recording/symbols.py makes the frames; waste.py groups by what is chosen here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.errors import HarnessError, TraceError

# Site 0 of a recorded trace: nobody knows who asked.
UNKNOWN_SITE = 0

_FRAME = pa.struct(
    [("function", pa.string()), ("file", pa.string()), ("line", pa.uint32()), ("module", pa.string())]
)

# Who only passes a request on. The first group are modules: the C library, the C++ and C runtimes, and what
# stands in for their malloc.
_RUNTIME_MODULES = re.compile(
    r"(ld-linux.*|libc|libc-\d.*|libm|libpthread|libdl|libstdc\+\+|libc\+\+|libc\+\+abi|libgcc_s"
    r"|libjemalloc|libtcmalloc.*|libmimalloc.*|linux-vdso|linux-gate)\.so(\..*)?"
)
# The second group are functions, by their names without arguments: operator new, the standard libraries of
# C++ and Rust, and wrappers of malloc such as xmalloc, zmalloc, g_malloc0, PyMem_Malloc, sqlite3MemMalloc.
_WRAPPERS = re.compile(
    r"_start|_dl_start_user|__libc_start\w*|operator new(\[\])?"
    r"|(std|__gnu_cxx|__cxxabiv1|alloc|core|hashbrown|__rustc)::.*|<(std|alloc|core|hashbrown)::.*|__?r(ust|dl|g)_.*"
    r"|\w*(malloc|calloc|realloc|memalign|strdup|strndup)(array)?[0-9_]*(zero|aligned|usable|n|size)?"
    r"|\w*_(M|m)?(alloc|allocate|new|dup)"
    r"|_?Py(Mem|Object)_\w*(alloc|Alloc|New|Init)\w*|_PyObject_GC_\w*|PyType_GenericAlloc|_PyType_AllocNoTrack"
    r"|sqlite3(Db)?(Mem)?(Malloc|Realloc|Init|Str[NI]?Dup)\w*|sqlite3_str_\w+|memReallo\w*|mem1\w*"
)
_TEMPLATE = re.compile(r"<[^<>]*>")
# A return type that is an expression, two parentheses deep in the standard library.
_DECLTYPE = re.compile(r"^decltype ?\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)\s*")


class Frame(NamedTuple):
    """One function on a stack; file and line where debug information gives them."""

    function: str
    file: str | None = None
    line: int | None = None
    module: str | None = None

    def location(self) -> str:
        """Return `file:line`, or the module, or nothing where the name says it already."""
        if self.file is not None:
            return f"{self.file}:{self.line}" if self.line else self.file
        return "" if self.module is None or self.function.startswith(f"{self.module}+") else self.module

    def __str__(self) -> str:
        """Return the function and where it stands."""
        location = self.location()
        return f"{self.function} ({location})" if location else self.function


Stack = tuple[Frame, ...]


@dataclass(frozen=True)
class Sites:
    """Stacks by site number: the frames that occur, and of each site which of them, innermost first.

    Site n has ``frames[stack_frames[offsets[n]:offsets[n + 1]]]``. `types` has the type that each site
    allocates, where the trace knows types.
    """

    frames: Sequence[Frame]
    stack_frames: NDArray[np.int32]
    offsets: NDArray[np.int64]
    types: Sequence[str | None] | None = None

    @classmethod
    def of_stacks(cls, stacks: Iterable[Stack], types: Sequence[str | None] | None = None) -> Sites:
        """Make the table of whole stacks, the first of which is site 0."""
        numbers: dict[Frame, int] = {}
        flat: list[int] = []
        offsets = [0]
        for stack in stacks:
            flat += [numbers.setdefault(frame, len(numbers)) for frame in stack]
            offsets.append(len(flat))
        return cls(list(numbers), np.array(flat, np.int32), np.array(offsets, np.int64), types)

    def __len__(self) -> int:
        """Return how many sites there are."""
        return len(self.offsets) - 1

    def stack(self, site: int) -> Stack:
        """Return a site's frames, innermost first; none for a site that the table does not have."""
        if not 0 <= site < len(self):
            return ()
        chosen = self.stack_frames[self.offsets[site] : self.offsets[site + 1]]
        return tuple(self.frames[frame] for frame in chosen.tolist())

    def type_of(self, site: int) -> str | None:
        """Return the type that a site allocates; None where it is not known."""
        return self.types[site] if self.types is not None and 0 <= site < len(self.types) else None


NO_SITES = Sites.of_stacks(())


def encode(sites: Sites) -> bytes:
    """Return what the metadata key harness.sites holds: an Arrow IPC stream, zstd, in base64."""
    structs = pa.StructArray.from_arrays(
        [
            pa.array([frame.function for frame in sites.frames], pa.string()),
            pa.array([frame.file for frame in sites.frames], pa.string()),
            pa.array([frame.line for frame in sites.frames], pa.uint32()),
            pa.array([frame.module for frame in sites.frames], pa.string()),
        ],
        fields=list(_FRAME),
    )
    frames = pa.DictionaryArray.from_arrays(pa.array(sites.stack_frames, pa.int32()), structs)
    columns = {
        "site": pa.array(np.arange(len(sites)), pa.uint32()),
        "frames": pa.LargeListArray.from_arrays(pa.array(sites.offsets, pa.int64()), frames),
    }
    if sites.types is not None:
        columns["type"] = pa.array(sites.types, pa.string())
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(table)
    return base64.b64encode(sink.getvalue())


def decode(stored: bytes | None, path: str) -> Sites:
    """Return the sites that a trace holds, none where it has no table; TraceError where it is damaged.

    Rows may come in any order; a site that none of them names has no frames. Frames may be a dictionary of
    structs, as encode() writes them, or the structs themselves.
    """
    if stored is None:
        return NO_SITES
    try:
        table = pa.ipc.open_stream(base64.b64decode(stored, validate=True)).read_all()
        return _decoded(table) if table.num_rows else NO_SITES
    except (ValueError, KeyError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TraceError(f"{path}: metadata key harness.sites: found no table of sites: {reason}") from error


def _decoded(table: pa.Table) -> Sites:
    numbers = table.column("site").cast(pa.uint32()).to_numpy()
    listed = table.column("frames").combine_chunks()
    types = table.column("type").cast(pa.string()).to_pylist() if "type" in table.schema.names else None
    if not (pa.types.is_list(listed.type) or pa.types.is_large_list(listed.type)):
        raise ValueError(f"column frames is {listed.type}, expected lists of function, file, line, module")
    lengths = listed.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = listed.flatten()
    if pa.types.is_dictionary(values.type):
        chosen = values.indices.to_numpy().astype(np.int32)
        frames = _frames(values.dictionary)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(frames):
            raise ValueError("a stack has a frame that the dictionary lacks")
    else:
        distinct: dict[Frame, int] = {}
        chosen = np.array([distinct.setdefault(frame, len(distinct)) for frame in _frames(values)], np.int32)
        frames = list(distinct)
    if np.array_equal(numbers, np.arange(len(numbers))):
        return Sites(frames, chosen, offsets, types)
    rows = {int(number): row for row, number in enumerate(numbers)}
    count = max(rows, default=-1) + 1
    if count > 2 * len(numbers) + 1024:
        raise ValueError(f"site {count - 1} in a table of {len(numbers)}")
    stacks = [
        tuple(frames[frame] for frame in chosen[offsets[rows[site]] : offsets[rows[site] + 1]].tolist())
        if site in rows
        else ()
        for site in range(count)
    ]
    named = None if types is None else [types[rows[site]] if site in rows else None for site in range(count)]
    return Sites.of_stacks(stacks, named)


def _frames(structs: pa.StructArray) -> list[Frame]:
    if not pa.types.is_struct(structs.type):
        raise ValueError(f"a frame is {structs.type}, expected function, file, line, module")
    fields = [
        structs.field(name).to_pylist() if structs.type.get_field_index(name) >= 0 else [None] * len(structs)
        for name in Frame._fields
    ]
    return [Frame(function or "?", *rest) for function, *rest in zip(*fields, strict=True)]


# ---- Whom to hold responsible -------------------------------------------------------------------------

# What `--by` may say, and how much of a frame makes a group.
BY_FRAME = ("site", "function", "module")


def is_wrapper(frame: Frame) -> bool:
    """Whether a frame only passes requests on: in a runtime, operator new, malloc by another name."""
    if frame.module is not None and _RUNTIME_MODULES.fullmatch(frame.module):
        return True
    return _WRAPPERS.fullmatch(plain_name(frame.function)) is not None


def plain_name(function: str) -> str:
    """Return a function's name without template and call arguments and without its return type."""
    if function.startswith("<"):  # Rust: <T as Trait>::method.
        return function
    name = _DECLTYPE.sub("", function.replace("(anonymous namespace)", "{anonymous}"))
    while (shorter := _TEMPLATE.sub("", name)) != name:
        name = shorter
    name = name.split("(", 1)[0]
    if name.startswith("operator") or "::operator" in name:
        return name.strip()
    return name.split(" ")[-1] if name else function


def blamed(stack: Stack, outward: int = 0) -> Stack:
    """Return the stack from the frame to blame on: the innermost that is no wrapper, or `outward` frames on.

    Where every frame is a wrapper, as in a runtime that begins, the innermost is to blame. An unknown stack
    stays empty.
    """
    first = next((i for i, frame in enumerate(stack) if not is_wrapper(frame)), 0)
    return stack[min(first + outward, max(len(stack) - 1, 0)) :]


def key_of(frame: Frame, by: str) -> Frame:
    """Return what of a frame makes its group, by `site` (its line), `function` or `module`."""
    if by == "site":
        return frame
    if by == "function":
        return Frame(frame.function, frame.file, None, frame.module)
    if by == "module":
        return Frame(frame.module or "?", None, None, None)
    raise HarnessError(f"--by {by}: expected {', '.join(BY_FRAME)}")
