"""Names the call stacks that a native reader of a foreign trace collected (call_sites.hpp).

Modules are looked up where the trace says they were: a trace is best converted on the machine that wrote it.
"""

from __future__ import annotations

import os
from typing import Any

from harness.recording.symbols import named_sites
from harness.sites import encode


def named(found: dict[str, Any]) -> tuple[bytes, list[str]]:
    """Return the table of sites as a trace holds it, and what stood in the way of better names."""
    modules = [(os.fsdecode(path), b"") for path in found["modules"]]
    sites, warnings = named_sites(
        modules, found["module_of"], found["addresses"], found["frames"], found["offsets"]
    )
    return encode(sites), warnings
