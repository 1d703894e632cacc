// The page heap: makes spans of pages and takes them back, and grows by whole chunks.
//
// Above page allocator and scavenger, below central lists and sweeper. Before it takes pages for a span it
// lets the sweeper look for as many to free: a call upwards, through the Reclaims that it is given.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "mspan.hpp"
#include "pacer.hpp"
#include "page_alloc.hpp"
#include "scavenger.hpp"

namespace go {

inline constexpr std::uint64_t kArenaBytes = std::uint64_t{64}
                                             << 20;  // malloc.go: heapArenaBytes, linux/amd64
inline constexpr std::uint64_t kArenaPages = kArenaBytes / kPageBytes;
inline constexpr std::uint64_t kHeapBase = 0xc000000000;  // malloc.go: first arena hint; not randomised
// Larger heaps are refused: an allocation that would need one fails, as one does for want of memory.
inline constexpr std::uint64_t kMaxHeapBytes = std::uint64_t{1} << 42;
static_assert((kHeapBase + kMaxHeapBytes) / kPageBytes <= UINT32_MAX,
              "a span names its first page in 32 bits");

// Frees pages by sweeping (mheap.reclaim), before the heap grows.
class Reclaims {
 public:
  virtual void reclaim(std::uint64_t pages) = 0;

 protected:
  ~Reclaims() = default;
};

struct HeapCounters {
  std::int64_t spans_requested = 0;
  std::int64_t spans_returned = 0;
  std::int64_t page_cache_refills = 0;
  std::int64_t growths = 0;
  std::int64_t grown_bytes = 0;
  std::int64_t arena_reservations = 0;
  std::int64_t lock_acquisitions = 0;
  std::int64_t fresh_bytes = 0;  // Of spans, scavenged or never used until then.
};

class Mheap {
 public:
  Mheap(Pacer& pacer, std::uint64_t metadata_bytes, bool greentea, bool scavenge)
      : scavenger_(pages_, scavenge), pacer_(pacer), metadata_bytes_(metadata_bytes), greentea_(greentea) {}
  Mheap(const Mheap&) = delete;
  Mheap& operator=(const Mheap&) = delete;

  void set_reclaimer(Reclaims& reclaimer) { reclaimer_ = &reclaimer; }

  SpanTable& spans() { return spans_; }
  const SpanTable& spans() const { return spans_; }
  PageAlloc& pages() { return pages_; }
  const PageAlloc& pages() const { return pages_; }
  Scavenger& scavenger() { return scavenger_; }
  const Scavenger& scavenger() const { return scavenger_; }
  Occupancy& occupancy() { return occupancy_; }
  const Occupancy& occupancy() const { return occupancy_; }
  HeapCounters& counters() { return counters_; }
  const HeapCounters& counters() const { return counters_; }
  bool greentea() const { return greentea_; }

  // Go: gcController.heapInUse, heapFree and heapReleased; spans of stacks and work buffers stand apart.
  std::uint64_t in_use_bytes() const { return in_use_bytes_; }
  std::uint64_t free_bytes() const { return free_bytes_; }
  std::uint64_t released_bytes() const { return released_bytes_; }
  std::uint64_t manual_bytes() const { return manual_bytes_; }
  std::uint64_t retained_bytes() const { return in_use_bytes_ + free_bytes_; }
  std::uint64_t committed_bytes() const { return in_use_bytes_ + free_bytes_ + manual_bytes_; }
  std::uint64_t mapped_bytes() const { return committed_bytes() + released_bytes_; }
  // Unscavenged free pages that stand in page caches of Ps; part of free_bytes().
  std::uint64_t cached_free_bytes() const {
    return static_cast<std::uint64_t>(cached_free_pages_) * kPageBytes;
  }
  std::uint64_t pages_in_use() const { return in_use_bytes_ / kPageBytes; }
  MappedMemory memory() const { return {committed_bytes() + metadata_bytes_, free_bytes_}; }

  std::uint64_t address_of(Page page) const { return chunks_base_ + page * kPageBytes; }
  Page page_of(std::uint64_t address) const { return (address - chunks_base_) / kPageBytes; }

  // The arenas that a sweep must look at: pages before the first chunk count, so that arenas are aligned.
  std::uint64_t arena_count() const { return (arena_end_ - first_arena()) / kArenaBytes; }
  std::uint64_t pages_before_first_chunk() const { return (chunks_base_ - first_arena()) / kPageBytes; }

