"""A process that runs cases: one a line of JSON on its standard input, one outcome a line on its output.

With --module, a model built from changed or instrumented sources takes the place of the installed one.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location

MODEL = "allocators.tcmalloc._tcmalloc"


def load_in_place(path: str) -> None:
    """Load a native module under the name of the model's, which must not have been imported so far."""
    assert MODEL not in sys.modules
    spec = spec_from_file_location(MODEL, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[MODEL] = module
    spec.loader.exec_module(module)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module")
    parser.add_argument("--against")
    arguments = parser.parse_args()
    if arguments.module:
        load_in_place(arguments.module)
    from conformance.cases import Case, run  # Imports the model.

    for line in sys.stdin:
        outcome = run(Case(**json.loads(line)), arguments.against)
        print(json.dumps(outcome.encoded()), flush=True)


if __name__ == "__main__":
    main()
