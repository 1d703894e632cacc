// The page heap: spans of whole pages, free ones kept by length, normal or returned to the operating system.
//
// Stands on the system allocator and below the central free lists and the large objects. A returned span has
// its address space and no memory; spans merge only with neighbours of their own state. One lock guards all
// of it (gperftools, src/page_heap.cc).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "size_map.hpp"
#include "span.hpp"
#include "system_alloc.hpp"
#include "touched_pages.hpp"
#include "version.hpp"

namespace tcmalloc {

// Page -> span. Right for the first and the last page of every span, which is all that merging asks for.
// Other pages may name a span that is gone. Leaves exist where a span begins or ends: a huge one is cheap.
class PageMap {
 public:
  explicit PageMap(std::uint64_t first_page) : first_leaf_(first_page >> kLeafShift) {}

  SpanIndex get(std::uint64_t page) const {
    const std::uint64_t leaf = (page >> kLeafShift) - first_leaf_;
    if (leaf >= leaves_.size() || !leaves_[leaf]) return 0;
    return (*leaves_[leaf])[page & (kLeafPages - 1)];
  }

  void set(std::uint64_t page, SpanIndex span) {
    const std::uint64_t leaf = (page >> kLeafShift) - first_leaf_;
    if (leaf >= leaves_.size()) leaves_.resize(leaf + 1);
    if (!leaves_[leaf]) leaves_[leaf] = std::make_unique<Leaf>();
    (*leaves_[leaf])[page & (kLeafPages - 1)] = span;
  }

 private:
  static constexpr int kLeafShift = 18;
  static constexpr std::uint64_t kLeafPages = std::uint64_t{1} << kLeafShift;
  using Leaf = std::array<SpanIndex, kLeafPages>;

  std::uint64_t first_leaf_;
  std::vector<std::unique_ptr<Leaf>> leaves_;
};

// What the page heap did and holds; the names are those of the library's PageHeap::Stats where it has them.
struct PageHeapStats {
  std::uint64_t system_bytes = 0;
  std::uint64_t free_bytes = 0;      // In normal spans.
  std::uint64_t unmapped_bytes = 0;  // In returned spans.
  std::uint64_t committed_bytes = 0;
  std::uint64_t scavenge_count = 0;
  std::uint64_t commit_count = 0;
  std::uint64_t total_commit_bytes = 0;
  std::uint64_t decommit_count = 0;
  std::uint64_t total_decommit_bytes = 0;
  std::uint64_t reserve_count = 0;  // Growths.
  std::uint64_t total_reserve_bytes = 0;
  std::uint64_t forced_coalesces = 0;
  std::uint64_t lock_acquisitions = 0;
};

class PageHeap {
 public:
  PageHeap(Version version, Page page, std::uint64_t heap_base)
      : version_(version),
        page_(page),
        max_pages_(kMaxListBytes >> page.shift),
        leaf_shift_((kAddressBits - page.shift + 1) / 2),
        system_(heap_base - Metadata::kChunkBytes),
        metadata_(system_),
        span_allocator_(metadata_, kSpanBytes),
        growth_record_allocator_(metadata_, kStackTraceBytes),
        page_map_((heap_base >> page.shift) - 1),
        normal_(max_pages_),
        returned_(max_pages_),
        written_pages_(heap_base) {
    // static_vars.cc: two spans are taken at start to keep others off their cache lines.
    span_allocator_.allocate();
    span_allocator_.allocate();
  }
  PageHeap(const PageHeap&) = delete;  // Its allocators refer to each other.

  SpanTable& spans() { return spans_; }
  const SpanTable& spans() const { return spans_; }
  SystemAllocator& system() { return system_; }
  const SystemAllocator& system() const { return system_; }
  Metadata& metadata() { return metadata_; }
  const Metadata& metadata() const { return metadata_; }
  const PageHeapStats& stats() const { return stats_; }
  // PageHeapAllocator<Span>::inuse: free spans too, and the two that were taken at start.
  std::uint64_t spans_in_use() const { return span_allocator_.objects_in_use(); }

  Page page() const { return page_; }
  // Longer spans than this have no list of their length, but are in ordered sets.
  std::uint64_t max_pages() const { return max_pages_; }