  // The heap span that starts at a page; none where none does.
  Span* span_starting_at(Page page) {
    const std::uint64_t chunk = page / kChunkPages;
    if (chunk >= span_starts_.size() || !span_starts_[chunk]) return nullptr;
    const std::uint32_t entry = (*span_starts_[chunk])[page % kChunkPages];
    return entry == 0 ? nullptr : &spans_.at(entry - 1);
  }

  // A span for objects (mheap.alloc); nullptr where the heap is at its limit.
  Span* alloc(std::uint64_t pages, SpanClass span_class, PageCache& cache, std::uint32_t sweepgen,
              bool sweeping) {
    if (sweeping) reclaimer_->reclaim(pages);
    const Page base = alloc_pages(pages, cache);
    if (base == kNoPage) return nullptr;
    ++counters_.spans_requested;
    Span& span = spans_.make(SpanState::kInUse, span_class, kObjectsPerSpan[greentea_][span_class], false);
    span.set_base(address_of(base));
    span.pages = static_cast<std::uint32_t>(pages);
    span.sweepgen = sweepgen;
    in_use_bytes_ += span.bytes();
    note_start(span);
    occupancy_.add(span);
    occupancy_.note_requested(span_class);
    return &span;
  }

  // A span for the runtime itself: stacks, work buffers (mheap.allocManual); nullptr likewise.
  Span* alloc_manual(std::uint64_t pages, PageCache& cache) {
    const Page base = alloc_pages(pages, cache);
    if (base == kNoPage) return nullptr;
    Span& span = spans_.make(SpanState::kManual, 0, 0, false);
    span.set_base(address_of(base));
    span.pages = static_cast<std::uint32_t>(pages);
    manual_bytes_ += span.bytes();
    return &span;
  }

  // mheap.freeSpanLocked. Pages go to the page allocator, never to a page cache.
  void free_span(Span& span) {
    ++counters_.lock_acquisitions;
    const Page base = page_of(span.base());
    free_bytes_ += span.bytes();
    if (span.state == SpanState::kInUse) {
      ++counters_.spans_returned;
      occupancy_.note_returned(span.span_class);
      occupancy_.remove(span);
      in_use_bytes_ -= span.bytes();
      (*span_starts_[base / kChunkPages])[base % kChunkPages] = 0;
    } else {
      manual_bytes_ -= span.bytes();
    }
    pages_.free(base, span.pages);
    spans_.discard(span);
  }

  // Gives back at least so many bytes, if there are. Returns the bytes given back.
  std::uint64_t scavenge(std::uint64_t bytes, bool force) {
    const std::uint64_t released = scavenger_.scavenge(bytes, force) * kPageBytes;
    released_bytes_ += released;
    free_bytes_ -= released;
    ++counters_.lock_acquisitions;
    return released;
  }

  void flush_page_cache(PageCache& cache) {
    if (cache.empty()) return;
    ++counters_.lock_acquisitions;
    cached_free_pages_ -= cache.unscavenged_pages();
    pages_.flush(cache);
  }

  // What a start snapshot brings, before any span of it.
  void restore(std::uint64_t chunks_base, std::uint64_t chunks, std::uint64_t arena_end,
               std::uint64_t free_bytes, std::uint64_t released_bytes) {
    chunks_base_ = chunks_base;
    arena_end_ = arena_end;
    pages_.grow(chunks);
    free_bytes_ = free_bytes;
    released_bytes_ = released_bytes;
  }
  void restore_page_cache(const PageCache& cache) { cached_free_pages_ += cache.unscavenged_pages(); }
  // The span's counts are final, but whether it is cached.
  void restore_span(Span& span) {
    if (span.state == SpanState::kManual) {
      manual_bytes_ += span.bytes();
      return;
    }
    in_use_bytes_ += span.bytes();
    note_start(span);
    occupancy_.add(span);
  }

 private:
  std::uint64_t first_arena() const { return chunks_base_ / kArenaBytes * kArenaBytes; }

  void note_start(const Span& span) {
    const Page base = page_of(span.base());
    const std::uint64_t chunk = base / kChunkPages;
    if (chunk >= span_starts_.size()) span_starts_.resize(chunk + 1);
    if (!span_starts_[chunk]) span_starts_[chunk] = std::make_unique<SpanStarts>();
    (*span_starts_[chunk])[base % kChunkPages] = span.index + 1;
  }

