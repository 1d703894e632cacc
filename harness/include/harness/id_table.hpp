// Keeps what is known of each live object under what a trace calls it: any 64-bit number.
//
// Small ids, which is what our own writer gives, index an array; others go to an open-addressing table with
// linear probing and backward-shift deletion, so that a long trace of unique ids leaves no tombstones behind.
// How small "small" is follows the number of live objects: no file makes the array grow out of proportion.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "harness/huge_pages.hpp"

namespace harness {

// A Value says by is_live() whether it is one; a default one is not.
template <typename Value>
class IdTable {
 public:
  // Null where the id is not in the table.
  Value* find(std::uint64_t id) {
    if (id < direct_.size()) return direct_[id].is_live() ? &direct_[id] : nullptr;
    for (std::size_t i = home(id); ids_[i] != kNoId; i = (i + 1) & mask_) {
      if (ids_[i] == id) return &values_[i];
    }
    return nullptr;
  }

  // Touches, for the hardware's sake, where the id stands if it is there. Inlined by force: GCC takes a
  // function that only prefetches for one without effect, and drops its calls.
  [[gnu::always_inline]] void prefetch(std::uint64_t id) const {
    if (id < direct_.size()) {
      __builtin_prefetch(&direct_[id], 1);
    } else {
      __builtin_prefetch(&ids_[home(id)], 1);
      __builtin_prefetch(&values_[home(id)], 1);
    }
  }

  // The id must not be in the table, and the value be live. Moves other values.
  void insert(std::uint64_t id, const Value& value) {
    if (id >= direct_.size() && id < kDirectIds + kDirectIdsPerValue * size_) widen(id);
    ++size_;
    if (id < direct_.size()) {
      direct_[id] = value;
      return;
    }
    if ((hashed_ + 1) * 2 > ids_.size()) {
      --shift_;
      rehash(ids_.size() * 2);
    }
    place(id, value);
  }

  // The value of an id; where there was none, one that the caller makes live before anything else. Moves
  // other values.
  Value& make(std::uint64_t id) {
    if (id >= direct_.size() && id < kDirectIds + kDirectIdsPerValue * size_) widen(id);
    if (id < direct_.size()) {
      if (!direct_[id].is_live()) ++size_;
      return direct_[id];
    }
    if ((hashed_ + 1) * 2 > ids_.size()) {
      --shift_;
      rehash(ids_.size() * 2);
    }
    std::size_t i = home(id);
    for (; ids_[i] != kNoId; i = (i + 1) & mask_) {
      if (ids_[i] == id) return values_[i];
    }
    ++size_;
    ++hashed_;
    ids_[i] = id;
    return values_[i] = Value{};
  }

  // Takes a value out of the table, a default one where there is none. Moves other values.
  Value take(std::uint64_t id) {
    if (id < direct_.size()) {
      const Value taken = std::exchange(direct_[id], Value{});
      if (taken.is_live()) --size_;
      return taken;
    }
    std::size_t i = home(id);
    while (ids_[i] != id) {
      if (ids_[i] == kNoId) return Value{};
      i = (i + 1) & mask_;
    }
    const Value taken = values_[i];
    --size_;
    close(i);
    return taken;
  }

  // The id must be in the table. Moves other values.
  void erase(std::uint64_t id) {
    --size_;
    if (id < direct_.size()) {
      direct_[id] = Value{};
      return;
    }
    std::size_t hole = home(id);
    while (ids_[hole] != id) hole = (hole + 1) & mask_;
    close(hole);
  }

  // The array, by id, for whoever changes values without a detour; adjust_size() tells the table afterwards.
  std::span<Value> direct() { return direct_; }
  void adjust_size(std::uint64_t inserted, std::uint64_t erased) { size_ += inserted - erased; }

 private:
  // The array has a place for so many ids, however few objects live, and beyond for so many an object.
  static constexpr std::uint64_t kDirectIds = 65'536;
  static constexpr std::uint64_t kDirectIdsPerValue = 4;

  // Stands in the open-addressing table where nothing does: this id always goes to the array.
  static constexpr std::uint64_t kNoId = 0;

  // Moves values up so that no search ends at a hole before it ought to.
  void close(std::size_t hole) {
    for (std::size_t i = (hole + 1) & mask_; ids_[i] != kNoId; i = (i + 1) & mask_) {
      // An entry may move into the hole unless its home lies behind the hole on its way.
      if (((i - home(ids_[i])) & mask_) >= ((i - hole) & mask_)) {
        ids_[hole] = ids_[i];
        values_[hole] = values_[i];
        hole = i;
      }
    }
    ids_[hole] = kNoId;
    --hashed_;
  }

  std::size_t home(std::uint64_t id) const {
    // Fibonacci hashing: addresses differ in their low bits, the table's index is made of the high ones.
    return static_cast<std::size_t>((id * 0x9E3779B97F4A7C15u) >> shift_);
  }

  void place(std::uint64_t id, const Value& value) {
    std::size_t i = home(id);
    while (ids_[i] != kNoId) i = (i + 1) & mask_;
    ids_[i] = id;
    values_[i] = value;
    ++hashed_;
  }

  // Lets the array reach the id, and takes over what the other table holds of its new part.
  void widen(std::uint64_t id) {
    direct_.resize(std::max<std::size_t>(id + 1, direct_.size() * 2));
    if (hashed_ > 0) rehash(ids_.size());
  }

  void rehash(std::size_t places) {
    const auto ids = std::exchange(ids_, HugePageVector<std::uint64_t>(places));
    const auto values = std::exchange(values_, HugePageVector<Value>(places));
    mask_ = places - 1;
    hashed_ = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == kNoId) continue;
      if (ids[i] < direct_.size()) {
        direct_[ids[i]] = values[i];
      } else {
        place(ids[i], values[i]);
      }
    }
  }

  HugePageVector<Value> direct_ = HugePageVector<Value>(1);
  // The open-addressing table: values apart, so that a search reads eight ids a line.
  HugePageVector<std::uint64_t> ids_ = HugePageVector<std::uint64_t>(1024);
  HugePageVector<Value> values_ = HugePageVector<Value>(1024);
  std::size_t mask_ = 1023;
  unsigned shift_ = 54;     // 64 - log2(places).
  std::size_t hashed_ = 0;  // Values in it.
  std::uint64_t size_ = 0;  // Values in both.
};

}  // namespace harness
