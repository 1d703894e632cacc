// The central free list of one size class: spans cut into objects, for all threads.
//
// Stands on the page heap and below the transfer cache, whose lock it shares. Always takes from the span that
// most recently got an object back, however full or empty others are; a span whose last object returns goes
// back to the page heap (gperftools, src/central_freelist.cc).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "page_heap.hpp"
#include "size_map.hpp"

namespace tcmalloc {

// Stacks for the free lists of spans of one class, recycled as spans come and go.
class FreeListStorage {
 public:
  explicit FreeListStorage(std::uint32_t span_objects) : span_objects_(span_objects) {}

  std::uint16_t* take() {
    if (idle_.empty()) {
      slabs_.push_back(std::make_unique_for_overwrite<std::uint16_t[]>(kSpansPerSlab * span_objects_));
      for (std::size_t i = kSpansPerSlab; i-- > 0;) idle_.push_back(slabs_.back().get() + i * span_objects_);
    }
    std::uint16_t* stack = idle_.back();
    idle_.pop_back();
    return stack;
  }

  void give_back(std::uint16_t* stack) { idle_.push_back(stack); }

 private:
  static constexpr std::size_t kSpansPerSlab = 16;

  std::size_t span_objects_;
  std::vector<std::unique_ptr<std::uint16_t[]>> slabs_;
  std::vector<std::uint16_t*> idle_;
};

class CentralFreeList {
 public:
  // Where the objects of a request came from, the farthest tier counts.
  enum class Source : std::uint8_t { kSpan, kNewSpan, kNewSystemMemory };

  CentralFreeList(const SizeClass& size_class, std::uint8_t index, PageHeap& page_heap)
      : class_(size_class), index_(index), page_heap_(page_heap), storage_(size_class.span_objects) {}

  std::uint64_t free_objects() const { return counter_; }
  std::uint64_t spans() const { return num_spans_; }
  std::uint64_t fetches() const { return fetches_; }
  std::uint64_t spans_requested() const { return spans_requested_; }
  std::uint64_t spans_returned() const { return spans_returned_; }
  // The lock is let go and taken again around every visit to the page heap.
  std::uint64_t lock_acquisitions() const { return spans_requested_ + spans_returned_; }
  Source last_source() const { return last_source_; }

  // RemoveRange: appends up to n objects to the chain. Fewer come only where all spans are empty; none only
  // if the page heap has no span to give.
  void remove_range(std::uint32_t objects, Chain& chain) {
    ++fetches_;
    last_source_ = Source::kSpan;
    if (nonempty_.empty() && !populate()) return;
    // Each further span's objects come in front of those before.
    while (objects > 0 && !nonempty_.empty()) objects -= fetch_from_one_span(objects, chain);
  }

  // ReleaseListToSpans, from the head of the chain.
  void release_list_to_spans(std::span<const Block> chain) {
    for (std::size_t i = chain.size(); i-- > 0;) {
      if (i >= kPrefetchObjects) __builtin_prefetch(&page_heap_.spans()[chain[i - kPrefetchObjects].span]);
      release_to_span(chain[i]);
    }
  }

 private:
  static constexpr std::size_t kPrefetchObjects = 6;

