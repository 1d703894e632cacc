// Maps what a trace calls an object (any 64-bit number) to a dense slot, for as long as the object lives.
//
// Small ids, which is what our own writer gives, index an array; others go to an open-addressing table with
// linear probing and backward-shift deletion, so that a long trace of unique ids leaves no tombstones behind.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace harness {

class IdTable {
 public:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  std::uint32_t find(std::uint64_t id) const {
    if (id < kDirectIds) return id < direct_.size() ? direct_[id] : kNone;
    for (std::size_t i = home(id); entries_[i].slot != kNone; i = (i + 1) & mask_) {
      if (entries_[i].id == id) return entries_[i].slot;
    }
    return kNone;
  }

  // Touches, for the hardware's sake, where the id stands if it is there. Inlined by force: GCC takes a
  // function that only prefetches for one without effect, and drops its calls.
  [[gnu::always_inline]] void prefetch(std::uint64_t id) const {
    if (id < direct_.size()) {
      __builtin_prefetch(&direct_[id], 1);
    } else {
      __builtin_prefetch(&entries_[home(id)], 1);
    }
  }

  // The slot that the id most likely has, without a search.
  std::uint32_t guess(std::uint64_t id) const {
    return id < direct_.size() ? direct_[id] : entries_[home(id)].slot;
  }

  // The id must not be in the table.
  void insert(std::uint64_t id, std::uint32_t slot) {
    if (id < kDirectIds) {
      if (id >= direct_.size()) {
        const std::size_t doubled = std::min<std::size_t>(direct_.size() * 2, kDirectIds);
        direct_.resize(std::max<std::size_t>(id + 1, doubled), kNone);
      }
      direct_[id] = slot;
      return;
    }
    if ((used_ + 1) * 2 > entries_.size()) grow();
    place({id, slot});
    ++used_;
  }

  // The id must be in the table.
  void erase(std::uint64_t id) {
    if (id < kDirectIds) {
      direct_[id] = kNone;
      return;
    }
    std::size_t hole = home(id);
    while (entries_[hole].id != id || entries_[hole].slot == kNone) hole = (hole + 1) & mask_;
    for (std::size_t i = (hole + 1) & mask_; entries_[i].slot != kNone; i = (i + 1) & mask_) {
      // An entry may move into the hole unless its home lies behind the hole on its way.
      if (((i - home(entries_[i].id)) & mask_) >= ((i - hole) & mask_)) {
        entries_[hole] = entries_[i];
        hole = i;
      }
    }
    entries_[hole].slot = kNone;
    --used_;
  }

 private:
  struct Entry {
    std::uint64_t id = 0;
    std::uint32_t slot = kNone;
  };

  // 16 Mi ids, 64 MiB of array at most: more live objects than most programs hold.
  static constexpr std::uint64_t kDirectIds = std::uint64_t{1} << 24;

  std::size_t home(std::uint64_t id) const {
    // Fibonacci hashing: addresses differ in their low bits, the table's index is made of the high ones.
    return static_cast<std::size_t>((id * 0x9E3779B97F4A7C15u) >> shift_);
  }

  void place(Entry entry) {
    std::size_t i = home(entry.id);
    while (entries_[i].slot != kNone) i = (i + 1) & mask_;
    entries_[i] = entry;
  }

  void grow() {
    const std::vector<Entry> old = std::exchange(entries_, std::vector<Entry>(entries_.size() * 2));
    mask_ = entries_.size() - 1;
    --shift_;
    for (const Entry& entry : old) {
      if (entry.slot != kNone) place(entry);
    }
  }

  std::vector<std::uint32_t> direct_;
  std::vector<Entry> entries_ = std::vector<Entry>(1024);
  std::size_t mask_ = 1023;
  unsigned shift_ = 54;  // 64 - log2(entries).
  std::size_t used_ = 0;
};

}  // namespace harness
