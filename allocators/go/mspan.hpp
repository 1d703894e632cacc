// Spans: runs of pages cut into slots of one class, and the count of who holds their bytes.
//
// Above the size classes, below the page heap, which makes spans of pages. A span knows for each slot whether
// it is allocated since the last sweep, whether the program still holds it, and whether the last cycle marked
// it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "size_classes.hpp"

namespace go {

enum class SpanState : std::uint8_t { kDead, kInUse, kManual };

struct alignas(64) Span {
  std::uint64_t base = 0;
  std::uint64_t element_bytes = 0;
  // Bitmaps of words() words each: allocated as the last sweep left it, held by the program, marked by the
  // last cycle, and in start-up spans held by the process itself. Off-heap in Go, and of no account in the
  // footprint.
  std::uint64_t* bits = nullptr;
  std::uint8_t* holders = nullptr;  // Tiny span class: objects of the program in each slot.
  std::uint32_t index = 0;          // In the span table.
  std::uint32_t pages = 0;
  // Against the heap's, h: h - 2 unswept, h swept, h + 1 cached before the sweep began, h + 3 swept and
  // cached.
  std::uint32_t sweepgen = 0;
  std::uint16_t nelems = 0;
  std::uint16_t freeindex = 0;  // No slot below it is free.
  std::uint16_t alloc_count = 0;
  std::uint16_t alloc_count_before_cache = 0;
  std::uint16_t live_count = 0;     // Slots that the program holds.
  std::uint16_t startup_count = 0;  // Slots that only the process itself holds.
  std::uint16_t mark_count = 0;
  SpanClass span_class = 0;
  SpanState state = SpanState::kDead;
  bool startup = false;              // Stood in the start snapshot.
  bool cached = false;               // In some P's mcache.
  bool startup_page_marked = false;  // By its start-up objects alone.

  std::size_t words() const { return (nelems + std::size_t{63}) / 64; }
  std::span<std::uint64_t> alloc_bits() const { return {bits, words()}; }
  std::span<std::uint64_t> live_bits() const { return {bits + words(), words()}; }
  std::span<std::uint64_t> mark_bits() const { return {bits + 2 * words(), words()}; }
  std::span<std::uint64_t> startup_bits() const { return {bits + 3 * words(), startup ? words() : 0}; }
  std::uint64_t bytes() const { return pages * kPageBytes; }
  bool full() const { return alloc_count == nelems; }

  [[gnu::always_inline]] void prefetch_live_bit(std::uint32_t slot) const {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(bits) +
                                                     (words() + slot / 64) * sizeof(*bits)),
                       1);
  }

  // The lowest free slot, taken (mcache nextFreeFast and nextFree). The span is not full.
  std::uint32_t take_slot() {
    std::uint32_t slot = freeindex;
    while (true) {
      const std::uint64_t free = ~bits[slot / 64] >> (slot % 64);
      if (free != 0) {
        slot += static_cast<std::uint32_t>(std::countr_zero(free));
        break;
      }
      slot = (slot / 64 + 1) * 64;
      if (slot >= nelems) break;
    }
    if (slot >= nelems) {
      throw harness::InvariantError("span " + std::to_string(base) + ": " + std::to_string(alloc_count) +
                                    " of " + std::to_string(nelems) + " slots allocated and none free from " +
                                    std::to_string(freeindex));
    }
    freeindex = static_cast<std::uint16_t>(slot + 1);
    ++alloc_count;
    return slot;
  }
};

static_assert(sizeof(Span) == 64, "a death touches one line of its span");

inline bool test_bit(std::span<const std::uint64_t> bits, std::uint32_t i) {
  return bits[i / 64] >> (i % 64) & 1;
}
inline void set_bit(std::span<std::uint64_t> bits, std::uint32_t i) {
  bits[i / 64] |= std::uint64_t{1} << (i % 64);
}
inline void clear_bit(std::span<std::uint64_t> bits, std::uint32_t i) {
  bits[i / 64] &= ~(std::uint64_t{1} << (i % 64));
}

// Bytes of the spans of one class, by who holds them. Together they are the class's span bytes.
struct ClassOccupancy {
  std::int64_t live_bytes = 0;
  std::int64_t dead_bytes = 0;
  std::int64_t front_end_bytes = 0;  // Free slots of cached spans.
  std::int64_t central_bytes = 0;    // Free slots of all others.
  std::int64_t tail_bytes = 0;
  std::int64_t runtime_bytes = 0;
  std::int64_t live_objects = 0;  // Slots, so that the objects of one tiny block count once.
  std::int64_t spans = 0;
};

