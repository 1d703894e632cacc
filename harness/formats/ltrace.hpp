// Lines of ltrace: `12345 malloc(16) = 0x55d0`, with or without a process, a time and a library before the
// call.
//
// Format: ltrace 0.7.3, output.c; times by -t, -tt, -ttt and -r. A call that another one's line interrupts
// ends with `<unfinished ...>` and goes on where `<... malloc resumed>` stands: a free happens at its begin,
// an allocation at its end, a realloc in between (address_book.hpp, kReallocBegin). What allocation functions
// call themselves is a part of them, and left out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lines.hpp"

namespace formats {

class LtraceLines {
 public:
  explicit LtraceLines(bool has_times) : has_times_(has_times) {}

  // Calls of posix_memalign of which only the place for the result was told.
  std::uint64_t untold_allocations() const { return untold_allocations_; }
  // Programs that a process went on with by exec, which have a memory of their own.
  std::uint64_t executed_programs() const { return executed_programs_; }

  void line(std::string_view text, Records& records) {
    Fields fields(text);
    const std::uint32_t thread = thread_in(fields);
    if (!tell_time(fields)) return;
    if (fields.rest().starts_with("[0x")) static_cast<void>(fields.word());  // Who called (-i).
    if (fields.take("<... ")) {
      const std::string_view name = fields.rest().substr(0, fields.rest().find(' '));
      const Function function = function_of(name);
      if (function == Function::kNone) return;
      static_cast<void>(fields.word());
      fields.expect("resumed>");
      resume(function, thread, fields.rest(), records);
    } else if (fields.take("+++ ")) {
      open_.erase(thread);
      add(Op::kThreadEnd, thread, 0, {}, records);
    } else if (fields.take("--- Called exec()")) {
      ++executed_programs_;
    } else {
      take_call(fields.rest(), thread, records);
    }
  }

 private:
  enum class Function {
    kNone,
    kMalloc,
    kCalloc,
    kRealloc,
    kReallocArray,
    kFree,
    kAligned,
    kPageAligned,
    kPosix
  };
  struct Call {
    std::uint64_t address = 0;  // What posix_memalign was given, or free frees.
    std::uint64_t old_address = 0;
    std::uint64_t size = 0;
    std::uint32_t alignment = 0;
    bool is_too_large = false;
  };
  struct Open {
    Function function;
    std::string arguments;
  };

  static constexpr std::size_t kDeepestCalls =
      64;  // A function that calls so many within each other is none.
  static constexpr std::size_t kMostThreads = 65'536;  // As traces may have alive.
  static constexpr std::uint32_t kPageBytes = 4096;
  static constexpr std::int64_t kSecond = 1'000'000'000;
  static constexpr std::int64_t kDay = 86'400 * kSecond;
  // A first time below this is none of today's: -r tells what has passed since the line before.
  static constexpr std::int64_t kEarliestToday = 100'000'000 * kSecond;

  static Function function_of(std::string_view name) {
    if (name == "malloc") return Function::kMalloc;
    if (name == "free" || name == "cfree") return Function::kFree;
    if (name == "calloc") return Function::kCalloc;
    if (name == "realloc") return Function::kRealloc;
    if (name == "reallocarray") return Function::kReallocArray;
    if (name == "posix_memalign") return Function::kPosix;
    if (name == "aligned_alloc" || name == "memalign") return Function::kAligned;
    if (name == "valloc" || name == "pvalloc") return Function::kPageAligned;
    return Function::kNone;
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }

  // `[pid 12345]`, or a number that is no time; 0 where there is neither.
  static std::uint32_t thread_in(Fields& fields) {
    if (fields.take("[pid ")) {
      const auto thread = fields.decimal<std::uint32_t>();
      fields.expect("]");
      return thread;
    }
    const std::string_view rest = fields.rest();
    const std::size_t end = rest.find_first_not_of("0123456789");
    if (end == 0 || end == std::string_view::npos || rest[end] != ' ') return 0;
    return fields.decimal<std::uint32_t>();
  }

