// Spans: runs of pages cut into slots of one class, and the count of who holds their bytes.
//
// Above the size classes, below the page heap, which makes spans of pages. Of each slot it is known whether
// it is allocated since the last sweep, whether the program still holds it, and whether the last cycle marked
// it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <vector>

#include "size_classes.hpp"

namespace go {

enum class SpanState : std::uint8_t { kDead, kInUse, kManual };

struct alignas(64) Span {
  std::uint64_t base = 0;
  std::uint64_t element_bytes = 0;
  std::uint32_t index = 0;  // In the span table.
  std::uint32_t word = 0;   // The first of its words() words in SlotBits.
  std::uint32_t pages = 0;
  // Against the heap's, h: h - 2 unswept, h swept, h + 1 cached before the sweep began, h + 3 swept and
  // cached.
  std::uint32_t sweepgen = 0;
  std::uint16_t nelems = 0;
  // No slot below it is free. While the span is cached, this and the next lag behind its mcache.
  std::uint16_t freeindex = 0;
  std::uint16_t alloc_count = 0;
  std::uint16_t alloc_count_before_cache = 0;
  std::uint16_t startup_count = 0;  // Slots that only the process itself holds.
  SpanClass span_class = 0;
  SpanState state = SpanState::kDead;
  bool startup = false;              // Stood in the start snapshot.
  bool cached = false;               // In some P's mcache.
  bool startup_page_marked = false;  // By its start-up objects alone.

  std::uint32_t words() const { return (nelems + std::uint32_t{63}) / 64; }
  std::uint64_t bytes() const { return pages * kPageBytes; }
  bool full() const { return alloc_count == nelems; }
};
static_assert(sizeof(Span) == 64, "a sweep touches one line of its span");

// A slot by the word and the bit that stand for it.
struct SlotBit {
  std::uint32_t word = 0;
  std::uint32_t bit = 0;
  std::uint64_t mask() const { return std::uint64_t{1} << bit; }
};
inline SlotBit slot_bit(const Span& span, std::uint32_t slot) { return {span.word + slot / 64, slot % 64}; }

// Tiny: in a span of tiny blocks, where each slot knows how many objects it holds.
enum class Kind : std::uint8_t { kNull, kZeroSize, kTiny, kSmall, kLarge };

// An object: the bit that stands for its slot, its span's class and, in a tiny block, its place. So a death
// need not look at the span.
struct Block {
  std::uint32_t word = 0;
  std::uint8_t bit = 0;
  SpanClass span_class = 0;
  Kind kind = Kind::kNull;
  std::uint8_t tiny_offset = 0;
  explicit operator bool() const { return kind != Kind::kNull; }
};
static_assert(sizeof(Block) == 8);

// What is known of each slot: columns of bits, of which every span has a run of words. Off-heap in Go, and of
// no account in the footprint. A death touches nothing but one word, and marking is one pass over two
// columns.
struct SlotBits {
  std::vector<std::uint64_t> live;     // Held by the program.
  std::vector<std::uint64_t> alloc;    // Allocated, as the last sweep left it.
  std::vector<std::uint64_t> mark;     // Found alive by the last cycle.
  std::vector<std::uint64_t> startup;  // Held by the process itself; only in spans of the start snapshot.
  std::vector<std::uint32_t> span;     // Whose word it is.
  // 64 a word: how many objects of the program share a slot of a tiny span.
  std::vector<std::uint8_t> holders;

  std::uint8_t& holders_of(SlotBit slot) { return holders[slot.word * std::size_t{64} + slot.bit]; }

