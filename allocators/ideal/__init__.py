"""The ideal allocator: requested bytes and nothing else."""

from harness.allocator import NativeAllocator
from harness.explanation import Explanation

from . import explanation
from ._ideal import Ideal as _Ideal


class Ideal(NativeAllocator):
    """No overhead at all: the floor under every number."""

    version = "1"

    def __init__(self) -> None:
        super().__init__(_Ideal())

    def explain(self, size: int, *, alignment: int, noscan: bool) -> Explanation:
        """Return what becomes of a request."""
        return explanation.explain(size, alignment, noscan)