  // Free spans of one length up to max_pages(), and those longer.
  struct FreeSpanCounts {
    std::uint64_t normal_spans = 0;
    std::uint64_t returned_spans = 0;
    std::uint64_t normal_pages = 0;
    std::uint64_t returned_pages = 0;
  };
  FreeSpanCounts free_spans_of(std::uint64_t pages) const {
    const std::uint64_t normal = spans_.count(normal_.by_pages[pages]);
    const std::uint64_t returned = spans_.count(returned_.by_pages[pages]);
    return {normal, returned, normal * pages, returned * pages};
  }
  FreeSpanCounts large_free_spans() const {
    FreeSpanCounts counts{normal_.large.size(), returned_.large.size(), 0, 0};
    for (const LargeSpan& large : normal_.large) counts.normal_pages += large.pages;
    for (const LargeSpan& large : returned_.large) counts.returned_pages += large.pages;
    return counts;
  }

  // Null where touched pages are not counted.
  TouchedPages* touched_pages() const { return touched_pages_.get(); }
  // What the library itself writes to, whatever the program does.
  TouchedPages& written_pages() { return written_pages_; }
  const TouchedPages& written_pages() const { return written_pages_; }
  void count_touched_pages(std::uint64_t heap_base) {
    touched_pages_ = std::make_unique<TouchedPages>(heap_base);
  }

  void set_release_rate(double rate) { release_rate_ = rate; }
  void set_aggressive_decommit(bool on) { aggressive_decommit_ = on; }
  bool aggressive_decommit() const { return aggressive_decommit_; }
  void set_heap_limit_mb(std::uint64_t limit_mb) { heap_limit_mb_ = limit_mb; }
  // Pages that may be freed before the next look at whether to return some.
  void set_scavenge_counter(std::int64_t pages) { scavenge_counter_ = pages; }

  // page_heap.cc: kDefaultReleaseDelay.
  static constexpr std::int64_t kDefaultReleaseDelayPages = 1 << 18;

  // PageHeap::New. Returns 0 where the heap limit or the address space forbids it.
  SpanIndex new_span(std::uint64_t pages) {
    lock();
    const SpanIndex span = new_span_locked(pages);
    unlock();
    return span;
  }

  // PageHeap::NewAligned: for alignments above a page. What surrounds the aligned part is freed, front first.
  SpanIndex new_aligned(std::uint64_t pages, std::uint64_t alignment_pages) {
    lock();
    SpanIndex span = new_span_locked(pages + alignment_pages);
    if (span == 0) {
      unlock();
      return 0;
    }
    const std::uint64_t skip =
        (alignment_pages - spans_[span].start_page % alignment_pages) % alignment_pages;
    if (skip > 0) {
      const SpanIndex aligned = split(span, skip);
      delete_span_locked(span);
      span = aligned;
    }
    if (spans_[span].pages > pages) delete_span_locked(split(span, pages));
    unlock();
    return span;
  }

  // PageHeap::Delete: the span is free; it merges with its neighbours, and now and then some go back to the
  // OS.
  void delete_span(SpanIndex span) {
    lock();
    delete_span_locked(span);
  }

  // PageHeap::ReleaseAtLeastNPages, under the lock; returns the pages that went back to the OS.
  std::uint64_t release(std::uint64_t pages) {
    lock();
    return release_at_least(pages);
  }

 private:
  using Location = Span::Location;

  // common.h: kMaxPages, which is kMinSystemAlloc too.
  static constexpr std::uint64_t kMaxListBytes = 1 << 20;
  static constexpr std::uint64_t kForcedCoalesceBytes = 128 << 20;
  static constexpr double kMaxReleaseDelayPages = 1 << 20;
  static constexpr std::uint64_t kSpanBytes = 48;         // sizeof(Span)
  static constexpr std::uint64_t kStackTraceBytes = 264;  // sizeof(StackTrace), one per growth.
  static constexpr std::uint64_t kSpanSetNodeBytes = 48;  // A node of the ordered sets.
  static constexpr int kAddressBits = 48;                 // pagemap.h: of x86-64.

  // Ordered by length, then by address, so that the first that is long enough is the best fit.
  struct LargeSpan {
    std::uint64_t pages;
    std::uint64_t start_page;
    SpanIndex span;
    auto operator<=>(const LargeSpan&) const = default;
  };
  using LargeSpans = std::set<LargeSpan>;

  // Free spans of one state.
  struct FreeSpans {
    explicit FreeSpans(std::uint64_t max_pages) : by_pages(max_pages + 1) {}

