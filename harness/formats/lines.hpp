// What readers of text share: lines across blocks, numbers, and the records that a line becomes.
//
// A reader of a format is a class with `void line(std::string_view, Records&)`, which appends what the line
// says or throws BadLine; TextReader does the rest: it numbers lines, bounds their length, and stops at the
// first bad one or, asked to be lenient, counts it and goes on. address_book.hpp makes rows of the records.
// What a format counts of things that its records do not say, `counts()` tells by name; `end()` throws where
// more lines ought to have come.
#pragma once

#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "address_book.hpp"

namespace formats {

// A line that is none of its format; the text says what was expected.
class BadLine : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A bad line with its number and what it says, for the user.
class TextFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Counts of what records do not say, by the names of addresses.py.
using Counts = std::vector<std::pair<const char*, std::uint64_t>>;

// The columns of address_book.hpp's records, owned. A reader fills the same optional ones for every record.
struct Records {
  std::vector<std::uint8_t> op;
  std::vector<std::uint32_t> thread;
  std::vector<std::uint64_t> address;
  std::vector<std::uint64_t> old_address;
  std::vector<std::uint64_t> size;
  std::vector<std::uint32_t> alignment;
  std::vector<std::uint8_t> noscan;
  std::vector<std::int64_t> time_ns;
  std::vector<std::uint32_t> site;
  std::vector<std::uint64_t> place;

  // The columns that every record has; the place is the line at hand.
  void add(Op record_op, std::uint32_t record_thread, std::uint64_t record_address, std::uint64_t record_old,
           std::uint64_t record_size) {
    op.push_back(static_cast<std::uint8_t>(record_op));
    thread.push_back(record_thread);
    address.push_back(record_address);
    old_address.push_back(record_old);
    size.push_back(record_size);
    place.push_back(line);
  }

  // Makes room in the columns that every record has.
  void reserve(std::size_t count) {
    op.reserve(count), thread.reserve(count), address.reserve(count);
    old_address.reserve(count), size.reserve(count), place.reserve(count);
  }

  // That a realloc of an address begins (address_book.hpp, kReallocBegin).
  void begin_realloc(std::uint32_t record_thread, std::uint64_t record_address) {
    op.push_back(kReallocBegin);
    thread.push_back(record_thread);
    address.push_back(record_address);
    old_address.push_back(0);
    size.push_back(0);
    place.push_back(line);
  }

  std::uint64_t line = 0;
};

// Behind a line that TextReader hands to a format, so many bytes may be read, whatever they are.
inline constexpr std::size_t kReadableBytes = 8;

// The alignment that an allocator makes of the one asked for: the next power of two, as glibc (malloc.c,
// _mid_memalign) and others do.
inline std::uint32_t rounded_alignment(std::uint64_t asked) {
  if (asked > std::uint64_t{1} << 31) throw BadLine("the alignment is too large");
  return static_cast<std::uint32_t>(std::bit_ceil(asked));
}

// Takes fields off the front of a line. What is missing or no number throws BadLine.
//
// Numbers are read eight characters at a time where as many can be: a loop over digits would guess wrong at
// nearly every number's end.
class Fields {
 public:
  // `readable_bytes` may be read behind the line.
  explicit Fields(std::string_view line, std::size_t readable_bytes = 0)
      : at_(line.data()), end_(at_ + line.size()), readable_end_(end_ + readable_bytes) {
    skip_space();
  }

  bool empty() const { return at_ == end_; }
  std::string_view rest() const { return {at_, end_}; }

  // The next characters up to a space.
  std::string_view word() {
    const char* const begin = at_;
    while (at_ != end_ && !is_space(*at_)) ++at_;
    if (at_ == begin) throw BadLine("expected another field");
    const std::string_view found(begin, at_);
    skip_space();
    return found;
  }

  // Steps over a text that must stand here.
  void expect(std::string_view text) {
    if (!take(text)) throw BadLine("expected '" + std::string(text) + "'");
  }

