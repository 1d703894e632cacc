// Lines of the traces of CS:APP's malloc lab: four numbers, then `a ID SIZE`, `r ID SIZE`, `f ID`.
//
// Format: the traces' README and mdriver.c's read_trace(); whichever of its versions, the second number is
// that of the ids, the third that of the operations. As the driver does it, a realloc of an id that has no
// block allocates one, one to 0 bytes frees it, and a free of -1 is one of null. MIT's version of the lab
// knows `w ID SIZE` as well, which writes to the block.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "harness/id_table.hpp"
#include "lines.hpp"

namespace formats {

class RepLines {
 public:
  Counts counts() const { return {{"writes", writes_}, {"surplus_lines", surplus_}}; }

  void line(std::string_view text, Records& records) {
    Fields fields(text, kReadableBytes);
    if (fields.empty()) return;
    if (numbers_read_ < header_.size()) {
      header_[numbers_read_] = fields.decimal<std::uint32_t>();
      expect_end(fields);
      ++numbers_read_;
      return;
    }
    // The driver stops where it has read as many as it was told.
    if (operations_ == header_[kOperations]) {
      ++surplus_;
      return;
    }
    operation(fields, records);
    ++operations_;
  }

  // A file that breaks off has fewer operations than it says.
  void end() const {
    if (numbers_read_ < header_.size()) throw BadLine("expected a header of four numbers");
    if (operations_ < header_[kOperations]) {
      throw BadLine("expected " + std::to_string(header_[kOperations]) +
                    " operations, as the third line says, and there are " + std::to_string(operations_));
    }
  }

 private:
  static constexpr std::size_t kIds = 1;
  static constexpr std::size_t kOperations = 2;

  // What the driver has of an id: a block, or null since a realloc to 0 bytes.
  struct Block {
    enum class State : std::uint8_t { kNone, kLive, kNull };
    State state = State::kNone;
    bool is_live() const { return state != State::kNone; }  // As IdTable means it.
  };

  void operation(Fields& fields, Records& records) {
    if (fields.take_word("f")) {
      if (fields.take_word("-1")) {
        expect_end(fields);
        return;
      }
      const std::uint32_t id = this->id(fields);
      expect_end(fields);
      if (blocks_.take(id).state != Block::State::kNull) records.add(Op::kFree, 0, id, id, 0);
      return;
    }
    const bool allocates = fields.take_word("a");
    const bool reallocates = !allocates && fields.take_word("r");
    const bool writes = !allocates && !reallocates && fields.take_word("w");
    if (!allocates && !reallocates && !writes) throw BadLine("expected a ID SIZE, r ID SIZE or f ID");
    const std::uint32_t id = this->id(fields);
    const std::uint64_t size = fields.decimal();
    expect_end(fields);
    if (writes) {
      ++writes_;
      return;
    }
    Block& block = blocks_.make(id);
    const bool has_block = block.state == Block::State::kLive;
    block.state = reallocates && size == 0 ? Block::State::kNull : Block::State::kLive;
    if (allocates || (!has_block && size > 0)) {
      records.add(Op::kAlloc, 0, id, id, size);
    } else if (has_block) {
      records.add(size > 0 ? Op::kRealloc : Op::kFree, 0, id, id, size);
    }
  }

  std::uint32_t id(Fields& fields) const {
    const auto id = fields.decimal<std::uint32_t>();
    if (id >= header_[kIds]) {
      throw BadLine("expected an id below " + std::to_string(header_[kIds]) + ", as the second line says");
    }
    return id;
  }

  static void expect_end(const Fields& fields) {
    if (!fields.empty()) throw BadLine("expected the end of the line");
  }

  std::array<std::uint32_t, 4> header_ = {};
  std::size_t numbers_read_ = 0;
  std::uint64_t operations_ = 0;
  std::uint64_t writes_ = 0;
  std::uint64_t surplus_ = 0;
  harness::IdTable<Block> blocks_;
};

}  // namespace formats
