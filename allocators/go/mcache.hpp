// The mcache: one span of each class that a P allocates from without a lock.
//
// Above the central lists, below the tiny allocator. A span counts in full towards the heap's live bytes as
// soon as it is cached, so only a refill can bring the heap over the trigger.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "mcentral.hpp"
#include "pacer.hpp"

namespace go {

// A cached span, as far as its slots are being handed out: 64 at a time stand here, and the span's own counts
// follow when settle() is called.
struct CachedSpan {
  std::uint64_t alloc_cache = 0;  // Free slots of the word (Go: mspan.allocCache, from freeindex on).
  std::uint64_t settled = 0;      // alloc_cache as it was when the span's counts were right.
  Span* span = nullptr;
  Block block;  // That of the word's first slot.
};

class Mcache {
 public:
  Mcache() {
    for (CachedSpan& cached : spans_) empty(cached);
  }

  CachedSpan& at(std::uint64_t span_class) { return spans_[span_class]; }
  std::uint64_t base(int span_class) const {
    const Span& span = *spans_[static_cast<std::size_t>(span_class)].span;
    return span.cached ? span.base() : 0;
  }

  // Goes on to the next 64 slots of a span with a free one (nextFree); false where the span is full.
  bool next_word(SpanClass span_class, Mheap& heap, bool marking) {
    CachedSpan& cached = spans_[span_class];
    settle(cached, heap, marking);
    if (cached.span->full()) return false;
    load(cached, heap.spans().bits(), (cached.block.word - cached.span->word + 1) * 64);
    return true;
  }

  // Replaces a full span, which is settled, by one with a free slot (mcache.refill); nullptr where the heap
  // is at its limit, and then the full span is gone all the same.
  template <Sweeps Sweeper>
  Span* refill(SpanClass span_class, Mcentral& central, Mheap& heap, Pacer& pacer, Sweeper& sweeper,
               PageCache& page_cache) {
    CachedSpan& cached = spans_[span_class];
    Span& full = *cached.span;
    if (!full.full()) fail_refill(full, span_class);
    if (full.cached) {
      let_go(full, pacer);
      full.sweepgen = sweeper.sweepgen();
      central.push_swept(full);
    }
    Span* const span = central.cache_span(sweeper, page_cache);
    if (span == nullptr) {
      empty(cached);
      return nullptr;
    }
    span->alloc_count_before_cache = span->alloc_count;
    hold(*span, heap);
    span->sweepgen = sweeper.sweepgen() + 3;
    pacer.update(span->bytes() - span->alloc_count * span->element_bytes(), is_noscan(span_class));
    return span;
  }

  // Takes a span in; its free slots become this cache's.
  void hold(Span& span, Mheap& heap) {
    span.cached = true;
    heap.occupancy().hold(span);
    CachedSpan& cached = spans_[span.span_class];
    cached.span = &span;
    load(cached, heap.spans().bits(), span.freeindex);
  }

  // Brings the counts of every cached span up to date. Slots that were taken while a cycle marks are marked
  // (gcmarknewobject).
  void settle(Mheap& heap, bool marking) {
    for (CachedSpan& cached : spans_) settle(cached, heap, marking);
  }
  // Slots that were taken and are not settled.
  std::int64_t unsettled(SpanClass span_class) const { return std::popcount(taken(spans_[span_class])); }

  // Gives up every span at a cycle's end (mcache.releaseAll): all of them stale, so each is swept at once.
  template <typename Sweep>
  void release_all(Mheap& heap, Pacer& pacer, Sweep sweep) {
    for (CachedSpan& cached : spans_) {
      Span& span = *cached.span;
      if (!span.cached) continue;
      settle(cached, heap, false);
      let_go(span, pacer);
      heap.occupancy().let_go(span);
      empty(cached);
      sweep(span);
    }
  }

 private:
  // Stands in where no span is cached: no slots, so full (mcache.go: emptymspan).
  static Span& empty_span() {
    static Span empty;
    return empty;
  }

  static std::uint64_t taken(const CachedSpan& cached) { return cached.settled & ~cached.alloc_cache; }

  static void settle(CachedSpan& cached, Mheap& heap, bool marking) {
    const std::uint64_t taken = Mcache::taken(cached);
    if (taken == 0) return;
    Span& span = *cached.span;
    SlotBits& bits = heap.spans().bits();
    const auto count = static_cast<std::uint32_t>(std::popcount(taken));
    heap.occupancy().note_taken(cached.block.span_class, count);
    span.alloc_count = static_cast<std::uint16_t>(span.alloc_count + count);
    span.freeindex = static_cast<std::uint16_t>((cached.block.word - span.word) * 64 +
                                                static_cast<std::uint32_t>(std::bit_width(taken)));
    bits.live[cached.block.word] ^= taken;
    if (marking) bits.add_marks(cached.block.word, taken);
    cached.settled = cached.alloc_cache;
  }

  // The first word with free slots from the given one on; no free slot where there is none.
  static void load(CachedSpan& cached, const SlotBits& bits, std::uint32_t slot) {
    const Span& span = *cached.span;
    std::uint64_t usable = ~std::uint64_t{0} << (slot % 64);
    for (slot -= slot % 64; slot < span.nelems; slot += 64, usable = ~std::uint64_t{0}) {
      const std::uint32_t left = span.nelems - slot;
      if (left < 64) usable &= (std::uint64_t{1} << left) - 1;
      cached.block = small_block(span.word + slot / 64, span.span_class);
      cached.alloc_cache = cached.settled = ~bits.alloc[cached.block.word] & usable;
      if (cached.alloc_cache != 0) return;
    }
    cached.alloc_cache = cached.settled = 0;
    if (!span.full()) fail_load(span);
  }

  // Apart, so that what never happens takes no room where it would.
  [[noreturn, gnu::cold, gnu::noinline]] static void fail_refill(const Span& span, SpanClass span_class) {
    throw harness::InvariantError("refill of span class " + std::to_string(span_class) + " with " +
                                  std::to_string(span.alloc_count) + " of " + std::to_string(span.nelems) +
                                  " slots allocated");
  }
  [[noreturn, gnu::cold, gnu::noinline]] static void fail_load(const Span& span) {
    throw harness::InvariantError("span " + std::to_string(span.base()) + ": " +
                                  std::to_string(span.alloc_count) + " of " + std::to_string(span.nelems) +
                                  " slots allocated and none free from " + std::to_string(span.freeindex));
  }

  // A settled span is this cache's no longer. What was allocated of it is counted at this moment.
  static void let_go(Span& span, Pacer& pacer) {
    pacer.total_alloc +=
        static_cast<std::uint64_t>(span.alloc_count - span.alloc_count_before_cache) * span.element_bytes();
    span.alloc_count_before_cache = span.alloc_count;
    span.cached = false;
  }
  static void empty(CachedSpan& cached) {
    cached = {};
    cached.span = &empty_span();
  }

  std::array<CachedSpan, kSpanClasses> spans_;
};

}  // namespace go