  // No std::optional: that would be returned through memory in pieces, and read as one would wait for every
  // older store.
  static constexpr Page kNoPage = ~Page{0};
  // mheap.allocSpan: page cache for small runs, then first fit, then growth; then what the scavenger owes.
  Page alloc_pages(std::uint64_t pages, PageCache& cache) {
    std::optional<PageRun> run;
    std::uint64_t growth = 0;
    if (pages < kPageCachePages / 4) {
      if (cache.empty()) {
        ++counters_.lock_acquisitions;
        cache = pages_.alloc_to_cache();
        if (!cache.empty()) ++counters_.page_cache_refills;
        cached_free_pages_ += cache.unscavenged_pages();
      }
      run = alloc_from_cache(static_cast<std::uint32_t>(pages), cache);
    }
    if (!run) {
      ++counters_.lock_acquisitions;
      run = pages_.alloc(pages);
      if (!run) {
        growth = grow(pages);
        if (growth == 0) return kNoPage;
        run = pages_.alloc(pages);
      }
    }
    const std::uint64_t scavenged_bytes = run->scavenged_pages * kPageBytes;
    scavenge_for(scavenged_bytes, growth);
    released_bytes_ -= scavenged_bytes;
    counters_.fresh_bytes += static_cast<std::int64_t>(scavenged_bytes);
    free_bytes_ -= pages * kPageBytes - scavenged_bytes;
    return run->base;
  }

  std::optional<PageRun> alloc_from_cache(std::uint32_t pages, PageCache& cache) {
    const std::uint32_t first = find_bit_range(cache.cache, pages);
    if (first >= kPageCachePages) return std::nullopt;
    const std::uint64_t mask = bit_mask(first, pages);
    const auto scavenged = static_cast<std::uint64_t>(std::popcount(cache.scav & mask));
    cache.cache &= ~mask;
    cache.scav &= ~mask;
    cached_free_pages_ -= static_cast<std::int64_t>(pages - scavenged);
    return PageRun{cache.base + first, scavenged};
  }

  // mheap.grow: whole chunks, all of them scavenged, from arenas reserved 64 MiB at a time. Returns the
  // bytes, 0 where the heap is at its limit.
  std::uint64_t grow(std::uint64_t pages) {
    const std::uint64_t chunks = (pages + kChunkPages - 1) / kChunkPages;
    const std::uint64_t ask = chunks * kChunkBytes;
    const std::uint64_t end = chunks_base_ + pages_.chunk_count() * kChunkBytes;
    if (end - chunks_base_ + ask > kMaxHeapBytes) return 0;
    if (end + ask > arena_end_) {
      arena_end_ += (ask + kArenaBytes - 1) / kArenaBytes * kArenaBytes;
      ++counters_.arena_reservations;
    }
    pages_.grow(chunks);
    released_bytes_ += ask;
    ++counters_.growths;
    counters_.grown_bytes += static_cast<std::int64_t>(ask);
    return ask;
  }

  // The part of mheap.allocSpan that scavenges: down to the goal when the heap has just grown, and whatever
  // the memory limit is exceeded by.
  void scavenge_for(std::uint64_t scavenged_bytes, std::uint64_t growth) {
    if (!scavenger_.on()) return;
    std::uint64_t bytes = 0;
    bool force = false;
    if (pacer_.limited()) {
      const std::uint64_t wanted = memory().mapped_ready + scavenged_bytes;
      if (wanted > pacer_.memory_limit()) {
        bytes = wanted - pacer_.memory_limit();
        force = true;
      }
    }
    const std::uint64_t goal = scavenger_.gc_percent_goal();
    if (growth > 0 && goal != kNoGoal && retained_bytes() + growth > goal) {
      bytes = std::max(bytes, std::min(growth, retained_bytes() + growth - goal));
    }
    if (bytes > 0) scavenge(bytes, force);
  }

  SpanTable spans_;
  PageAlloc pages_;
  Scavenger scavenger_;
  Occupancy occupancy_;
  HeapCounters counters_;
  Pacer& pacer_;
  Reclaims* reclaimer_ = nullptr;
  std::uint64_t metadata_bytes_;
  bool greentea_;

  std::uint64_t chunks_base_ = kHeapBase;
  std::uint64_t arena_end_ = kHeapBase;
  std::uint64_t in_use_bytes_ = 0;
  std::uint64_t free_bytes_ = 0;
  std::uint64_t released_bytes_ = 0;
  std::uint64_t manual_bytes_ = 0;
  std::int64_t cached_free_pages_ = 0;

  // By chunk and page, the number of the heap span that starts there, plus 1.
  using SpanStarts = std::array<std::uint32_t, kChunkPages>;
  std::vector<std::unique_ptr<SpanStarts>> span_starts_;
};

}  // namespace go
