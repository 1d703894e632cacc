"""What the text formats share: compressed streams, the head of a file, and files of text that appear whole.

A stream is opened by what it begins with, not by its name: gzip and zstd are undone, `-` is standard input.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import fs

from harness.allocator import OP_NAMES
from harness.errors import TraceError
from harness.trace import AtomicOutput, reason

# Enough for a compressor's first block, and for a header of any length that makes sense.
HEAD_BYTES = 1 << 18
_COPIED_BYTES = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_CODECS = {".gz": "gzip", ".zst": "zstd"}

_OP_WORDS = pa.array(["", *OP_NAMES.values()])


def head_of(path: str) -> bytes:
    """Return a file's first bytes, decompressed; standard input is not consumed. Raises TraceError."""
    try:
        first = _first_bytes(path)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise unreadable(path, error) from error
    codec = _codec(first)
    if codec is None:
        return first
    # A block that breaks off within these bytes is none of this function's business.
    head = b""
    with contextlib.suppress(OSError, pa.ArrowException):
        stream = pa.CompressedInputStream(pa.BufferReader(first), codec)
        while len(head) < HEAD_BYTES and (more := stream.read(1024)):
            head += more
    return head


def open_text(path: str) -> pa.NativeFile:
    """Return a file's decompressed bytes as a stream; raises TraceError."""
    try:
        codec = _codec(_first_bytes(path))
        stream = pa.PythonFile(sys.stdin.buffer, mode="r") if path == "-" else _open(path)
        return stream if codec is None else pa.CompressedInputStream(stream, codec)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise unreadable(path, error) from error


def seekable(path: str) -> BinaryIO:
    """Return a file's decompressed bytes to be read at any place: the file, or a temporary copy of it."""
    try:
        if path != "-" and "://" not in path and _codec(_first_bytes(path)) is None:
            return open(path, "rb")
        with open_text(path) as stream:
            copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (the caller's)
            while block := stream.read(_COPIED_BYTES):
                copy.write(block)
            copy.flush()
            return copy
    except (OSError, pa.ArrowException, ValueError) as error:
        raise unreadable(path, error) from error


class LineBlocks:
    """A file's text as blocks of whole lines, each of about a megabyte; the last line may lack its newline.

    TraceError at a line that is too long to be an event; a lenient reader counts such lines and goes on.
    """

    _BLOCK_BYTES = 1 << 20

    def __init__(self, path: str, longest_line_bytes: int, *, lenient: bool = False) -> None:
        self._path = path
        self._longest_line_bytes = longest_line_bytes
        self._is_lenient = lenient
        self.dropped_lines = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the blocks that hold anything but space."""
        stream = open_text(self._path)
        rest = b""
        lines = 0  # That were yielded or dropped.
        is_dropping = False  # Whether what comes up to the next newline belongs to a line too long.
        while True:
            try:
                read = stream.read(self._BLOCK_BYTES)
            except (OSError, pa.ArrowException) as error:
                raise unreadable(self._path, error, f"line {lines + 1} or after: ") from error
            is_last = not read
            if is_dropping:
                newline = read.find(b"\n") + 1
                if not is_last and not newline:
                    continue
                is_dropping = False
                read = read[newline:]
                lines += 1
            end = read.rfind(b"\n") + 1
            if is_last or end:
                block = rest + read[:end]
                rest = read[end:]
                if block.strip():
                    yield block
                lines += block.count(b"\n")
                if is_last:
                    return
                continue
            rest += read
            if len(rest) > self._longest_line_bytes:
                if not self._is_lenient:
                    raise TraceError(
                        f"{self._path}: line {lines + 1}: found a line of more than "
                        f"{self._longest_line_bytes:,} bytes, expected a line an event"
                    )
                self.dropped_lines += 1
                is_dropping, rest = True, b""


def unreadable(path: str, error: Exception, where: str = "") -> TraceError:
    """Return what to raise, in one line, where a file could not be read."""
    return TraceError(f"{path}: {where}{reason(path, error)}")


def _first_bytes(path: str) -> bytes:
    if path == "-":
        return cast(io.BufferedReader, sys.stdin.buffer).peek(HEAD_BYTES)
    with _open(path) as stream:
        first: bytes = stream.read(HEAD_BYTES)
        return first


def _open(path: str) -> pa.NativeFile:
    if "://" in path:
        filesystem, name = fs.FileSystem.from_uri(path)
        return filesystem.open_input_stream(name, compression=None)
    return fs.LocalFileSystem().open_input_stream(path, compression=None)


def _codec(first: bytes) -> str | None:
    return next((codec for magic, codec in _MAGIC.items() if first.startswith(magic)), None)


class TextOutput:
    """A file of text, compressed where its suffix says so, that appears when the block ends well."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._output = AtomicOutput(path)
        codec = next((codec for suffix, codec in _CODECS.items() if path.lower().endswith(suffix)), None)
        try:
            self._stream = (
                self._output.stream
                if codec is None
                else pa.CompressedOutputStream(self._output.stream, codec)
            )
        except BaseException:
            self._output.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abort()
            return
        try:
            self.finish()
            self._stream.close()
            self._output.commit()
        except BaseException:
            self._abort()
            raise

    @property
    def losses(self) -> Sequence[str]:
        """What the format could not hold of the rows that were written, in words."""
        return ()

    def put(self, text: bytes | pa.Buffer) -> None:
        """Append text as it is."""
        self._stream.write(text)

    def finish(self) -> None:
        """Append what can only be said after the last row."""

    def describe(self, metadata: Mapping[str, Any], sites: bytes | None) -> None:
        """Take no notice: text holds rows alone."""

    def _abort(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.close()
        self._output.discard()


class TextWriter(TextOutput):
    """Writes rows as text: each column's value between the fixed pieces of a row, ops as names.

    `pieces` has one more than `columns`: what stands before the first, between, and after the last.
    """

    def __init__(self, path: str, columns: list[str], pieces: list[str], header: str = "") -> None:
        super().__init__(path)
        self._columns = columns
        self._pieces = pieces
        self._header = header.encode()

    def __enter__(self) -> Self:
        self.put(self._header)
        return self

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows; every announced column, of one length."""
        parts: list[Any] = [self._pieces[0]]
        for name, piece in zip(self._columns, self._pieces[1:], strict=True):
            parts += [_as_text(name, columns[name]), piece]
        rows = pc.binary_join_element_wise(*parts, "")
        if len(rows):
            # Joined, the rows of one array are one run of bytes.
            end = np.frombuffer(rows.buffers()[1], np.int32, len(rows) + 1)[-1]
            self.put(rows.buffers()[2].slice(0, int(end)))


def _as_text(name: str, values: NDArray[Any]) -> pa.Array:
    if name == "op":
        return _OP_WORDS.take(pa.array(values))
    return pa.array(values.astype(bool) if name == "noscan" else values).cast(pa.string())
