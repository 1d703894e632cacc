// Writes rows as lines of Android's memory_replay; android.hpp reads them.
//
// An object lies at an address that no other one has, live or dead, aligned as it asks, and moves with every
// realloc. The begin and the end of a call are both its time, where rows have times.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "android.hpp"
#include "harness/replay.hpp"

namespace formats {

// Rows of harness-trace/1, ids dense. Where a column is empty, the trace says nothing of it.
struct AndroidRows {
  std::span<const std::uint8_t> op;
  std::span<const std::uint32_t> thread;
  std::span<const std::uint64_t> object;
  std::span<const std::uint64_t> size;
  std::span<const std::uint32_t> alignment = {};
  std::span<const std::int64_t> time_ns = {};
};

// What the lines could not say.
struct AndroidCounts {
  std::uint64_t collections = 0;
  std::uint64_t alignments = 0;  // Of callocs and reallocs.
};

class AndroidText {
 public:
  const AndroidCounts& counts() const { return counts_; }

  // The lines of rows, until the next call. Throws std::range_error where the format has no number for what a
  // row says.
  std::string_view lines(const AndroidRows& rows) {
    const std::size_t longest_bytes = rows.op.size() * kLongestLineBytes;
    if (longest_bytes > room_bytes_) {
      text_ = std::make_unique_for_overwrite<char[]>(longest_bytes);
      room_bytes_ = longest_bytes;
    }
    char* at = text_.get();
    for (std::size_t i = 0; i < rows.op.size(); ++i) at = line(rows, i, at);
    return {text_.get(), at};
  }

 private:
  // Ten digits of a thread, the longest call, three numbers of 20 digits or of 18 in hexadecimal, two times.
  static constexpr std::size_t kLongestLineBytes = 160;
  // Below it no process has anything mapped, as Linux is set up (vm.mmap_min_addr).
  static constexpr std::uint64_t kFirstAddress = 0x10000;
  static constexpr std::uint64_t kPastAddresses = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kGrain = 16;  // As malloc aligns on 64-bit machines.

  char* line(const AndroidRows& rows, std::size_t i, char* at) {
    const auto op = static_cast<Op>(rows.op[i]);
    const std::uint32_t alignment = rows.alignment.empty() ? 0 : rows.alignment[i];
    const std::uint64_t size = rows.size[i];
    if (op == Op::kGc) {
      ++counts_.collections;
      return at;
    }
    at = thread(rows.thread[i], at);
    switch (op) {
      case Op::kAlloc:
        if (alignment == 0) {
          at = hexadecimal(place(rows.object[i], size, 0), put(": malloc ", at));
        } else {
          at = hexadecimal(place(rows.object[i], size, alignment), put(": memalign ", at));
          at = number(alignment, put(" ", at));
        }
        at = number(size, put(" ", at));
        break;
      case Op::kCalloc:
        if (alignment != 0) ++counts_.alignments;
        at = hexadecimal(place(rows.object[i], size, alignment), put(": calloc ", at));
        at = number(size, put(" 1 ", at));
        break;
      case Op::kRealloc: {
        if (alignment != 0) ++counts_.alignments;
        const std::uint64_t old_address = addresses_[rows.object[i]];
        at = hexadecimal(place(rows.object[i], size, alignment), put(": realloc ", at));
        at = hexadecimal(old_address, put(" ", at));
        at = number(size, put(" ", at));
        break;
      }
      case Op::kFree:
        at = hexadecimal(addresses_[rows.object[i]], put(": free ", at));
        break;
      case Op::kThreadEnd:
        at = put(": thread_done 0x0", at);
        break;
      case Op::kGc:
        break;
    }
    if (!rows.time_ns.empty()) {
      at = number(rows.time_ns[i], put(" ", at));
      // The end of a thread has no begin.
      if (op != Op::kThreadEnd) at = number(rows.time_ns[i], put(" ", at));
    }
    return put("\n", at);
  }

  static char* thread(std::uint32_t thread, char* at) {
    if (thread >= kThreadZero) {
      throw std::range_error("found thread " + std::to_string(thread) + ", expected one below " +
                             std::to_string(kThreadZero) + ", as Linux numbers them");
    }
    return number(thread == 0 ? kThreadZero : thread, at);
  }

  // Where an object comes to lie.
  std::uint64_t place(std::uint64_t object, std::uint64_t size, std::uint64_t alignment) {
    const std::uint64_t grain = std::max(alignment, kGrain);
    const std::uint64_t address = (next_address_ + grain - 1) & ~(grain - 1);
    next_address_ = address + ((std::max<std::uint64_t>(size, 1) + kGrain - 1) & ~(kGrain - 1));
    if (next_address_ >= kPastAddresses) {
      throw std::range_error("found more than 2^63 bytes allocated in all, expected addresses for them");
    }
    if (object >= addresses_.size()) addresses_.resize(std::max(object + 1, 2 * addresses_.size()));
    addresses_[object] = address;
    return address;
  }

  static char* put(std::string_view text, char* at) { return std::copy(text.begin(), text.end(), at); }

  template <typename T>
  static char* number(T value, char* at) {
    return std::to_chars(at, at + kLongestLineBytes, value).ptr;
  }

  static char* hexadecimal(std::uint64_t value, char* at) {
    at = put("0x", at);
    return std::to_chars(at, at + kLongestLineBytes, value, 16).ptr;
  }

  std::uint64_t next_address_ = kFirstAddress;
  std::vector<std::uint64_t> addresses_;  // By object.
  AndroidCounts counts_;
  std::unique_ptr<char[]> text_;
  std::size_t room_bytes_ = 0;
};

}  // namespace formats
