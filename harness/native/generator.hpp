// Makes synthetic traces of any length: log-normal sizes, exponential lifetimes, about `live` objects at a
// time.
//
// The number of live objects follows an immigration-death process (the M/M/infinity queue): in steady state
// the next event is an allocation with probability live / (live + objects now), otherwise the death of a
// uniformly chosen object. Memory is bounded by the live objects. Nothing but IEEE's exact operations is
// used, so that a seed gives the same trace on every machine; harness/generation.py writes it.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "harness/replay.hpp"

namespace harness {

// xoshiro256** 1.0 (Blackman and Vigna, 2018), its state filled by SplitMix64 as its authors advise.
class Random {
 public:
  explicit Random(std::uint64_t seed) {
    for (std::uint64_t& word : state_) {
      seed += 0x9E3779B97F4A7C15u;
      std::uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
      word = z ^ (z >> 31);
    }
  }

  std::uint64_t next() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // Uniform in [0, bound). Its bias, bound / 2^64, is far below what a trace could show.
  std::uint64_t below(std::uint64_t bound) {
    return static_cast<std::uint64_t>((static_cast<Uint128>(next()) * bound) >> 64);
  }

  // Uniform in (0, 1], in steps of 2^-53.
  double unit() { return static_cast<double>((next() >> 11) + 1) * 0x1p-53; }

 private:
  std::array<std::uint64_t, 4> state_{};
};

// Natural logarithm of a positive normal number, to about 1e-15: ln m = 2 artanh((m - 1) / (m + 1)) with m in
// [sqrt(1/2), sqrt(2)). The library's own log may differ in its last bit from machine to machine.
inline double exact_log(double x) {
  constexpr double kLn2 = 0.693147180559945309417232121458;
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u);
  if (m >= 1.41421356237309504880) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1) / (m + 1);
  const double s2 = s * s;
  double sum = 0;
  constexpr double kTerms[] = {1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                               1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
  for (const double term : kTerms) sum = sum * s2 + term;
  return exponent * kLn2 + 2 * s * sum;
}

// e^x for |x| < 700, to about 1e-14: 2^n times the Taylor series of what is left.
inline double exact_exp(double x) {
  constexpr double kLn2 = 0.693147180559945309417232121458;
  const double n = std::floor(x / kLn2 + 0.5);
  const double rest = x - n * kLn2;
  constexpr double kTerms[] = {1.0 / 6227020800,
                               1.0 / 479001600,
                               1.0 / 39916800,
                               1.0 / 3628800,
                               1.0 / 362880,
                               1.0 / 40320,
                               1.0 / 5040,
                               1.0 / 720,
                               1.0 / 120,
                               1.0 / 24,
                               1.0 / 6,
                               1.0 / 2,
                               1.0,
                               1.0};  // 1 / 13! to 1 / 0!
  double sum = 0;
  for (const double term : kTerms) sum = sum * rest + term;
  return sum * std::bit_cast<double>(static_cast<std::uint64_t>(static_cast<int>(n) + 1023) << 52);
}

struct GeneratorParameters {
  std::uint64_t live = 1;
  std::uint64_t seed = 0;
  std::uint32_t threads = 1;
  double remote_free = 0;
  double noscan = 0;
  double size_mu = 0;
  double size_sigma = 0;
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
  explicit Generator(const GeneratorParameters& parameters)
      : parameters_(parameters),
        random_(parameters.seed),
        remote_threshold_(threshold(parameters.remote_free)),
        noscan_threshold_(threshold(parameters.noscan)) {}

