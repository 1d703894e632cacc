"""An allocator that never reuses memory, in plain Python."""

from harness.allocator import Allocator, Footprint


class Bump(Allocator):
    """Never reuses memory."""

    def __init__(self, *, align_bytes: int = 16):
        self.align, self.live, self.dead = align_bytes, 0, 0

    def allocate(self, request):
        size = -(-request.size // self.align) * self.align
        self.live += size
        return size

    def release(self, block, thread):
        self.live, self.dead = self.live - block, self.dead + block

    def footprint(self):
        return Footprint(live=self.live, dead=self.dead, mapped=self.live + self.dead)
