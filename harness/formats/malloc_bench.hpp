// Messages of malloc-bench's traces: a protobuf Tracefile, whose lines are each a malloc, calloc, realloc or
// free.
//
// Format: github.com/ClaytonKnittel/malloc-bench, proto/tracefile.proto;
// protobuf.dev/programming-guides/encoding. The schema is small enough to be read from the wire, a record at
// a time, where the protobuf library would hold the whole file. Fields that it does not know are passed over,
// as protobuf does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "lines.hpp"

namespace formats {

// Takes fields off the front of a message. What is no field throws BadLine.
class WireFields {
 public:
  enum class Type : std::uint8_t { kVarint = 0, kEight = 1, kBytes = 2, kFour = 5 };

  struct Field {
    std::uint64_t number;
    Type type;
    std::uint64_t value;     // Of a varint.
    std::string_view bytes;  // Of bytes.
  };

  explicit WireFields(std::string_view message) : rest_(message) {}

  bool empty() const { return rest_.empty(); }
  std::size_t left() const { return rest_.size(); }

  // The next field, or nothing where it is not all there.
  std::optional<Field> next() {
    const std::string_view before = rest_;
    const auto tag = varint();
    if (!tag) return nothing(before);
    Field field{.number = *tag >> 3, .type = static_cast<Type>(*tag & 7), .value = 0, .bytes = {}};
    std::uint64_t length = 0;
    switch (field.type) {
      case Type::kVarint: {
        const auto value = varint();
        if (!value) return nothing(before);
        field.value = *value;
        return field;
      }
      case Type::kBytes: {
        const auto said = varint();
        if (!said) return nothing(before);
        length = *said;
        break;
      }
      case Type::kEight:
        length = 8;
        break;
      case Type::kFour:
        length = 4;
        break;
      default:
        throw BadLine("expected a field of protobuf");
    }
    if (length > kLongestFieldBytes) {
      throw BadLine("expected a field of at most " + std::to_string(kLongestFieldBytes) + " bytes");
    }
    if (length > rest_.size()) return nothing(before);
    field.bytes = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return field;
  }

 private:
  // No record comes near it; what is longer is no trace.
  static constexpr std::uint64_t kLongestFieldBytes = std::uint64_t{1} << 20;

  std::optional<Field> nothing(std::string_view before) {
    rest_ = before;
    return std::nullopt;
  }

  std::optional<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < rest_.size(); ++i) {
      const auto byte = static_cast<std::uint8_t>(rest_[i]);
      if (i == 9 && byte > 1) throw BadLine("expected a number of 64 bits");
      value |= std::uint64_t{byte & 0x7Fu} << (7 * i);
      if (byte < 0x80) {
        rest_.remove_prefix(i + 1);
        return value;
      }
    }
    return std::nullopt;
  }

  std::string_view rest_;
};

class MallocBenchReader {
 public:
  explicit MallocBenchReader(bool is_lenient) : is_lenient_(is_lenient) {}

  Counts counts() const { return {{"failed_calls", failed_}, {"size_hints", size_hints_}}; }
  std::uint64_t bad_records() const { return bad_records_; }

  // What the whole records of a block say, those begun in the block before included.
  Records read(std::string_view block) {
    Records records;
    if (is_lost_) return records;
    rest_ += block;
    WireFields fields(rest_);
    try {
      while (const auto field = fields.next()) {
        if (field->number == kLine && field->type == WireFields::Type::kBytes) take(field->bytes, records);
      }
    } catch (const BadLine& fault) {
      lose(fault.what());
      return records;
    }
    rest_.erase(0, rest_.size() - fields.left());
    return records;
  }

  Records end() {
    if (!rest_.empty() && !is_lost_) lose("expected the rest of it, and the file ends");
    return {};
  }

 private:
  // Tracefile's field, those of TraceLine's oneof, and theirs.
  static constexpr std::uint64_t kLine = 1;
  enum Call : std::uint64_t { kNone = 0, kMalloc = 1, kFree = 2, kRealloc = 3, kCalloc = 4 };
  using Values = std::array<std::optional<std::uint64_t>, 4>;  // By number; 0 is none's.

  void take(std::string_view line, Records& records) {
    records.line = ++record_;
    try {
      Call call = kNone;
      Values values;
      WireFields fields(line);
      while (!fields.empty()) {
        const auto field = whole(fields);
        if (field.type != WireFields::Type::kBytes || field.number < kMalloc || field.number > kCalloc)
          continue;
        call = static_cast<Call>(field.number);
        values = numbers(field.bytes);
      }
      add(call, values, records);
    } catch (const BadLine& fault) {
      bad(fault.what());
    }
  }

  static WireFields::Field whole(WireFields& fields) {
    const auto field = fields.next();
    if (!field) throw BadLine("expected fields that end where it does");
    return *field;
  }

  static Values numbers(std::string_view message) {
    Values values;
    WireFields fields(message);
    while (!fields.empty()) {
      const auto field = whole(fields);
      if (field.type == WireFields::Type::kVarint && field.number < values.size()) {
        values[field.number] = field.value;
      }
    }
    return values;
  }

  // An id that is not there stands for null.
  void add(Call call, const Values& values, Records& records) {
    const auto& [none, first, second, third] = values;
    switch (call) {
      case kMalloc:
        if (third.value_or(0) > UINT32_MAX) throw BadLine("expected an alignment of 32 bits");
        if (!first) {
          ++failed_;
          return;
        }
        records.add(Op::kAlloc, 0, *first, *first, second.value_or(0));
        records.alignment.push_back(static_cast<std::uint32_t>(third.value_or(0)));
        return;
      case kCalloc: {
        std::uint64_t size = 0;
        if (__builtin_mul_overflow(second.value_or(0), third.value_or(0), &size)) {
          throw BadLine("expected a size of 64 bits");
        }
        if (!first) {
          ++failed_;
          return;
        }
        records.add(Op::kCalloc, 0, *first, *first, size);
        break;
      }
      case kRealloc: {
        const std::uint64_t size = third.value_or(0);
        if (first && second) {
          records.add(Op::kRealloc, 0, *first, *second, size);
        } else if (first) {
          records.add(Op::kAlloc, 0, *first, *first, size);
        } else if (second && size == 0) {
          records.add(Op::kFree, 0, *second, *second, 0);
        } else {
          ++failed_;
          return;
        }
        break;
      }
      case kFree:
        if (second || third) ++size_hints_;
        if (!first) return;
        records.add(Op::kFree, 0, *first, *first, 0);
        break;
      case kNone:
        throw BadLine("expected a malloc, calloc, realloc or free");
    }
    records.alignment.push_back(0);
  }

  void bad(const std::string& expected) {
    if (!is_lenient_) {
      throw TextFault("record " + std::to_string(record_) + ": found bytes that are none, " + expected);
    }
    ++bad_records_;
  }

  // Where a length cannot be right, nobody knows where the next record begins.
  void lose(const std::string& expected) {
    ++record_;
    is_lost_ = true;
    rest_.clear();
    bad(expected);
  }

  bool is_lenient_;
  bool is_lost_ = false;
  std::string rest_;          // Of a record whose end is still to come.
  std::uint64_t record_ = 0;  // That was taken last, from 1.
  std::uint64_t failed_ = 0;
  std::uint64_t size_hints_ = 0;
  std::uint64_t bad_records_ = 0;
};

}  // namespace formats
