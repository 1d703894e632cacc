"""The heap of the Go runtime, 1.22 to 1.27: a model that allocates at the runtime's own addresses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, get_args

from harness.allocator import Bytes, NativeAllocator
from harness.errors import AllocatorError
from harness.explanation import Explanation

from . import explanation
from ._go import CollectorMode, size_class_table
from ._go import Go as _Go
from ._go import Options as _Options
from .snapshot import PAGE_BYTES, Snapshot

Version = Literal["1.22", "1.23", "1.24", "1.25", "1.26", "1.27"]

# What a small program has: its data and bss that may hold pointers, the used stack of one goroutine, and the
# runtime's memory outside of the heap (mappedReady less heap, stacks and work buffers). Measured, Go 1.27.3.
GLOBALS_SCAN_BYTES = 150_000
STACK_SCAN_BYTES = 2_300
METADATA_BYTES = 4_000_000

# Without an option, at most so many Ps: a trace with fewer threads has one a thread.
AUTO_PROCS = 8
MAX_PROCS = 1024

COLLECTOR_MODES = {
    "concurrent": CollectorMode.CONCURRENT,
    "lazy": CollectorMode.LAZY,
    "stopped": CollectorMode.STOPPED,
}

SNAPSHOT_FOLDER = Path(__file__).parent / "snapshots"


class Go(NativeAllocator):
    """The Go runtime's heap: size classes, mcache, mcentral, mheap, tiny allocator, garbage collector."""

    WASTE_REMEDIES: ClassVar[Mapping[str, str]] = {
        "rounding": "`harness explain SIZE` says which size would fit its slot",
        "header": "types of up to 512 B, and those without pointers, have none",
        "dead": "a lower GOGC collects earlier and marks more often (try go:gogc=50), a memory limit only "
        "when it must (go:memory_limit=64MiB)",
        "front_end": "each P holds a span of each class it uses; fewer Ps hold fewer (go:procs=2)",
        "central": "a span stays for any object left in it, and Go moves none: what lives long shares a "
        "class with what lives short",
        "page_heap": "the scavenger gives them back in time; a memory limit sooner (go:memory_limit=64MiB)",
        "runtime": "start-up objects, stacks and work buffers; less of it with go:start=bare",
    }

    # Its own collections are in the trace.
    COLLECTED_TRACE_OPTIONS: ClassVar[Mapping[str, str]] = {"gogc": "off"}

    def __init__(
        self,
        *,
        version: Version = "1.27",
        gogc: int | Literal["off"] = 100,
        memory_limit: Bytes | Literal["off"] = "off",
        procs: int | Literal["auto"] = "auto",
        greentea: Literal["auto", "on", "off"] = "auto",
        collector: Literal["concurrent", "lazy", "stopped"] = "concurrent",
        clock: Literal["trace", "cost"] = "trace",
        scavenge: Literal["background", "growth", "off"] = "background",
        start: Literal["bare", "snapshot"] = "bare",
        snapshot: str = "",
        globals_scan_bytes: Bytes | Literal["auto"] = "auto",
        stack_scan_bytes: Bytes | Literal["auto"] = "auto",
    ) -> None:
        if version not in get_args(Version):
            raise AllocatorError(
                f"go: version={version} is not modelled; there are {', '.join(get_args(Version))}"
            )
        self.version = version
        self._greentea = _has_greentea(version, greentea)
        begin = _start_snapshot(version, start, snapshot)
        if begin is not None and begin.greentea != self._greentea:
            raise AllocatorError(
                f"go: the snapshot was taken {_with(begin.greentea)} green tea and the model runs "
                f"{_with(self._greentea)} it; set greentea={'on' if begin.greentea else 'off'}"
            )
        options = _Options()
        options.gogc = -1 if gogc == "off" else _within("gogc", gogc, 0, 2**31 - 1)
        options.memory_limit = (
            2**64 - 1 if memory_limit == "off" else _within("memory_limit", memory_limit, 1, 2**63 - 1)
        )
        options.procs = AUTO_PROCS if procs == "auto" else _within("procs", procs, 1, MAX_PROCS)
        options.greentea = self._greentea
        options.collector = COLLECTOR_MODES[_one_of("collector", collector, tuple(COLLECTOR_MODES))]
        options.clock_of_trace = _one_of("clock", clock, ("trace", "cost")) == "trace"
        _one_of("scavenge", scavenge, ("background", "growth", "off"))
        options.scavenge_growth = scavenge != "off"
        options.scavenge_in_background = scavenge == "background"
        options.globals_scan_bytes = _chosen(
            "globals_scan_bytes",
            globals_scan_bytes,
            begin.scalars["globals_scan"] if begin else GLOBALS_SCAN_BYTES,
        )
        options.stack_scan_bytes = _chosen(
            "stack_scan_bytes", stack_scan_bytes, begin.scalars["stack_scan"] if begin else STACK_SCAN_BYTES
        )
        options.metadata_bytes = begin.metadata_bytes if begin else METADATA_BYTES
        self._fresh = partial(_Go, options=options, snapshot=begin.to_native() if begin else None)
        super().__init__(self._fresh())

    @property
    def has_greentea(self) -> bool:
        """Whether green tea marks."""
        return self._greentea

    def warnings(self) -> list[str]:
        """Return what was assumed so that a program not written in Go could run on Go's heap."""
        counters = self.native.result()["counters"]
        threads, ps = counters["threads"], counters["ps"]
        words, alignments = counters["sizes_rounded_to_words"], counters["alignments_met_by_size"]
        assumed = []
        if words:
            assumed.append(f"{words:,} sizes of objects with pointers were rounded up to whole words")
        if alignments:
            assumed.append(f"{alignments:,} alignments above 8 rounded their sizes up to a multiple")
        if threads > ps:
            assumed.append(f"{threads:,} threads shared {ps:,} Ps")
        return assumed

    def size_classes(self) -> list[dict[str, int | float]]:
        """Return the size classes from 1 on, one row each.

        ``tail_waste_bytes`` is what the slots leave of a span without pointer bitmap and mark bits;
        ``max_waste`` is the largest share of a full span that objects can leave unused (in percent in Go's
        sizeclasses.go); ``scan_objects`` and ``noscan_objects`` are the slots that this version leaves.
        """
        rows: list[dict[str, int | float]] = []
        smaller = 0
        for index, object_bytes, span_pages, scan_objects, noscan_objects in size_class_table(self._greentea):
            span_bytes = span_pages * PAGE_BYTES
            objects = span_bytes // object_bytes
            tail = span_bytes - objects * object_bytes
            rows.append(
                {
                    "class": index,
                    "object_bytes": object_bytes,
                    "span_bytes": span_bytes,
                    "objects": objects,
                    "tail_waste_bytes": tail,
                    "max_waste": ((object_bytes - smaller - 1) * objects + tail) / span_bytes,
                    "scan_objects": scan_objects,
                    "noscan_objects": noscan_objects,
                }
            )
            smaller = object_bytes
        return rows

    def explain(self, size: int, *, alignment: int, noscan: bool) -> Explanation:
        """Return what becomes of a request, as fresh models with these options serve it."""
        return explanation.explain(
            self._fresh,
            minor=_minor(self.version),
            greentea=self._greentea,
            size=size,
            alignment=alignment,
            noscan=noscan,
        )


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


