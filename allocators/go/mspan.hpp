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

#include "harness/huge_pages.hpp"
#include "size_classes.hpp"

namespace go {

enum class SpanState : std::uint8_t { kDead, kInUse, kManual };

struct alignas(32) Span {
  // Its address / 8 KiB; no heap reaches so far that this takes more bits (mheap.hpp).
  std::uint32_t base_page = 0;
  std::uint32_t pages = 0;
  std::uint32_t index = 0;  // In the span table.
  std::uint32_t word = 0;   // The first of its words() words in SlotBits.
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
  SpanState state : 2 = SpanState::kDead;
  bool startup : 1 = false;              // Stood in the start snapshot.
  bool cached : 1 = false;               // In some P's mcache.
  bool startup_page_marked : 1 = false;  // By its start-up objects alone.
  std::uint8_t unused : 3 = 0;           // No padding, so that a new span is known to be zeroes.

  std::uint32_t words() const { return (nelems + std::uint32_t{63}) / 64; }
  std::uint64_t base() const { return base_page * kPageBytes; }
  void set_base(std::uint64_t address) { base_page = static_cast<std::uint32_t>(address / kPageBytes); }
  std::uint64_t bytes() const { return pages * kPageBytes; }
  std::uint64_t element_bytes() const {
    const std::uint64_t slot_bytes = kSlotBytes[span_class];
    return slot_bytes == 0 ? bytes() : slot_bytes;
  }
  bool full() const { return alloc_count == nelems; }
};
static_assert(std::has_unique_object_representations_v<Span>);
static_assert(sizeof(Span) == 32, "a sweep touches half a line of each span");

// A slot by the word and the bit that stand for it.
struct SlotBit {
  std::uint32_t word = 0;
  std::uint32_t bit = 0;
  std::uint64_t mask() const { return std::uint64_t{1} << bit; }
};
inline SlotBit slot_bit(const Span& span, std::uint32_t slot) { return {span.word + slot / 64, slot % 64}; }

// Tiny: in a span of tiny blocks, where each slot knows how many objects it holds.
// Those behind kSmall die otherwise than by one bit.
// Aligned: small, in a slot of another class than its size alone would have.
enum class Kind : std::uint8_t { kNull, kSmall, kAligned, kTiny, kLarge, kZeroSize };

// An object: the bit that stands for its slot, its span's class and, in a tiny block, its place. So a death
// need not look at the span. Of a tiny object, word and bit are those of the slot's holders (SlotBits), as
// word and byte, since these are what its death asks first.
struct Block {
  std::uint32_t word = 0;
  std::uint8_t bit = 0;
  SpanClass span_class = 0;
  Kind kind = Kind::kNull;
  std::uint8_t tiny_offset = 0;
  explicit operator bool() const { return kind != Kind::kNull; }
};
static_assert(sizeof(Block) == 8);
// A block's parts in the word that its bytes are: written as one, it can be read as one without waiting for
// pieces.
inline constexpr int kBlockBitShift = 32;
inline constexpr int kTinyOffsetShift = 56;
inline constexpr int kBlockClassShift = 40;
inline constexpr auto kSmallBlock = std::bit_cast<std::uint64_t>(Block{.kind = Kind::kSmall});
inline constexpr auto kTinyBlock =
    std::bit_cast<std::uint64_t>(Block{.span_class = kTinySpanClass, .kind = Kind::kTiny});
// Of the first slot of a word, and of another of that word.
inline Block small_block(std::uint32_t word, SpanClass span_class) {
  return std::bit_cast<Block>(kSmallBlock | std::uint64_t{span_class} << kBlockClassShift | word);
}
inline Block with_bit(Block first, std::uint64_t bit) {
  return std::bit_cast<Block>(std::bit_cast<std::uint64_t>(first) | bit << kBlockBitShift);
}

// What is known of each slot: columns of bits, of which every span has a run of words. Off-heap in Go, and of
// no account in the footprint. A death touches nothing but one word, and marking is one pass over two
// columns.
struct SlotBits {
  using Column = harness::HugePageVector<std::uint64_t>;
  std::uint32_t words = 0;  // That spans have or had; columns reach further.
  // Held by the program. A death turns its bit over at once, an allocation when its slot is settled
  // (mcache.hpp), so that their order does not matter.
  Column live;
  Column alloc;  // Allocated, as the last sweep left it.
  Column mark;   // Found alive by the running cycle; between cycles, what was allocated before the last.
  // By span, its marked slots: so a sweep looks at no bits at all. They are counted as they are marked, in
  // one pass over words that lie one behind the other.
  harness::HugePageVector<std::uint16_t> marked;
  Column startup;  // Held by the process itself; only the first words, those of the start snapshot.
  harness::HugePageVector<std::uint32_t> span;  // Whose word it is.

