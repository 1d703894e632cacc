// Size classes of the Go heap: how large a slot is, how many pages its span takes and how many slots fit.
//
// The lowest tier; every other one speaks in its units. The table is computed from the rule of Go's
// mksizeclasses.go and is the same in Go 1.22 to 1.27 (tests/golden/go/sizeclasses.json holds Go's own).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "harness/allocator.hpp"

namespace go {

inline constexpr std::uint64_t kPageBytes = 8192;       // runtime pages, not the kernel's (mmap page: 4 KiB)
inline constexpr std::uint64_t kPhysPageBytes = 4096;   // linux/amd64
inline constexpr std::uint64_t kTinyBytes = 16;         // malloc.go: maxTinySize
inline constexpr std::uint64_t kMallocHeaderBytes = 8;  // malloc.go: mallocHeaderSize
inline constexpr std::uint64_t kMaxSmallClassBytes = 32768;
// Larger objects have a span of their own, noscan ones too (malloc.go: maxSmallSize - mallocHeaderSize).
inline constexpr std::uint64_t kMaxSmallBytes = kMaxSmallClassBytes - kMallocHeaderBytes;
// Scan objects up to here have their pointer bitmap at the end of the span instead of a header before them.
inline constexpr std::uint64_t kHeapBitsInSpanMaxBytes = 512;
// Mark bits that green tea keeps inside a span: 63 + 63 bytes of bits, an owner and a class
// (mgcmark_greenteagc.go).
inline constexpr std::uint64_t kInlineMarkBytes = 128;
inline constexpr std::uint64_t kInlineMarkMinBytes = 16;

inline constexpr int kSizeClasses = 68;  // Class 0 is no class: objects with a span of their own.
inline constexpr int kSpanClasses = 2 * kSizeClasses;

// A size class and whether its objects are free of pointers: class * 2 + noscan.
using SpanClass = std::uint8_t;
inline constexpr SpanClass kTinySpanClass = 5;  // 16 bytes, noscan.

constexpr SpanClass make_span_class(int size_class, bool noscan) {
  return static_cast<SpanClass>(size_class * 2 + (noscan ? 1 : 0));
}
constexpr int size_class_of(SpanClass span_class) { return span_class >> 1; }
constexpr bool is_noscan(SpanClass span_class) { return (span_class & 1) != 0; }

struct SizeClass {
  std::uint32_t object_bytes = 0;
  std::uint32_t span_pages = 0;
};

// mksizeclasses.go: makeClasses.
constexpr std::array<SizeClass, kSizeClasses> make_size_classes() {
  std::array<SizeClass, kSizeClasses> classes{};
  std::size_t count = 1;
  std::uint32_t align = 8;
  for (std::uint32_t size = align; size <= kMaxSmallClassBytes; size += align) {
    if ((size & (size - 1)) == 0) {
      if (size >= 2048) {
        align = 256;
      } else if (size >= 128) {
        align = size / 8;
      } else if (size >= 32) {
        align = 16;
      }
    }
    // The fewest pages that leave at most an eighth of the span behind the last slot.
    std::uint32_t span_bytes = kPageBytes;
    while (span_bytes % size > span_bytes / 8) span_bytes += kPageBytes;
    const std::uint32_t pages = span_bytes / static_cast<std::uint32_t>(kPageBytes);
    // Two classes with as many slots in as many pages are one: the larger.
    if (count > 1 && pages == classes[count - 1].span_pages &&
        span_bytes / size == span_bytes / classes[count - 1].object_bytes) {
      classes[count - 1].object_bytes = size;
    } else {
      if (count == kSizeClasses) throw harness::InvariantError("more than 67 size classes come of the rule");
      classes[count++] = {size, pages};
    }
  }
  if (count != kSizeClasses) throw harness::InvariantError("fewer than 67 size classes come of the rule");
  // Slots grow into what their span leaves over, as far as 128-byte alignment allows.
  for (std::size_t i = 1; i < count; ++i) {
    const std::uint32_t span_bytes = classes[i].span_pages * static_cast<std::uint32_t>(kPageBytes);
    const std::uint32_t grown = (span_bytes / (span_bytes / classes[i].object_bytes)) & ~127U;
    if (grown > classes[i].object_bytes) classes[i].object_bytes = grown;
  }
  return classes;
}

inline constexpr std::array<SizeClass, kSizeClasses> kSizeClassTable = make_size_classes();

constexpr std::array<std::uint8_t, kMaxSmallClassBytes / 8 + 1> make_size_to_class() {
  std::array<std::uint8_t, kMaxSmallClassBytes / 8 + 1> table{};
  std::size_t size_class = 0;
  for (std::size_t eighth = 0; eighth < table.size(); ++eighth) {
    while (kSizeClassTable[size_class].object_bytes < eighth * 8) ++size_class;
    table[eighth] = static_cast<std::uint8_t>(size_class);
  }
  return table;
}

inline constexpr auto kSizeToClass = make_size_to_class();

// The smallest class that holds so many bytes, header included; at most kMaxSmallClassBytes.
constexpr int size_class_for(std::uint64_t bytes) { return kSizeToClass[(bytes + 7) / 8]; }

// Of an object of at most kMaxSmallBytes: tiny ones share the slots of one class.
constexpr SpanClass small_span_class(std::uint64_t size, bool noscan) {
  if (noscan && size < kTinyBytes) return kTinySpanClass;
  const std::uint64_t header = !noscan && size > kHeapBitsInSpanMaxBytes ? kMallocHeaderBytes : 0;
  return make_span_class(size_class_for(size + header), noscan);
}

// small_span_class by size in words and noscan, for objects whose slots hold nothing else; 0 for those that
// may share a slot with others, and for objects of no bytes.
constexpr std::array<std::array<SpanClass, 2>, kMaxSmallBytes / 8 + 2> make_untiny_span_class() {
  std::array<std::array<SpanClass, 2>, kMaxSmallBytes / 8 + 2> table{};
  for (std::size_t words = 1; words < table.size() - 1; ++words) {
    for (std::size_t noscan = 0; noscan < 2; ++noscan) {
      const SpanClass span_class = small_span_class(words * 8, noscan != 0);
      table[words][noscan] = span_class == kTinySpanClass ? SpanClass{0} : span_class;
    }
  }
  return table;
}
inline constexpr auto kUntinySpanClass = make_untiny_span_class();

// Bytes of the header before a small object of this span class: its type, where the span has no pointer
// bitmap.
constexpr std::uint64_t header_bytes_of(SpanClass span_class) {
  const int size_class = size_class_of(span_class);
  if (size_class == 0 || is_noscan(span_class)) return 0;
  return kSizeClassTable[static_cast<std::size_t>(size_class)].object_bytes > kHeapBitsInSpanMaxBytes
             ? kMallocHeaderBytes
             : 0;
}

// Whether green tea keeps this span's mark bits inside the span (gcUsesSpanInlineMarkBits).
constexpr bool uses_inline_marks(bool greentea, std::uint64_t object_bytes) {
  return greentea & (object_bytes >= kInlineMarkMinBytes) & (object_bytes <= kHeapBitsInSpanMaxBytes);
}

// What pointer bitmap and mark bits, both at the end, take of a span (mspan.init).
constexpr std::uint64_t span_reserve_bytes(SpanClass span_class, bool greentea) {
  const SizeClass& entry = kSizeClassTable[static_cast<std::size_t>(size_class_of(span_class))];
  if (entry.object_bytes == 0) return 0;
  std::uint64_t reserve_bytes = 0;
  if (uses_inline_marks(greentea, entry.object_bytes)) reserve_bytes += kInlineMarkBytes;
  // One bit a word, for scan objects without a header.
  if (!is_noscan(span_class) && entry.object_bytes <= kHeapBitsInSpanMaxBytes)
    reserve_bytes += entry.span_pages * kPageBytes / 64;
  return reserve_bytes;
}

// Slots of a span by greentea and span class: what its reserve leaves.
constexpr std::array<std::array<std::uint16_t, kSpanClasses>, 2> make_objects_per_span() {
  std::array<std::array<std::uint16_t, kSpanClasses>, 2> table{};
  for (std::size_t greentea = 0; greentea < 2; ++greentea) {
    for (std::size_t i = 0; i < kSpanClasses; ++i) {
      const auto span_class = static_cast<SpanClass>(i);
      const SizeClass& entry = kSizeClassTable[static_cast<std::size_t>(size_class_of(span_class))];
      const std::uint64_t usable_bytes =
          entry.span_pages * kPageBytes - span_reserve_bytes(span_class, greentea != 0);
      table[greentea][i] = entry.object_bytes == 0
                               ? std::uint16_t{1}
                               : static_cast<std::uint16_t>(usable_bytes / entry.object_bytes);
    }
  }
  return table;
}
inline constexpr auto kObjectsPerSpan = make_objects_per_span();

// By span class; 0 where every object has its own.
constexpr std::array<std::uint32_t, kSpanClasses> make_slot_bytes() {
  std::array<std::uint32_t, kSpanClasses> bytes{};
  for (std::size_t i = 0; i < kSpanClasses; ++i)
    bytes[i] = static_cast<std::uint32_t>(kSizeClassTable[i / 2].object_bytes);
  return bytes;
}
inline constexpr auto kSlotBytes = make_slot_bytes();

// The longest span of a size class.
inline constexpr std::uint64_t kMaxSpanBytes =
    kPageBytes * std::ranges::max_element(kSizeClassTable, {}, &SizeClass::span_pages)->span_pages;

}  // namespace go