  // Steps over a text if it stands here.
  bool take(std::string_view text) {
    if (!rest().starts_with(text)) return false;
    at_ += text.size();
    skip_space();
    return true;
  }

  // Steps over a word if it stands here, whole. An array, so that the compiler compares numbers.
  template <std::size_t N>
  bool take_word(const char (&text)[N]) {
    constexpr std::size_t kLength = N - 1;
    const auto left = static_cast<std::size_t>(end_ - at_);
    if (left < kLength || std::memcmp(at_, text, kLength) != 0) return false;
    if (left > kLength && !is_space(at_[kLength])) return false;
    at_ += kLength;
    skip_space();
    return true;
  }

  // A number, whatever follows it; with a sign only where T has one.
  template <typename T = std::uint64_t>
  T decimal() {
    // Of up to fifteen digits, which is what there is but for nonsense.
    if (readable_end_ - at_ >= 8) {
      const std::uint64_t first = eight(at_);
      std::size_t count = decimal_digits(first);
      std::uint64_t value = decimal_value(first, count);
      bool is_whole = count < 8;
      if (!is_whole && readable_end_ - at_ >= 16) {
        const std::uint64_t second = eight(at_ + 8);
        const std::size_t more = decimal_digits(second);
        value = value * kPowersOfTen[more] + decimal_value(second, more);
        count += more;
        is_whole = more < 8;
      }
      // Digits behind the line's end are not its own.
      if (is_whole && count > 0 && count <= static_cast<std::size_t>(end_ - at_) &&
          value <= static_cast<std::uint64_t>(std::numeric_limits<T>::max())) {
        at_ += count;
        skip_space();
        return static_cast<T>(value);
      }
    }
    return number<T>(10, "a decimal number");
  }

  // Hexadecimal, with 0x before it or not.
  std::uint64_t hexadecimal() {
    if (end_ - at_ >= 2 && at_[0] == '0' && at_[1] == 'x') at_ += 2;
    // Of up to fifteen digits, which is what addresses have.
    if (readable_end_ - at_ >= 8) {
      const std::uint64_t first = eight(at_);
      std::size_t count = hexadecimal_digits(first);
      std::uint64_t value = hexadecimal_value(first, count);
      bool is_whole = count < 8;
      if (!is_whole && readable_end_ - at_ >= 16) {
        const std::uint64_t second = eight(at_ + 8);
        const std::size_t more = hexadecimal_digits(second);
        value = value << (4 * more) | hexadecimal_value(second, more);
        count += more;
        is_whole = more < 8;
      }
      if (is_whole && count > 0 && count <= static_cast<std::size_t>(end_ - at_)) {
        at_ += count;
        skip_space();
        return value;
      }
    }
    return number<std::uint64_t>(16, "a hexadecimal number");
  }

  // An address as printf's %p writes it.
  std::uint64_t pointer() { return take("(nil)") ? 0 : hexadecimal(); }

  // A number that is hexadecimal where 0x stands before it, else decimal.
  std::uint64_t either() { return rest().starts_with("0x") ? hexadecimal() : decimal(); }

  // Steps over so many characters, which may be spaces.
  std::string_view characters(std::size_t count) {
    if (count > rest().size()) throw BadLine("expected " + std::to_string(count) + " characters more");
    const std::string_view found(at_, count);
    at_ += count;
    skip_space();
    return found;
  }

 private:
  static constexpr std::uint64_t kPowersOfTen[] = {1,       10,        100,        1'000,      10'000,
                                                   100'000, 1'000'000, 10'000'000, 100'000'000};
  static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }

  void skip_space() {
    // One space and no more, as a rule.
    if (at_ != end_ && *at_ == ' ') ++at_;
    while (at_ != end_ && is_space(*at_)) ++at_;
  }

  // Eight characters, the first in the lowest byte.
  static std::uint64_t eight(const char* at) {
    std::uint64_t characters;
    std::memcpy(&characters, at, sizeof characters);
    if constexpr (std::endian::native == std::endian::big) characters = __builtin_bswap64(characters);
    return characters;
  }

