// The tiny allocator: several pointer-free objects of less than 16 bytes in one 16-byte slot.
//
// One a P, above its mcache, which gives it slots. Only placement inside a block is decided here.
#pragma once

#include <cstdint>
#include <optional>

#include "mspan.hpp"

namespace go {

class Tiny {
 public:
  struct Block {
    Span* span = nullptr;
    std::uint32_t slot = 0;
  };

  const Block& block() const { return block_; }
  bool has_block() const { return block_.span != nullptr; }
  std::uint64_t offset() const { return offset_; }

  bool fits(std::uint64_t size) const { return has_block() && offset_of(size) + size <= kTinyBytes; }
  // Where an object fits into the current block, taken; none where it needs a new one (mallocgcTiny).
  std::optional<std::uint32_t> place(std::uint64_t size) {
    if (!fits(size)) return std::nullopt;
    const std::uint64_t offset = offset_of(size);
    offset_ = offset + size;
    return static_cast<std::uint32_t>(offset);
  }

  // An object of this size begins a new block. The block with more room left stays the current one; what the
  // old one has left is judged by its end before alignment.
  void started(const Block& fresh, std::uint64_t size) {
    if (size < offset_ || !has_block()) {
      block_ = fresh;
      offset_ = size;
    }
  }

  void clear() {
    block_ = {};
    offset_ = 0;
  }

  void restore(const Block& block, std::uint64_t offset) {
    block_ = block;
    offset_ = offset;
  }

 private:
  // Aligned to the largest power of two that divides the size, 8 at most.
  std::uint64_t offset_of(std::uint64_t size) const {
    const std::uint64_t alignment = (size | 8) & -(size | 8);
    return (offset_ + alignment - 1) & -alignment;
  }

  Block block_;
  std::uint64_t offset_ = 0;  // Go: tinyoffset. Where the last object of the block ends.
};

}  // namespace go
