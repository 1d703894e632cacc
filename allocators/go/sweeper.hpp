// The sweeper: after a cycle, turns the marks of each span into its free slots and frees spans without any.
//
// Above page heap, central lists and marker, below go.hpp. The tiers under it call it where they run short:
// see Reclaims and Sweeps. A stopped or an explicit cycle drains it at once; others leave it to
// allocation (in proportion to what is allocated, on refills, and by the page reclaimer before the heap
// grows) and to the background sweeper, for which the collector calls sweep_next().
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "mcentral.hpp"
#include "mheap.hpp"
#include "pacer.hpp"

namespace go {

struct SweepCounters {
  std::int64_t spans = 0;
  std::int64_t freed_spans = 0;
  std::int64_t reclaimed_pages = 0;
};

class Sweeper final : public Reclaims {
 public:
  Sweeper(Mheap& heap, Mcentrals& centrals, Pacer& pacer) : heap_(heap), centrals_(centrals), pacer_(pacer) {}
  Sweeper(const Sweeper&) = delete;
  Sweeper& operator=(const Sweeper&) = delete;

  const SweepCounters& counters() const { return counters_; }
  bool sweeping() const { return !drained_; }
  std::uint32_t sweepgen() const { return sweepgen_; }
  std::uint64_t pages_swept() const { return pages_swept_; }
  void restore(std::uint64_t pages_swept) { pages_swept_ = pages_swept; }

  // Marking is over: every span is unswept (gcSweep).
  void begin() {
    if (!drained_) throw harness::InvariantError("a cycle ends before the sweep of the last one does");
    sweepgen_ += 2;
    heap_.spans().bits().allocate_marked();
    centrals_.flip();
    drained_ = false;
    central_index_ = 0;
    pages_swept_ = 0;
    sweep_pages_per_byte_ = 0;
    reclaim_index_ = 0;
    reclaim_end_ = heap_.arena_count() * kArenaPages;
    reclaim_credit_ = 0;
  }

  // mgcsweep.go: gcPaceSweeper.
  void pace(std::uint64_t trigger) {
    sweep_pages_per_byte_ = 0;
    if (drained_) return;
    // Signed, as in Go: without a goal the trigger wraps to a negative distance, and the least one holds.
    const std::int64_t distance = static_cast<std::int64_t>(trigger) -
                                  static_cast<std::int64_t>(pacer_.heap_live) -
                                  static_cast<std::int64_t>(kSweepMinHeapDistance);
    if (heap_.pages_in_use() <= pages_swept_) return;
    sweep_pages_per_byte_ = static_cast<double>(heap_.pages_in_use() - pages_swept_) /
                            static_cast<double>(std::max(distance, static_cast<std::int64_t>(kPageBytes)));
    live_basis_ = pacer_.heap_live;
    swept_basis_ = pages_swept_;
  }

  void finish() { sweep_next(std::numeric_limits<std::int64_t>::max()); }

  // Sweeps the next spans of the central lists, full before partial in each class (mgcsweep.go: sweepone for
  // each). Returns how many there were, which may be fewer.
  std::int64_t sweep_next(std::int64_t spans) {
    if (drained_) return 0;
    std::int64_t swept = 0;
    for (; central_index_ < 2 * kSpanClasses; ++central_index_) {
      Mcentral& central = centrals_.of(static_cast<SpanClass>(central_index_ / 2));
      while (swept < spans) {
        Span* const span = central.pop_unswept(central_index_ % 2 == 0);
        if (span == nullptr) break;
        if (!unswept(*span)) continue;
        const std::uint64_t pages = span->pages;
        if (sweep(*span, central)) reclaim_credit_ += pages;
        ++swept;
      }
      if (swept == spans) return swept;
    }
    drained_ = true;
    return swept;
  }

  // Sweeps one span (sweepLocked.sweep). It goes to the page heap if it is empty, and to its central list if
  // not. Returns whether the page heap has it.
  bool sweep(Span& span) { return sweep(span, centrals_.of(span.span_class)); }

  // It stays with the caller, whatever is left in it. False where it was swept meanwhile.
  bool sweep_for_caller(Span& span) {
    if (!unswept(span)) return false;
    free_unmarked(span);
    return true;
  }