  // How many bytes of eight stand before the first whose high bit is set.
  static std::size_t before_high_bit(std::uint64_t bytes) {
    bytes &= kHighBits;
    return bytes == 0 ? 8 : static_cast<std::size_t>(std::countr_zero(bytes)) / 8;
  }

  static constexpr std::uint64_t kHighBits = 0x8080808080808080u;

  // How many of eight characters are digits before the first that is none.
  static std::size_t decimal_digits(std::uint64_t characters) {
    return before_high_bit(no_decimal(characters));
  }

  static std::size_t hexadecimal_digits(std::uint64_t characters) {
    // 'a' to 'f', of either case, are now 1 to 6, and what is neither gets its high bit.
    const std::uint64_t letter = (characters | 0x2020202020202020u) ^ 0x6060606060606060u;
    const std::uint64_t no_letter =
        (letter + 0x7979797979797979u) | letter | (kHighBits - (letter & ~kHighBits));
    return before_high_bit(no_decimal(characters) & no_letter);
  }

  // The high bit of each character that is no decimal digit. A digit is 0 to 9 without its high half; the
  // carry of what is more goes where nobody looks any more.
  static std::uint64_t no_decimal(std::uint64_t characters) {
    const std::uint64_t digits = characters ^ 0x3030303030303030u;
    return (digits + 0x7676767676767676u) | digits;
  }

  // The number that the first of eight characters are: zeros in front of them, what follows them pushed out;
  // then pairs, fours, and all.
  static std::uint64_t decimal_value(std::uint64_t characters, std::size_t digits) {
    if (digits == 0) return 0;
    std::uint64_t value = (characters & 0x0F0F0F0F0F0F0F0Fu) << (64 - 8 * digits);
    value = (value * 10 + (value >> 8)) & 0x00FF00FF00FF00FFu;
    value = (value * 100 + (value >> 16)) & 0x0000FFFF0000FFFFu;
    return (value * 10'000 + (value >> 32)) & 0xFFFFFFFFu;
  }

  static std::uint64_t hexadecimal_value(std::uint64_t characters, std::size_t digits) {
    if (digits == 0) return 0;
    // A letter's low half is 1 to 6.
    const std::uint64_t letters = (no_decimal(characters) & kHighBits) >> 7;
    std::uint64_t value = ((characters & 0x0F0F0F0F0F0F0F0Fu) + letters * 9) << (64 - 8 * digits);
    value = (value << 4 | value >> 8) & 0x00FF00FF00FF00FFu;
    value = (value << 8 | value >> 16) & 0x0000FFFF0000FFFFu;
    return (value << 16 | value >> 32) & 0xFFFFFFFFu;
  }

  // Any number, or what is wrong with it.
  template <typename T>
  T number(int base, const char* what) {
    T value = 0;
    const auto [end, error] = std::from_chars(at_, end_, value, base);
    if (error == std::errc::result_out_of_range) throw BadLine("a number is too large");
    if (error != std::errc()) throw BadLine(std::string("expected ") + what);
    at_ = end;
    skip_space();
    return value;
  }

  const char* at_;
  const char* end_;
  const char* readable_end_;
};

template <typename Format>
class TextReader {
 public:
  template <typename... Arguments>
  explicit TextReader(bool is_lenient, Arguments&&... arguments)
      : is_lenient_(is_lenient), format_(std::forward<Arguments>(arguments)...) {}

  const Format& format() const { return format_; }
  std::uint64_t bad_lines() const { return bad_lines_; }
  const std::string& first_bad_line() const { return first_bad_line_; }