    std::vector<SpanList> by_pages;
    LargeSpans large;
  };

  FreeSpans& free_spans(Location location) { return location == Location::kNormal ? normal_ : returned_; }

  void lock() { ++stats_.lock_acquisitions; }

  SpanIndex new_span_locked(std::uint64_t pages) {
    if (const SpanIndex found = search(pages)) return found;
    if (must_coalesce(pages)) {
      ++stats_.forced_coalesces;
      release_at_least(std::numeric_limits<std::int32_t>::max());
      if (const SpanIndex found = search(pages)) return found;
    }
    return grow(pages) ? search(pages) : 0;
  }

  // PageHeap::HandleUnlock: takes the record of a growth, where that was put off until now.
  void unlock() {
    if (std::exchange(owes_growth_record_, false)) growth_record_allocator_.allocate();
  }

  // Before every 128 MiB of growth: if a quarter of the heap is free but split between normal and returned
  // spans, which cannot merge, everything is returned so that it can.
  bool must_coalesce(std::uint64_t pages) const {
    return stats_.free_bytes != 0 && stats_.unmapped_bytes != 0 &&
           stats_.free_bytes + stats_.unmapped_bytes >= stats_.system_bytes / 4 &&
           stats_.system_bytes / kForcedCoalesceBytes !=
               (stats_.system_bytes + (pages << page_.shift)) / kForcedCoalesceBytes;
  }

  // The shortest free span that fits, the most recently freed of its length; a normal one before a returned
  // one of the same length.
  SpanIndex search(std::uint64_t pages) {
    for (std::uint64_t length = pages; length <= max_pages_; ++length) {
      const SpanList& normal = normal_.by_pages[length];
      if (!normal.empty()) return carve(normal.first, pages);
      const SpanList& returned = returned_.by_pages[length];
      // Making room under the limit may have merged the list's last span into a longer one.
      if (!returned.empty() && ensure_limit(pages, true) && !returned.empty()) {
        return carve(returned.first, pages);
      }
    }
    return alloc_large(pages);
  }

  SpanIndex alloc_large(std::uint64_t pages) {
    const auto normal = normal_.large.lower_bound({pages, 0, 0});
    const auto returned = returned_.large.lower_bound({pages, 0, 0});
    const bool has_normal = normal != normal_.large.end();
    const bool has_returned = returned != returned_.large.end();
    if (!has_normal && !has_returned) return 0;
    if (!has_returned || (has_normal && !beats(*returned, *normal))) return carve(normal->span, pages);
    if (ensure_limit(pages, false)) return carve(returned->span, pages);
    // Returning other spans may have merged this one away: look again.
    if (ensure_limit(pages, true)) return alloc_large(pages);
    return 0;
  }

  bool beats(const LargeSpan& returned, const LargeSpan& normal) const {
    return version_.prefers_normal_large_span() ? returned.pages < normal.pages : returned < normal;
  }

  // Cuts the first pages off a free span; the rest stays free in the state it had.
  SpanIndex carve(SpanIndex span, std::uint64_t pages) {
    const Location location = spans_[span].location;
    remove_from_free_list(span);
    spans_[span].location = Location::kInUse;
    if (spans_[span].pages > pages) {
      const SpanIndex rest = split(span, pages);
      spans_[rest].location = location;
      prepend_to_free_list(rest);
    }
    if (location == Location::kReturned) commit(pages);
    return span;
  }

  // Shortens a span to its first pages and returns a new one of the rest, in use and on no list.
  SpanIndex split(SpanIndex span, std::uint64_t pages) {
    const SpanIndex rest = create(spans_[span].start_page + pages, spans_[span].pages - pages);
    spans_[span].pages = pages;
    page_map_.set(spans_[span].start_page + pages - 1, span);
    return rest;
  }

  SpanIndex create(std::uint64_t start_page, std::uint64_t pages) {
    span_allocator_.allocate();
    const SpanIndex span = spans_.create(start_page, pages);
    page_map_.set(start_page, span);
    page_map_.set(start_page + pages - 1, span);
    return span;
  }

  void destroy(SpanIndex span) {
    span_allocator_.release();
    spans_.destroy(span);
  }

