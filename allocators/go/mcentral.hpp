// Central lists: for each span class, the spans with and without free slots that no P has cached.
//
// Above the page heap, below the mcaches. Lists are first in, first out (Go's spanSet). Each is kept twice,
// swept and unswept, and the two change roles at every cycle. A list that runs dry sweeps: a call upwards,
// through Sweeps.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "mheap.hpp"

namespace go {

// First in, first out.
class SpanSet {
 public:
  // By number, so that a span freed meanwhile is known by its state; and the first of its words, which can
  // then be fetched without a look at the span.
  struct Entry {
    std::uint32_t span = kNone;
    std::uint32_t word = 0;
  };

  bool empty() const { return head_ == spans_.size(); }
  void push(const Span& span) { spans_.push_back({span.index, span.word}); }
  std::uint32_t pop() {
    const std::uint32_t span = spans_[head_++].span;
    if (empty()) {
      spans_.clear();
      head_ = 0;
    } else if (head_ >= kCompactAt && head_ >= spans_.size() / 2) {
      spans_.erase(spans_.begin(), spans_.begin() + static_cast<std::ptrdiff_t>(head_));
      head_ = 0;
    }
    return span;
  }
  // What comes out after so many others; no span where there are fewer.
  Entry ahead(std::size_t others) const {
    return others < spans_.size() - head_ ? spans_[head_ + others] : Entry{};
  }
  static constexpr std::uint32_t kNone = UINT32_MAX;
  // First out first.
  std::span<const Entry> spans() const { return std::span(spans_).subspan(head_); }

 private:
  static constexpr std::size_t kCompactAt = 1024;
  std::vector<Entry> spans_;
  std::size_t head_ = 0;
};

// What a central list asks of the sweeper.
class Sweeps {
 public:
  // Sweeps ahead in proportion to what is about to be allocated.
  virtual void deduct_sweep_credit(std::uint64_t span_bytes, std::uint64_t caller_pages) = 0;
  virtual bool sweeping() const = 0;
  virtual std::uint32_t sweepgen() const = 0;
  // Sweeps a span for its taker; false where it is no unswept span any more.
  virtual bool sweep_for_caller(Span& span) = 0;

 protected:
  ~Sweeps() = default;
};

struct SpanSetCounters {
  std::int64_t pushes = 0;
  std::int64_t pops = 0;
};

class Mcentral {
 public:
  Mcentral(Mheap& heap, SpanSetCounters& counters, SpanClass span_class)
      : heap_(heap), counters_(counters), span_class_(span_class) {}

  // Where the unswept lists become the swept ones and the other way round.
  void flip() {
    swept_ = 1 - swept_;
    if (!partial_[swept_].empty() || !full_[swept_].empty()) {
      throw harness::InvariantError("span class " + std::to_string(span_class_) +
                                    ": unswept spans left at the start of a cycle");
    }
  }

  void push_swept(const Span& span) {
    ++counters_.pushes;
    (span.full() ? full_ : partial_)[swept_].push(span);
  }
  // The next unswept one of the full or of the partial spans; nullptr where none is left. Perhaps swept
  // meanwhile.
  Span* pop_unswept(bool full) {
    SpanSet& set = unswept(full);
    return set.empty() ? nullptr : &pop(set);
  }

  // A span with a free slot (mcentral.cacheSpan); nullptr where the heap is at its limit.
  Span* cache_span(Sweeps& sweeper, PageCache& page_cache) {
    const std::uint64_t pages =
        kSizeClassTable[static_cast<std::size_t>(size_class_of(span_class_))].span_pages;
    sweeper.deduct_sweep_credit(pages * kPageBytes, 0);
    if (!partial_[swept_].empty()) return &pop_to_cache(partial_[swept_]);
    if (sweeper.sweeping()) {
      // mcentral.go: no more than 100 spans are tried, because a new one costs less than to go on.
      int budget = 100;
      for (; budget >= 0; --budget) {
        if (unswept(false).empty()) break;
        Span& span = pop_to_cache(unswept(false));
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
    return heap_.alloc(pages, span_class_, page_cache, sweeper.sweepgen(), sweeper.sweeping());
  }

  std::span<const SpanSet::Entry> swept(bool full) const { return (full ? full_ : partial_)[swept_].spans(); }
  void restore_swept(const Span& span, bool full) { (full ? full_ : partial_)[swept_].push(span); }

 private:
  SpanSet& unswept(bool full) { return (full ? full_ : partial_)[1 - swept_]; }

  // Spans come back from where they were put long ago: the next ones are fetched ahead.
  Span& pop(SpanSet& set) {
    ++counters_.pops;
    Span& span = heap_.spans().at(set.pop());
    if (const SpanSet::Entry next = set.ahead(kPrefetchSpan); next.span != SpanSet::kNone) {
      heap_.spans().prefetch(next.span);
    }
    return span;
  }
  static constexpr std::size_t kPrefetchSpan = 8;

  // And, where an mcache is what takes them, the very next with its bits: others of the class were fetched
  // too long ago.
  Span& pop_to_cache(SpanSet& set) {
    Span& span = pop(set);
    if (const SpanSet::Entry next = set.ahead(0); next.span != SpanSet::kNone) {
      heap_.spans().prefetch(next.span);
      heap_.spans().prefetch_bits(next.word);
    }
    return span;
  }

  Mheap& heap_;
  SpanSetCounters& counters_;
  SpanClass span_class_;
  std::size_t swept_ = 0;
  std::array<SpanSet, 2> partial_;
  std::array<SpanSet, 2> full_;
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
