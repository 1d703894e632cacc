// The slots that no live object has, of which the lowest is always taken next.
//
// Low numbers that come again make the object column of a trace half as large as the order of the frees
// would. A tree of bits, 64 children a word: a few words touched by each call. Whoever makes a trace of
// addresses uses it: the recorder, and readers of foreign traces.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace harness {

class FreeSlots {
 public:
  bool empty() const { return levels_.empty() || levels_.back()[0] == 0; }

  // The lowest free slot, free no longer. The set must not be empty.
  std::uint32_t take() {
    std::size_t index = 0;
    for (std::size_t level = levels_.size(); level-- > 0;) {
      index = index * 64 + static_cast<std::size_t>(std::countr_zero(levels_[level][index]));
    }
    const auto slot = static_cast<std::uint32_t>(index);
    for (std::vector<std::uint64_t>& level : levels_) {
      std::uint64_t& word = level[index / 64];
      word &= ~(std::uint64_t{1} << index % 64);
      if (word != 0) break;
      index /= 64;
    }
    return slot;
  }

  void put(std::uint32_t slot) {
    while (levels_.empty() || slot >= levels_[0].size() * 64) grow();
    std::size_t index = slot;
    for (std::vector<std::uint64_t>& level : levels_) {
      std::uint64_t& word = level[index / 64];
      const bool was_empty = word == 0;
      word |= std::uint64_t{1} << index % 64;
      if (!was_empty) break;
      index /= 64;
    }
  }

 private:
  // Eight times as many words at the bottom, and a root above where one word no longer covers the level
  // below.
  void grow() {
    if (levels_.empty()) {
      levels_.push_back({0});
      return;
    }
    std::size_t words = levels_[0].size() * 8;
    for (std::size_t level = 0; level < levels_.size(); ++level, words = (words + 63) / 64) {
      levels_[level].resize(words);
    }
    while (levels_.back().size() > 1) {
      const std::vector<std::uint64_t>& below = levels_.back();
      std::vector<std::uint64_t> above((below.size() + 63) / 64);
      for (std::size_t i = 0; i < below.size(); ++i) {
        if (below[i] != 0) above[i / 64] |= std::uint64_t{1} << i % 64;
      }
      levels_.push_back(std::move(above));
    }
  }

  std::vector<std::vector<std::uint64_t>> levels_;  // A bit of a level: its word in the level below is not 0.
};

}  // namespace harness