  // How many objects of the program share a slot of a tiny span: bytes in words of the column of live bits,
  // so that what is fetched ahead of a death is that, too. Tiny spans have their words in chunks, each the
  // words of bits for 14 spans, and the words of bytes behind.
  static constexpr std::uint32_t kTinyChunkWords = 1024;  // And a chunk begins at a multiple of it.
  static constexpr std::uint32_t kTinyBitWords = 112;
  static constexpr std::uint32_t kHoldersOfWord = 8;
  std::vector<std::uint32_t> tiny_chunks;  // Their first words, ascending.

  // What a sweep asks of a span, by its number, and what an mcache reads and settles, by its first word.
  // Inlined by force: GCC takes a function that only prefetches for one without effect.
  [[gnu::always_inline]] void prefetch_marked(std::uint32_t index) const {
    __builtin_prefetch(marked.data() + index);
  }
  [[gnu::always_inline]] void prefetch(std::uint32_t word) const {
    __builtin_prefetch(alloc.data() + word);
    __builtin_prefetch(live.data() + word, 1);
  }

  bool is_startup(SlotBit slot) const {
    return slot.word < startup.size() && (startup[slot.word] & slot.mask()) != 0;
  }

  static std::uint32_t first_holders(std::uint32_t slot_word) {
    const std::uint32_t chunk = slot_word / kTinyChunkWords * kTinyChunkWords;
    return chunk + kTinyBitWords + (slot_word - chunk) * kHoldersOfWord;
  }
  static SlotBit holders_at(SlotBit slot) {
    return std::bit_cast<SlotBit>(holders_word_of(slot.word, slot.bit));
  }
  // As one word, a SlotBit's bytes.
  static std::uint64_t holders_word_of(std::uint32_t slot_word, std::uint64_t bit) {
    return (first_holders(slot_word) + bit / 8) | bit % 8 << 32;
  }
  static SlotBit slot_of_holders(SlotBit holders) {
    const std::uint32_t chunk = holders.word / kTinyChunkWords * kTinyChunkWords;
    const std::uint32_t place = (holders.word - chunk - kTinyBitWords) * 8 + holders.bit;
    return {chunk + place / 64, place % 64};
  }
  std::uint8_t& holders(SlotBit holders) {
    return reinterpret_cast<std::uint8_t*>(live.data() + holders.word)[holders.bit];
  }

  static std::uint32_t count(const Column& column, const Span& span) {
    int slots = 0;
    for (std::uint32_t i = 0; i < span.words(); ++i) slots += std::popcount(column[span.word + i]);
    return static_cast<std::uint32_t>(slots);
  }
  std::uint32_t live_count(const Span& owner) const { return count(live, owner); }
  std::uint32_t mark_count(const Span& owner) const { return marked[owner.index]; }

  // Marks every slot that the program or the process itself holds, and no other.
  void mark_live() {
    std::ranges::fill(marked, std::uint16_t{0});
    std::size_t first = 0;
    for (const std::uint32_t chunk : tiny_chunks) {
      mark_live(first, chunk + kTinyBitWords);
      first = chunk + kTinyChunkWords;
    }
    mark_live(first, words);
    for (std::uint32_t word = 0; word < startup.size(); ++word) add_marks(word, startup[word]);
  }
  void add_marks(std::uint32_t word, std::uint64_t slots) {
    note_marked(span[word], slots & ~mark[word]);
    mark[word] |= slots;
  }
  // Of all spans at once: what the cycle has marked is what is allocated (Go: allocBits = gcmarkBits, which
  // each sweep does for its span). Nobody asks for slots of a span that is yet to be swept.
  void allocate_marked() { std::swap(alloc, mark); }

