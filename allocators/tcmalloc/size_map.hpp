// Size classes: which sizes share one, how many pages a span of it takes, how many objects move at once.
//
// The table is computed from its rule (gperftools, src/common.cc: SizeMap::Init), for the page and the
// alignment that the library was configured with. Class 0 is no class: it marks spans that hold one large
// object. With pages of 8 KiB and 32 objects a transfer, today's defaults, there are 86 entries with class 0;
// with 40 or more there are 88.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/allocator.hpp"

namespace tcmalloc {

// The library's page, of 4 to 256 KiB (common.h: kPageShift).
struct Page {
  int shift = 13;  // The default build's.

  std::uint64_t bytes() const { return std::uint64_t{1} << shift; }
  std::uint64_t bytes_of(std::uint64_t pages) const { return pages << shift; }
  // Rounded up, without overflow.
  std::uint64_t pages_of(std::uint64_t bytes) const {
    return (bytes >> shift) + ((bytes & (this->bytes() - 1)) != 0);
  }
};

inline constexpr std::uint64_t kMaxSizeBytes =
    256 * 1024;                          // common.h: kMaxSize; larger goes to the page heap.
inline constexpr int kMaxClasses = 128;  // common.h: kClassSizesMax.

struct SizeClass {
  std::uint32_t object_bytes = 0;
  std::uint32_t span_pages = 0;
  std::uint32_t span_bytes = 0;
  std::uint32_t span_objects = 0;
  std::uint32_t tail_waste_bytes = 0;
  std::uint32_t batch_objects = 0;        // num_objects_to_move: how many travel between the tiers at once.
  std::uint32_t transfer_slots = 16;      // At start; class 0 only ever gives its slots away.
  std::uint32_t transfer_slots_max = 64;  // central_freelist.h: kMaxNumTransferEntries.
};

class SizeMap {
 public:
  SizeMap(Page page, std::uint32_t min_alignment, std::uint32_t transfer_num_objects)
      : page_(page), min_alignment_(min_alignment), transfer_num_objects_(transfer_num_objects) {
    classes_.emplace_back();
    for (std::uint32_t size = kAlignment; size <= kMaxSizeBytes; size += alignment_of(size)) add(size);
    if (classes_.size() > kMaxClasses) {
      throw harness::InvariantError("the size map has " + std::to_string(classes_.size()) +
                                    " classes, at most " + std::to_string(kMaxClasses));
    }
    std::uint32_t next = 0;
    class_of_index_.resize(index_of(kMaxSizeBytes) + 1);
    for (std::uint32_t c = 1; c < count(); ++c) {
      finish(classes_[c]);
      for (; next <= classes_[c].object_bytes; next += kAlignment) {
        class_of_index_[index_of(next)] = static_cast<std::uint8_t>(c);
      }
    }
  }

  Page page() const { return page_; }
  // With class 0.
  std::uint32_t count() const { return static_cast<std::uint32_t>(classes_.size()); }
  const SizeClass& operator[](std::size_t size_class) const { return classes_[size_class]; }
  const std::vector<SizeClass>& classes() const { return classes_; }

  // Of a size up to kMaxSizeBytes. malloc(0) belongs to class 1.
  std::uint8_t class_of(std::uint64_t size) const { return class_of(size, class_of_index_.data()); }
  // The same for a loop that keeps the table's address at hand.
  const std::uint8_t* class_of_index() const { return class_of_index_.data(); }
  static std::uint8_t class_of(std::uint64_t size, const std::uint8_t* class_of_index) {
    return class_of_index[index_of(size)];
  }

 private:
  static constexpr std::uint32_t kAlignment = 8;  // common.h: kAlignment, of the smallest sizes.
  static constexpr std::uint32_t kTransferSlots = 16;
  static constexpr std::uint32_t kTransferBytesMax = 1024 * 1024;  // central_freelist.cc: Init.

  // Steps of 8 bytes. The original's are of 128 above 1 KiB (common.h: SizeMap::ClassIndex), where its
  // classes are multiples of that; one rule needs no branch.
  static std::uint64_t index_of(std::uint64_t size) { return (size + 7) >> 3; }

  std::uint32_t alignment_of(std::uint32_t size) const {
    if (size < min_alignment_) return kAlignment;
    if (size < 128) return min_alignment_;
    // At most one eighth of an object is lost to rounding.
    return std::min<std::uint32_t>(std::bit_floor(size) / 8, static_cast<std::uint32_t>(page_.bytes()));
  }

  std::uint32_t batch_of(std::uint32_t size) const {
    return std::min(std::max<std::uint32_t>(64 * 1024 / size, 2), transfer_num_objects_);
  }

  // Enough pages for a quarter of a batch, with at most one eighth of the span left over.
  std::uint32_t span_bytes_of(std::uint32_t size) const {
    const std::uint32_t least_objects = batch_of(size) / 4;
    std::uint32_t bytes = 0;
    do {
      do {
        bytes += static_cast<std::uint32_t>(page_.bytes());
      } while (bytes % size > bytes >> 3);
    } while (bytes / size < least_objects);
    return bytes;
  }

  void add(std::uint32_t size) {
    const std::uint32_t bytes = span_bytes_of(size);
    SizeClass& last = classes_.back();
    const SizeClass next{.object_bytes = size,
                         .span_pages = bytes >> page_.shift,
                         .span_bytes = bytes,
                         .span_objects = bytes / size,
                         .tail_waste_bytes = bytes % size};
    // As many objects in as many pages: the smaller class would save nothing.
    if (classes_.size() > 1 && next.span_pages == last.span_pages && next.span_objects == last.span_objects) {
      last = next;
    } else {
      classes_.push_back(next);
    }
  }

  void finish(SizeClass& size_class) const {
    size_class.batch_objects = batch_of(size_class.object_bytes);
    const std::uint32_t batch_bytes = size_class.object_bytes * size_class.batch_objects;
    size_class.transfer_slots_max =
        std::min(size_class.transfer_slots_max, std::max<std::uint32_t>(1, kTransferBytesMax / batch_bytes));
    size_class.transfer_slots = std::min(kTransferSlots, size_class.transfer_slots_max);
  }

  Page page_;
  std::uint32_t min_alignment_;  // common.h: kMinAlign, from this size on; 16 or 8.
  std::uint32_t transfer_num_objects_;
  std::vector<SizeClass> classes_;
  std::vector<std::uint8_t> class_of_index_;
};

}  // namespace tcmalloc
