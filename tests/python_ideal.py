"""What allocators/ideal models, as a backend in plain Python: the least that such a backend costs."""

from __future__ import annotations

from harness.allocator import Allocator, Footprint


class PythonIdeal(Allocator):
    """Requested bytes and nothing else."""

    def __init__(self):
        self.mapped_bytes = self.committed_bytes = 0

    def allocate(self, request):
        size = request.size
        self.mapped_bytes = self.committed_bytes = self.committed_bytes + size
        return size

    def release(self, block, thread):
        self.mapped_bytes = self.committed_bytes = self.committed_bytes - block

    def footprint(self):
        return Footprint(live=self.mapped_bytes, mapped=self.mapped_bytes, metadata=0)