  static std::uint32_t count(const std::vector<std::uint64_t>& column, const Span& span) {
    int slots = 0;
    for (std::uint32_t i = 0; i < span.words(); ++i) slots += std::popcount(column[span.word + i]);
    return static_cast<std::uint32_t>(slots);
  }
  std::uint32_t live_count(const Span& owner) const { return count(live, owner); }
  std::uint32_t mark_count(const Span& owner) const { return count(mark, owner); }
};

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

// Who holds the slots of each class, kept as it changes. What the program takes and loses one slot at a time
// has one counter each; all other parts follow from these and from what spans bring when they come, are
// cached, are swept and go. Of objects with a span of their own, bytes are counted instead of slots.
class Occupancy {
 public:
  // The program takes free slots of cached spans, and its objects die.
  void note_taken(SpanClass span_class, std::uint64_t units = 1) { classes_[span_class].units[1] += units; }
  void note_died(SpanClass span_class, std::uint64_t units = 1) { classes_[span_class].units[0] += units; }
  // One of the two.
  void note_exchange(std::uint64_t span_class, std::uint64_t taken) { ++classes_[span_class].units[taken]; }
  // A tiny block all of whose objects are dead takes another.
  void note_revived(SpanClass span_class) { ++classes_[span_class].revived; }

  void add(const Span& span) { count(span, 1); }
  void remove(const Span& span) { count(span, -1); }
  void hold(const Span& span) { classes_[span.span_class].cached += free_units(span); }
  void let_go(const Span& span) { classes_[span.span_class].cached -= free_units(span); }
  void note_swept(const Span& span, std::int64_t freed_slots) {
    classes_[span.span_class].allocated -= freed_slots * unit(span);
  }
  void note_startup(const Span& span, std::int64_t slots) { classes_[span.span_class].startup += slots; }
  void note_large(SpanClass span_class, std::int64_t objects) {
    classes_[span_class].large_objects += objects;
  }

  // What the program has ever taken, and what it or the process holds now.
  std::uint64_t taken_bytes(SpanClass span_class) const {
    return classes_[span_class].units[1] * static_cast<std::uint64_t>(unit_bytes(span_class));
  }
  std::uint64_t marked_bytes(SpanClass span_class) const {
    const Class& use = classes_[span_class];
    return static_cast<std::uint64_t>((use.live() + use.startup) * unit_bytes(span_class));
  }
  std::int64_t live_objects(SpanClass span_class) const {
    const Class& use = classes_[span_class];
    return size_class_of(span_class) == 0 ? use.large_objects : use.live();
  }

  ClassOccupancy of(SpanClass span_class) const {
    const Class& use = classes_[span_class];
    const std::int64_t bytes = unit_bytes(span_class);
    const std::int64_t taken = static_cast<std::int64_t>(use.units[1]);
    const std::int64_t allocated = use.allocated + taken;
    const std::int64_t cached = use.cached - taken;
    return {.live_bytes = use.live() * bytes,
            .dead_bytes = (allocated - use.live() - use.startup) * bytes,
            .front_end_bytes = cached * bytes,
            .central_bytes = (use.total - allocated - cached) * bytes,
            .tail_bytes = use.tail_bytes,
            .runtime_bytes = use.startup * bytes + use.startup_tail_bytes,
            .live_objects = live_objects(span_class),
            .spans = use.spans};
  }

