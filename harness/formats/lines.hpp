// What readers of text share: lines across blocks, numbers, and the records that a line becomes.
//
// A reader of a format is a class with `void line(std::string_view, Records&)`, which appends what the line
// says or throws BadLine; TextReader does the rest: it numbers lines, bounds their length, and stops at the
// first bad one or, asked to be lenient, counts it and goes on. address_book.hpp makes rows of the records.
#pragma once

#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "address_book.hpp"
#include "harness/replay.hpp"

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

// The alignment that an allocator makes of the one asked for: the next power of two, as glibc (malloc.c,
// _mid_memalign) and others do.
inline std::uint32_t rounded_alignment(std::uint64_t asked) {
  if (asked > std::uint64_t{1} << 31) throw BadLine("the alignment is too large");
  return static_cast<std::uint32_t>(std::bit_ceil(asked));
}

// Takes fields off the front of a line. What is missing or no number throws BadLine.
class Fields {
 public:
  explicit Fields(std::string_view line) : rest_(line) { skip_space(); }

  bool empty() const { return rest_.empty(); }
  std::string_view rest() const { return rest_; }

  // The next characters up to a space.
  std::string_view word() {
    std::size_t end = 0;
    while (end < rest_.size() && !is_space(rest_[end])) ++end;
    if (end == 0) throw BadLine("expected another field");
    const std::string_view found = rest_.substr(0, end);
    rest_.remove_prefix(end);
    skip_space();
    return found;
  }

  // Steps over a text that must stand here.
  void expect(std::string_view text) {
    if (!take(text)) throw BadLine("expected '" + std::string(text) + "'");
  }

  // Steps over a text if it stands here.
  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    skip_space();
    return true;
  }

  // A number without a sign, whatever follows it.
  template <typename T = std::uint64_t>
  T decimal() {
    return number<T>(10, "a decimal number");
  }

  // Hexadecimal, with 0x before it or not.
  std::uint64_t hexadecimal() {
    if (rest_.starts_with("0x")) rest_.remove_prefix(2);
    return number<std::uint64_t>(16, "a hexadecimal number");
  }

  // An address as printf's %p writes it.
  std::uint64_t pointer() { return take("(nil)") ? 0 : hexadecimal(); }

  // A number that is hexadecimal where 0x stands before it, else decimal.
  std::uint64_t either() { return rest_.starts_with("0x") ? hexadecimal() : decimal(); }

  // Steps over so many characters, which may be spaces.
  std::string_view characters(std::size_t count) {
    if (count > rest_.size()) throw BadLine("expected " + std::to_string(count) + " characters more");
    const std::string_view found = rest_.substr(0, count);
    rest_.remove_prefix(count);
    skip_space();
    return found;
  }

 private:
  static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }

  void skip_space() {
    while (!rest_.empty() && is_space(rest_.front())) rest_.remove_prefix(1);
  }

  template <typename T>
  T number(int base, const char* what) {
    T value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value, base);
    if (error == std::errc::result_out_of_range) throw BadLine("a number is too large");
    if (error != std::errc()) throw BadLine(std::string("expected ") + what);
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    skip_space();
    return value;
  }

  std::string_view rest_;
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
    while (!lines.empty()) {
      const auto* const end = static_cast<const char*>(std::memchr(lines.data(), '\n', lines.size()));
      const auto length = static_cast<std::size_t>(end - lines.data());
      take(lines.substr(0, length), records);
      lines.remove_prefix(length + 1);
    }
    carry(block.substr(last + 1));
    return records;
  }

  // What the last line says, where no newline ends it.
  Records end() {
    Records records;
    if (!rest_.empty() || skips_line_) finish_carried(records);
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
    const std::string line = std::exchange(rest_, {});
    take(line, records);
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
  std::string rest_;         // Of a line whose end is still to come.
  bool skips_line_ = false;  // Whether what comes up to the next newline belongs to a line too long.
  std::uint64_t line_ = 0;   // That was taken last, from 1.
  std::uint64_t bad_lines_ = 0;
  std::string first_bad_line_;
};

}  // namespace formats
