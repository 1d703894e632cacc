"""What a case of a suite found: a model and the real thing compared over one trace."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from harness.conform import Report


class Case(Protocol):
    """What to run; its text is what a suite's option --case takes, and what a worker is told."""

    source: str  # A shape's name, or the path of a trace.

    @property
    def row(self) -> str:
        """The row of the table that counts it."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the case that its text names; ValueError where it names none."""


@dataclass
class Outcome:
    """What a case found."""

    case: Any  # A Case.
    events: int = 0
    checkpoints: int = 0
    compared: dict[str, int] = field(default_factory=dict)  # Answers by aspect.
    differing: int = 0
    examples: list[str] = field(default_factory=list)
    error: str = ""
    seconds: float = 0
    real: str = ""  # What the model was held against.

    @property
    def passed(self) -> bool:
        """Whether it was run to its end and nothing differs."""
        return not self.differing and not self.error and self.events > 0

    def take(self, report: Report) -> None:
        """Take over what a comparison found."""
        self.events = report.events
        self.checkpoints = report.checkpoints
        self.real = report.truth
        for aspect in report.aspects.values():
            self.compared[aspect.name] = aspect.compared
            self.differing += aspect.differing
            self.examples += [f"{aspect.name}: {example}" for example in aspect.examples[:2]]

    def encoded(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self) | {"case": str(self.case)}
