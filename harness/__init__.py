"""Replays allocation traces through memory allocators and compares what each makes of the memory."""

__version__ = "0.1.0"
