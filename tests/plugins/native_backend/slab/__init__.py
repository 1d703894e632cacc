"""A slab allocator, bound from C++."""

from harness.allocator import Bytes, NativeAllocator

from ._slab import Slab as _Slab


class Slab(NativeAllocator):
    """A slab per size, never given back."""

    version = "1"

    def __init__(self, *, slab_bytes: Bytes = Bytes(65536)) -> None:
        super().__init__(_Slab(slab_bytes=slab_bytes))
