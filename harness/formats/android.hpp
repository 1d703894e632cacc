// Lines of Android's memory_replay: `THREAD: malloc ADDRESS SIZE`, and whatever other calls there are.
//
// Format: AOSP, system/extras/memory_replay, README.md and Alloc.cpp. Newer files end an allocation's line
// with the call's begin and end in nanoseconds; a line that has none among lines that do is taken for one at
// the time before.
#pragma once

#include <cstdint>
#include <string_view>

#include "lines.hpp"

namespace formats {

class AndroidLines {
 public:
  // Whether lines carry times, which the first one tells.
  explicit AndroidLines(bool has_times) : has_times_(has_times) {}

  void line(std::string_view text, Records& records) {
    Fields fields(text);
    if (fields.empty()) return;
    const auto thread = fields.decimal<std::uint32_t>();
    fields.expect(":");
    const std::string_view call = fields.word();
    const std::uint64_t address = fields.hexadecimal();
    std::uint32_t alignment = 0;
    if (call == "malloc") {
      records.add(Op::kAlloc, thread, address, 0, fields.decimal());
    } else if (call == "free") {
      records.add(Op::kFree, thread, address, 0, 0);
    } else if (call == "calloc") {
      const std::uint64_t count = fields.decimal();
      std::uint64_t size = 0;
      if (__builtin_mul_overflow(count, fields.decimal(), &size)) throw BadLine("the size is too large");
      records.add(Op::kCalloc, thread, address, 0, size);
    } else if (call == "realloc") {
      const std::uint64_t old_address = fields.hexadecimal();
      records.add(Op::kRealloc, thread, address, old_address, fields.decimal());
    } else if (call == "memalign") {
      alignment = fields.decimal<std::uint32_t>();
      records.add(Op::kAlloc, thread, address, 0, fields.decimal());
    } else if (call == "thread_done") {
      records.add(Op::kThreadEnd, thread, 0, 0, 0);
    } else {
      throw BadLine("expected malloc, calloc, realloc, memalign, free or thread_done");
    }
    records.alignment.push_back(alignment);
    if (!fields.empty()) {
      const auto begin_ns = fields.decimal<std::int64_t>();
      if (!fields.empty()) static_cast<void>(fields.decimal());
      if (!fields.empty()) throw BadLine("expected the end of the line");
      last_time_ns_ = begin_ns;
    }
    if (has_times_) records.time_ns.push_back(last_time_ns_);
  }

 private:
  bool has_times_;
  std::int64_t last_time_ns_ = 0;
};

}  // namespace formats
