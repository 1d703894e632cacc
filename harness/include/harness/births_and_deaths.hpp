// Which events of a stretch are deaths and which are not: two lists, so that a loop over one of them need not
// ask at each event.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "harness/events.hpp"

namespace harness {

class BirthsAndDeaths {
 public:
  // Events of a stretch at most; behind what is listed, either list may be read so much further.
  static constexpr std::size_t kMostEvents = 2560;
  static constexpr std::size_t kBeyond = 96;
  // A place is the distance of an event from the first of its stretch.
  using Place = std::uint16_t;

  // Events that are neither are listed as well: ends of threads and collections among the deaths, reallocs
  // among the births. Places behind the last of a list are those of some event.
  [[gnu::always_inline]] void list(std::span<const std::uint8_t> ops) {
    Place* births = births_.data();
    Place* deaths = deaths_.data();
    std::size_t at = 0;
    for (; at + 8 <= ops.size(); at += 8) {
      std::uint64_t together = 0;
      std::memcpy(&together, ops.data() + at, 8);
      const std::size_t bits = death_bits(together);
      copy(kPlacesOfBits[bits ^ 0xFF], at, births);
      copy(kPlacesOfBits[bits], at, deaths);
      const int count = std::popcount(bits);
      births += 8 - count;
      deaths += count;
    }
    for (; at < ops.size(); ++at) *(is_among_deaths(ops[at]) ? deaths : births)++ = static_cast<Place>(at);
    births_listed_ = static_cast<std::size_t>(births - births_.data());
    std::fill_n(births, kBeyond, Place{0});
    std::fill_n(deaths, kBeyond, Place{0});
  }

  static bool is_among_deaths(std::uint8_t op) { return (op & static_cast<std::uint8_t>(Op::kFree)) != 0; }

  const Place* births() const { return births_.data(); }
  const Place* deaths() const { return deaths_.data(); }
  // How many are listed among the births before the event at `place`; all others before it are among the
  // deaths.
  std::size_t births_before(std::size_t place) const {
    const auto listed = std::span(births_).first(births_listed_);
    return static_cast<std::size_t>(std::ranges::lower_bound(listed, place) - listed.begin());
  }

 private:
  using Places = std::array<Place, 8>;

  // Of eight ops, the bit of each that is among the deaths. Of their numbers, 1 to 6, only those from kFree
  // on have the bit of value 4. The product lays the lowest bits of eight bytes side by side.
  static std::size_t death_bits(std::uint64_t ops) {
    return (((ops >> 2) & 0x0101010101010101) * 0x0102040810204080) >> 56;
  }

  static void copy(const Places& places, std::size_t from, Place* to) {
    Places moved;
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i] = static_cast<Place>(places[i] + from);
    std::memcpy(to, moved.data(), sizeof moved);
  }

  static constexpr std::array<Places, 256> kPlacesOfBits = [] {
    std::array<Places, 256> table{};
    for (std::size_t bits = 0; bits < table.size(); ++bits) {
      std::size_t found = 0;
      for (std::size_t bit = 0; bit < 8; ++bit) {
        if ((bits >> bit & 1) != 0) table[bits][found++] = static_cast<Place>(bit);
      }
    }
    return table;
  }();

  std::array<Place, kMostEvents + kBeyond> births_{};
  std::array<Place, kMostEvents + kBeyond> deaths_{};
  std::size_t births_listed_ = 0;
};

}  // namespace harness
