// Lines of Android's memory_replay: `THREAD: malloc ADDRESS SIZE`, and whatever other calls there are.
//
// Format: AOSP, system/extras/memory_replay, README.md and MemoryTrace.cpp (Alloc.cpp before Android 16).
// Since Android 12 the recorder ends a line with the call's begin and end in nanoseconds; a line that has
// none among lines that do is taken for one at the time before.
#pragma once

#include <cstdint>
#include <string_view>

#include "lines.hpp"

namespace formats {

// Stands for thread 0, which memory_replay takes for no thread at all (Threads.cpp: an empty entry has tid
// 0). No thread of Linux has this number (PID_MAX_LIMIT).
inline constexpr std::uint32_t kThreadZero = 4'194'304;

class AndroidLines {
 public:
  // Whether lines carry times, which the first one tells.
  explicit AndroidLines(bool has_times) : has_times_(has_times) {}

  Counts counts() const { return {{"times", times_}, {"late_times", late_times_}}; }

  void line(std::string_view text, Records& records) {
    Fields fields(text, kReadableBytes);
    if (fields.empty()) return;
    auto thread = fields.decimal<std::uint32_t>();
    if (thread == kThreadZero) thread = 0;
    fields.expect(":");
    std::uint32_t alignment = 0;
    bool is_thread_end = false;
    if (fields.take_word("malloc")) {
      const std::uint64_t address = fields.hexadecimal();
      records.add(Op::kAlloc, thread, address, 0, fields.decimal());
    } else if (fields.take_word("free")) {
      records.add(Op::kFree, thread, fields.hexadecimal(), 0, 0);
    } else if (fields.take_word("calloc")) {
      const std::uint64_t address = fields.hexadecimal();
      const std::uint64_t count = fields.decimal();
      std::uint64_t size = 0;
      if (__builtin_mul_overflow(count, fields.decimal(), &size)) throw BadLine("the size is too large");
      records.add(Op::kCalloc, thread, address, 0, size);
    } else if (fields.take_word("realloc")) {
      const std::uint64_t address = fields.hexadecimal();
      const std::uint64_t old_address = fields.hexadecimal();
      records.add(Op::kRealloc, thread, address, old_address, fields.decimal());
    } else if (fields.take_word("memalign")) {
      const std::uint64_t address = fields.hexadecimal();
      alignment = fields.decimal<std::uint32_t>();
      records.add(Op::kAlloc, thread, address, 0, fields.decimal());
    } else if (fields.take_word("thread_done")) {
      static_cast<void>(fields.hexadecimal());
      records.add(Op::kThreadEnd, thread, 0, 0, 0);
      is_thread_end = true;
    } else {
      throw BadLine("expected malloc, calloc, realloc, memalign, free or thread_done");
    }
    records.alignment.push_back(alignment);
    if (!fields.empty()) times(fields, is_thread_end);
    if (has_times_) records.time_ns.push_back(last_time_ns_ == kNoTime ? 0 : last_time_ns_);
  }

 private:
  static constexpr std::int64_t kNoTime = INT64_MIN;

  // The end of a thread has one time, a call its begin and its end.
  void times(Fields& fields, bool is_thread_end) {
    const auto time_ns = fields.decimal<std::int64_t>();
    if (!is_thread_end) static_cast<void>(fields.decimal<std::int64_t>());
    if (!fields.empty()) throw BadLine("expected the end of the line");
    if (!has_times_) {
      ++times_;
    } else if (time_ns >= last_time_ns_) {
      last_time_ns_ = time_ns;
    } else {
      // The recorder keeps a place for a call before it takes the time, so that those of threads that called
      // at once may stand the wrong way round.
      ++late_times_;
    }
  }

  bool has_times_;
  std::int64_t last_time_ns_ = kNoTime;
  std::uint64_t times_ = 0;       // Of a file that seemed to have none.
  std::uint64_t late_times_ = 0;  // Before that of the line before.
};

}  // namespace formats
