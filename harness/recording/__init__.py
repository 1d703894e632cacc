"""Records the allocations of a running program: a library inside it, a converter, and what drives both."""

from harness.recording.go_recorder import record_go
from harness.recording.recorder import record, recover

__all__ = ["record", "record_go", "recover"]
