// The partition of mapped bytes among those who hold them, which holds at every stop, in release builds too:
// a model that loses a byte must say so, not print a table.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "harness/allocator.hpp"

namespace harness {

// Throws InvariantError where a footprint's parts do not add up, or do not agree with the bytes that the
// allocator says beside it, after so many events.
inline void check_partition(const Footprint& now, std::uint64_t mapped, std::uint64_t committed,
                            std::uint64_t requested, std::uint64_t events) {
  const auto fail = [events](const std::string& what) {
    throw InvariantError("after event " + std::to_string(events) + ": " + what);
  };
  const auto text = [](auto bytes) { return std::to_string(static_cast<std::int64_t>(bytes)); };
  if (now.parts_sum() != now.mapped) {
    fail("the footprint's parts add up to " + text(now.parts_sum()) + ", not to mapped " + text(now.mapped));
  }
  if (now.mapped != static_cast<std::int64_t>(mapped))
    fail("mapped_bytes is " + text(mapped) + ", but " + text(now.mapped) + " by the footprint");
  const std::int64_t committed_parts = now.mapped - now.released;
  if (committed_parts != static_cast<std::int64_t>(committed)) {
    fail("committed_bytes is " + text(committed) + ", but " + text(committed_parts) + " by the footprint");
  }
  if (static_cast<std::int64_t>(requested) > now.live)
    fail("requested bytes " + text(requested) + " exceed live " + text(now.live));
  const std::int64_t least = std::min({now.live, now.dead, now.front_end, now.transfer, now.central, now.tail,
                                       now.page_heap, now.released, now.runtime});
  if (least < 0) fail("the smallest part is " + text(least) + ", expected no negative number");
}

}  // namespace harness
