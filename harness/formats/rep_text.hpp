// Writes rows as operations of CS:APP's malloc lab, without the header; rep.hpp reads them.
//
// Every allocation has an id of its own, counted from 0.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "call_text.hpp"
#include "lines.hpp"

namespace formats {

class RepText {
 public:
  std::uint64_t ids() const { return next_id_; }
  std::uint64_t operations() const { return operations_; }

  Counts counts() const {
    return {{"collections", collections_},
            {"thread_ends", thread_ends_},
            {"callocs", callocs_},
            {"alignments_of_any", alignments_},
            {"other_threads", other_threads_}};
  }

  // The lines of rows, until the next call. Throws std::range_error where the driver has no number for an id.
  std::string_view lines(const CallRows& rows) {
    return text_.lines(rows.op.size(), kLongestLineBytes,
                       [&](std::size_t i, char* at) { return line(rows, i, at); });
  }

 private:
  // Two lines of a letter, an id of ten digits and a size of twenty.
  static constexpr std::size_t kLongestLineBytes = 80;
  // The driver's ids and counts are of type int.
  static constexpr std::uint64_t kMost = INT32_MAX;

  char* line(const CallRows& rows, std::size_t i, char* at) {
    const auto op = static_cast<Op>(rows.op[i]);
    const std::uint64_t object = rows.object[i];
    const std::uint64_t size = rows.size[i];
    if (op == Op::kGc || op == Op::kThreadEnd) {
      ++(op == Op::kGc ? collections_ : thread_ends_);
      return at;
    }
    if (operations_ == 0) first_thread_ = rows.thread[i];
    if (rows.thread[i] != first_thread_) ++other_threads_;
    if (!rows.alignment.empty() && rows.alignment[i] != 0) ++alignments_;
    if (op == Op::kFree) return operation('f', ids_[object], at);
    if (op == Op::kRealloc) {
      if (size > 0) return sized('r', ids_[object], size, at);
      // To the driver, a realloc to 0 bytes is a free.
      at = operation('f', ids_[object], at);
    }
    if (op == Op::kCalloc) ++callocs_;
    return sized('a', named(object), size, at);
  }

  std::uint32_t named(std::uint64_t object) {
    if (next_id_ == kMost)
      throw std::range_error("found more than 2^31 allocations, expected an id for each");
    if (object >= ids_.size()) ids_.resize(std::max<std::size_t>(object + 1, 2 * ids_.size()));
    return ids_[object] = next_id_++;
  }

  char* operation(char letter, std::uint32_t id, char* at) {
    at = begun(letter, id, at);
    *at++ = '\n';
    return at;
  }

  char* sized(char letter, std::uint32_t id, std::uint64_t size, char* at) {
    at = begun(letter, id, at);
    *at++ = ' ';
    at = put_decimal(size, at);
    *at++ = '\n';
    return at;
  }

  char* begun(char letter, std::uint32_t id, char* at) {
    if (++operations_ > kMost)
      throw std::range_error("found more than 2^31 operations, expected a count of them");
    *at++ = letter;
    *at++ = ' ';
    return put_decimal(id, at);
  }

  std::vector<std::uint32_t> ids_;  // By object.
  std::uint32_t next_id_ = 0;
  std::uint64_t operations_ = 0;
  std::uint32_t first_thread_ = 0;
  std::uint64_t collections_ = 0;
  std::uint64_t thread_ends_ = 0;
  std::uint64_t callocs_ = 0;
  std::uint64_t alignments_ = 0;
  std::uint64_t other_threads_ = 0;
  CallText text_;
};

}  // namespace formats
