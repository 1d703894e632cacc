// Lines that valgrind writes with --trace-malloc=yes: `--PID-- malloc(16) = 0x4A4B040`, among others of its
// own and of the program.
//
// Format: valgrind 3.19 and newer, coregrind/m_replacemalloc/vg_replace_malloc.c. A call and its result are
// written by two requests of the program, between which another thread may write, too, and functions that
// call each other write into one line: `realloc(0x0,7)malloc(7) = 0x40`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lines.hpp"

namespace formats {

class ValgrindLines {
 public:
  // Whether lines carry times (--time-stamp=yes), which the first one tells.
  explicit ValgrindLines(bool has_times) : has_times_(has_times) {}

  // Calls of other processes in the same file, which are left out.
  std::uint64_t foreign_calls() const { return foreign_calls_; }
  // Allocations whose address newer versions do not write: posix_memalign and aligned_alloc.
  std::uint64_t untold_allocations() const { return untold_allocations_; }

  void line(std::string_view text, Records& records) {
    if (!text.starts_with("--") && !prefix_.empty()) {
      // What the program writes without a newline stands before.
      const std::size_t at = text.find(prefix_);
      if (at == std::string_view::npos) return;
      text.remove_prefix(at);
    }
    const std::size_t end = text.find("-- ", 2);
    if (!text.starts_with("--") || end == std::string_view::npos || text[2] < '0' || text[2] > '9') return;
    const std::string_view told = text.substr(2, end - 2);
    std::string_view calls = text.substr(end + 3);
    if (!is_call(calls) && !calls.starts_with(" = ")) return;
    Fields process(told);
    const std::int64_t time_ns = told.find(' ') == std::string_view::npos ? last_time_ns_ : time_in(process);
    const auto pid = process.decimal();
    if (!process.empty()) throw BadLine("expected --PID--");
    if (prefix_.empty()) {
      pid_ = pid;
      if (told.find(' ') == std::string_view::npos) prefix_ = text.substr(0, end + 3);
    }
    if (pid != pid_) {
      if (is_call(calls)) ++foreign_calls_;
      return;
    }
    last_time_ns_ = time_ns;
    while (!calls.empty()) take(calls, records);
  }

 private:
  enum class Function { kNone, kMalloc, kCalloc, kRealloc, kFree, kAligned, kUntold, kOther };
  struct Call {
    Function function = Function::kNone;
    std::uint64_t old_address = 0;
    std::uint64_t size = 0;
    std::uint32_t alignment = 0;
    bool is_too_large = false;  // The product of calloc; it fails without a result.
  };

  // So many threads between a call and its result at once are none: lines were lost.
  static constexpr std::size_t kMostOpenCalls = 64;

  static Function function_of(std::string_view name) {
    if (name == "malloc" || name.ends_with("builtin_new") || name.ends_with("builtin_vec_new")) {
      return Function::kMalloc;
    }
    if (name == "free" || name == "cfree" || name.starts_with("_Zdl") || name.starts_with("_Zda") ||
        name.ends_with("builtin_delete") || name.ends_with("builtin_vec_delete")) {
      return Function::kFree;
    }
    if (name.starts_with("_Znw") || name.starts_with("_Zna")) {
      return name.find("align_val_t") != std::string_view::npos ? Function::kAligned : Function::kMalloc;
    }
    if (name == "calloc") return Function::kCalloc;
    if (name == "realloc" || name == "reallocf") return Function::kRealloc;
    if (name == "memalign") return Function::kAligned;
    if (name == "posix_memalign" || name == "aligned_alloc") return Function::kUntold;
    if (name == "malloc_usable_size" || name == "malloc_size" || name == "mallinfo") return Function::kOther;
    return Function::kNone;
  }

  static std::string_view name_of(std::string_view text) {
    const std::size_t end =
        text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    return end == std::string_view::npos || text[end] != '(' ? std::string_view() : text.substr(0, end);
  }

  static bool is_call(std::string_view text) { return function_of(name_of(text)) != Function::kNone; }

  // Days, hours, minutes, seconds and milliseconds: 00:00:00:01.143.
  static std::int64_t time_in(Fields& fields) {
    constexpr std::uint64_t kMostDays = 100'000;
    const std::uint64_t days = fields.decimal();
    if (days > kMostDays) throw BadLine("the time is too large");
    std::uint64_t unit = days;
    for (const std::uint64_t per : {24u, 60u, 60u}) {
      fields.expect(":");
      const std::uint64_t part = fields.decimal();
      if (part >= per) throw BadLine("expected a time, DAYS:HOURS:MINUTES:SECONDS");
      unit = unit * per + part;
    }
    fields.expect(".");
    const std::uint64_t milliseconds = fields.decimal();
    if (milliseconds >= 1000) throw BadLine("expected a time with milliseconds");
    return static_cast<std::int64_t>((unit * 1000 + milliseconds) * 1'000'000);
  }

