// Lines that recording/alloc.bt prints: nanoseconds, a thread, a call, its arguments and its result.
//
// A free is told as it begins, an allocation as it ends, a realloc both ways (address_book.hpp,
// kReallocBegin). bpftrace writes what each processor saw in turn: lines have to be sorted by time.
#pragma once

#include <cstdint>
#include <string_view>

#include "lines.hpp"

namespace formats {

class BpftraceLines {
 public:
  explicit BpftraceLines(bool must_be_sorted) : must_be_sorted_(must_be_sorted) {}

  // Events that bpftrace says it had no room for. It does not always say so: the lines that the script
  // printed, by its own count, are more than those in the file, too.
  std::uint64_t lost_events() const { return lost_events_; }
  std::uint64_t lines_lacking() const { return lines_told_ > lines_ ? lines_told_ - lines_ : 0; }

  void line(std::string_view text, Records& records) {
    Fields fields(text);
    if (fields.empty() || fields.rest().starts_with('#') || fields.rest().starts_with("Attaching ")) return;
    if (fields.take("Lost ")) {
      lost_events_ += fields.decimal();
      fields.expect("events");
      return;
    }
    if (fields.take("@lines:")) {
      lines_told_ += fields.decimal();
      return;
    }
    ++lines_;
    const auto time_ns = fields.decimal<std::int64_t>();
    const auto thread = fields.decimal<std::uint32_t>();
    const std::string_view call = fields.word();
    std::uint32_t alignment = 0;
    if (call == "free") {
      records.add(Op::kFree, thread, fields.hexadecimal(), 0, 0);
    } else if (call == "malloc") {
      const std::uint64_t size = fields.decimal();
      records.add(Op::kAlloc, thread, fields.hexadecimal(), 0, size);
    } else if (call == "calloc") {
      const std::uint64_t count = fields.decimal();
      std::uint64_t size = 0;
      const bool is_too_large = __builtin_mul_overflow(count, fields.decimal(), &size);
      const std::uint64_t address = fields.hexadecimal();
      if (is_too_large && address != 0) throw BadLine("the size is too large");
      records.add(Op::kCalloc, thread, address, 0, size);
    } else if (call == "realloc_begin") {
      records.begin_realloc(thread, fields.hexadecimal());
    } else if (call == "realloc") {
      const std::uint64_t old_address = fields.hexadecimal();
      const std::uint64_t size = fields.decimal();
      records.add(Op::kRealloc, thread, fields.hexadecimal(), old_address, size);
    } else if (call == "memalign") {
      const std::uint64_t asked = fields.decimal();
      const std::uint64_t size = fields.decimal();
      const std::uint64_t address = fields.hexadecimal();
      alignment = address == 0 ? 0 : rounded_alignment(asked);
      records.add(Op::kAlloc, thread, address, 0, size);
    } else {
      throw BadLine("expected malloc, calloc, realloc_begin, realloc, memalign or free");
    }
    if (!fields.empty()) throw BadLine("expected the end of the line");
    if (must_be_sorted_ && time_ns < last_time_ns_) {
      throw BadLine("expected a later time than in the line before: put the file in order, sort -n FILE");
    }
    last_time_ns_ = time_ns;
    records.alignment.push_back(alignment);
    records.time_ns.push_back(time_ns);
  }

 private:
  bool must_be_sorted_;
  std::int64_t last_time_ns_ = INT64_MIN;
  std::uint64_t lost_events_ = 0;
  std::uint64_t lines_ = 0;
  std::uint64_t lines_told_ = 0;
};

}  // namespace formats
