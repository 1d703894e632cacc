// Makes synthetic traces of any length, in phases of different sizes, lifetimes and numbers of live objects.
//
// random.hpp draws, population.hpp says who dies, this file makes rows of it; harness/generation.py checks
// what was asked for and writes them. Memory is bounded by the live objects. A block is made in two steps:
// what depends on the event before (who dies, on which thread) one event after the other, what does not
// (logarithms and exponentials) for all of them together, which takes half the time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "harness/events.hpp"
#include "population.hpp"
#include "random.hpp"

namespace harness {

enum class Lifetimes : std::uint8_t { kExponential, kFifo, kLifo, kMixture, kBySize };

// What holds until the next phase.
struct Phase {
  std::uint64_t live = 1;
  std::uint32_t threads = 1;
  double remote_free = 0;
  double noscan = 0;
  double size_mu = 0;
  double size_sigma = 0;
  // A distribution, row by row; log-normal sizes where there is none.
  std::vector<std::uint64_t> sizes;
  std::vector<double> weights;
  std::vector<double> live_weights;  // Shares of the live objects, for lifetimes by size.
  Lifetimes lifetimes = Lifetimes::kExponential;
  double short_lived = 0;
  double short_life_events = 0;
};

// The columns of harness-trace/1 that a synthetic trace has.
struct GeneratedEvents {
  std::vector<std::uint8_t> op;
  std::vector<std::uint32_t> thread;
  std::vector<std::uint64_t> object;
  std::vector<std::uint64_t> size;
  std::vector<std::uint8_t> noscan;
  std::vector<std::int64_t> time_ns;
};

// The sizes that were asked for do not fit into an address space.
class SizeOverflow : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  void begin_phase(Phase phase) {
    const bool keeps_kinds = phase.lifetimes == phase_.lifetimes &&
                             (phase.lifetimes == Lifetimes::kMixture ||
                              (phase.lifetimes == Lifetimes::kBySize && phase.sizes == phase_.sizes));
    phase_ = std::move(phase);
    thread_ %= phase_.threads;
    remote_threshold_ = threshold(phase_.remote_free);
    noscan_threshold_ = threshold(phase_.noscan);
    is_climbing_ = true;
    if (!phase_.sizes.empty()) rows_ = WeightedRows(phase_.weights);
    std::vector<double> rates{1};
    std::uint16_t inherited = 0;
    if (phase_.lifetimes == Lifetimes::kMixture) {
      rates = mixture_rates();
    } else if (phase_.lifetimes == Lifetimes::kBySize) {
      rates = rates_by_size();
      inherited = static_cast<std::uint16_t>(phase_.sizes.size());
      live_rows_ = WeightedRows(phase_.live_weights);
    }
    population_.begin(order_of(phase_.lifetimes), phase_.live, std::move(rates),
                      keeps_kinds ? std::nullopt : std::optional(inherited));
  }

  // The next rows of the phase; SizeOverflow where the live objects outgrow an address space.
  GeneratedEvents next(std::size_t count) {
    GeneratedEvents out;
    out.op.resize(count);
    out.thread.resize(count);
    out.object.resize(count);
    out.size.resize(count);
    out.noscan.resize(count);
    out.time_ns.resize(count);
    for (std::size_t first = 0; first < count; first += kBlockEvents) {
      const std::size_t last = std::min(count, first + kBlockEvents);
      draw(out, first, last);
      compute_times(out, first);
      if (phase_.sizes.empty()) compute_sizes(out);
      account(out, first, last);
    }
    return out;
  }

 private:
  static constexpr std::size_t kBlockEvents = 2048;  // What is kept of a block stays in the nearest cache.
  static constexpr double kMeanGapNs = 100;          // A busy program: ten million events a second.
  static constexpr std::uint64_t kMeanRun = 16;      // Allocations in a row by one thread.
  // x86-64 and arm64 give a process 47 bits of addresses.
  static constexpr std::uint64_t kAddressSpaceBytes = std::uint64_t{1} << 47;
  static constexpr double kMaxLogSize = 32.5;  // Just below ln 2^47.
  static constexpr std::uint16_t kLongLived = 0;
  static constexpr std::uint16_t kShortLived = 1;

  static std::uint64_t threshold(double fraction) { return static_cast<std::uint64_t>(fraction * 0x1p53); }
  bool happens(std::uint64_t threshold) { return (random_.next() >> 11) < threshold; }

  static Order order_of(Lifetimes lifetimes) {
    switch (lifetimes) {
      case Lifetimes::kFifo:
        return Order::kOldest;
      case Lifetimes::kLifo:
        return Order::kYoungest;
      case Lifetimes::kMixture:
      case Lifetimes::kBySize:
        return Order::kByKind;
      case Lifetimes::kExponential:
        break;
    }
    return Order::kAny;
  }

  // Every second event is an allocation, so that a kind with `share` of the allocations and a mean life of
  // `events` has share * events / 2 objects alive. The long-lived get the life that makes up the rest.
  std::vector<double> mixture_rates() {
    const double short_objects = phase_.short_lived * phase_.short_life_events / 2;
    const double live = static_cast<double>(phase_.live);
    born_short_threshold_ = threshold(phase_.short_lived);
    live_short_threshold_ = threshold(short_objects / live);
    return {(1 - phase_.short_lived) / (live - short_objects), 2 / phase_.short_life_events};
  }