 private:
  void mark_live(std::size_t first, std::size_t last) {
    for (std::size_t word = first; word < last; ++word) {
      mark[word] = live[word];
      note_marked(span[word], live[word]);
    }
  }
  void note_marked(std::uint32_t of_span, std::uint64_t slots) {
    marked[of_span] = static_cast<std::uint16_t>(marked[of_span] + std::popcount(slots));
  }
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
  std::int64_t spans_requested = 0;  // From the page heap, ever.
  std::int64_t spans_returned = 0;   // To it.
};

// Who holds the slots of each class, kept as it changes. What the program takes and loses one slot at a time
// has one counter each; all other parts follow from these and from what spans bring when they come, are
// cached, are swept and go. Of objects with a span of their own, bytes are counted instead of slots.
class Occupancy {
 public:
  // Slots of cached spans that the program has taken: their bytes at once, their number when their word is
  // settled (mcache.hpp).
  void note_taken_bytes(std::uint64_t bytes) { taken_bytes_ += static_cast<std::int64_t>(bytes); }
  void note_taken(SpanClass span_class, std::uint64_t units) { taken_[span_class] += units; }
  // Objects that die.
  void note_died(SpanClass span_class, std::uint64_t units = 1) {
    died_[span_class] += units;
    died_bytes_ += static_cast<std::int64_t>(units) * unit_bytes(span_class);
  }
  // One slot, whose bytes, returned here, are told later, for many at once.
  [[gnu::always_inline]] std::uint64_t count_died(std::uint64_t span_class) {
    ++died_[span_class];
    return slot_bytes_[span_class];
  }
  void note_died_bytes(std::uint64_t bytes) { died_bytes_ += static_cast<std::int64_t>(bytes); }
  // A tiny block all of whose objects are dead takes another.
  void note_revived(SpanClass span_class) { change(span_class, &Units::revived, 1); }

  void add(const Span& span) { count(span, 1); }
  void remove(const Span& span) { count(span, -1); }
  void hold(const Span& span) { change(span.span_class, &Units::cached, free_units(span)); }
  void let_go(const Span& span) { change(span.span_class, &Units::cached, -free_units(span)); }
  void note_swept(const Span& span, std::int64_t freed_slots) {
    change(span.span_class, &Units::allocated, -freed_slots * unit(span));
  }
  void note_startup(const Span& span, std::int64_t slots) { change(span.span_class, &Units::startup, slots); }
  // What hold() will change.
  [[gnu::always_inline]] void prefetch(std::uint64_t span_class) const {
    __builtin_prefetch(&classes_[span_class], 1);
  }
  void note_requested(SpanClass span_class) { ++classes_[span_class].spans_requested; }
  void note_returned(SpanClass span_class) { ++classes_[span_class].spans_returned; }
  void note_large_allocation(SpanClass span_class) {
    ++classes_[span_class].large_objects;
    ++classes_[span_class].large_allocations;
  }
  void note_large_death(SpanClass span_class) { --classes_[span_class].large_objects; }

  // What the program has ever taken, and what it or the process holds now.
  std::uint64_t taken_bytes(SpanClass span_class) const {
    return taken_[span_class] * static_cast<std::uint64_t>(unit_bytes(span_class));
  }
  std::uint64_t taken_objects(SpanClass span_class) const {
    return size_class_of(span_class) == 0 ? classes_[span_class].large_allocations : taken_[span_class];
  }
  std::uint64_t marked_bytes(SpanClass span_class) const {
    return static_cast<std::uint64_t>((live(span_class) + classes_[span_class].units.startup) *
                                      unit_bytes(span_class));
  }
  std::int64_t live_objects(SpanClass span_class) const {
    return size_class_of(span_class) == 0 ? classes_[span_class].large_objects : live(span_class);
  }

  // With so many slots that are taken and not yet settled.
  ClassOccupancy of(SpanClass span_class, std::int64_t unsettled) const {
    const Class& use = classes_[span_class];
    ClassOccupancy bytes =
        occupancy(use.units, taken(span_class) + unsettled, died(span_class), unit_bytes(span_class));
    bytes.tail_bytes = use.tail_bytes;
    bytes.runtime_bytes += use.startup_tail_bytes;
    bytes.live_objects = size_class_of(span_class) == 0 ? use.large_objects : live(span_class) + unsettled;
    bytes.spans = use.spans;
    bytes.spans_requested = use.spans_requested;
    bytes.spans_returned = use.spans_returned;
    return bytes;
  }

