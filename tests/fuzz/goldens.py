"""Finds the small files that the tests of the formats keep as constants, so that fuzzing begins from them."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

FORMATS = Path(__file__).parent.parent / "formats"


def golden(name: str) -> bytes:
    """Return what `module.CONSTANT` holds, of a test in tests/formats."""
    module, constant = name.split(".")
    found = getattr(_module(module), constant)
    return found if isinstance(found, bytes) else found.encode()


@cache
def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FORMATS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