  // Takes a call or a result off the front of a line.
  void take(std::string_view& text, Records& records) {
    if (text.starts_with(" = ")) {
      Fields fields(text.substr(3));
      const std::uint64_t result = fields.either();
      end(result, records);
      text = text.substr(text.size() - fields.rest().size());
      return;
    }
    const std::string_view name = name_of(text);
    const Function function = function_of(name);
    const std::size_t close = text.find(')');
    if (function == Function::kNone || close == std::string_view::npos) {
      throw BadLine("expected a call, NAME(...), or its result, ' = ADDRESS'");
    }
    Fields arguments(text.substr(name.size() + 1, close - name.size() - 1));
    text.remove_prefix(close + 1);
    begin(call_of(function, arguments), text.starts_with(" = "), records);
    if (!arguments.empty()) throw BadLine("expected no more arguments");
  }

  static Call call_of(Function function, Fields& arguments) {
    Call call{.function = function};
    switch (function) {
      case Function::kMalloc:
        call.size = arguments.decimal();
        break;
      case Function::kCalloc: {
        const std::uint64_t count = arguments.decimal();
        arguments.expect(",");
        call.is_too_large = __builtin_mul_overflow(count, arguments.decimal(), &call.size);
        break;
      }
      case Function::kRealloc:
        call.old_address = arguments.hexadecimal();
        arguments.expect(",");
        call.size = arguments.decimal();
        break;
      case Function::kFree:
        call.old_address = arguments.hexadecimal();
        while (!arguments.empty())
          static_cast<void>(arguments.word());  // The size, of some operators delete.
        break;
      case Function::kAligned:
      case Function::kUntold:
        // memalign has the alignment first, operator new the size.
        for (int i = 0; i < 2; ++i) {
          if (arguments.take("al ")) {
            call.alignment = rounded_alignment(arguments.decimal());
          } else {
            arguments.expect("size ");
            call.size = arguments.decimal();
          }
          if (i == 0) arguments.expect(",");
        }
        break;
      case Function::kOther:
      case Function::kNone:
        while (!arguments.empty()) static_cast<void>(arguments.word());
        break;
    }
    return call;
  }

  void begin(const Call& call, bool has_result, Records& records) {
    switch (call.function) {
      case Function::kFree:
        if (!open_.empty() && open_.back().function == Function::kRealloc && open_.back().size == 0 &&
            open_.back().old_address == call.old_address && call.old_address != 0) {
          return;  // The realloc to nothing does it: its result comes.
        }
        add(Op::kFree, call.old_address, call, records);
        return;
      case Function::kUntold:
        if (!has_result) {
          ++untold_allocations_;
          return;
        }
        break;
      case Function::kOther:
        if (!has_result) return;  // Of null, or one that has none.
        break;
      case Function::kMalloc:
        // A realloc of nothing calls malloc, and has no result of its own.
        if (!open_.empty() && open_.back().function == Function::kRealloc && open_.back().old_address == 0 &&
            open_.back().size == call.size) {
          open_.pop_back();
        }
        break;
      case Function::kCalloc:
        if (call.is_too_large && !has_result) {
          add(Op::kCalloc, 0, call, records);
          return;
        }
        break;
      default:
        break;
    }
    if (open_.size() == kMostOpenCalls) {
      open_.clear();
      throw BadLine("expected the results of the 64 calls before");
    }
    open_.push_back(call);
  }

  void end(std::uint64_t result, Records& records) {
    if (open_.empty()) throw BadLine("expected a call before its result");
    const Call call = open_.back();
    open_.pop_back();
    if (call.function == Function::kOther) return;
    const Op op = call.function == Function::kCalloc    ? Op::kCalloc
                  : call.function == Function::kRealloc ? Op::kRealloc
                                                        : Op::kAlloc;
    add(op, result, call, records);
  }

  void add(Op op, std::uint64_t address, const Call& call, Records& records) const {
    if (op == Op::kFree) {
      records.add(op, 0, address, 0, 0);
    } else {
      records.add(op, 0, address, call.old_address, call.size);
    }
    records.alignment.push_back(call.alignment);
    if (has_times_) records.time_ns.push_back(last_time_ns_);
  }

  bool has_times_;
  std::uint64_t pid_ = 0;   // Whose calls these are: the first one's.
  std::string prefix_;      // Of its lines, where they carry no times.
  std::vector<Call> open_;  // Calls whose results are still to come, the last one's first.
  std::int64_t last_time_ns_ = 0;
  std::uint64_t foreign_calls_ = 0;
  std::uint64_t untold_allocations_ = 0;
};

}  // namespace formats
