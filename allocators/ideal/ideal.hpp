// No overhead at all: every object takes what it asked for and nothing else exists.
//
// The floor under every number in the table, and the smallest complete backend: copy this folder to start
// one.
#pragma once

#include "harness/allocator.hpp"

namespace ideal {

class Ideal {
 public:
  // An object of no bytes is an object still, so a block holds one more than its bytes.
  struct Block {
    std::uint64_t bytes_and_one = 0;
    explicit operator bool() const { return bytes_and_one != 0; }
  };

  Block allocate(const harness::Request& request) {
    live_bytes_ += request.size;
    return {request.size + 1};
  }

  void release(Block block, std::uint16_t /*thread*/) { live_bytes_ -= block.bytes_and_one - 1; }

  // Nothing here has to be computed event by event: a backend that holds more does without this.
  void hold(std::uint64_t requested_bytes) { live_bytes_ = requested_bytes; }

  harness::Footprint footprint() const {
    const auto live = static_cast<std::int64_t>(live_bytes_);
    return {.live = live, .mapped = live, .metadata = 0};
  }
  std::uint64_t mapped_bytes() const { return live_bytes_; }
  std::uint64_t committed_bytes() const { return live_bytes_; }

 private:
  std::uint64_t live_bytes_ = 0;
};

static_assert(harness::Allocator<Ideal> && harness::HoldsRequested<Ideal>);

}  // namespace ideal
