// Which size class of Go's heap a request goes to, and what of a request its slot tells: for traces that name
// slots and types, and no sizes.
//
// The table is computed by the rule of src/runtime/_mkmalloc and internal/runtime/gc (mksizeclasses.go before
// Go 1.26), which Go 1.22 to 1.27 share; a test holds it against the model's.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace formats {

// Go's span classes and what requests their slots hold; sizes in bytes.
class GoSizeClasses {
 public:
  static constexpr std::uint32_t kCount = 68;  // Class 0, of large objects, among them.
  static constexpr std::uint64_t kPageBytes = 8192;
  // malloc.go: a small object is at most maxSmallSize - mallocHeaderSize, with pointers or without.
  static constexpr std::uint64_t kMaxSmallBytes = 32768 - 8;
  // msize.go, heapBitsInSpan: above, an object with pointers stands behind a header of 8 bytes.
  static constexpr std::uint64_t kMaxBytesWithoutHeader = 512;
  static constexpr std::uint64_t kHeaderBytes = 8;
  // malloc.go, tinySpanClass: objects without pointers below 16 bytes share blocks of class 2.
  static constexpr std::uint32_t kTinySpanClass = 5;
  static constexpr std::uint64_t kTinyBlockBytes = 16;

  constexpr GoSizeClasses() {
    std::uint64_t align = 8;
    std::size_t count = 1;
    for (std::uint64_t size = 8; size <= 32768; size += align) {
      if (std::has_single_bit(size)) {
        if (size >= 2048) {
          align = 256;
        } else if (size >= 128) {
          align = size / 8;
        } else if (size >= 32) {
          align = 16;
        }
      }
      std::uint64_t span_bytes = kPageBytes;
      while (span_bytes % size > span_bytes / 8) span_bytes += kPageBytes;
      const std::uint64_t pages = span_bytes / kPageBytes;
      if (pages == pages_[count - 1] && span_bytes / size == span_bytes / size_[count - 1]) {
        size_[count - 1] = size;
      } else {
        size_.at(count) = size;
        pages_.at(count) = pages;
        ++count;
      }
    }
    for (std::size_t i = 1; i < kCount; ++i) {
      const std::uint64_t span_bytes = pages_[i] * kPageBytes;
      const std::uint64_t largest = span_bytes / (span_bytes / size_[i]) & ~std::uint64_t{127};
      if (largest > size_[i]) size_[i] = largest;
    }
  }

  constexpr std::uint64_t slot_bytes(std::uint32_t size_class) const { return size_[size_class]; }
  constexpr std::uint64_t span_pages(std::uint32_t size_class) const { return pages_[size_class]; }

  // The largest request that a slot of a class holds.
  constexpr std::uint64_t max_request_bytes(std::uint32_t size_class, bool noscan) const {
    const std::uint64_t size = size_[size_class];
    if (!noscan && size > kMaxBytesWithoutHeader) return size - kHeaderBytes;
    return size < kMaxSmallBytes ? size : kMaxSmallBytes;
  }

 private:
  std::array<std::uint64_t, kCount> size_ = {};
  std::array<std::uint64_t, kCount> pages_ = {};
};

inline constexpr GoSizeClasses kGoSizeClasses;

// What a slot can have been asked for: from above `more_than_bytes` up to `at_most_bytes`.
struct GoRequestRange {
  std::uint64_t more_than_bytes = 0;
  std::uint64_t at_most_bytes = 0;

  // Of elements of a size, the one number that lies in the range, in bytes; 0 where none does, or several.
  constexpr std::uint64_t only_multiple_bytes(std::uint64_t element_bytes) const {
    if (element_bytes == 0) return 0;
    const std::uint64_t largest = at_most_bytes / element_bytes * element_bytes;
    return largest > more_than_bytes && largest - more_than_bytes <= element_bytes ? largest : 0;
  }
};

// The range of a span class's slots; `pages` counts for large objects alone.
constexpr GoRequestRange go_request_range(std::uint32_t span_class, std::uint64_t pages) {
  const std::uint32_t size_class = span_class >> 1;
  const bool noscan = (span_class & 1) != 0;
  if (size_class == 0) {
    const std::uint64_t fewer_pages_bytes = (pages - 1) * GoSizeClasses::kPageBytes;
    return {
        fewer_pages_bytes > GoSizeClasses::kMaxSmallBytes ? fewer_pages_bytes : GoSizeClasses::kMaxSmallBytes,
        pages * GoSizeClasses::kPageBytes};
  }
  return {size_class == 1 || span_class == GoSizeClasses::kTinySpanClass
              ? 0
              : kGoSizeClasses.max_request_bytes(size_class - 1, noscan),
          kGoSizeClasses.max_request_bytes(size_class, noscan)};
}

}  // namespace formats
