"""The ideal allocator: requested bytes and nothing else."""

from harness.allocator import NativeAllocator

from ._ideal import Ideal as _Ideal


class Ideal(NativeAllocator):
    """No overhead at all: the floor under every number."""

    version = "1"

    def __init__(self) -> None:
        super().__init__(_Ideal())