  // Without the numbers of objects and spans. Nothing is added up, since a growing heap asks for this with
  // every span.
  ClassOccupancy total() const {
    ClassOccupancy bytes = occupancy(bytes_, taken_bytes_, died_bytes_, 1);
    bytes.tail_bytes = tail_bytes_;
    bytes.runtime_bytes += startup_tail_bytes_;
    return bytes;
  }

 private:
  // Slots of one class; bytes of class 0, and of all classes together.
  struct Units {
    std::int64_t revived = 0;
    std::int64_t allocated = 0;  // What spans brought and sweeps freed; taken ones come on top.
    std::int64_t cached = 0;     // Free when their span was cached; taken ones are to be taken off.
    std::int64_t total = 0;
    std::int64_t startup = 0;
  };
  struct Class {
    Units units;
    std::int64_t tail_bytes = 0;
    std::int64_t startup_tail_bytes = 0;
    std::int64_t large_objects = 0;
    std::uint64_t large_allocations = 0;
    std::int64_t spans = 0;
    std::int64_t spans_requested = 0;
    std::int64_t spans_returned = 0;
  };

  static ClassOccupancy occupancy(const Units& units, std::int64_t taken, std::int64_t died,
                                  std::int64_t unit_bytes) {
    const std::int64_t live = taken - died + units.revived;
    const std::int64_t allocated = units.allocated + taken;
    const std::int64_t cached = units.cached - taken;
    ClassOccupancy bytes;
    bytes.live_bytes = live * unit_bytes;
    bytes.dead_bytes = (allocated - live - units.startup) * unit_bytes;
    bytes.front_end_bytes = cached * unit_bytes;
    bytes.central_bytes = (units.total - allocated - cached) * unit_bytes;
    bytes.runtime_bytes = units.startup * unit_bytes;
    return bytes;
  }

  std::int64_t died(SpanClass span_class) const { return static_cast<std::int64_t>(died_[span_class]); }
  std::int64_t taken(SpanClass span_class) const { return static_cast<std::int64_t>(taken_[span_class]); }
  std::int64_t live(SpanClass span_class) const {
    return taken(span_class) - died(span_class) + classes_[span_class].units.revived;
  }

  static std::int64_t unit(const Span& span) {
    return size_class_of(span.span_class) == 0 ? static_cast<std::int64_t>(span.element_bytes()) : 1;
  }
  static std::int64_t unit_bytes(SpanClass span_class) {
    return kUnitBytes[static_cast<std::size_t>(size_class_of(span_class))];
  }
  static std::int64_t free_units(const Span& span) { return (span.nelems - span.alloc_count) * unit(span); }

  void change(SpanClass span_class, std::int64_t Units::* part, std::int64_t units) {
    classes_[span_class].units.*part += units;
    bytes_.*part += units * unit_bytes(span_class);
  }

  void count(const Span& span, std::int64_t sign) {
    Class& use = classes_[span.span_class];
    const std::int64_t units = sign * unit(span);
    change(span.span_class, &Units::total, units * span.nelems);
    change(span.span_class, &Units::allocated, units * span.alloc_count);
    change(span.span_class, &Units::startup, units * span.startup_count);
    const std::int64_t tail =
        sign * static_cast<std::int64_t>(span.bytes() - span.nelems * span.element_bytes());
    (span.startup ? use.startup_tail_bytes : use.tail_bytes) += tail;
    (span.startup ? startup_tail_bytes_ : tail_bytes_) += tail;
    use.spans += sign;
  }

  static constexpr std::array<std::int64_t, kSizeClasses> kUnitBytes = [] {
    std::array<std::int64_t, kSizeClasses> bytes{};
    std::ranges::transform(kSizeClassTable, bytes.begin(), &SizeClass::object_bytes);
    bytes[0] = 1;
    return bytes;
  }();

  // By span class: units that died and that were taken, ever.
  std::array<std::uint64_t, kSpanClasses> died_{};
  std::array<std::uint64_t, kSpanClasses> taken_{};
  std::array<std::uint32_t, kSpanClasses> slot_bytes_ = kSlotBytes;  // At hand beside the counts.
  std::array<Class, kSpanClasses> classes_{};
  Units bytes_;
  std::int64_t taken_bytes_ = 0;
  std::int64_t died_bytes_ = 0;
  std::int64_t tail_bytes_ = 0;
  std::int64_t startup_tail_bytes_ = 0;
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