// Kept as it changes, so that a footprint costs one pass over the classes. A slot's way from free to live to
// dead is counted one by one; all else takes the whole span out, changes it and puts it back.
class Occupancy {
 public:
  ClassOccupancy& of(SpanClass span_class) { return classes_[span_class]; }
  const ClassOccupancy& of(SpanClass span_class) const { return classes_[span_class]; }

  void add(const Span& span) { count(span, 1); }
  void remove(const Span& span) { count(span, -1); }

  ClassOccupancy total() const {
    ClassOccupancy sum;
    for (const ClassOccupancy& use : classes_) {
      sum.live_bytes += use.live_bytes;
      sum.dead_bytes += use.dead_bytes;
      sum.front_end_bytes += use.front_end_bytes;
      sum.central_bytes += use.central_bytes;
      sum.tail_bytes += use.tail_bytes;
      sum.runtime_bytes += use.runtime_bytes;
      sum.live_objects += use.live_objects;
      sum.spans += use.spans;
    }
    return sum;
  }

 private:
  void count(const Span& span, std::int64_t sign) {
    ClassOccupancy& use = classes_[span.span_class];
    const auto element = static_cast<std::int64_t>(span.element_bytes) * sign;
    const std::int64_t free = span.nelems - span.alloc_count;
    use.live_bytes += element * span.live_count;
    use.dead_bytes += element * (span.alloc_count - span.live_count - span.startup_count);
    (span.cached ? use.front_end_bytes : use.central_bytes) += element * free;
    const auto tail = static_cast<std::int64_t>(span.bytes()) * sign - element * span.nelems;
    (span.startup ? use.runtime_bytes : use.tail_bytes) += tail;
    use.runtime_bytes += element * span.startup_count;
    use.live_objects += sign * span.live_count;
    use.spans += sign;
  }

  std::array<ClassOccupancy, kSpanClasses> classes_{};
};

// Every span there is, by a number that a Block can hold. Addresses of spans never change.
class SpanTable {
 public:
  Span& at(std::uint32_t index) { return chunks_[index / kChunk][index % kChunk]; }
  const Span& at(std::uint32_t index) const { return chunks_[index / kChunk][index % kChunk]; }
  std::uint32_t size() const { return size_; }

  Span& make(SpanState state, SpanClass span_class, std::uint32_t nelems, bool startup) {
    std::uint32_t index = size_;
    if (free_.empty()) {
      if (size_ == chunks_.size() * kChunk) chunks_.push_back(std::make_unique<Span[]>(kChunk));
      ++size_;
    } else {
      index = free_.back();
      free_.pop_back();
    }
    Span& span = at(index);
    span = Span{};
    span.index = index;
    span.state = state;
    span.span_class = span_class;
    span.startup = startup;
    span.nelems = static_cast<std::uint16_t>(nelems);
    if (nelems > 0) {
      const std::size_t bitmap_words = span.words() * (startup ? 4 : 3);
      span.bits = take_words(bit_words(span));
      if (span_class == kTinySpanClass)
        span.holders = reinterpret_cast<std::uint8_t*>(span.bits + bitmap_words);
    }
    return span;
  }

  void discard(Span& span) {
    if (span.bits != nullptr) free_words_[bit_words(span)].push_back(span.bits);
    span.bits = nullptr;
    span.state = SpanState::kDead;
    free_.push_back(span.index);
  }

 private:
  static constexpr std::size_t kChunk = 1024;
  static constexpr std::size_t kSlabWords = std::size_t{1} << 16;
  // Four bitmaps of 1,024 slots, or four of 512 with a byte a slot.
  static constexpr std::size_t kMaxWords = 128;

  static std::size_t bit_words(const Span& span) {
    return span.words() * (span.startup ? 4 : 3) + (span.span_class == kTinySpanClass ? span.words() * 8 : 0);
  }

  std::uint64_t* take_words(std::size_t count) {
    std::uint64_t* words = nullptr;
    if (!free_words_[count].empty()) {
      words = free_words_[count].back();
      free_words_[count].pop_back();
    } else {
      if (slabs_.empty() || slab_used_ + count > kSlabWords) {
        slabs_.push_back(std::make_unique<std::uint64_t[]>(kSlabWords));
        slab_used_ = 0;
      }
      words = slabs_.back().get() + slab_used_;
      slab_used_ += count;
    }
    std::fill_n(words, count, 0);
    return words;
  }

  std::vector<std::unique_ptr<Span[]>> chunks_;
  std::uint32_t size_ = 0;
  std::vector<std::uint32_t> free_;
  std::vector<std::unique_ptr<std::uint64_t[]>> slabs_;
  std::size_t slab_used_ = 0;
  std::array<std::vector<std::uint64_t*>, kMaxWords + 1> free_words_;
};

}  // namespace go
