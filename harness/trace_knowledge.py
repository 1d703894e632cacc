"""What a trace's metadata says of how far the trace can be believed: when objects die, how large they are.

A recorder of malloc sees every free and every size. What was imported from a garbage-collected program knows
a death from the sweep that found it, and a size, where no type tells it, from the class it was served from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Values of the metadata's `frees` and `sizes`; both are "exact" in a trace that says nothing of them.
EXACT = "exact"
COLLECTOR = "collector"
CLASS = "class"


@dataclass(frozen=True)
class Knowledge:
    """How objects' deaths and sizes came to be known.

    `exact_sizes` and `class_sizes` count the objects whose size is what the program asked for, and those
    whose size is the most that their size class holds; None where the trace does not count them.
    """

    frees: str = EXACT
    sizes: str = EXACT
    exact_sizes: int | None = None
    class_sizes: int | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Knowledge:
        """Return what the metadata of a trace says."""
        counted = metadata.get("sizes_known")
        counts = counted if isinstance(counted, Mapping) else {}
        exact, by_class = (_count(counts.get(name)) for name in (EXACT, CLASS))
        return cls(str(metadata.get("frees", EXACT)), str(metadata.get("sizes", EXACT)), exact, by_class)

    @property
    def is_collected(self) -> bool:
        """Whether an object dies in the trace where a collector saw that it was dead, which is later."""
        return self.frees == COLLECTOR

    @property
    def knows_requests(self) -> bool:
        """Whether every size is what the program asked for; of some, none but their sum is known less."""
        return self.class_sizes == 0 if self.class_sizes is not None else self.sizes != CLASS

    def warnings(self) -> list[str]:
        """Say in words what of a run's numbers is not what it is elsewhere."""
        texts = []
        if self.is_collected:
            texts.append(
                "the trace: an object dies where its own collector found it dead, later than the program let "
                "go of it: that garbage counts as live, and what is held is an upper bound"
            )
        if not self.knows_requests:
            texts.append(
                f"the trace: {self._sizes_text()} counts as large as its size class: what was asked for, "
                "rounding, and all that is reckoned from them are unknown"
            )
        return texts

    def _sizes_text(self) -> str:
        if self.exact_sizes is None or self.class_sizes is None:
            return "it does not say which sizes are exact; an object whose size is not"
        objects = self.exact_sizes + self.class_sizes
        percent = f"{100 * self.exact_sizes / objects:.1f} %"
        return f"it has the exact sizes of {percent} of its {objects:,} objects; each other one"


def _count(found: Any) -> int | None:
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
