// What `harness inspect` counts: sizes and lifetimes, as histograms by count and by bytes.
//
// Fed with checked columns (check.hpp), batch by batch; the state is a few words per slot, so that memory
// grows with the live objects and never with the length of the trace. harness/inspection.py turns it into a
// report.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "harness/events.hpp"

namespace harness {

// Bins by powers of two: 0, 1, 2, 3-4, 5-8, ... A value v above 0 falls into bin bit_width(v - 1) + 1.
struct Histogram {
  static constexpr std::size_t kBins = 66;
  std::array<std::uint64_t, kBins> count{};
  std::array<std::uint64_t, kBins> bytes{};

  void add(std::uint64_t value, std::uint64_t object_bytes) {
    const std::size_t bin = value == 0 ? 0 : static_cast<std::size_t>(std::bit_width(value - 1)) + 1;
    ++count[bin];
    bytes[bin] += object_bytes;
  }
};

// Counts of sizes, fine enough for quantiles: exact below 64 KiB, above by steps of 2^-15 of the size.
class SizeCounts {
 public:
  void add(std::uint64_t size) {
    const std::size_t index = index_of(size);
    if (index >= counts_.size()) counts_.resize(index + 1);
    ++counts_[index];
    ++total_;
  }

  // Nearest rank: the smallest size that at least per_mille / 1000 of all sizes do not exceed; 0 without
  // sizes.
  std::uint64_t quantile(std::uint64_t per_mille) const {
    const Uint128 wanted = (static_cast<Uint128>(total_) * per_mille + 999) / 1000;
    Uint128 seen = 0;
    for (std::size_t index = 0; index < counts_.size(); ++index) {
      seen += counts_[index];
      if (counts_[index] != 0 && seen >= wanted) return lowest(index);
    }
    return 0;
  }

 private:
  static constexpr unsigned kExactBits = 16;
  static constexpr std::size_t kSteps = std::size_t{1} << (kExactBits - 1);  // Per power of two.

  static std::size_t index_of(std::uint64_t size) {
    const auto width = static_cast<unsigned>(std::bit_width(size));
    if (width <= kExactBits) return static_cast<std::size_t>(size);
    const unsigned shift = width - kExactBits;
    return shift * kSteps + static_cast<std::size_t>(size >> shift);
  }

  static std::uint64_t lowest(std::size_t index) {
    if (index < 2 * kSteps) return index;
    const std::size_t shift = index / kSteps - 1;
    return static_cast<std::uint64_t>(index - shift * kSteps) << shift;
  }

  std::vector<std::uint64_t> counts_;
  std::uint64_t total_ = 0;
};

class Inspector {
 public:
  // Only op, slot, size, noscan and time_ns are read.
  void feed(const Events& events) {
    const bool has_times = !events.time_ns.empty();
    for (std::size_t i = 0; i < events.op.size(); ++i, ++event_) {
      const std::uint64_t size = events.size[i];
      const std::int64_t now_ns = has_times ? events.time_ns[i] : 0;
      switch (static_cast<Op>(events.op[i])) {
        case Op::kCalloc:
          ++callocs_;
          [[fallthrough]];
        case Op::kAlloc:
          request(size);
          if (events.noscan[i]) ++noscan_objects_;
          if (events.slot[i] >= births_.size()) births_.resize(std::size_t{events.slot[i]} + 1);
          births_[events.slot[i]] = {.event = event_, .allocated_bytes = allocated_bytes_, .time_ns = now_ns};
          break;
        case Op::kRealloc:
          request(size);
          break;
        case Op::kFree: {
          const Birth& birth = births_[events.slot[i]];
          lifetimes_bytes_.add(allocated_bytes_ - birth.allocated_bytes, size);
          lifetimes_events_.add(event_ - birth.event, size);
          if (has_times) {
            lifetimes_ns_.add(static_cast<std::uint64_t>(now_ns) - static_cast<std::uint64_t>(birth.time_ns),
                              size);
          }
          break;
        }
        case Op::kGc:
        case Op::kThreadEnd:
          break;
      }
    }
    if (has_times) {
      if (!seen_time_) first_time_ns_ = events.time_ns.front();
      last_time_ns_ = events.time_ns.back();
      seen_time_ = true;
    }
  }

  const Histogram& sizes() const { return sizes_; }
  const Histogram& lifetimes_bytes() const { return lifetimes_bytes_; }
  const Histogram& lifetimes_events() const { return lifetimes_events_; }
  const Histogram& lifetimes_ns() const { return lifetimes_ns_; }
  const SizeCounts& size_counts() const { return size_counts_; }
  std::uint64_t callocs() const { return callocs_; }
  std::uint64_t largest_size_bytes() const { return largest_size_bytes_; }
  std::uint64_t noscan_objects() const { return noscan_objects_; }
  std::uint64_t duration_ns() const {
    return static_cast<std::uint64_t>(last_time_ns_) - static_cast<std::uint64_t>(first_time_ns_);
  }

 private:
  // Of the object that a slot holds. What was allocated includes the object itself.
  struct Birth {
    std::uint64_t event = 0;
    std::uint64_t allocated_bytes = 0;
    std::int64_t time_ns = 0;
  };

  void request(std::uint64_t size) {
    sizes_.add(size, size);
    size_counts_.add(size);
    allocated_bytes_ += size;
    largest_size_bytes_ = std::max(largest_size_bytes_, size);
  }

  std::vector<Birth> births_;  // By slot.
  Histogram sizes_;            // Of every request: alloc, calloc, realloc.
  Histogram lifetimes_bytes_;
  Histogram lifetimes_events_;
  Histogram lifetimes_ns_;
  SizeCounts size_counts_;
  std::uint64_t event_ = 0;
  std::uint64_t callocs_ = 0;
  std::uint64_t allocated_bytes_ = 0;
  std::uint64_t largest_size_bytes_ = 0;
  std::uint64_t noscan_objects_ = 0;
  std::int64_t first_time_ns_ = 0;
  std::int64_t last_time_ns_ = 0;
  bool seen_time_ = false;
};

}  // namespace harness
