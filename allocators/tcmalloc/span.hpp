// A run of pages, and the handle of a block in it: what all tiers hand to each other.
//
// Spans live in one table and are named by their index in it, so that a block is eight bytes and no pointer
// goes stale. Index 0 names no span.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "harness/huge_pages.hpp"

namespace tcmalloc {

using SpanIndex = std::uint32_t;

// An object of a span. The class stands in it so that the thread caches need not look at the span.
struct Block {
  SpanIndex span = 0;
  std::uint16_t object = 0;
  std::uint8_t size_class = 0;  // 0 where the span holds one large object.
  std::uint8_t unused = 0;      // Makes it one word to copy: in pieces, each free would wait for its store.
  explicit operator bool() const { return span != 0; }
};
static_assert(sizeof(Block) == 8);

// A chain of objects on its way between tiers, tail first: its head, which goes out first, is the last
// element. So chains move by copying between the ends of stacks. An exchange (thread_cache.hpp) reads the
// head and writes above it whatever it is for: so there is a place above as many objects as there may be, and
// one below the first, which stands in for the head of none.
class Chain {
 public:
  std::uint32_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  Block head() const { return blocks_[size_]; }
  std::span<const Block> from(std::uint32_t first) const {
    return {blocks_.get() + 1 + first, size_ - first};
  }

  void push(Block block) {
    if (size_ == capacity_) [[unlikely]]
      reserve(size_ + 1);
    blocks_[++size_] = block;
  }
  void pop() { --size_; }
  void append(std::span<const Block> blocks) {
    const auto count = static_cast<std::uint32_t>(blocks.size());
    if (size_ + count > capacity_) reserve(size_ + count);
    std::copy(blocks.begin(), blocks.end(), blocks_.get() + 1 + size_);
    size_ += count;
  }
  void truncate(std::uint32_t size) { size_ = size; }

  // Doubles at least, so that growing one by one costs nothing.
  void reserve(std::uint32_t capacity) {
    if (capacity <= capacity_) return;
    capacity = std::max(capacity, 2 * capacity_);
    auto larger = std::make_unique<Block[]>(capacity + std::size_t{2});
    if (size_ > 0) std::copy_n(blocks_.get() + 1, size_, larger.get() + 1);
    blocks_ = std::move(larger);
    capacity_ = capacity;
  }

 private:
  friend class ThreadCache;  // Whose exchange works on the place of the head.

  std::unique_ptr<Block[]> blocks_;  // The first object is at 1.
  std::uint32_t size_ = 0;
  std::uint32_t capacity_ = 0;
};

struct Span {
  enum class Location : std::uint8_t { kInUse, kNormal, kReturned };

  std::uint64_t start_page = 0;  // Address / page size.
  std::uint64_t pages = 0;
  SpanIndex previous = 0;  // In the list that the span is on.
  SpanIndex next = 0;
  // Of a span of a size class. Its free list is the stack of objects that came back, and below it the objects
  // never taken so far, in ascending order.
  std::uint16_t* returned_objects = nullptr;
  std::uint16_t returned_count = 0;
  std::uint16_t first_untouched = 0;
  std::uint16_t refcount = 0;  // Objects out of the span: in use, or in a cache.
  std::uint8_t size_class = 0;
  Location location = Location::kInUse;
};

// A doubly linked list through the spans of a table.
struct SpanList {
  SpanIndex first = 0;
  SpanIndex last = 0;
  bool empty() const { return first == 0; }
};

class SpanTable {
 public:
  SpanTable() : spans_(1) {}

  Span& operator[](SpanIndex index) { return spans_[index]; }
  const Span& operator[](SpanIndex index) const { return spans_[index]; }

  // Moves the table when it is full: references to spans do not outlive this call.
  SpanIndex create(std::uint64_t start_page, std::uint64_t pages) {
    SpanIndex index;
    if (unused_.empty()) {
      index = static_cast<SpanIndex>(spans_.size());
      spans_.emplace_back();
    } else {
      index = unused_.back();
      unused_.pop_back();
      spans_[index] = {};
    }
    spans_[index].start_page = start_page;
    spans_[index].pages = pages;
    return index;
  }

  void destroy(SpanIndex index) {
    spans_[index].pages = 0;  // So that it is known to be none.
    unused_.push_back(index);
  }

  std::size_t size() const { return spans_.size(); }

  // Every span there is, in ascending address order.
  std::vector<SpanIndex> by_address() const {
    std::vector<SpanIndex> found;
    for (SpanIndex index = 1; index < spans_.size(); ++index) {
      if (spans_[index].pages != 0) found.push_back(index);
    }
    std::sort(found.begin(), found.end(),
              [this](SpanIndex a, SpanIndex b) { return spans_[a].start_page < spans_[b].start_page; });
    return found;
  }

  std::uint64_t count(const SpanList& list) const {
    std::uint64_t spans = 0;
    for (SpanIndex index = list.first; index != 0; index = spans_[index].next) ++spans;
    return spans;
  }

  void prepend(SpanList& list, SpanIndex index) {
    spans_[index].previous = 0;
    spans_[index].next = list.first;
    (list.first ? spans_[list.first].previous : list.last) = index;
    list.first = index;
  }

  void remove(SpanList& list, SpanIndex index) {
    const Span& span = spans_[index];
    (span.previous ? spans_[span.previous].next : list.first) = span.next;
    (span.next ? spans_[span.next].previous : list.last) = span.previous;
  }

 private:
  harness::HugePageVector<Span> spans_;
  std::vector<SpanIndex> unused_;
};

}  // namespace tcmalloc
