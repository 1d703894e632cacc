// What a few thousand rows of a column say at once: loops that compilers make vectors of.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "harness/cloned.hpp"
#include "harness/events.hpp"

namespace harness {

// Signed, as vectors are compared, and without a branch: while a heap grows, any may be the largest.
[[gnu::noinline, HARNESS_CLONED]] inline std::uint64_t most_of(std::span<const std::uint64_t> column) {
  std::int64_t most = 0;
  for (const std::uint64_t value : column) most = std::max(most, static_cast<std::int64_t>(value));
  return static_cast<std::uint64_t>(most);
}

// By the sign of a difference, for vectors: no column holds 2^63.
[[gnu::always_inline]] inline bool any_above(std::uint64_t bound, std::span<const std::uint64_t> column) {
  std::uint64_t differences = 0;
  for (const std::uint64_t value : column) differences |= bound - value;
  return differences >> 63 != 0;
}

[[gnu::always_inline]] inline bool is_one_thread(std::span<const std::uint16_t> threads) {
  std::uint16_t differences = 0;
  for (const std::uint16_t thread : threads)
    differences |= static_cast<std::uint16_t>(thread ^ threads.front());
  return differences == 0;
}

// Whether all are allocations and frees, of no larger alignment. A loop for each column, as vectors are
// compared.
[[gnu::always_inline]] inline bool are_plain(std::span<const std::uint8_t> ops,
                                             std::span<const std::uint32_t> alignments,
                                             std::uint32_t most_alignment) {
  std::uint8_t others = 0;
  for (const std::uint8_t op : ops) {
    others |= static_cast<std::uint8_t>((op != static_cast<std::uint8_t>(Op::kAlloc)) &
                                        (op != static_cast<std::uint8_t>(Op::kCalloc)) &
                                        (op != static_cast<std::uint8_t>(Op::kFree)));
  }
  std::uint32_t most = 0;
  for (const std::uint32_t alignment : alignments) most = std::max(most, alignment);
  return others == 0 && most <= most_alignment;
}

// Fetches so many rows from `first` on; beyond the column's end, too, and where there is none: nothing is
// read. So it is a number here, no pointer. Inlined by force: GCC takes a function that only prefetches for
// one without effect.
template <std::size_t kRows, typename T>
[[gnu::always_inline]] inline void prefetch_column(std::span<const T> column, std::size_t first) {
  constexpr std::size_t kLineBytes = 64;
  const auto begin = reinterpret_cast<std::uintptr_t>(column.data()) + first * sizeof(T);
  for (std::size_t at = 0; at < kRows * sizeof(T); at += kLineBytes)
    __builtin_prefetch(reinterpret_cast<const void*>(begin + at));
}

}  // namespace harness