  // PageHeap::GrowHeap: at least 1 MiB from the system allocator; without room for that, what is needed.
  bool grow(std::uint64_t pages) {
    std::uint64_t ask = std::max(pages, max_pages_);
    if (!ensure_limit(ask, true)) {
      if (pages == ask || !ensure_limit(pages, true)) return false;
      ask = pages;
    }
    std::optional<std::uint64_t> address = system_.allocate(ask << page_.shift);
    if (!address && pages < ask) {
      ask = pages;
      address = system_.allocate(ask << page_.shift);
    }
    if (!address) return false;
    owes_growth_record_ = version_.records_growth_at_unlock();
    if (!owes_growth_record_) growth_record_allocator_.allocate();
    const std::uint64_t bytes = ask << page_.shift;
    ++stats_.reserve_count;
    stats_.total_reserve_bytes += bytes;
    stats_.system_bytes += bytes;
    commit(ask);
    const std::uint64_t start_page = *address >> page_.shift;
    ensure_page_map(start_page, ask);
    delete_span_locked(create(start_page, ask));
    return true;
  }

  // The page map covers the new pages and, for merging, one on either side. Growth goes upwards only.
  void ensure_page_map(std::uint64_t start_page, std::uint64_t pages) {
    const std::uint64_t last_leaf = (start_page + pages) >> leaf_shift_;
    for (next_leaf_ = std::max(next_leaf_, (start_page - 1) >> leaf_shift_); next_leaf_ <= last_leaf;
         ++next_leaf_) {
      metadata_.allocate(sizeof(void*) << leaf_shift_);
    }
  }

  void delete_span_locked(SpanIndex span) {
    const auto pages = static_cast<std::int64_t>(spans_[span].pages);
    spans_[span].size_class = 0;
    spans_[span].location = Location::kNormal;
    merge_into_free_list(span);
    scavenge_counter_ -= pages;
    if (scavenge_counter_ < 0) scavenge();
  }

  // PageHeap::IncrementalScavenge: one span goes back; the longer it was, the longer until the next.
  void scavenge() {
    if (release_rate_ <= 1e-6) {
      scavenge_counter_ = kDefaultReleaseDelayPages;
      return;
    }
    ++stats_.scavenge_count;
    const std::uint64_t released = release_at_least(1);
    if (released == 0) {
      scavenge_counter_ = kDefaultReleaseDelayPages;
      return;
    }
    const double wait = (1000.0 / release_rate_) * static_cast<double>(released);
    scavenge_counter_ = static_cast<std::int64_t>(std::min(wait, kMaxReleaseDelayPages));
  }

  void merge_into_free_list(SpanIndex span) {
    if (aggressive_decommit_ && spans_[span].location == Location::kNormal) {
      decommit(span);
      spans_[span].location = Location::kReturned;
    }
    const std::uint64_t before = spans_[span].start_page - 1;
    const std::uint64_t after = spans_[span].start_page + spans_[span].pages;
    if (const SpanIndex previous = take_neighbour(span, page_map_.get(before))) {
      spans_[span].start_page = spans_[previous].start_page;
      spans_[span].pages += spans_[previous].pages;
      page_map_.set(spans_[span].start_page, span);
      destroy(previous);
    }
    if (const SpanIndex next = take_neighbour(span, page_map_.get(after))) {
      spans_[span].pages += spans_[next].pages;
      page_map_.set(spans_[span].start_page + spans_[span].pages - 1, span);
      destroy(next);
    }
    prepend_to_free_list(span);
  }

  // PageHeap::CheckAndHandlePreMerge: the neighbour, off its list, if it can merge with the span; otherwise
  // 0.
  SpanIndex take_neighbour(SpanIndex span, SpanIndex neighbour) {
    if (neighbour == 0) return 0;
    const Location own = spans_[span].location;
    const Location other = spans_[neighbour].location;
    if (aggressive_decommit_ && other == Location::kNormal && own == Location::kReturned) {
      decommit(neighbour);
    } else if (other != own) {
      return 0;
    }
    remove_from_free_list(neighbour);
    return neighbour;
  }

  void prepend_to_free_list(SpanIndex index) {
    const Span& span = spans_[index];
    (span.location == Location::kNormal ? stats_.free_bytes : stats_.unmapped_bytes) += span.pages
                                                                                        << page_.shift;
    FreeSpans& spans = free_spans(span.location);
    if (span.pages <= max_pages_) {
      spans_.prepend(spans.by_pages[span.pages], index);
      return;
    }
    if (!set_node_allocator_) set_node_allocator_.emplace(metadata_, kSpanSetNodeBytes);
    set_node_allocator_->allocate();
    spans.large.insert({span.pages, span.start_page, index});
  }