  GeneratedEvents next(std::size_t count) {
    GeneratedEvents out;
    out.op.resize(count);
    out.thread.resize(count);
    out.object.resize(count);
    out.size.resize(count);
    out.noscan.resize(count);
    out.time_ns.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      out.time_ns[i] = time_ns_;
      time_ns_ += static_cast<std::int64_t>(-kMeanGapNs * exact_log(random_.unit()) + 0.5);
      ramping_ = ramping_ && live_.size() < parameters_.live;
      const std::uint64_t drawn = ramping_ ? 0 : random_.below(parameters_.live + live_.size());
      if (drawn < parameters_.live) {
        allocate(out, i);
      } else {
        release(out, i, drawn - parameters_.live);
      }
    }
    return out;
  }

 private:
  struct Object {
    std::uint64_t size;
    std::uint32_t slot;
    std::uint32_t owner;
  };

  static constexpr double kMeanGapNs = 100;      // A busy program: ten million events a second.
  static constexpr std::uint64_t kMeanRun = 16;  // Allocations in a row by one thread.
  // x86-64 and arm64 give a process 47 bits of addresses.
  static constexpr std::uint64_t kAddressSpaceBytes = std::uint64_t{1} << 47;
  static constexpr double kMaxLogSize = 32.5;  // Just below ln 2^47.

  static std::uint64_t threshold(double fraction) { return static_cast<std::uint64_t>(fraction * 0x1p53); }
  bool happens(std::uint64_t threshold) { return (random_.next() >> 11) < threshold; }

  void allocate(GeneratedEvents& out, std::size_t i) {
    if (live_.empty() || random_.below(kMeanRun) == 0) {
      thread_ = static_cast<std::uint32_t>(random_.below(parameters_.threads));
    }
    const Object object{.size = draw_size(), .slot = take_slot(), .owner = thread_};
    requested_ += object.size;
    live_.push_back(object);
    out.op[i] = static_cast<std::uint8_t>(Op::kAlloc);
    out.thread[i] = object.owner;
    out.object[i] = object.slot;
    out.size[i] = object.size;
    out.noscan[i] = happens(noscan_threshold_);
  }

  void release(GeneratedEvents& out, std::size_t i, std::size_t index) {
    const Object object = live_[index];
    live_[index] = live_.back();
    live_.pop_back();
    free_slots_.push_back(object.slot);
    requested_ -= object.size;
    std::uint32_t thread = object.owner;
    if (parameters_.threads > 1 && happens(remote_threshold_)) {
      const auto other = static_cast<std::uint32_t>(random_.below(parameters_.threads - 1));
      thread = other < object.owner ? other : other + 1;
    }
    out.op[i] = static_cast<std::uint8_t>(Op::kFree);
    out.thread[i] = thread;
    out.object[i] = object.slot;
  }

  std::uint32_t take_slot() {
    if (free_slots_.empty()) return static_cast<std::uint32_t>(live_.size());
    const std::uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }

  std::uint64_t draw_size() {
    const double log_size = parameters_.size_mu + parameters_.size_sigma * normal();
    const std::uint64_t size = log_size >= kMaxLogSize ? kAddressSpaceBytes
                               : log_size <= 0 ? 1
                                               : static_cast<std::uint64_t>(exact_exp(log_size) + 0.5);
    if (requested_ + size >= kAddressSpaceBytes) {
      throw SizeOverflow("the live objects would hold more than 2^47 bytes, the address space");
    }
    return size;
  }

  // Marsaglia's polar form of the Box-Muller transform (1964): two normal numbers a time, no trigonometry.
  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    double u = 0;
    double v = 0;
    double square = 0;
    do {
      u = 2 * random_.unit() - 1;
      v = 2 * random_.unit() - 1;
      square = u * u + v * v;
    } while (square >= 1 || square == 0);
    const double factor = std::sqrt(-2 * exact_log(square) / square);
    spare_ = v * factor;
    has_spare_ = true;
    return u * factor;
  }

  GeneratorParameters parameters_;
  Random random_;
  std::uint64_t remote_threshold_;
  std::uint64_t noscan_threshold_;
  std::vector<Object> live_;
  std::vector<std::uint32_t> free_slots_;
  std::uint64_t requested_ = 0;
  std::int64_t time_ns_ = 0;
  std::uint32_t thread_ = 0;
  bool ramping_ = true;
  bool has_spare_ = false;
  double spare_ = 0;
};

}  // namespace harness
