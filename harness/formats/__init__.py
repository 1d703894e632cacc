"""The registry of trace formats: what can be converted from and to, by name, by content or by suffix.

An entry point in the group ``harness.formats`` makes a format known; ours are registered like anyone else's.
One file a format; columns.py and text.py hold what several of them need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from harness.errors import HarnessError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENTRY_POINT_GROUP = "harness.formats"

# A suffix of these may follow a format's own.
COMPRESSED_SUFFIXES = (".gz", ".zst")


@dataclass(frozen=True)
class Reading:
    """How a trace of another format is to be read."""

    lenient: bool = False  # Whether to mend and count what cannot be, not to stop at it.
    columns: Mapping[str, str] = field(default_factory=dict)  # What the file calls a column of ours.


AS_IT_STANDS = Reading()


class RawTrace(Protocol):
    """An opened trace of any format; harness.trace.TraceReader is one."""

    @property
    def path(self) -> str:
        """What faults are reported of."""

    @property
    def columns(self) -> list[str]:
        """The columns of harness-trace/1 that the trace has, the four required ones among them."""

    @property
    def unknown_columns(self) -> Sequence[str]:
        """Columns that harness-trace/1 has no name for; they are not read."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What harness-trace/1 says of a trace, as far as this one says it; all of it after the last row."""

    @property
    def sites(self) -> bytes | None:
        """The allocation sites as harness-trace/1 stores them; all of them after the last row."""

    @property
    def losses(self) -> Sequence[str]:
        """What of the trace harness-trace/1 cannot hold, or it never knew, in words; after the last row."""

    @property
    def repairs(self) -> Mapping[str, int]:
        """What was mended because the reading is lenient, by kind; after the last row."""

    def raw_batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the columns as arrays of harness-trace/1's types; TraceError at the first bad row."""


class TraceSink(Protocol):
    """What rows are written to; the file appears when the block ends without an exception."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the file appear, or leave nothing behind."""

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows; every column that was announced, of one length."""

    def describe(self, metadata: Mapping[str, Any], sites: bytes | None) -> None:
        """Say, after the last row, what only its reading has told of the trace."""


@dataclass(frozen=True)
class Description:
    """What a format is told of a trace before its first row."""

    optional: tuple[str, ...]  # Optional columns that every batch will carry.
    metadata: Mapping[str, Any]
    sites: bytes | None


class Format(Protocol):
    """A format of traces; an entry point names a class without parameters that offers this.

    One whose files have columns that a user can name (Reading.columns) has a true ``maps_columns``.
    """

    suffixes: tuple[str, ...]
    keeps_metadata: bool

    def recognises(self, head: bytes) -> bool:
        """Say whether a file that begins so, decompressed, is likely to be of this format."""

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> RawTrace:
        """Open a trace; TraceError where it is none."""

    def write(self, path: str, description: Description) -> TraceSink:
        """Begin a trace; HarnessError where it cannot be written, or by this format never."""


def names() -> list[str]:
    """Return the names of the registered formats."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)})


def named(name: str) -> Format:
    """Return the format of a name; HarnessError for an unknown one or one that cannot be loaded."""
    points = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not points:
        raise HarnessError(f"format {name} is unknown; known are {', '.join(names())}")
    (point, *_) = points
    try:
        made: Callable[[], Format] = point.load()
        return made()
    except Exception as error:  # A plugin may fail in any way.
        raise HarnessError(f"format {name} ({point.value}) cannot be loaded: {error}") from error


def of_source(path: str, name: str | None = None) -> tuple[str, Format]:
    """Return name and format of a file to read: as named, else by its content, else by its suffix."""
    if name is not None:
        return name, named(name)
    from harness.formats.text import head_of

    head = head_of(path)
    known, faults = installed()
    likely = {name: form for name, form in known.items() if form.recognises(head)} or known
    for each, form in likely.items():
        if _has_suffix(path, form):
            return each, form
    if likely is not known:
        return next(iter(likely.items()))
    raise HarnessError(f"{path}: its format was not recognised; name it with --from {_choice(faults)}")


def of_target(path: str, name: str | None = None) -> tuple[str, Format]:
    """Return name and format of a file to write: as named, else by its suffix."""
    if name is not None:
        return name, named(name)
    known, faults = installed()
    for each, form in known.items():
        if _has_suffix(path, form):
            return each, form
    raise HarnessError(f"{path}: its suffix belongs to no format; name it with --to {_choice(faults)}")


def installed() -> tuple[dict[str, Format], list[str]]:
    """Return the formats that can be loaded, and why others cannot."""
    known: dict[str, Format] = {}
    faults: list[str] = []
    for name in names():
        try:
            known[name] = named(name)
        except HarnessError as error:
            faults.append(str(error))
    return known, faults


def _has_suffix(path: str, form: Format) -> bool:
    plain = path.lower()
    for suffix in COMPRESSED_SUFFIXES:
        plain = plain.removesuffix(suffix)
    return plain.endswith(form.suffixes)


def _choice(faults: list[str]) -> str:
    return "|".join(names()) + "".join(f" ({fault})" for fault in faults)
