// The tiny allocator: several pointer-free objects of less than 16 bytes in one 16-byte slot.
//
// One a P, above its mcache, which gives it slots. Only placement inside a block is decided here.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>

#include "mspan.hpp"

namespace go {

class Tiny {
 public:
  // The current block, by its holders (SlotBits); of no use where there is none.
  SlotBit block() const { return std::bit_cast<SlotBit>(block_); }
  std::uint64_t block_word() const { return block_; }
  bool has_block() const { return offset_ != kNoBlock; }
  // Go: tinyoffset. Where the last object of the block ends.
  std::uint64_t offset() const { return offset_; }

  // Where an object would lie in the current block, which may be beyond its end: aligned to the largest power
  // of two that divides the size, 8 at most.
  std::uint64_t offset_of(std::uint64_t size) const {
    const std::uint64_t alignment = (size | 8) & -(size | 8);
    return (offset_ + alignment - 1) & -alignment;
  }
  // Never where there is no block.
  bool fits(std::uint64_t size) const { return offset_of(size) + size <= kTinyBytes; }
  // Where an object fits into the current block, taken; none where it needs a new one (mallocgcTiny).
  std::optional<std::uint32_t> place(std::uint64_t size) {
    if (!fits(size)) return std::nullopt;
    const std::uint64_t offset = offset_of(size);
    offset_ = offset + size;
    return static_cast<std::uint32_t>(offset);
  }

  // An object of this size begins a new block. The block with more room left stays the current one; what the
  // old one has left is judged by its end before alignment.
  void started(SlotBit fresh, std::uint64_t size) {
    if (size < offset_) restore(fresh, size);
  }

  // place() or started(), one like the other, since nothing foretells which it will be. block: where the
  // object is now.
  [[gnu::always_inline]] void take(harness::Choice fits, std::uint64_t block, std::uint64_t size) {
    const harness::Choice stays(offset_ <= size);
    const std::uint64_t of_fresh = stays.of(offset_, size);
    const harness::Choice keeps(fits.of(1, stays.if_first(1)) != 0);
    block_ = keeps.of(block_, block);
    offset_ = fits.of(offset_of(size) + size, of_fresh);
  }

  void clear() { restore({}, kNoBlock); }

  void restore(SlotBit block, std::uint64_t offset) {
    block_ = std::bit_cast<std::uint64_t>(block);
    offset_ = offset;
  }

 private:
  // Nothing fits behind it, and whatever begins a block has more room left.
  static constexpr std::uint64_t kNoBlock = kTinyBytes + 1;

  std::uint64_t block_ = 0;  // A SlotBit, as a word.
  std::uint64_t offset_ = kNoBlock;
};

}  // namespace go
