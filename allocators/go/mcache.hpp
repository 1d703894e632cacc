// The mcache: one span of each class that a P allocates from without a lock.
//
// Above the central lists, below the tiny allocator. A span counts in full towards the heap's live bytes as
// soon as it is cached, so only a refill can bring the heap over the trigger.
#pragma once

#include <array>
#include <cstdint>

#include "mcentral.hpp"
#include "pacer.hpp"

namespace go {

class Mcache {
 public:
  Mcache() { spans_.fill(&empty_span()); }

  Span* span(SpanClass span_class) const { return spans_[span_class]; }
  std::uint64_t base(int span_class) const {
    const Span& span = *spans_[static_cast<std::size_t>(span_class)];
    return span.cached ? span.base : 0;
  }

  // Replaces a full span by one with a free slot (mcache.refill); false where the heap is at its limit, and
  // then the full span stands.
  bool refill(SpanClass span_class, Mcentral& central, Mheap& heap, Pacer& pacer, Sweeps& sweeper,
              PageCache& page_cache) {
    Span*& cached = spans_[span_class];
    if (!cached->full()) {
      throw harness::InvariantError("refill of span class " + std::to_string(span_class) + " with " +
                                    std::to_string(cached->alloc_count) + " of " +
                                    std::to_string(cached->nelems) + " slots allocated");
    }
    if (cached->cached) {
      flush_counts(*cached, pacer);
      uncache(*cached, heap.occupancy());
      cached->sweepgen = sweeper.sweepgen();
      central.push_swept(*cached);
      cached = &empty_span();
    }
    Span* span = central.cache_span(sweeper, page_cache);
    if (span == nullptr) return false;
    span->alloc_count_before_cache = span->alloc_count;
    hold(*span, heap.occupancy());
    span->sweepgen = sweeper.sweepgen() + 3;
    pacer.update(span->bytes() - span->alloc_count * span->element_bytes, is_noscan(span_class));
    return true;
  }

  // Takes a span in; its free slots become this cache's.
  void hold(Span& span, Occupancy& occupancy) {
    occupancy.remove(span);
    span.cached = true;
    occupancy.add(span);
    spans_[span.span_class] = &span;
  }

  // Gives up every span at a cycle's end (mcache.releaseAll): all of them stale, so each is swept at once.
  template <typename Sweep>
  void release_all(Mheap& heap, Pacer& pacer, Sweep sweep) {
    for (Span*& cached : spans_) {
      if (!cached->cached) continue;
      Span& span = *cached;
      cached = &empty_span();
      flush_counts(span, pacer);
      uncache(span, heap.occupancy());
      sweep(span);
    }
  }

 private:
  // Stands in where no span is cached: no slots, so full (mcache.go: emptymspan).
  static Span& empty_span() {
    static Span empty;
    return empty;
  }

  static void uncache(Span& span, Occupancy& occupancy) {
    occupancy.remove(span);
    span.cached = false;
    occupancy.add(span);
  }

  static void flush_counts(Span& span, Pacer& pacer) {
    pacer.total_alloc +=
        static_cast<std::uint64_t>(span.alloc_count - span.alloc_count_before_cache) * span.element_bytes;
    span.alloc_count_before_cache = span.alloc_count;
  }

  std::array<Span*, kSpanClasses> spans_;
};

}  // namespace go