  // mgcsweep.go: deductSweepCredit.
  void deduct_sweep_credit(std::uint64_t span_bytes, std::uint64_t caller_pages) {
    if (sweep_pages_per_byte_ == 0) return;
    std::uint64_t bytes = span_bytes;
    if (live_basis_ < pacer_.heap_live) bytes += pacer_.heap_live - live_basis_;
    const std::int64_t target =
        static_cast<std::int64_t>(sweep_pages_per_byte_ * static_cast<double>(bytes)) -
        static_cast<std::int64_t>(caller_pages);
    if (owes(target)) [[unlikely]]
      sweep_for_credit(target);
  }

  // mheap.reclaim: frees so many pages, by credit of spans that were freed anyway, or by a look at 512 pages
  // after the other for spans without marks.
  void reclaim(std::uint64_t pages) override {
    bool locked = false;
    while (pages > 0 && reclaim_index_ < reclaim_end_) {
      if (reclaim_credit_ > 0) {
        const std::uint64_t taken = std::min(reclaim_credit_, pages);
        reclaim_credit_ -= taken;
        pages -= taken;
        continue;
      }
      if (!locked) ++heap_.counters().lock_acquisitions;
      locked = true;
      const std::uint64_t found = reclaim_chunk(reclaim_index_);
      reclaim_index_ += kChunkPages;
      reclaim_credit_ += found > pages ? found - pages : 0;
      pages -= std::min(found, pages);
    }
  }

 private:
  bool owes(std::int64_t target) const {
    return target > static_cast<std::int64_t>(pages_swept_ - swept_basis_);
  }
  [[gnu::noinline]] void sweep_for_credit(std::int64_t target) {
    while (owes(target)) {
      if (sweep_next(1) == 0) {
        sweep_pages_per_byte_ = 0;
        break;
      }
    }
  }

  bool sweep(Span& span, Mcentral& central) {
    free_unmarked(span);
    if (span.alloc_count == 0) {
      heap_.free_span(span);
      ++counters_.freed_spans;
      return true;
    }
    // A span of one large object is full from its first sweep on.
    central.push_swept(span);
    return false;
  }

  void free_unmarked(Span& span) {
    ++counters_.spans;
    pages_swept_ += span.pages;
    const std::uint32_t marked = heap_.spans().bits().mark_count(span);
    const std::uint32_t freed = span.alloc_count - marked;
    pacer_.total_free += freed * span.element_bytes();
    heap_.occupancy().note_swept(span, freed);
    span.alloc_count = static_cast<std::uint16_t>(marked);
    span.freeindex = 0;
    span.sweepgen = sweepgen_;
  }

  bool unswept(const Span& span) const {
    return span.state == SpanState::kInUse && span.sweepgen + 2 == sweepgen_;
  }

  // mheap.reclaimChunk, pages from the first arena's start. Returns the pages freed.
  std::uint64_t reclaim_chunk(std::uint64_t first) {
    std::uint64_t freed = 0;
    const std::uint64_t before = heap_.pages_before_first_chunk();
    for (std::uint64_t i = first; i < first + kChunkPages; ++i) {
      if (i < before) continue;
      Span* span = heap_.span_starting_at(i - before);
      if (span == nullptr || page_marked(*span) || !unswept(*span)) continue;
      const std::uint64_t pages = span->pages;
      if (sweep(*span)) freed += pages;
    }
    counters_.reclaimed_pages += static_cast<std::int64_t>(freed);
    return freed;
  }

  // Whether marking has set the bit that says "something in here is marked". Where marks are inside the span,
  // only a scan span that was queued for two objects or more has it set; so the reclaimer sweeps others that
  // it cannot free.
  bool page_marked(const Span& span) const {
    const std::uint32_t marked = heap_.spans().bits().mark_count(span);
    if (!uses_inline_marks(heap_.greentea(), span.element_bytes())) return marked > 0;
    if (is_noscan(span.span_class)) return false;
    // Objects of the process itself may hang on one another, and be marked one at a time.
    const bool of_program = marked > span.startup_count;
    return of_program ? marked >= 2 : span.startup_page_marked;
  }

  Mheap& heap_;
  Mcentrals& centrals_;
  Pacer& pacer_;
  SweepCounters counters_;
  std::uint32_t sweepgen_ = 0;
  bool drained_ = true;
  int central_index_ = 0;  // Span class * 2, odd for partial spans.
  std::uint64_t pages_swept_ = 0;
  double sweep_pages_per_byte_ = 0;
  std::uint64_t live_basis_ = 0;
  std::uint64_t swept_basis_ = 0;
  std::uint64_t reclaim_index_ = 0;
  std::uint64_t reclaim_end_ = 0;
  std::uint64_t reclaim_credit_ = 0;
};

}  // namespace go
