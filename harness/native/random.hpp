// Randomness for synthetic traces: the same numbers on every machine.
//
// Nothing but IEEE's exact operations is used; the library's own log and exp may differ in their last bit
// from machine to machine. What is computed for many numbers at a time stands in plain loops without
// branches, which compilers turn into vector instructions.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "harness/events.hpp"

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

inline constexpr double kLn2 = 0.693147180559945309417232121458;

// ((c0 x + c1) x + c2) x + ...
template <typename... Coefficients>
inline double horner(double x, double first, Coefficients... rest) {
  double sum = first;
  ((sum = sum * x + rest), ...);
  return sum;
}

// Natural logarithm of a positive normal number, to about 1e-15: ln m = 2 artanh((m - 1) / (m + 1)) with m in
// [sqrt(1/2), sqrt(2)).
inline double exact_log(double x) {
  constexpr std::uint64_t kFraction = 0x000FFFFFFFFFFFFFu;
  constexpr std::uint64_t kFractionOfSqrt2 = 0x6A09E667F3BCDu;
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  const std::uint64_t halved = ((bits & kFraction) + (kFraction + 1 - kFractionOfSqrt2)) >> 52;
  const double m = std::bit_cast<double>((bits & kFraction) | ((1023 - halved) << 52));
  // The exponent as the last bits of 2^52: vector units before AVX-512 do not convert 64-bit integers.
  const double exponent =
      std::bit_cast<double>(((bits >> 52) + halved) | 0x4330000000000000u) - (0x1p52 + 1023);
  const double s = (m - 1) / (m + 1);
  const double sum = horner(s * s, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7,
                            1.0 / 5, 1.0 / 3, 1.0);
  return exponent * kLn2 + 2 * s * sum;
}

// e^x for x in [0, 700), to about 1e-14: 2^n times the Taylor series of what is left.
inline double exact_exp(double x) {
  const double n = static_cast<double>(static_cast<std::int32_t>(x / kLn2 + 0.5));
  const double sum = horner(x - n * kLn2, 1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                            1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6,
                            1.0 / 2, 1.0, 1.0);  // 1 / 13! to 1 / 0!
  return sum * std::bit_cast<double>(std::bit_cast<std::uint64_t>(n + (0x1p52 + 1023)) << 52);
}

// Standard normal numbers by Marsaglia's polar form of the Box-Muller transform (1964): two at a time, no
// trigonometry. They are drawn one after the other and computed many at a time.
class NormalNumbers {
 public:
  void draw(Random& random) {
    has_spare_ = !has_spare_;
    if (!has_spare_) return;
    double u = 0;
    double v = 0;
    double square = 0;
    do {
      u = 2 * random.unit() - 1;
      v = 2 * random.unit() - 1;
      square = u * u + v * v;
    } while (square >= 1 || square == 0);
    numbers_.push_back(u);
    numbers_.push_back(v);
    squares_.push_back(square);
  }

  // Puts the numbers drawn since the last call into `taken`, in order.
  void take(std::vector<double>& taken) {
    const std::size_t computed = numbers_.size() - 2 * squares_.size();
    factors_.resize(squares_.size());
    for (std::size_t i = 0; i < squares_.size(); ++i) factors_[i] = exact_log(squares_[i]);
    for (std::size_t i = 0; i < squares_.size(); ++i) {
      const double factor = std::sqrt(-2 * factors_[i] / squares_[i]);
      numbers_[computed + 2 * i] *= factor;
      numbers_[computed + 2 * i + 1] *= factor;
    }
    taken.swap(numbers_);
    numbers_.clear();
    squares_.clear();
    if (has_spare_) {
      numbers_.push_back(taken.back());
      taken.pop_back();
    }
  }

 private:
  std::vector<double> numbers_;  // A spare one of the last call, then pairs that still lack their factors.
  std::vector<double> squares_;
  std::vector<double> factors_;
  bool has_spare_ = false;
};

// Draws a row of a list with a probability in proportion to its weight, in constant time: Walker's alias
// method (1974), its table filled as Vose (1991) does.
class WeightedRows {
 public:
  WeightedRows() = default;

  // Weights are at least 0, finite, and not all 0.
  explicit WeightedRows(const std::vector<double>& weights) {
    double total = 0;
    for (const double weight : weights) total += weight;
    const auto rows = static_cast<double>(weights.size());
    std::vector<double> shares;  // Of a row's even share, 1.
    std::vector<std::uint32_t> poor;
    std::vector<std::uint32_t> rich;
    for (const double weight : weights) {
      const auto row = static_cast<std::uint32_t>(shares.size());
      shares.push_back(weight / total * rows);
      (shares.back() < 1 ? poor : rich).push_back(row);
      cells_.push_back({.own_below = ~std::uint64_t{0}, .other = row});
    }
    while (!poor.empty() && !rich.empty()) {
      const std::uint32_t row = poor.back();
      const std::uint32_t giver = rich.back();
      poor.pop_back();
      cells_[row] = {.own_below = static_cast<std::uint64_t>(shares[row] * 0x1p64), .other = giver};
      shares[giver] -= 1 - shares[row];
      if (shares[giver] < 1) {
        rich.pop_back();
        poor.push_back(giver);
      }
    }
  }

  std::uint32_t draw(Random& random) const {
    const Uint128 drawn = static_cast<Uint128>(random.next()) * cells_.size();
    const auto row = static_cast<std::uint32_t>(drawn >> 64);
    // What is left below the row's number is uniform as well.
    return static_cast<std::uint64_t>(drawn) < cells_[row].own_below ? row : cells_[row].other;
  }

 private:
  struct Cell {
    std::uint64_t own_below;
    std::uint32_t other;
  };

  std::vector<Cell> cells_;
};

}  // namespace harness
