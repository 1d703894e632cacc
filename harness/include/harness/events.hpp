// The events of a trace as the loop reads them: columns, checked and renamed before (check.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace harness {

// The numbers of the trace format, harness-trace/1.
enum class Op : std::uint8_t { kAlloc = 1, kCalloc = 2, kRealloc = 3, kFree = 4, kGc = 5, kThreadEnd = 6 };

// Wide enough for a sum over all events.
__extension__ using Uint128 = unsigned __int128;

// Events between the death of an object and the birth of the next one in its slot, at least: so the checker
// numbers slots of events that are to be replayed.
inline constexpr std::size_t kSlotRest = 2048;

// Part of a trace, as columns of one length. Slots and threads are dense: check.hpp renamed them.
struct Events {
  std::span<const std::uint8_t> op;
  std::span<const std::uint16_t> thread;
  std::span<const std::uint32_t> slot;
  std::span<const std::uint64_t> size;       // Of a free: what its object had asked for.
  std::span<const std::uint32_t> alignment;  // 0 = default.
  std::span<const std::uint8_t> noscan;      // 0 or 1. Of a free: its object's.
  std::span<const std::uint16_t> owner;      // The number that the allocating thread had then.
  std::span<const std::int64_t> time_ns;     // Empty where the trace has no times.
  std::span<const std::uint64_t> requested;  // Bytes that the program holds after the event.

  // Inlined by force: a loop keeps the few columns that it reads in registers.
  [[gnu::always_inline]] Events subspan(std::size_t first, std::size_t count) const {
    return {.op = op.subspan(first, count),
            .thread = thread.subspan(first, count),
            .slot = slot.subspan(first, count),
            .size = size.subspan(first, count),
            .alignment = alignment.subspan(first, count),
            .noscan = noscan.subspan(first, count),
            .owner = owner.subspan(first, count),
            .time_ns = time_ns.empty() ? time_ns : time_ns.subspan(first, count),
            .requested = requested.subspan(first, count)};
  }
};

}  // namespace harness