def _has_greentea(version: str, choice: str) -> bool:
    minor = _minor(version)
    if _one_of("greentea", choice, ("auto", "on", "off")) == "on" and minor < 25:
        raise AllocatorError(f"go: greentea=on needs version 1.25 or later, not {version}")
    return minor >= 26 if choice == "auto" else choice == "on"


def _with(greentea: bool) -> str:
    return "with" if greentea else "without"


def _start_snapshot(version: str, start: str, path: str) -> Snapshot | None:
    if _one_of("start", start, ("bare", "snapshot")) == "bare":
        if path:
            raise AllocatorError(f"go: snapshot={path} needs start=snapshot")
        return None
    shipped = SNAPSHOT_FOLDER / f"go{version}.json"
    if not path and not shipped.exists():
        raise AllocatorError(f"go: no start snapshot of Go {version} is shipped; name one with snapshot=PATH")
    return Snapshot.load(Path(path) if path else shipped)


def _within(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AllocatorError(
            f"go: {name}={value} is not understood; it takes an integer from {low} to {high}"
        )
    return value


def _chosen(name: str, value: int | Literal["auto"], automatic: int) -> int:
    return automatic if value == "auto" else _within(name, value, 0, 2**40)


def _one_of(name: str, value: str, values: tuple[str, ...]) -> str:
    if value not in values:
        raise AllocatorError(f"go: {name}={value} is not understood; it takes {', '.join(values)}")
    return value
