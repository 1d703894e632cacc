// Trace time as it goes on a tick at a time: each is the time of the first event that comes a period or more
// after the last.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace harness {

struct Ticker {
  std::int64_t last_ns = std::numeric_limits<std::int64_t>::min();  // Before the first.
  std::uint64_t period_ns = 0;
};

// The last tick at each of a run of events. Listed for many at once, since every event may be the next tick,
// and none is unless the one before was not: a chain that is best followed while nothing else waits.
class Ticks {
 public:
  static constexpr std::size_t kMostEvents = 2048;

  // From the event at `place` of the run on.
  [[gnu::always_inline]] void list(std::span<const std::int64_t> times_ns, Ticker ticker, std::size_t place) {
    if (times_ns.empty()) return;
    const auto last = static_cast<std::uint64_t>(ticker.last_ns);
    const auto first = static_cast<std::uint64_t>(times_ns.front());
    period_ns_ = ticker.period_ns;
    began_ns_ =
        first - last >= period_ns_ ? first : last;  // Itself a tick, before any event or at the first.
    std::uint64_t due = period_ns_;
    std::uint64_t* const due_ns = due_ns_.data() + place;
    for (std::size_t i = 0; i < times_ns.size(); ++i) {
      const std::uint64_t time = static_cast<std::uint64_t>(times_ns[i]) - began_ns_;
      replace_where_reached(due, time, time + ticker.period_ns);
      due_ns[i] = due;
    }
  }

  std::int64_t at(std::size_t place) const {
    return static_cast<std::int64_t>(due_ns_[place] - period_ns_ + began_ns_);
  }

 private:
  // due = time >= due ? next : due, by a conditional move: compilers make a jump of it, and nothing foretells
  // that.
  [[gnu::always_inline]] static void replace_where_reached(std::uint64_t& due, std::uint64_t time,
                                                           std::uint64_t next) {
#if defined(__x86_64__)
    asm("cmpq %[due], %[time]\n\tcmovaeq %[next], %[due]"
        : [due] "+r"(due)
        : [time] "r"(time), [next] "r"(next)
        : "cc");
#else
    due = time >= due ? next : due;
#endif
  }

  // When the next tick is due, after each event, from began_ns_ on.
  std::array<std::uint64_t, kMostEvents> due_ns_;
  std::uint64_t period_ns_ = 0;
  std::uint64_t began_ns_ = 0;
};

}  // namespace harness
