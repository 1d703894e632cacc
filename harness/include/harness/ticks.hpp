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
//
// It is followed two events at a time. What comes of them if the first is a tick needs no knowledge of what
// was before, so that the chain has three links for two events and not four.
class Ticks {
 public:
  static constexpr std::size_t kMostEvents = 2048;

  // From the event at `place` of the run on, whose times from there on are these.
  [[gnu::always_inline]] void list(std::span<const std::int64_t> times_ns, Ticker ticker, std::size_t place) {
    if (times_ns.empty()) return;
    times_ns_ = times_ns.data();
    place_ = place;
    const auto last = static_cast<std::uint64_t>(ticker.last_ns);
    const auto first = static_cast<std::uint64_t>(times_ns.front());
    const std::uint64_t period = ticker.period_ns;
    // Itself a tick, before any event or at the first.
    const std::uint64_t began = first - last >= period ? first : last;
    period_ns_ = period;
    began_ns_ = began;
    std::uint64_t due = period;
    const std::size_t pairs = times_ns.size() / 2;
#pragma GCC unroll 2
    for (std::size_t pair = 0; pair < pairs; ++pair) {
      due_ns_[pair] = due;
      const std::uint64_t one = static_cast<std::uint64_t>(times_ns[2 * pair]) - began;
      const std::uint64_t other = static_cast<std::uint64_t>(times_ns[2 * pair + 1]) - began;
      const std::uint64_t after_one = one + period;
      const std::uint64_t after_other = other + period;
      const std::uint64_t where_one_is = where_reached(after_one, other, after_other, after_one);
      const std::uint64_t where_one_is_not = where_reached(due, other, after_other, due);
      due = where_reached(due, one, where_one_is, where_one_is_not);
    }
    due_ns_[pairs] = due;
  }

  std::int64_t at(std::size_t place) const {
    const std::size_t from = place - place_;
    const std::uint64_t due = after(from, after(from / 2 * 2, due_ns_[from / 2]));
    return static_cast<std::int64_t>(due - period_ns_ + began_ns_);
  }

 private:
  // When the next tick is due after an event, however often that is asked.
  std::uint64_t after(std::size_t event, std::uint64_t due) const {
    const std::uint64_t time = static_cast<std::uint64_t>(times_ns_[event]) - began_ns_;
    return where_reached(due, time, time + period_ns_, due);
  }

  // time >= due ? then : otherwise, by a conditional move: compilers make a jump of it, and nothing foretells
  // that.
  [[gnu::always_inline]] static std::uint64_t where_reached(std::uint64_t due, std::uint64_t time,
                                                            std::uint64_t then, std::uint64_t otherwise) {
#if defined(__x86_64__)
    asm("cmpq %[due], %[time]\n\tcmovaeq %[then], %[otherwise]"
        : [otherwise] "+r"(otherwise)
        : [due] "r"(due), [time] "r"(time), [then] "r"(then)
        : "cc");
    return otherwise;
#else
    return time >= due ? then : otherwise;
#endif
  }

  // When the next tick is due, before each pair of events, from began_ns_ on.
  std::array<std::uint64_t, kMostEvents / 2 + 1> due_ns_;
  const std::int64_t* times_ns_ = nullptr;
  std::size_t place_ = 0;
  std::uint64_t period_ns_ = 0;
  std::uint64_t began_ns_ = 0;
};

}  // namespace harness
