// Central lists: for each span class, the spans with and without free slots that no P has cached.
//
// Above the page heap, below the mcaches. Lists are first in, first out (Go's spanSet). Each is kept twice,
// swept and unswept, and the two change roles at every cycle. A list that runs dry sweeps: a call upwards,
// of what Sweeps asks.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "mheap.hpp"

namespace go {

// First in, first out, in a ring.
class SpanSet {
 public:
  // A span that was freed meanwhile is known by its state. What stands beside it lets its bits and marks be
  // fetched without a look at the span.
  struct Entry {
    Span* span = nullptr;
    std::uint32_t index = 0;
    std::uint32_t word = 0;
  };

  bool empty() const { return first_ == end_; }
  std::size_t size() const { return end_ - first_; }
  void push(Span& span) {
    if (size() == capacity_) [[unlikely]]
      grow();
    at(end_++) = {&span, span.index, span.word};
  }
  Span& pop() {
    __builtin_prefetch(&at(first_ + kPrefetchEntry));
    return *at(first_++).span;
  }
  // What comes out after so many others. Where there are fewer, any entry or none: good to be fetched, for
  // nothing else. There must have been one.
  const Entry& ahead(std::size_t others) const { return at(first_ + others); }
  // First out first.
  std::vector<const Span*> spans() const {
    std::vector<const Span*> found;
    for (std::size_t i = first_; i != end_; ++i) found.push_back(at(i).span);
    return found;
  }

 private:
  static constexpr std::size_t kLeastCapacity = 16;
  static constexpr std::size_t kPrefetchEntry = 16;

  // Apart, so that what is rare takes no room where it is called.
  [[gnu::noinline]] void grow() {
    const std::size_t capacity = std::max(2 * capacity_, kLeastCapacity);
    auto larger = std::make_unique<Entry[]>(capacity);
    for (std::size_t i = 0; i < size(); ++i) larger[i] = ahead(i);
    end_ = size();
    first_ = 0;
    ring_ = std::move(larger);
    capacity_ = capacity;
  }

  Entry& at(std::size_t i) { return ring_[i & (capacity_ - 1)]; }
  const Entry& at(std::size_t i) const { return ring_[i & (capacity_ - 1)]; }

  std::unique_ptr<Entry[]> ring_;
  std::size_t capacity_ = 0;  // A power of two.
  std::size_t first_ = 0;
  std::size_t end_ = 0;
};

// What a central list asks of the sweeper.
template <typename S>
concept Sweeps = requires(S sweeper, Span& span, std::uint64_t bytes, std::uint64_t pages) {
  // Sweeps ahead in proportion to what is about to be allocated.
  sweeper.deduct_sweep_credit(bytes, pages);
  { sweeper.sweeping() } -> std::same_as<bool>;
  { sweeper.sweepgen() } -> std::same_as<std::uint32_t>;
  // Sweeps a span for its taker; false where it is no unswept span any more.
  { sweeper.sweep_for_caller(span) } -> std::same_as<bool>;
};

struct SpanSetCounters {
  std::int64_t pushes = 0;
  std::int64_t pops = 0;
};

// Of its lines a refill touches the first, and that of the two swept sets.
class alignas(64) Mcentral {
 public:
  Mcentral(Mheap& heap, SpanSetCounters& counters, SpanClass span_class)
      : heap_(heap),
        counters_(counters),
        span_class_(span_class),
        pages_(kSizeClassTable[static_cast<std::size_t>(size_class_of(span_class))].span_pages) {}

  // Where the unswept lists become the swept ones and the other way round.
  void flip() {
    swept_ = 1 - swept_;
    if (!set(swept_, false).empty() || !set(swept_, true).empty()) {
      throw harness::InvariantError("span class " + std::to_string(span_class_) +
                                    ": unswept spans left at the start of a cycle");
    }
  }

  void push_swept(Span& span) {
    ++counters_.pushes;
    set(swept_, span.full()).push(span);
  }
  // The next unswept one of the full or of the partial spans; nullptr where none is left. Perhaps swept
  // meanwhile.
  Span* pop_unswept(bool full) {
    SpanSet& unswept = set(1 - swept_, full);
    return unswept.empty() ? nullptr : &pop_to_sweep(unswept);
  }

