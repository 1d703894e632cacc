"""A process that runs cases: one a line on its standard input, one outcome a line of JSON on its output.

With --module, a model built from changed or instrumented sources takes the place of the installed one.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location


def load_in_place(allocator: str, path: str) -> None:
    """Load a native module under the name of the model's, which must not have been imported so far."""
    name = f"allocators.{allocator}._{allocator}"
    assert name not in sys.modules
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("allocator", help="a folder beside this file")
    parser.add_argument("--module")
    parser.add_argument("--against")
    arguments = parser.parse_args()
    if arguments.module:
        load_in_place(arguments.allocator, arguments.module)
    cases = import_module(f"conformance.{arguments.allocator}.cases")  # Imports the model.

    for line in sys.stdin:
        outcome = cases.run(cases.Case.parse(line.rstrip("\n")), arguments.against)
        print(json.dumps(outcome.encoded()), flush=True)


if __name__ == "__main__":
    main()
