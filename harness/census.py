"""What a census of an allocator's spans says: how full they are, which of them few objects pin.

A census is taken at one moment, that of most committed memory, for which a trace is replayed a second time
(replay.survey). An allocator that has spans answers with columns of them and with the span of each object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics import THIN_OCCUPANCY, Number, ratio

# Spans are counted by tenths of their slots, those that hold nothing apart.
_TENTHS = 10


@dataclass(frozen=True)
class Census:
    """Every span at one moment and the objects in them.

    `classes` are an allocator's class rows then. `spans` holds columns of one length: class_row, slots,
    live_slots, bytes, slot_bytes, dead_bytes, runtime_slots, runtime_bytes; what is neither live, dead nor
    the runtime's is free slots and tail. `object_slot` names the program's objects, `object_span` says in
    which span, by its place in the columns, each of them lies.
    """

    classes: list[dict[str, Any]]
    spans: Mapping[str, NDArray[np.int64]]
    object_slot: NDArray[np.uint32]
    object_span: NDArray[np.uint32]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Census:
        """Return what an allocator's census() has told."""
        return cls(told["classes"], told["spans"], told["objects"]["slot"], told["objects"]["span"])

    @property
    def _held_slots(self) -> NDArray[np.int64]:
        held: NDArray[np.int64] = self.spans["live_slots"] + self.spans["runtime_slots"]
        return held

    @property
    def _has_single_object(self) -> NDArray[np.bool_]:
        single: NDArray[np.bool_] = (self._held_slots == 1) & (self.spans["slots"] > 1)
        return single

    def summary(self) -> dict[str, Number]:
        """Return the metrics over all spans by name."""
        slots, span_bytes, held = self.spans["slots"], self.spans["bytes"], self._held_slots
        is_cut = slots > 1
        occupancy = held / np.maximum(slots, 1)
        thin_bytes = int(span_bytes[occupancy < THIN_OCCUPANCY].sum())
        single = self._has_single_object
        return {
            "span_occupancy_mean": float(occupancy[is_cut].mean()) if is_cut.any() else None,
            "thin_span_bytes_share": ratio(thin_bytes, int(span_bytes.sum())),
            "single_object_spans": int(single.sum()),
            "single_object_span_bytes": int(span_bytes[single].sum()),
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """Return the class rows, each with what its spans hold."""
        rows = self.spans["class_row"]
        # Rounded up, so that nothing is a column of its own and a full span stands in the last.
        tenths = -(-_TENTHS * self._held_slots // np.maximum(self.spans["slots"], 1))
        counts = np.zeros((len(self.classes), _TENTHS + 1), np.int64)
        np.add.at(counts, (rows, tenths), 1)
        single = self._has_single_object
        single_spans = np.bincount(rows[single], minlength=len(self.classes))
        single_bytes = np.zeros(len(self.classes), np.int64)
        np.add.at(single_bytes, rows[single], self.spans["bytes"][single])
        return [
            row
            | {
                "occupancy_spans": counts[i].tolist(),
                "single_object_spans": int(single_spans[i]),
                "single_object_span_bytes": int(single_bytes[i]),
            }
            for i, row in enumerate(self.classes)
        ]
