"""What writers of calls share: rows become lines, natively (call_text.hpp), and what these lack is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.formats import Description
from harness.formats.addresses import in_words
from harness.formats.text import TextOutput
from harness.trace import REQUIRED

if TYPE_CHECKING:
    from harness.formats._formats import CallText

_COLUMNS = {
    "alignment": "alignments",
    "noscan": "which objects hold no pointers",
    "time_ns": "the times",
    "site": "the allocation sites",
}


class CallWriter(TextOutput):
    """Writes rows as calls. `kept`: the optional columns that the calls have a place for."""

    def __init__(self, path: str, text: CallText, description: Description, kept: tuple[str, ...]) -> None:
        super().__init__(path)
        self._text = text
        self._names = [*REQUIRED, *(name for name in description.optional if name in kept)]
        self._left = [name for name in description.optional if name not in kept]

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows; HarnessError where the format has no number for what a row says."""
        try:
            lines = self._text.lines(**{name: columns[name] for name in self._names})
        except ValueError as fault:
            raise HarnessError(f"{self.path}: {fault}") from fault
        self.put(lines)

    @property
    def losses(self) -> list[str]:
        """What of the rows written so far has no place in calls."""
        counted = self._text.counts().items()
        return [
            *(f"left behind: {_COLUMNS[name]}" for name in self._left),
            *(in_words(name, count) for name, count in counted if count),
        ]
