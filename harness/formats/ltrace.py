"""What ltrace writes of calls of malloc, free and their like; ltrace.hpp reads the lines."""

from __future__ import annotations

import re

from harness.formats import AS_IT_STANDS, Reading
from harness.formats._formats import LtraceReader
from harness.formats.addresses import how_often
from harness.formats.recorders import ReadOnly, RecorderTrace
from harness.formats.text import head_of

_CALL = re.compile(
    rb"^(?:\[pid \d+\] +|\d+ +)? *(?P<time>[\d:]+[.:]\d+ +)?(?:\[0x[0-9a-f]+\] +)?(?:[^\s(>]+->)? *"
    rb"(?:malloc|calloc|realloc|reallocarray|free|posix_memalign|aligned_alloc|memalign|valloc|pvalloc)"
    rb"(?:@[^\s(]+)?\([^)\n]*(?:\) += |<unfinished \.\.\.>)",
    re.MULTILINE,
)
_REMEDY = (
    "run `ltrace -f -L -F alloc.conf -x malloc+calloc+realloc+free+... -o FILE PROGRAM` "
    "(docs/how-to/convert.md)"
)


class Ltrace(ReadOnly):
    """Text of ltrace."""

    name = "ltrace"
    suffixes = (".ltrace",)

    def recognises(self, head: bytes) -> bool:
        """Look for a call and its result, wherever it stands: other functions may be traced, too."""
        return _CALL.search(head) is not None

    def read(self, path: str, reading: Reading = AS_IT_STANDS) -> LtraceTrace:
        """Open a file of calls."""
        call = _CALL.search(head_of(path))
        trace = LtraceTrace(path, reading, has_times=call is not None and call["time"] is not None)
        trace.metadata["source"] = {"recorder": "ltrace"}
        return trace


class LtraceTrace(RecorderTrace):
    """The calls that ltrace was asked for."""

    def __init__(self, path: str, reading: Reading, *, has_times: bool) -> None:
        self._ltrace = LtraceReader(lenient=reading.lenient, has_times=has_times)
        columns = ("alignment", *(("time_ns",) if has_times else ()))
        super().__init__(
            path,
            self._ltrace,
            reading,
            columns,
            untold="ltrace tells no call stacks" + ("" if has_times else ", and no times without -ttt"),
            remedy=_REMEDY,
        )

    @property
    def losses(self) -> list[str]:
        """What of the text was lost so far, in words."""
        texts = super().losses
        if count := self._ltrace.untold_allocations:
            texts.append(
                how_often(
                    "left out",
                    "posix_memalign, whose result ltrace tells with a prototype only",
                    "posix_memaligns, whose results ltrace tells with a prototype only",
                    count,
                )
            )
        if count := self._ltrace.executed_programs:
            texts.append(how_often("mixed in", "program started by exec", "programs started by exec", count))
        return texts
