// What writers of calls share: rows in, text out, numbers as characters.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace formats {

// Rows of harness-trace/1, ids dense. Where a column is empty, the trace says nothing of it.
struct CallRows {
  std::span<const std::uint8_t> op;
  std::span<const std::uint32_t> thread;
  std::span<const std::uint64_t> object;
  std::span<const std::uint64_t> size;
  std::span<const std::uint32_t> alignment = {};
  std::span<const std::int64_t> time_ns = {};
};

// Room for the text of rows, the same for all of them.
class CallText {
 public:
  // `line(i, at)` writes row i's text to `at` and returns its end. The text lives until the next call.
  template <typename Line>
  std::string_view lines(std::size_t count, std::size_t longest_line_bytes, Line&& line) {
    if (count * longest_line_bytes > room_bytes_) {
      room_bytes_ = count * longest_line_bytes;
      room_ = std::make_unique_for_overwrite<char[]>(room_bytes_);
    }
    char* at = room_.get();
    for (std::size_t i = 0; i < count; ++i) at = line(i, at);
    return {room_.get(), at};
  }

 private:
  std::unique_ptr<char[]> room_;
  std::size_t room_bytes_ = 0;
};

inline char* put(std::string_view text, char* at) { return std::copy(text.begin(), text.end(), at); }

// There is room for any number.
template <typename T>
char* put_decimal(T value, char* at) {
  return std::to_chars(at, at + 20, value).ptr;
}

inline char* put_hexadecimal(std::uint64_t value, char* at) {
  at = put("0x", at);
  return std::to_chars(at, at + 16, value, 16).ptr;
}

}  // namespace formats
