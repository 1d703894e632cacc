// A slab per size, never given back: a third party's backend, against the installed contract alone.
#pragma once

#include <map>

#include "harness/allocator.hpp"

namespace slab {

class Slab {
 public:
  struct Block {
    std::uint64_t bytes = 0;
    explicit operator bool() const { return bytes != 0; }
  };

  explicit Slab(std::uint64_t slab_bytes) : slab_bytes_(slab_bytes) {}

  Block allocate(const harness::Request& request) {
    const std::uint64_t bytes = (request.size + 64) / 64 * 64;
    std::uint64_t& free_bytes = free_bytes_[bytes];
    if (free_bytes < bytes) {
      const std::uint64_t taken = std::max(slab_bytes_ / bytes, std::uint64_t{1}) * bytes;
      free_bytes += taken;
      mapped_bytes_ += taken;
    }
    free_bytes -= bytes;
    live_bytes_ += bytes;
    return {bytes};
  }

  void release(Block block, std::uint16_t /*thread*/) {
    free_bytes_[block.bytes] += block.bytes;
    live_bytes_ -= block.bytes;
  }

  harness::Footprint footprint() const {
    const auto live = static_cast<std::int64_t>(live_bytes_);
    const auto mapped = static_cast<std::int64_t>(mapped_bytes_);
    return {.live = live, .central = mapped - live, .mapped = mapped};
  }
  std::uint64_t mapped_bytes() const { return mapped_bytes_; }
  std::uint64_t committed_bytes() const { return mapped_bytes_; }

 private:
  std::uint64_t slab_bytes_;
  std::map<std::uint64_t, std::uint64_t> free_bytes_;
  std::uint64_t live_bytes_ = 0;
  std::uint64_t mapped_bytes_ = 0;
};

static_assert(harness::Allocator<Slab>);

}  // namespace slab