  // A size's share of the allocations over the number of its objects, and behind all sizes the mean of that.
  std::vector<double> rates_by_size() const {
    const double live = static_cast<double>(phase_.live);
    double weights = 0;
    double live_weights = 0;
    for (const double weight : phase_.weights) weights += weight;
    for (const double weight : phase_.live_weights) live_weights += weight;
    std::vector<double> rates;
    for (std::size_t row = 0; row < phase_.sizes.size(); ++row) {
      rates.push_back(phase_.weights[row] / weights / (phase_.live_weights[row] / live_weights * live));
    }
    rates.push_back(1 / live);
    return rates;
  }

  void draw(GeneratedEvents& out, std::size_t first, std::size_t last) {
    gaps_.clear();
    allocations_.clear();
    for (std::size_t i = first; i < last; ++i) {
      gaps_.push_back(random_.unit());
      is_climbing_ = is_climbing_ && population_.size() < phase_.live;
      const std::optional<LiveObject> dying = is_climbing_ ? std::nullopt : population_.next_death(random_);
      if (dying) {
        release(out, i, *dying);
      } else {
        allocate(out, i);
      }
    }
  }

  void allocate(GeneratedEvents& out, std::size_t i) {
    if (population_.size() == 0 || random_.below(kMeanRun) == 0) {
      thread_ = static_cast<std::uint32_t>(random_.below(phase_.threads));
    }
    // A climb makes what a steady heap holds, in which the short-lived are fewer than among the allocations.
    std::uint16_t kind = 0;
    if (phase_.lifetimes == Lifetimes::kMixture) {
      kind = happens(is_climbing_ ? live_short_threshold_ : born_short_threshold_) ? kShortLived : kLongLived;
    }
    if (phase_.sizes.empty()) {
      normals_.draw(random_);
    } else {
      const bool is_as_alive = is_climbing_ && phase_.lifetimes == Lifetimes::kBySize;
      const std::uint32_t row = (is_as_alive ? live_rows_ : rows_).draw(random_);
      out.size[i] = phase_.sizes[row];
      if (phase_.lifetimes == Lifetimes::kBySize) kind = static_cast<std::uint16_t>(row);
    }
    const std::uint32_t slot = take_slot();
    population_.add({.slot = slot, .owner = static_cast<std::uint16_t>(thread_), .kind = kind});
    out.op[i] = static_cast<std::uint8_t>(Op::kAlloc);
    out.thread[i] = thread_;
    out.object[i] = slot;
    out.noscan[i] = happens(noscan_threshold_);
    allocations_.push_back(static_cast<std::uint32_t>(i));
  }

  void release(GeneratedEvents& out, std::size_t i, const LiveObject& object) {
    free_slots_.push_back(object.slot);
    std::uint32_t thread = object.owner;
    if (phase_.threads > 1 && happens(remote_threshold_)) {
      const auto other = static_cast<std::uint32_t>(random_.below(phase_.threads - 1));
      thread = other < object.owner ? other : other + 1;
    }
    out.op[i] = static_cast<std::uint8_t>(Op::kFree);
    out.thread[i] = thread;
    out.object[i] = object.slot;
  }

  std::uint32_t take_slot() {
    if (free_slots_.empty()) return static_cast<std::uint32_t>(population_.size());
    const std::uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }

  void compute_times(GeneratedEvents& out, std::size_t first) {
    for (double& gap : gaps_) gap = -kMeanGapNs * exact_log(gap) + 0.5;
    for (std::size_t i = 0; i < gaps_.size(); ++i) {
      out.time_ns[first + i] = time_ns_;
      time_ns_ += static_cast<std::int64_t>(gaps_[i]);
    }
  }

  void compute_sizes(GeneratedEvents& out) {
    normals_.take(log_sizes_);
    sizes_.resize(log_sizes_.size());
    for (std::size_t i = 0; i < log_sizes_.size(); ++i) {
      log_sizes_[i] = phase_.size_mu + phase_.size_sigma * log_sizes_[i];
      sizes_[i] = std::max(0.0, std::min(log_sizes_[i], kMaxLogSize));
    }
    for (double& size : sizes_) size = exact_exp(size) + 0.5;
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      out.size[allocations_[i]] =
          log_sizes_[i] < kMaxLogSize ? static_cast<std::uint64_t>(sizes_[i]) : kAddressSpaceBytes;
    }
  }

  // Follows what is live. Whether a row is an allocation cannot be predicted, so there is no branch on it.
  void account(const GeneratedEvents& out, std::size_t first, std::size_t last) {
    size_of_slot_.resize(population_.size() + free_slots_.size());
    for (std::size_t i = first; i < last; ++i) {
      const std::uint64_t is_free =
          -static_cast<std::uint64_t>(out.op[i] == static_cast<std::uint8_t>(Op::kFree));
      std::uint64_t& stored = size_of_slot_[out.object[i]];
      requested_ += out.size[i] - (stored & is_free);
      stored = out.size[i];
      if (requested_ >= kAddressSpaceBytes) {
        throw SizeOverflow("the live objects would hold more than 2^47 bytes, the address space");
      }
    }
  }

  Random random_;
  Phase phase_;
  Population population_;
  NormalNumbers normals_;
  WeightedRows rows_;
  WeightedRows live_rows_;
  std::uint64_t remote_threshold_ = 0;
  std::uint64_t noscan_threshold_ = 0;
  std::uint64_t born_short_threshold_ = 0;
  std::uint64_t live_short_threshold_ = 0;
  std::vector<std::uint32_t> free_slots_;
  std::vector<std::uint64_t> size_of_slot_;
  std::uint64_t requested_ = 0;
  std::int64_t time_ns_ = 0;
  std::uint32_t thread_ = 0;
  bool is_climbing_ = true;
  // Of the block that is being made.
  std::vector<double> gaps_;
  std::vector<double> log_sizes_;
  std::vector<double> sizes_;
  std::vector<std::uint32_t> allocations_;
};

}  // namespace harness