  // Takes the time, if one stands here; false where the line is none of ltrace's.
  bool tell_time(Fields& fields) {
    if (fields.empty()) return false;
    if (!is_digit(fields.rest().front())) return true;
    std::int64_t time_ns = number_in(fields) * kSecond;
    const bool is_of_day = fields.take(":");
    if (is_of_day) {
      time_ns = time_ns * 60 + number_in(fields) * kSecond;
      if (!fields.take(":")) return false;
      time_ns = time_ns * 60 + number_in(fields) * kSecond;
    }
    if (fields.take(".")) {
      const std::size_t digits = fields.rest().find_first_not_of("0123456789");
      if (digits != 6) return false;
      time_ns += number_in(fields) * 1000;
    } else if (!is_of_day) {
      return false;
    }
    if (is_of_day) {
      // Midnight.
      if (time_ns + days_ns_ < last_time_ns_ - kDay / 2) days_ns_ += kDay;
      last_time_ns_ = time_ns + days_ns_;
    } else {
      if (!knows_times_) is_relative_ = time_ns < kEarliestToday;
      last_time_ns_ = is_relative_ ? last_time_ns_ + time_ns : time_ns;
    }
    knows_times_ = true;
    return true;
  }

  // A part of a time, which is no longer than seconds since 1970 are.
  static std::int64_t number_in(Fields& fields) {
    constexpr std::uint64_t kMost = 9'000'000'000;
    const std::uint64_t number = fields.decimal();
    if (number > kMost) throw BadLine("the time is too large");
    return static_cast<std::int64_t>(number);
  }

  // `clang->malloc@libc.so.6(16) = 0x55d0`, or the begin of it.
  void take_call(std::string_view text, std::uint32_t thread, Records& records) {
    const std::size_t open = text.find('(');
    if (open == std::string_view::npos) return;
    std::string_view name = text.substr(0, open);
    if (const std::size_t arrow = name.rfind("->"); arrow != std::string_view::npos)
      name.remove_prefix(arrow + 2);
    name = name.substr(0, name.find('@'));
    const Function function = function_of(name);
    if (function == Function::kNone) return;
    text.remove_prefix(open + 1);
    std::vector<Open>& calls = open_[thread];
    if (open_.size() > kMostThreads) {
      open_.clear();
      throw BadLine("expected at most 65,536 threads");
    }
    for (const std::string_view mark : {"<unfinished ...>", "<no return ...>"}) {
      if (!text.ends_with(mark)) continue;
      text.remove_suffix(mark.size());
      if (calls.size() == kDeepestCalls) throw BadLine("expected at most 64 calls within each other");
      if (calls.empty()) begin(function, text, thread, records);
      calls.push_back({function, std::string(text)});
      return;
    }
    const std::size_t close = text.find(')');
    if (close == std::string_view::npos) throw BadLine("expected ) and a result, or <unfinished ...>");
    if (!calls.empty()) return;
    begin(function, text.substr(0, close), thread, records);
    end(function, text, close, thread, records);
  }

  void resume(Function function, std::uint32_t thread, std::string_view rest, Records& records) {
    const auto found = open_.find(thread);
    if (found == open_.end() || found->second.empty() || found->second.back().function != function) {
      throw BadLine("expected the begin of this call in a line before");
    }
    const std::string text = std::move(found->second.back().arguments) + std::string(rest);
    found->second.pop_back();
    if (!found->second.empty()) return;
    const std::size_t close = text.find(')');
    if (close == std::string::npos) throw BadLine("expected ) and a result");
    end(function, text, close, thread, records);
  }

  // What has happened as soon as a function is called.
  void begin(Function function, std::string_view arguments, std::uint32_t thread, Records& records) const {
    if (function == Function::kFree) {
      add(Op::kFree, thread, number_in(arguments, 0), {}, records);
    } else if (function == Function::kRealloc || function == Function::kReallocArray) {
      if (const std::uint64_t old_address = number_in(arguments, 0)) {
        records.begin_realloc(thread, old_address);
        fill(0, records);
      }
    }
  }

