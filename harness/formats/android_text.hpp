// Writes rows as lines of Android's memory_replay; android.hpp reads them.
//
// An object lies at an address that no other one has, live or dead, aligned as it asks, and moves with every
// realloc. The begin and the end of a call are both its time, where rows have times.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "android.hpp"
#include "call_text.hpp"

namespace formats {

class AndroidText {
 public:
  Counts counts() const { return {{"collections", collections_}, {"alignments", alignments_}}; }

  // The lines of rows, until the next call. Throws std::range_error where the format has no number for what a
  // row says.
  std::string_view lines(const CallRows& rows) {
    return text_.lines(rows.op.size(), kLongestLineBytes,
                       [&](std::size_t i, char* at) { return line(rows, i, at); });
  }

 private:
  // Ten digits of a thread, the longest call, three numbers of 20 digits or of 18 in hexadecimal, two times.
  static constexpr std::size_t kLongestLineBytes = 160;
  // Below it no process has anything mapped, as Linux is set up (vm.mmap_min_addr).
  static constexpr std::uint64_t kFirstAddress = 0x10000;
  static constexpr std::uint64_t kPastAddresses = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kGrain = 16;  // As malloc aligns on 64-bit machines.

  char* line(const CallRows& rows, std::size_t i, char* at) {
    const auto op = static_cast<Op>(rows.op[i]);
    const std::uint32_t alignment = rows.alignment.empty() ? 0 : rows.alignment[i];
    const std::uint64_t size = rows.size[i];
    if (op == Op::kGc) {
      ++collections_;
      return at;
    }
    at = thread(rows.thread[i], at);
    switch (op) {
      case Op::kAlloc:
        if (alignment == 0) {
          at = put_hexadecimal(place(rows.object[i], size, 0), put(": malloc ", at));
        } else {
          at = put_hexadecimal(place(rows.object[i], size, alignment), put(": memalign ", at));
          at = put_decimal(alignment, put(" ", at));
        }
        at = put_decimal(size, put(" ", at));
        break;
      case Op::kCalloc:
        if (alignment != 0) ++alignments_;
        at = put_hexadecimal(place(rows.object[i], size, alignment), put(": calloc ", at));
        at = put_decimal(size, put(" 1 ", at));
        break;
      case Op::kRealloc: {
        if (alignment != 0) ++alignments_;
        const std::uint64_t old_address = addresses_[rows.object[i]];
        at = put_hexadecimal(place(rows.object[i], size, alignment), put(": realloc ", at));
        at = put_hexadecimal(old_address, put(" ", at));
        at = put_decimal(size, put(" ", at));
        break;
      }
      case Op::kFree:
        at = put_hexadecimal(addresses_[rows.object[i]], put(": free ", at));
        break;
      case Op::kThreadEnd:
        at = put(": thread_done 0x0", at);
        break;
      case Op::kGc:
        break;
    }
    if (!rows.time_ns.empty()) {
      at = put_decimal(rows.time_ns[i], put(" ", at));
      // The end of a thread has no begin.
      if (op != Op::kThreadEnd) at = put_decimal(rows.time_ns[i], put(" ", at));
    }
    return put("\n", at);
  }

  static char* thread(std::uint32_t thread, char* at) {
    if (thread >= kThreadZero) {
      throw std::range_error("found thread " + std::to_string(thread) + ", expected one below " +
                             std::to_string(kThreadZero) + ", as Linux numbers them");
    }
    return put_decimal(thread == 0 ? kThreadZero : thread, at);
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

  std::uint64_t next_address_ = kFirstAddress;
  std::vector<std::uint64_t> addresses_;  // By object.
  std::uint64_t collections_ = 0;
  std::uint64_t alignments_ = 0;  // Of callocs and reallocs.
  CallText text_;
};

}  // namespace formats