  ClassOccupancy total() const {
    ClassOccupancy sum;
    for (int i = 0; i < kSpanClasses; ++i) {
      const ClassOccupancy use = of(static_cast<SpanClass>(i));
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
  // In slots, or in bytes.
  struct Class {
    std::array<std::uint64_t, 2> units{};  // Died and taken, ever.
    std::int64_t revived = 0;
    std::int64_t allocated = 0;  // What spans brought and sweeps freed; taken ones come on top.
    std::int64_t cached = 0;     // Free when their span was cached; taken ones are to be taken off.
    std::int64_t total = 0;
    std::int64_t startup = 0;
    std::int64_t tail_bytes = 0;
    std::int64_t startup_tail_bytes = 0;
    std::int64_t large_objects = 0;
    std::int64_t spans = 0;
    std::int64_t live() const { return static_cast<std::int64_t>(units[1] - units[0]) + revived; }
  };

  static std::int64_t unit(const Span& span) {
    return size_class_of(span.span_class) == 0 ? static_cast<std::int64_t>(span.element_bytes) : 1;
  }
  static std::int64_t unit_bytes(SpanClass span_class) {
    const int size_class = size_class_of(span_class);
    return size_class == 0 ? 1 : kSizeClassTable[static_cast<std::size_t>(size_class)].object_bytes;
  }
  static std::int64_t free_units(const Span& span) { return (span.nelems - span.alloc_count) * unit(span); }

  void count(const Span& span, std::int64_t sign) {
    Class& use = classes_[span.span_class];
    const std::int64_t units = sign * unit(span);
    use.total += units * span.nelems;
    use.allocated += units * span.alloc_count;
    use.startup += units * span.startup_count;
    (span.startup ? use.startup_tail_bytes : use.tail_bytes) +=
        sign * static_cast<std::int64_t>(span.bytes() - span.nelems * span.element_bytes);
    use.spans += sign;
  }

  std::array<Class, kSpanClasses> classes_{};
};

// Every span there is, by number, and the bits of their slots. Addresses of spans never change.
class SpanTable {
 public:
  Span& at(std::uint32_t index) { return chunks_[index / kChunk][index % kChunk]; }
  const Span& at(std::uint32_t index) const { return chunks_[index / kChunk][index % kChunk]; }
  Span& of_word(std::uint32_t word) { return at(bits_.span[word]); }
  const Span& of_word(std::uint32_t word) const { return at(bits_.span[word]); }
  std::uint32_t size() const { return size_; }
  SlotBits& bits() { return bits_; }
  const SlotBits& bits() const { return bits_; }

  // Touches, for the hardware's sake, what a sweep and an mcache read of a span. Inlined by force: GCC takes
  // a function that only prefetches for one without effect.
  [[gnu::always_inline]] void prefetch_bits(std::uint32_t index) const {
    const std::uint32_t word = at(index).word;
    __builtin_prefetch(bits_.alloc.data() + word, 1);
    __builtin_prefetch(bits_.mark.data() + word);
    __builtin_prefetch(bits_.live.data() + word, 1);
  }

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
    if (nelems > 0) take_words(span);
    return span;
  }

  void discard(Span& span) {
    if (span.nelems > 0) free_words_[span.words()].push_back(span.word);
    span.state = SpanState::kDead;
    free_.push_back(span.index);
  }

 private:
  static constexpr std::size_t kChunk = 1024;
  static constexpr std::size_t kMaxWords = 16;  // Of 1,024 slots of 8 bytes.

  void take_words(Span& span) {
    std::vector<std::uint32_t>& free = free_words_[span.words()];
    if (free.empty()) {
      const std::size_t first = bits_.live.size();
      if (first > UINT32_MAX - kMaxWords) {
        throw harness::InvariantError("more than 2^32 words of 64 slots in spans");
      }
      const std::size_t end = first + span.words();
      bits_.live.resize(end);
      bits_.alloc.resize(end);
      bits_.mark.resize(end);
      bits_.startup.resize(end);
      bits_.span.resize(end);
      bits_.holders.resize(end * 64);
      span.word = static_cast<std::uint32_t>(first);
    } else {
      span.word = free.back();
      free.pop_back();
    }
    for (std::uint32_t word = span.word; word < span.word + span.words(); ++word) {
      bits_.live[word] = bits_.alloc[word] = bits_.mark[word] = bits_.startup[word] = 0;
      bits_.span[word] = span.index;
    }
  }

  std::vector<std::unique_ptr<Span[]>> chunks_;
  std::uint32_t size_ = 0;
  std::vector<std::uint32_t> free_;
  SlotBits bits_;
  std::array<std::vector<std::uint32_t>, kMaxWords + 1> free_words_;
};

}  // namespace go