  Span& make(SpanState state, SpanClass span_class, std::uint32_t nelems, bool startup) {
    const std::uint32_t index = take_index();
    Span& span = at(index);
    span = Span{};
    span.index = index;
    span.state = state;
    span.span_class = span_class;
    span.startup = startup;
    span.nelems = static_cast<std::uint16_t>(nelems);
    bits_.marked[index] = 0;
    if (nelems > 0) take_words(span);
    return span;
  }

  void discard(Span& span) {
    if (span.nelems > 0) free_words_of(span).push_back(span.word);
    span.state = SpanState::kDead;
    free_.push_back(span.index);
  }

 private:
  static constexpr std::size_t kChunk = std::size_t{1} << 18;  // 8 MiB, taken as it fills.
  static constexpr std::uint32_t kSpansAtOnce = 64;
  static constexpr std::size_t kMaxWords = 16;  // Of 1,024 slots of 8 bytes.

  // Tiny spans have words of their own, so that holders are kept for these alone.
  std::vector<std::uint32_t>& free_words_of(const Span& span) {
    return span.span_class == kTinySpanClass ? free_tiny_words_ : free_words_[span.words()];
  }

  std::uint32_t take_index() {
    if (!free_.empty()) {
      const std::uint32_t index = free_.back();
      free_.pop_back();
      return index;
    }
    if (size_ == bits_.marked.size()) [[unlikely]]
      add_spans();
    return size_++;
  }

  // Apart, as is what else is done for many spans at once, so that it takes no room where it is called.
  [[gnu::noinline]] void add_spans() {
    if (size_ == chunks_.size() * kChunk) chunks_.emplace_back().reserve(kChunk);
    bits_.marked.resize(size_ + kSpansAtOnce);
    chunks_.back().resize(chunks_.back().size() + kSpansAtOnce);
  }

  void take_words(Span& span) {
    const std::uint32_t words = span.words();
    std::vector<std::uint32_t>& free = free_words_of(span);
    if (free.empty() && span.span_class != kTinySpanClass) {
      span.word = add_words(words);
    } else {
      if (free.empty()) add_tiny_words(words);
      span.word = free.back();
      free.pop_back();
      clear_words(span);
    }
    std::fill_n(bits_.span.begin() + span.word, words, span.index);
  }

  void clear_words(const Span& span) {
    for (std::uint32_t word = span.word; word < span.word + span.words(); ++word) {
      bits_.live[word] = bits_.alloc[word] = bits_.mark[word] = 0;
      if (word < bits_.startup.size()) bits_.startup[word] = 0;
      if (span.span_class == kTinySpanClass)
        std::fill_n(bits_.span.begin() + SlotBits::first_holders(word), SlotBits::kHoldersOfWord, span.index);
    }
  }

  // The first of so many that no span has had.
  std::uint32_t add_words(std::uint32_t words) {
    const std::uint32_t first = bits_.words;
    if (bits_.live.size() - first < words) [[unlikely]]
      grow_words(words);
    bits_.words += words;
    return first;
  }

  [[gnu::noinline]] void grow_words(std::uint32_t words) {
    const std::size_t least = bits_.live.size() + words;
    if (least > UINT32_MAX) throw harness::InvariantError("spans have more than 2^32 words of 64 slots");
    const std::size_t end = std::clamp<std::size_t>(2 * bits_.live.size(), least, UINT32_MAX);
    bits_.live.resize(end);
    bits_.alloc.resize(end);
    bits_.mark.resize(end);
    bits_.span.resize(end);
  }

  // A chunk of words for tiny spans; what is left before it serves spans of one word.
  [[gnu::noinline]] void add_tiny_words(std::uint32_t words_of_span) {
    while (bits_.words % SlotBits::kTinyChunkWords != 0) free_words_[1].push_back(add_words(1));
    const std::uint32_t chunk = add_words(SlotBits::kTinyChunkWords);
    bits_.tiny_chunks.push_back(chunk);
    for (std::uint32_t word = SlotBits::kTinyBitWords; word > 0; word -= words_of_span)
      free_tiny_words_.push_back(chunk + word - words_of_span);
  }

  std::vector<harness::HugePageVector<Span>> chunks_;
  std::uint32_t size_ = 0;
  std::vector<std::uint32_t> free_;
  SlotBits bits_;
  std::array<std::vector<std::uint32_t>, kMaxWords + 1> free_words_;  // By words of a span.
  std::vector<std::uint32_t> free_tiny_words_;
};

}  // namespace go
