"""The exceptions of the package: whatever a user can cause is one of these, said in one line."""


class HarnessError(Exception):
    """Something a user can mend; the message says what, where, what was expected, what to do."""


class TraceError(HarnessError):
    """A trace that cannot be read or that no program could have produced."""


class AllocatorError(HarnessError):
    """An allocator that is unknown, has wrong options, or broke its own invariant."""
