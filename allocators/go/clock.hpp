// The clock: how long the program and its collector take, where a trace has no times of its own.
//
// Knows counts and nanoseconds only. Costs are those of a program that does nothing but allocate, keep and
// forget: the real runtime (Go 1.27.3, linux/amd64) was timed while it carried out the shipped traces and the
// random programs of the test suite, and the counts of the same traces were fitted to its times.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "harness/allocator.hpp"

namespace go {

// How often the program took each path since it began.
struct Paths {
  std::int64_t zero_size = 0;
  std::int64_t tiny_combined = 0;  // Objects that shared the block of an earlier one (Go: tinyAllocs).
  std::int64_t tiny_blocks = 0;
  std::int64_t allocations = 0;  // All but those of no size and large ones.
  std::int64_t large = 0;
  std::int64_t large_from_new_os_memory = 0;
  std::int64_t large_bytes = 0;
  std::int64_t refills = 0;
  std::int64_t refills_from_new_span = 0;  // Of memory that the heap had.
  std::int64_t refills_from_new_os_memory = 0;
  std::int64_t refilled_objects = 0;  // Free slots of the spans that came.
  std::int64_t refill_bytes = 0;      // Their bytes.
  std::int64_t deaths = 0;  // Not beside allocations, or both are read as one before one is written.

  std::int64_t slots() const { return allocations - tiny_combined; }
};

// Nanoseconds.
struct Costs {
  double allocation = 60;
  double death = 18;
  double refill = 200;
  double byte = 0.025;      // Slots are cleared when they are handed out.
  double fresh_byte = 0.3;  // The OS's page fault.
  double large = 1'200;
  double swept_span = 120;
  double marked_byte = 0.37;  // Of what is scanned, roots included: 0.23 in small heaps, 0.42 in large ones.
  double cycle = 40'000;      // Stopping the world and starting workers, at each end of a cycle.
  double wake = 65'000;       // Until an idle P has taken up what there is to do.
  double scavenged_page = 1'500;
};
inline constexpr Costs kCosts;

// sysmon takes a P from whoever has had it for so long (proc.go: forcePreemptNS).
inline constexpr double kTimeSliceNs = 10e6;

class Clock {
 public:
  // follows_trace: time comes from the trace, if it has any. ticks: it goes on with every microsecond of the
  // trace, and not only where it is set.
  Clock(bool follows_trace, bool ticks) : follows_trace_(follows_trace), ticks_(ticks) {
    if (ticks) ticker_.period_ns = kTickNs;
  }

  harness::Ticker ticker() const { return ticker_; }
  void set_last_tick(std::int64_t time_ns) { ticker_.last_ns = time_ns; }
  // Whether the time of this event is known here.
  bool knows(std::int64_t time_ns) const { return !ticks_ || ticker_.last_ns == time_ns; }
  void set_trace_time(std::int64_t time_ns) {
    if (follows_trace_) ticker_.last_ns = time_ns;
  }

  // The program waits: it assists, or the world is stopped.
  void stall(double ns) { stalled_ns_ += ns; }

  // Nanoseconds. fresh_bytes: of spans that the OS gave; running: threads that run at once.
  double now(const Paths& paths, std::int64_t fresh_bytes, std::size_t running) const {
    if (ticker_.last_ns != kNone) return static_cast<double>(ticker_.last_ns) + stalled_ns_;
    const double program = kCosts.allocation * static_cast<double>(paths.allocations + paths.zero_size) +
                           kCosts.death * static_cast<double>(paths.deaths) +
                           kCosts.refill * static_cast<double>(paths.refills) +
                           kCosts.large * static_cast<double>(paths.large) +
                           kCosts.byte * static_cast<double>(paths.refill_bytes + paths.large_bytes) +
                           kCosts.fresh_byte * static_cast<double>(fresh_bytes);
    return program / static_cast<double>(std::max<std::size_t>(running, 1)) + stalled_ns_;
  }

 private:
  static constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::min();
  static constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
  static constexpr std::uint64_t kTickNs = 1000;

  bool follows_trace_;
  bool ticks_;
  harness::Ticker ticker_{.last_ns = kNone, .period_ns = kNever};
  double stalled_ns_ = 0;
};

}  // namespace go
