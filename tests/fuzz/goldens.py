"""Finds the small files that the tests of the formats keep as constants, so that fuzzing begins from them."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from go_traces import ALLOC, EXISTS, FREE, GC_BEGIN, GC_END, SPAN, SPAN_ALLOC, SPAN_FREE, Wire

FORMATS = Path(__file__).parent.parent / "formats"


def golden(name: str) -> bytes:
    """Return what `module.CONSTANT` holds, of a test in tests/formats."""
    module, constant = name.split(".")
    found = getattr(_module(module), constant)
    return found if isinstance(found, bytes) else found.encode()


def go_traces() -> list[bytes]:
    """Return two of Go's execution traces, made by hand: two generations, types, spans and collections."""
    page = 1024  # An object at the begin of page 1.
    made = []
    for version in (24, 26):
        wire = Wire(version=version)
        wire.types((7, 48, 8, "main.node"), (9, 0, 0, "int"))
        wire.events(0, 10, (SPAN, 1, 1, 10), (EXISTS, page, 7), (ALLOC, page + 6, 0), (FREE, page))
        wire.events(
            *(3, 10),
            *((SPAN_ALLOC, 2, 1, 11), (ALLOC, 2 * page, 7), (ALLOC, 2 * page + 6, 9), (GC_BEGIN, 1, 0)),
            *((ALLOC, 2 * page + 12, 0), (GC_END, 2), (FREE, 2 * page), (ALLOC, 2 * page, 7)),
        )
        wire.end()
        wire.events(1, 90, (ALLOC, 2 * page + 18, 7), (GC_BEGIN, 3, 0), (GC_END, 4), (SPAN_FREE, 2))
        made.append(bytes(wire.whole()))
    return made


@cache
def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FORMATS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
