// The fast path: objects that take a slot at hand, and deaths, many in a row, with what they need in
// registers.
//
// Beside go.hpp, which makes them for a stretch of events and does all else. A stretch ends with settle().
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "collector.hpp"
#include "harness/events.hpp"
#include "mcentral.hpp"
#include "mheap.hpp"
#include "mspan.hpp"
#include "p.hpp"
#include "size_classes.hpp"

namespace go {

// Objects of a size class are taken from the P's spans, as long as these have slots in the word at hand.
// Plain: all by one thread, and no cycle marks.
template <bool kPlain>
class Births {
 public:
  Births(const harness::Events& events, P* const* p_by_thread, const Collector& collector,
         const Mcentrals& centrals, Mheap& heap)
      : sizes_(events.size.data()),
        noscans_(events.noscan.data()),
        threads_(events.thread.data()),
        ps_(p_by_thread),
        p_(ps_[events.thread.front()]),
        collector_(collector),
        centrals_(centrals),
        occupancy_(heap.occupancy()),
        live_(heap.spans().bits().live.data()) {}

  [[gnu::always_inline]] std::uint32_t row_of(std::size_t i) const {
    const std::uint64_t words = std::min((sizes_[i] + 7) / 8, kMaxSmallBytes / 8 + 1);
    return kUntinySpanClass[words][noscans_[i]];
  }

  [[gnu::always_inline]] bool take(std::uint32_t span_class, std::size_t i, Block& block) {
    P* const p = kPlain ? p_ : ps_[threads_[i]];
    CachedSpan& cached = p->mcache.at(span_class);
    const std::uint64_t free = cached.alloc_cache;
    if (free == 0) [[unlikely]] {
      prefetch_for_slow_way(cached, span_class);
      return false;
    }
    if (!kPlain && collector_.marking()) {
      // The program pays for its allocation, or must first assist.
      if (p->assist_bytes < static_cast<std::int64_t>(sizes_[i])) [[unlikely]]
        return false;
      p->assist_bytes -= static_cast<std::int64_t>(kSlotBytes[span_class]);
    }
    cached.alloc_cache = free & (free - 1);
    taken_bytes_ += kSlotBytes[span_class];
    block = with_bit(cached.block, static_cast<std::uint64_t>(std::countr_zero(free)));
    return true;
  }

  void settle() { occupancy_.note_taken_bytes(std::exchange(taken_bytes_, 0)); }

 private:
  // What Go::take_slowly() will ask for, while the loop is left for it.
  [[gnu::always_inline]] void prefetch_for_slow_way(const CachedSpan& cached,
                                                    std::uint32_t span_class) const {
    __builtin_prefetch(cached.span, 1);
    __builtin_prefetch(live_ + cached.block.word, 1);
    centrals_.of(static_cast<SpanClass>(span_class)).prefetch();
    occupancy_.prefetch(span_class);
  }

  const std::uint64_t* sizes_;
  const std::uint8_t* noscans_;
  const std::uint16_t* threads_;
  P* const* ps_;
  P* p_;  // The only one, where births are plain.
  const Collector& collector_;
  const Mcentrals& centrals_;
  Occupancy& occupancy_;
  const std::uint64_t* live_;  // Where it was when the loop began; to be fetched, not to be read.
  std::uint64_t taken_bytes_ = 0;
};

// A death turns a bit over, and is counted.
class Deaths {
 public:
  explicit Deaths(Mheap& heap) : live_(heap.spans().bits().live.data()), occupancy_(heap.occupancy()) {}

  [[gnu::always_inline]] void prefetch(Block block) const { __builtin_prefetch(live_ + block.word, 1); }

  [[gnu::always_inline]] bool die(Block block) {
    if (block.kind > Kind::kSmall) [[unlikely]]
      return false;
    live_[block.word] ^= std::uint64_t{1} << block.bit;
    died_bytes_ += occupancy_.count_died(block.span_class);
    return true;
  }

  void settle() { occupancy_.note_died_bytes(std::exchange(died_bytes_, 0)); }

 private:
  std::uint64_t* live_;
  Occupancy& occupancy_;
  std::uint64_t died_bytes_ = 0;
};

}  // namespace go
