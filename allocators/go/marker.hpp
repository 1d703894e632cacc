// Marking: which slots a cycle finds alive, all at once: those that live when it begins. In Go, too, what
// dies later stays, since the write barrier shades what a deleted pointer held (mbarrier.go).
//
// Above the page heap, whose spans it walks, below the sweeper, which acts on the marks. A slot is marked
// while the program holds an object in it; what the process itself holds stays marked for good.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mheap.hpp"

namespace go {

struct MarkWork {
  std::uint64_t scan_bytes = 0;
  std::uint64_t noscan_bytes = 0;
  std::uint64_t queued_objects = 0;  // Scan objects of the program that pass through work buffers.
};

// Marks the slots of all heap spans; a tiny block that is some P's current one is marked by mark_slot.
inline MarkWork mark(Mheap& heap) {
  heap.spans().bits().mark_live();
  MarkWork work;
  const Occupancy& occupancy = heap.occupancy();
  for (int i = 0; i < kSpanClasses; ++i) {
    const auto span_class = static_cast<SpanClass>(i);
    const std::uint64_t bytes = occupancy.marked_bytes(span_class);
    if (is_noscan(span_class)) {
      work.noscan_bytes += bytes;
      continue;
    }
    work.scan_bytes += bytes;
    // Green tea queues objects by span where marks are in the span; only the others go through work buffers.
    const SizeClass& entry = kSizeClassTable[static_cast<std::size_t>(size_class_of(span_class))];
    if (!uses_inline_marks(heap.greentea(), entry.object_bytes)) {
      work.queued_objects += static_cast<std::uint64_t>(occupancy.live_objects(span_class));
    }
  }
  return work;
}

// Marks one slot more (gcMarkTinyAllocs).
inline void mark_slot(SlotBits& bits, const Span& span, SlotBit at, MarkWork& work) {
  if ((bits.mark[at.word] & at.mask()) != 0) return;
  bits.add_marks(at.word, at.mask());
  (is_noscan(span.span_class) ? work.noscan_bytes : work.scan_bytes) += span.element_bytes();
}

// Spans of work buffers that marking needs where the roots point at every object directly: 253 objects a
// buffer, 16 buffers a span (mgcwork.go: _WorkbufSize 2 KiB, workbufAlloc 32 KiB), and two buffers more for
// the stack that is scanned when all these objects are queued (mgcstack.go: stackWorkBuf, stackObjectBuf).
inline std::uint64_t work_buffer_spans(std::uint64_t queued_objects) {
  const std::uint64_t buffers = (queued_objects + 252) / 253 + 2;
  return (buffers + 15) / 16;
}
inline constexpr std::uint64_t kWorkBufferSpanPages = 4;

}  // namespace go
