// What the driver and its parent say to each other over two pipes; process.py is the other side.
//
// The parent sends a Frame, with the frame's payload behind it, and waits for the answer. All numbers are
// little-endian, as in memory.
#pragma once

#include <cstdint>

namespace driver {

struct Frame {
  enum class Kind : std::uint32_t {
    kReplay = 1,       // `count` records; `argument` slots are needed. Answer: a word for each.
    kStartThread = 2,  // Thread `count`. Answer: 1.
    kCall = 3,         // On thread `count`, a text of `argument` bytes. Answer: 1, or 0 if it is refused.
    kState = 4,  // Answer: four lengths in bytes, then as much of numbers, ranges, text, resident pages.
    kFeed = 5,   // As kReplay; the answer is one word, how many allocations failed.
  };
  Kind kind;
  std::uint32_t count;
  std::uint64_t argument;
};
static_assert(sizeof(Frame) == 16);

// The numbers of the trace format, harness-trace/1.
enum class Op : std::uint8_t { kAlloc = 1, kCalloc = 2, kRealloc = 3, kFree = 4, kGc = 5, kThreadEnd = 6 };

struct Record {
  Op op;
  std::uint8_t alignment_log2;  // 0 = default.
  std::uint16_t thread;
  std::uint32_t slot;
  std::uint64_t size;
};
static_assert(sizeof(Record) == 16);

// The answer for a realloc that kept its block: no address, and not the 0 of one that failed.
inline constexpr std::uint64_t kUnmoved = 1;

}  // namespace driver