  std::uint32_t fetch_from_one_span(std::uint32_t objects, Chain& chain) {
    const SpanIndex index = nonempty_.first;
    Span& span = page_heap_.spans()[index];
    const std::uint32_t taken = std::min<std::uint32_t>(objects, class_.span_objects - span.refcount);
    const std::uint32_t returned = std::min<std::uint32_t>(taken, span.returned_count);
    const std::uint32_t untouched = taken - returned;
    // The chain's head is its last element: what came back stands above what was never taken. Blocks are
    // written as words, as an exchange reads them: the processor would wait for the pieces of one.
    const auto first = std::bit_cast<std::uint64_t>(Block{.span = index, .size_class = index_});
    constexpr auto kObject = std::bit_cast<std::uint64_t>(Block{.object = 1});
    const auto block = [first](std::uint64_t object) {
      return std::bit_cast<Block>(first + object * kObject);
    };
    chain.reserve(chain.size() + taken);
    for (std::uint32_t i = untouched; i-- > 0;) chain.push(block(span.first_untouched + std::uint64_t{i}));
    for (std::uint32_t i = span.returned_count - returned; i < span.returned_count; ++i) {
      chain.push(block(span.returned_objects[i]));
    }
    span.first_untouched = static_cast<std::uint16_t>(span.first_untouched + untouched);
    span.returned_count = static_cast<std::uint16_t>(span.returned_count - returned);
    span.refcount = static_cast<std::uint16_t>(span.refcount + taken);
    if (span.refcount == class_.span_objects) page_heap_.spans().remove(nonempty_, index);
    counter_ -= taken;
    return taken;
  }

  void release_to_span(Block object) {
    Span& span = page_heap_.spans()[object.span];
    if (span.refcount == 0 || span.size_class != index_) {
      throw harness::InvariantError("an object of class " + std::to_string(index_) +
                                    " returns to a span of class " + std::to_string(span.size_class) +
                                    " with " + std::to_string(span.refcount) + " objects out");
    }
    if (span.refcount == class_.span_objects) page_heap_.spans().prepend(nonempty_, object.span);
    ++counter_;
    --span.refcount;
    if (span.refcount > 0) {
      span.returned_objects[span.returned_count++] = object.object;
      return;
    }
    counter_ -= class_.span_objects;
    page_heap_.spans().remove(nonempty_, object.span);
    --num_spans_;
    ++spans_returned_;
    storage_.give_back(span.returned_objects);
    page_heap_.delete_span(object.span);
  }

  bool populate() {
    ++spans_requested_;
    const std::uint64_t growths = page_heap_.stats().reserve_count;
    const SpanIndex index = page_heap_.new_span(class_.span_pages);
    if (index == 0) return false;
    last_source_ = page_heap_.stats().reserve_count == growths ? Source::kNewSpan : Source::kNewSystemMemory;
    Span& span = page_heap_.spans()[index];
    span.size_class = index_;
    span.returned_objects = storage_.take();
    span.returned_count = 0;
    span.first_untouched = 0;
    span.refcount = 0;
    touch_objects(page_heap_.written_pages(), span);
    if (TouchedPages* const touched = page_heap_.touched_pages()) touch_objects(*touched, span);
    page_heap_.spans().prepend(nonempty_, index);
    ++num_spans_;
    counter_ += class_.span_objects;
    return true;
  }

  // CentralFreeList::Populate links the objects: it writes the first word of each.
  void touch_objects(TouchedPages& touched, const Span& span) const {
    const std::uint64_t first = page_heap_.page().bytes_of(span.start_page);
    // A first word in every page needs no look at each.
    if (class_.object_bytes <= TouchedPages::kPageBytes) {
      const std::uint64_t last = std::uint64_t{class_.span_objects - 1} * class_.object_bytes;
      touched.touch(first, last + sizeof(void*));
      return;
    }
    for (std::uint32_t object = 0; object < class_.span_objects; ++object) {
      touched.touch(first + std::uint64_t{object} * class_.object_bytes, sizeof(void*));
    }
  }

  SizeClass class_;
  std::uint8_t index_;
  PageHeap& page_heap_;
  FreeListStorage storage_;
  SpanList nonempty_;          // Spans with free objects; nothing asks in which order the others stand.
  std::uint64_t counter_ = 0;  // Free objects in spans.
  std::uint64_t num_spans_ = 0;
  std::uint64_t fetches_ = 0;
  std::uint64_t spans_requested_ = 0;
  std::uint64_t spans_returned_ = 0;
  Source last_source_ = Source::kSpan;
};

}  // namespace tcmalloc