  // A span with a free slot (mcentral.cacheSpan); nullptr where the heap is at its limit.
  template <Sweeps Sweeper>
  Span* cache_span(Sweeper& sweeper, PageCache& page_cache) {
    sweeper.deduct_sweep_credit(pages_ * kPageBytes, 0);
    SpanSet& swept = set(swept_, false);
    if (swept.empty()) [[unlikely]]
      return sweep_or_allocate(sweeper, page_cache);
    Span& span = pop(swept);
    prefetch_to_cache(swept.ahead(0));
    return &span;
  }

  // All of it, for a refill that is about to come. Inlined by force: GCC takes a function that only
  // prefetches for one without effect.
  [[gnu::always_inline]] void prefetch() const {
    constexpr std::size_t kLineBytes = 64;
    for (std::size_t at = 0; at < sizeof(Mcentral); at += kLineBytes)
      __builtin_prefetch(reinterpret_cast<const std::byte*>(this) + at, 1);
  }

  std::vector<const Span*> swept(bool full) const { return set(swept_, full).spans(); }
  void restore_swept(Span& span, bool full) { set(swept_, full).push(span); }

 private:
  template <Sweeps Sweeper>
  [[gnu::noinline]] Span* sweep_or_allocate(Sweeper& sweeper, PageCache& page_cache) {
    if (sweeper.sweeping()) {
      // mcentral.go: no more than 100 spans are tried, because a new one costs less than to go on.
      int budget = 100;
      for (; budget >= 0; --budget) {
        SpanSet& partial = set(1 - swept_, false);
        if (partial.empty()) break;
        Span& span = pop_to_sweep(partial);
        prefetch_to_cache(partial.ahead(0));
        if (sweeper.sweep_for_caller(span)) return &span;
      }
      for (; budget >= 0; --budget) {
        Span* span = pop_unswept(true);
        if (span == nullptr) break;
        if (!sweeper.sweep_for_caller(*span)) continue;
        if (!span->full()) return span;
        push_swept(*span);
      }
    }
    return heap_.alloc(pages_, span_class_, page_cache, sweeper.sweepgen(), sweeper.sweeping());
  }

  // Spans come back from where they were put long ago: the next ones are fetched ahead.
  Span& pop(SpanSet& from) {
    ++counters_.pops;
    Span& span = from.pop();
    __builtin_prefetch(from.ahead(kPrefetchSpan).span, 1);
    return span;
  }
  Span& pop_to_sweep(SpanSet& from) {
    Span& span = pop(from);
    heap_.spans().bits().prefetch_marked(from.ahead(kPrefetchSpan).index);
    return span;
  }
  static constexpr std::size_t kPrefetchSpan = 8;

  // The very next of the class with its bits, for the mcache that will take it.
  void prefetch_to_cache(const SpanSet::Entry& next) {
    __builtin_prefetch(next.span, 1);
    heap_.spans().bits().prefetch(next.word);
  }

  // Which of two sets it is depends on the span, so that nothing foretells it.
  SpanSet& set(std::size_t which, bool full) { return sets_[2 * which + full]; }
  const SpanSet& set(std::size_t which, bool full) const { return sets_[2 * which + full]; }

  Mheap& heap_;
  SpanSetCounters& counters_;
  SpanClass span_class_;
  std::uint64_t pages_;  // Of a span.
  std::size_t swept_ = 0;
  alignas(64) std::array<SpanSet, 4> sets_;  // By swept_, partial before full.
};

// One list a span class, all counted together.
class Mcentrals {
 public:
  explicit Mcentrals(Mheap& heap) {
    lists_.reserve(kSpanClasses);
    for (int i = 0; i < kSpanClasses; ++i) lists_.emplace_back(heap, counters_, static_cast<SpanClass>(i));
  }
  Mcentrals(const Mcentrals&) = delete;
  Mcentrals& operator=(const Mcentrals&) = delete;

  Mcentral& of(SpanClass span_class) { return lists_[span_class]; }
  const Mcentral& of(SpanClass span_class) const { return lists_[span_class]; }
  const SpanSetCounters& counters() const { return counters_; }
  void flip() {
    for (Mcentral& list : lists_) list.flip();
  }

 private:
  SpanSetCounters counters_;
  std::vector<Mcentral> lists_;
};

}  // namespace go