  // What a function has done; `close` is where its arguments end.
  void end(Function function, std::string_view text, std::size_t close, std::uint32_t thread,
           Records& records) {
    if (function == Function::kFree) return;
    const std::string_view arguments = text.substr(0, close);
    Fields fields(text.substr(close + 1));
    fields.expect("=");
    const std::uint64_t result = fields.take("nil") ? 0 : value_in(fields.word());
    Call call;
    Op op = Op::kAlloc;
    switch (function) {
      case Function::kMalloc:
        call.size = number_in(arguments, 0);
        break;
      case Function::kCalloc:
        op = Op::kCalloc;
        call.is_too_large =
            __builtin_mul_overflow(number_in(arguments, 0), number_in(arguments, 1), &call.size);
        break;
      case Function::kRealloc:
        op = Op::kRealloc;
        call.old_address = number_in(arguments, 0);
        call.size = number_in(arguments, 1);
        break;
      case Function::kReallocArray:
        op = Op::kRealloc;
        call.old_address = number_in(arguments, 0);
        call.is_too_large =
            __builtin_mul_overflow(number_in(arguments, 1), number_in(arguments, 2), &call.size);
        break;
      case Function::kAligned:
        call.alignment = result == 0 ? 0 : rounded_alignment(number_in(arguments, 0));
        call.size = number_in(arguments, 1);
        break;
      case Function::kPageAligned:
        call.alignment = kPageBytes;
        call.size = number_in(arguments, 0);
        break;
      case Function::kPosix: {
        // Without a prototype ltrace prints four numbers, and not what the first one points to.
        const bool is_told = std::ranges::count(arguments, ',') == 2;
        const bool has_failed = result != 0;
        if (!is_told && !has_failed) {
          ++untold_allocations_;
          return;
        }
        call.alignment = has_failed ? 0 : rounded_alignment(number_in(arguments, 1));
        call.size = number_in(arguments, 2);
        add(op, thread, has_failed ? 0 : number_in(arguments, 0), call, records);
        return;
      }
      default:
        return;
    }
    if (call.is_too_large && result != 0) throw BadLine("the size is too large");
    if (call.is_too_large) call.size = UINT64_MAX;
    add(op, thread, result, call, records);
  }

  // The argument of a number, from 0.
  static std::uint64_t number_in(std::string_view arguments, int which) {
    for (; which > 0; --which) {
      const std::size_t comma = arguments.find(',');
      if (comma == std::string_view::npos) throw BadLine("expected another argument");
      arguments.remove_prefix(comma + 1);
    }
    arguments = arguments.substr(0, arguments.find(','));
    return value_in(Fields(arguments).word());
  }

  // What ltrace calls large is hexadecimal, what it takes for negative has a sign.
  static std::uint64_t value_in(std::string_view text) {
    if (text == "nil" || text == "NULL") return 0;
    const bool is_negative = text.starts_with('-');
    if (is_negative) text.remove_prefix(1);
    Fields fields(text);
    const std::uint64_t value = fields.either();
    if (!fields.empty()) throw BadLine("expected a number");
    return is_negative ? ~value + 1 : value;
  }

  void add(Op op, std::uint32_t thread, std::uint64_t address, const Call& call, Records& records) const {
    records.add(op, thread, address, call.old_address, call.size);
    fill(call.alignment, records);
  }

  void fill(std::uint32_t alignment, Records& records) const {
    records.alignment.push_back(alignment);
    if (has_times_) records.time_ns.push_back(last_time_ns_);
  }

  bool has_times_;
  bool knows_times_ = false;
  bool is_relative_ = false;
  std::int64_t last_time_ns_ = 0;
  std::int64_t days_ns_ = 0;
  std::unordered_map<std::uint32_t, std::vector<Open>> open_;  // By thread, calls within each other.
  std::uint64_t untold_allocations_ = 0;
  std::uint64_t executed_programs_ = 0;
};

}  // namespace formats
