// Which pages of the heap a process has touched: the operating system gives memory to these alone.
//
// Beside the tiers, and told by them: by the page heap what goes back, by the central lists what they write
// when they cut a span, by the assembling header what calloc, realloc and the program write. Pages are the
// operating system's, of 4 KiB, without transparent huge pages.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace tcmalloc {

// What the program writes of the bytes that it asked for.
enum class Touch : std::uint8_t { kNone, kFirst, kWhole };

class TouchedPages {
 public:
  explicit TouchedPages(std::uint64_t heap_base) : base_page_(heap_base >> kPageShift) {}

  void touch(std::uint64_t address, std::uint64_t bytes) {
    if (bytes == 0) return;
    const std::uint64_t first = (address >> kPageShift) - base_page_;
    const std::uint64_t last = ((address + bytes - 1) >> kPageShift) - base_page_;
    if (last / kWordPages >= words_.size()) words_.resize(std::max(last / kWordPages + 1, 2 * words_.size()));
    for_words(first, last, [this](std::uint64_t& word, std::uint64_t mask) {
      const auto faults = static_cast<std::uint64_t>(std::popcount(mask & ~word));
      pages_ += faults;
      all_faults_ += faults;
      word |= mask;
    });
    peak_pages_ = std::max(peak_pages_, pages_);
  }

  // The system took them back: what is read there next is zero, and its page no memory's.
  void give_back(std::uint64_t address, std::uint64_t bytes) {
    const std::uint64_t first = (address >> kPageShift) - base_page_;
    const std::uint64_t last = ((address + bytes) >> kPageShift) - base_page_ - 1;
    if (first / kWordPages >= words_.size()) return;
    for_words(first, std::min(last, words_.size() * kWordPages - 1),
              [this](std::uint64_t& word, std::uint64_t mask) {
                pages_ -= static_cast<std::uint64_t>(std::popcount(mask & word));
                word &= ~mask;
              });
  }

  std::uint64_t bytes() const { return pages_ << kPageShift; }
  std::uint64_t peak_bytes() const { return peak_pages_ << kPageShift; }
  // How often a page was touched that had no memory.
  std::uint64_t faults() const { return all_faults_; }

  // Pages are the operating system's (x86-64).
  static constexpr std::uint64_t kPageBytes = 4096;

 private:
  static constexpr int kPageShift = std::countr_zero(kPageBytes);
  static constexpr std::uint64_t kWordPages = 64;

  template <typename F>
  void for_words(std::uint64_t first, std::uint64_t last, F f) {
    for (std::uint64_t word = first / kWordPages; word <= last / kWordPages; ++word) {
      const std::uint64_t begin = word == first / kWordPages ? first % kWordPages : 0;
      const std::uint64_t end = word == last / kWordPages ? last % kWordPages : kWordPages - 1;
      f(words_[word], (~std::uint64_t{0} >> (kWordPages - 1 - end)) & (~std::uint64_t{0} << begin));
    }
  }

  std::uint64_t base_page_;
  std::vector<std::uint64_t> words_;  // A bit a page.
  std::uint64_t pages_ = 0;
  std::uint64_t peak_pages_ = 0;
  std::uint64_t all_faults_ = 0;
};

}  // namespace tcmalloc
