// No overhead at all: every object takes what it asked for and nothing else exists.
//
// The floor under every number in the table, and the smallest complete backend: copy this folder to start
// one.
#pragma once

#include "harness/allocator.hpp"

namespace ideal {

class Ideal {
 public:
  // An object of no bytes is an object still, so a block says that it exists.
  struct Block {
    std::uint64_t bytes = 0;
    bool exists = false;
    explicit operator bool() const { return exists; }
  };

  Block allocate(const harness::Request& request) {
    live_bytes_ += request.size;
    return {request.size, true};
  }

  void release(Block block, std::uint16_t /*thread*/) { live_bytes_ -= block.bytes; }

  harness::Footprint footprint() const {
    const auto live = static_cast<std::int64_t>(live_bytes_);
    return {.live = live, .mapped = live, .metadata = 0};
  }
  std::uint64_t mapped_bytes() const { return live_bytes_; }
  std::uint64_t committed_bytes() const { return live_bytes_; }

 private:
  std::uint64_t live_bytes_ = 0;
};

static_assert(harness::Allocator<Ideal>);

}  // namespace ideal
