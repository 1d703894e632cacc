"""What becomes of one allocation in the ideal allocator: Ideal.explain(), the smallest that says anything."""

from harness.explanation import Explanation, Path, Step, number
from harness.probe import Probe

from ._ideal import Ideal as _Ideal


def explain(size: int, alignment: int, noscan: bool) -> Explanation:
    """Return what becomes of a request: what a fresh model takes for it."""
    slot_bytes = Probe(_Ideal(), size, alignment=alignment, noscan=noscan).allocate().parts["live"]
    numbers = (
        number("requested_bytes", size),
        number("slot_bytes", slot_bytes),
        number("unused_bytes", slot_bytes - size),
        number("internal_fragmentation", (slot_bytes - size) / slot_bytes if slot_bytes else None),
    )
    take = Step(
        (),
        "takes what was asked for, and nothing else. No allocator can: it is the floor under every number.",
    )
    give = Step((), "gives it back to the operating system at once.")
    return Explanation(numbers, (Path("an allocation", (take,)), Path("a free", (give,))))