  // What the whole lines of a block say, those begun in the block before included.
  Records read(std::string_view block) {
    Records records;
    records.reserve(last_records_ + last_records_ / 8);
    const std::size_t last = block.rfind('\n');
    if (last == std::string_view::npos) {
      carry(block);
      return records;
    }
    std::string_view lines = block.substr(0, last + 1);
    if (!rest_.empty() || skips_line_) {
      const std::size_t first = lines.find('\n');
      carry(lines.substr(0, first));
      finish_carried(records);
      lines.remove_prefix(first + 1);
    }
    const char* const block_end = block.data() + block.size();
    while (!lines.empty()) {
      const auto* const end = static_cast<const char*>(std::memchr(lines.data(), '\n', lines.size()));
      const auto length = static_cast<std::size_t>(end - lines.data());
      if (block_end - end >= static_cast<std::ptrdiff_t>(kReadableBytes)) {
        take(lines.substr(0, length), records);
      } else {
        carry(lines.substr(0, length));
        finish_carried(records);
      }
      lines.remove_prefix(length + 1);
    }
    carry(block.substr(last + 1));
    last_records_ = records.op.size();
    return records;
  }

  // What the last line says, where no newline ends it.
  Records end() {
    Records records;
    if (!rest_.empty() || skips_line_) finish_carried(records);
    if constexpr (requires { format_.end(); }) {
      try {
        format_.end();
      } catch (const BadLine& fault) {
        bad("the end of the file", line_ + 1, fault.what());
      }
    }
    return records;
  }

 private:
  // No format's lines come near it; what is longer is no text of that format.
  static constexpr std::size_t kLongestLineBytes = std::size_t{1} << 20;
  static constexpr std::size_t kShownCharacters = 60;

  void carry(std::string_view part) {
    if (skips_line_) return;
    if (rest_.size() + part.size() <= kLongestLineBytes) {
      rest_ += part;
      return;
    }
    rest_ += part.substr(0, kShownCharacters);
    bad(rest_, line_ + 1, "a line has at most " + std::to_string(kLongestLineBytes) + " bytes");
    rest_.clear();
    skips_line_ = true;
  }

  void finish_carried(Records& records) {
    if (skips_line_) {
      skips_line_ = false;
      ++line_;
      return;
    }
    std::string line = std::exchange(rest_, {});
    const std::size_t length = line.size();
    line.append(kReadableBytes, '\n');
    take(std::string_view(line).substr(0, length), records);
  }

  void take(std::string_view line, Records& records) {
    records.line = ++line_;
    if (line.size() > kLongestLineBytes) {
      bad(line, line_, "a line has at most " + std::to_string(kLongestLineBytes) + " bytes");
      return;
    }
    const std::size_t before = records.op.size();
    try {
      format_.line(line, records);
    } catch (const BadLine& fault) {
      truncate(records, before);
      bad(line, line_, fault.what());
    }
  }

  // A format may have added a part of the record before it found the fault.
  static void truncate(Records& records, std::size_t count) {
    const auto cut = [count](auto& column) {
      if (column.size() > count) column.resize(count);
    };
    cut(records.op), cut(records.thread), cut(records.address), cut(records.old_address), cut(records.size);
    cut(records.alignment), cut(records.noscan), cut(records.time_ns), cut(records.site), cut(records.place);
  }

  void bad(std::string_view line, std::uint64_t number, const std::string& expected) {
    std::string text = "line " + std::to_string(number) + ": found '";
    for (const char c : line.substr(0, kShownCharacters)) text += c >= ' ' && c <= '~' ? c : '?';
    text += line.size() > kShownCharacters ? "...', " : "', ";
    text += expected;
    if (!is_lenient_) throw TextFault(text);
    if (bad_lines_++ == 0) first_bad_line_ = text;
  }

  bool is_lenient_;
  Format format_;
  std::string rest_;              // Of a line whose end is still to come.
  bool skips_line_ = false;       // Whether what comes up to the next newline belongs to a line too long.
  std::uint64_t line_ = 0;        // That was taken last, from 1.
  std::size_t last_records_ = 0;  // In the block before: about what the next one has.
  std::uint64_t bad_lines_ = 0;
  std::string first_bad_line_;
};

}  // namespace formats