  void remove_from_free_list(SpanIndex index) {
    const Span& span = spans_[index];
    std::uint64_t& bytes = span.location == Location::kNormal ? stats_.free_bytes : stats_.unmapped_bytes;
    if (bytes < span.pages << page_.shift) {
      throw harness::InvariantError("a free span of " + std::to_string(span.pages) + " pages, but only " +
                                    std::to_string(bytes) + " bytes are free in its state");
    }
    bytes -= span.pages << page_.shift;
    FreeSpans& spans = free_spans(span.location);
    if (span.pages <= max_pages_) {
      spans_.remove(spans.by_pages[span.pages], index);
      return;
    }
    set_node_allocator_->release();
    if (spans.large.erase({span.pages, span.start_page, index}) != 1) {
      throw harness::InvariantError("the free span of " + std::to_string(span.pages) + " pages at page " +
                                    std::to_string(span.start_page) + " is not among the large spans");
    }
  }

  // Round robin over the lengths, large spans last: of each the oldest normal span, of these the shortest.
  std::uint64_t release_at_least(std::uint64_t pages) {
    std::uint64_t released = 0;
    while (released < pages && stats_.free_bytes > 0) {
      for (std::uint64_t step = 0; step < max_pages_ + 1 && released < pages; ++step, ++release_index_) {
        if (release_index_ > max_pages_) release_index_ = 0;
        const SpanIndex span = next_to_release();
        if (span == 0) continue;
        released += spans_[span].pages;
        decommit(span);
        remove_from_free_list(span);
        spans_[span].location = Location::kReturned;
        merge_into_free_list(span);
      }
    }
    return released;
  }

  SpanIndex next_to_release() const {
    if (release_index_ < max_pages_) return normal_.by_pages[release_index_ + 1].last;
    return normal_.large.empty() ? 0 : normal_.large.begin()->span;
  }

  // Whether so many pages more stay under the heap limit, if need be after returning others.
  bool ensure_limit(std::uint64_t pages, bool may_release) {
    const std::uint64_t limit = (heap_limit_mb_ << 20) >> page_.shift;
    if (limit == 0) return true;
    std::uint64_t taken = (system_.taken_bytes() >> page_.shift) - (stats_.unmapped_bytes >> page_.shift);
    if (taken + pages > limit && may_release) taken -= release_at_least(taken + pages - limit);
    return taken + pages <= limit;
  }

  void commit(std::uint64_t pages) {
    ++stats_.commit_count;
    stats_.total_commit_bytes += pages << page_.shift;
    stats_.committed_bytes += pages << page_.shift;
  }

  void decommit(SpanIndex span) {
    const std::uint64_t pages = spans_[span].pages;
    const std::uint64_t address = spans_[span].start_page << page_.shift;
    if (touched_pages_) touched_pages_->give_back(address, pages << page_.shift);
    written_pages_.give_back(address, pages << page_.shift);
    ++stats_.decommit_count;
    stats_.total_decommit_bytes += pages << page_.shift;
    stats_.committed_bytes -= pages << page_.shift;
  }

  Version version_;
  Page page_;
  std::uint64_t max_pages_;
  int leaf_shift_;  // Of the real page map's leaves (pagemap.h: PageMap2): with 8 KiB pages one covers 2 GiB.
  SystemAllocator system_;
  Metadata metadata_;
  PageHeapAllocator span_allocator_;
  PageHeapAllocator growth_record_allocator_;
  std::optional<PageHeapAllocator> set_node_allocator_;  // Made with the first free large span.
  std::unique_ptr<TouchedPages> touched_pages_;
  SpanTable spans_;
  PageMap page_map_;
  std::uint64_t next_leaf_ = 0;  // Every leaf of the real page map below it exists, or is never needed.
  FreeSpans normal_;
  FreeSpans returned_;
  TouchedPages written_pages_;
  PageHeapStats stats_;
  // 0 until the library's own variables are initialised; the assembling header says when that is.
  double release_rate_ = 0.0;
  bool aggressive_decommit_ = false;
  std::uint64_t heap_limit_mb_ = 0;
  std::int64_t scavenge_counter_ = 0;
  std::uint64_t release_index_ = max_pages_;  // From 0: the lists by length, then the ordered set.
  bool owes_growth_record_ = false;
};

}  // namespace tcmalloc
