// The pacer: when the next collection starts and what heap it aims at.
//
// Knows bytes only, no span and no page. The rules of mgcpacer.go. Where marking takes no time, the runway is
// 0 and nobody assists. All arithmetic is Go's: unsigned 64-bit, divisions where Go divides.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

namespace go {

inline constexpr std::uint64_t kNoGoal = std::numeric_limits<std::uint64_t>::max();
inline constexpr std::uint64_t kDefaultHeapMinimum = std::uint64_t{4}
                                                     << 20;  // mgcpacer.go: defaultHeapMinimum
// mgcpacer.go: gcBackgroundUtilization and gcGoalUtilization.
inline constexpr double kGoalUtilization = 0.25;
inline constexpr std::uint64_t kSweepMinHeapDistance = std::uint64_t{1}
                                                       << 20;  // mgcpacer.go: sweepMinHeapDistance

// Memory outside of heap objects, as the memory limit counts it.
struct MappedMemory {
  std::uint64_t mapped_ready = 0;
  std::uint64_t heap_free = 0;
};

class Pacer {
 public:
  // gogc: percent, negative for off. memory_limit: bytes, kNoGoal for off.
  Pacer(std::int64_t gogc, std::uint64_t memory_limit, std::uint64_t globals_scan, std::uint64_t stack_scan)
      : last_stack_scan(stack_scan), gogc_(gogc), memory_limit_(memory_limit), globals_scan_(globals_scan) {
    commit(true);
  }

  std::uint64_t heap_live = 0;    // What the trigger is compared with: cached spans count in full.
  std::uint64_t heap_marked = 0;  // By the last cycle.
  std::uint64_t heap_scan = 0;    // Of heap_live, what may hold pointers.
  std::uint64_t total_alloc = 0;  // Bytes of objects in spans that left a cache; so it lags.
  std::uint64_t total_free = 0;
  std::uint64_t last_heap_scan = 0;  // What the last cycle scanned of the heap.
  std::uint64_t last_stack_scan = 0;
  std::uint64_t last_heap_goal = 0;  // At the end of the last marking; 0 before the first.
  std::uint64_t sweep_dist_min_trigger = 0;

  bool limited() const { return memory_limit_ != kNoGoal; }
  std::int64_t gogc() const { return gogc_; }
  bool marking() const { return marking_; }
  std::uint64_t memory_limit() const { return memory_limit_; }

  // gcControllerState.update: spans came to a cache, or a large object to the program.
  void update(std::uint64_t live_bytes, bool noscan) {
    heap_live += live_bytes;
    // Nothing foretells the class that comes next, so nothing branches on it.
    heap_scan += harness::Choice(noscan | marking_).if_second(live_bytes);
  }

  // gcControllerState.commit. Uses heap_marked and heap_live as they stand.
  void commit(bool sweep_done) {
    sweep_dist_min_trigger = sweep_done ? 0 : heap_live + kSweepMinHeapDistance;
    const double runway =
        cons_mark_ * (1 - kGoalUtilization) / kGoalUtilization * static_cast<double>(expected_scan());
    // Go converts as the CPU does: what is negative or too large becomes larger than any goal.
    runway_ = runway < 0 || runway >= 0x1p63 ? kNoGoal : static_cast<std::uint64_t>(runway);
    commit_goal();
  }
  void commit_goal() {
    gc_percent_heap_goal_ = kNoGoal;
    if (gogc_ < 0) return;
    const auto percent = static_cast<std::uint64_t>(gogc_);
    gc_percent_heap_goal_ = heap_marked + (heap_marked + last_stack_scan + globals_scan_) * percent / 100;
    gc_percent_heap_goal_ = std::max(gc_percent_heap_goal_, kDefaultHeapMinimum * percent / 100);
  }

  // gcControllerState.startCycle.
  void start_cycle() {
    triggered_ = heap_live;
    marking_ = true;
    scanned_ = 0;
  }
  std::uint64_t triggered() const { return triggered_; }
  // All that the last cycle scanned and the next is expected to scan.
  std::uint64_t expected_scan() const { return last_heap_scan + last_stack_scan + globals_scan_; }
  std::uint64_t root_scan() const { return last_stack_scan + globals_scan_; }

  // What marking has scanned until now; revise() takes it into account.
  void scanned(double bytes) { scanned_ += bytes; }
  double assist_work_per_byte() const { return assist_work_per_byte_; }
  double assist_bytes_per_work() const { return assist_bytes_per_work_; }

  // gcControllerState.revise: how much of the rest each allocated byte must pay, so that marking ends by the
  // goal.
  void revise(const MappedMemory& memory) {
    const double percent = gogc_ < 0 ? 100'000 : static_cast<double>(gogc_);
    const auto live = static_cast<double>(heap_live);
    const auto most_work = static_cast<double>(heap_scan + root_scan());
    auto goal = static_cast<double>(goal_and_floor(memory).goal);
    auto expected = static_cast<double>(expected_scan());
    if (scanned_ > expected) {
      // More than ever before: the goal gives way, but not without end.
      const auto from = static_cast<double>(triggered_);
      goal = std::min((goal - from) / expected * most_work + from, (1 + percent / 100) * goal);
      expected = most_work;
    }
    if (live > goal) {
      constexpr double kMaxOvershoot = 1.1;
      goal *= kMaxOvershoot;
      expected = most_work;
    }
    constexpr double kLeastWork = 1000;
    const double work = std::max(expected - scanned_, kLeastWork);
    const double bytes = std::max(goal - live, 1.0);
    assist_work_per_byte_ = work / bytes;
    assist_bytes_per_work_ = bytes / work;
  }

  // gcControllerState.endCycle: the goal it ends with is the scavenger's yardstick, and what was allocated
  // meanwhile is a measure of the runway that the next cycle needs. Shares of the CPUs: of what assists and
  // workers are due, and of workers on idle Ps.
  void end_cycle(const MappedMemory& memory, double utilization, double idle_utilization) {
    last_heap_goal = goal_and_floor(memory).goal;
    marking_ = false;
    if (heap_live <= triggered_) return;
    const double current = static_cast<double>(heap_live - triggered_) * (utilization + idle_utilization) /
                           (scanned_ * (1 - utilization));
    cons_mark_ = current;
    for (const double earlier : last_cons_mark_) cons_mark_ = std::max(cons_mark_, earlier);
    std::shift_left(last_cons_mark_.begin(), last_cons_mark_.end(), 1);
    last_cons_mark_.back() = current;
  }

  // gcControllerState.resetLive.
  void reset_live(std::uint64_t marked_bytes, std::uint64_t heap_scanned) {
    heap_marked = heap_live = marked_bytes;
    heap_scan = last_heap_scan = heap_scanned;
    triggered_ = kNoGoal;
  }

  std::uint64_t goal(const MappedMemory& memory) const { return goal_and_floor(memory).goal; }

  // gcControllerState.trigger.
  std::uint64_t trigger(const MappedMemory& memory) const {
    const auto [goal, floor] = goal_and_floor(memory);
    if (heap_marked >= goal) return goal;
    // Not before 70 % of the way from the marked heap to the goal, not after 95 % of it or 4 MiB before the
    // goal.
    const std::uint64_t way = (goal - heap_marked) / 64;
    const std::uint64_t least = std::max({floor, heap_marked, way * 45 + heap_marked});
    std::uint64_t most = way * 61 + heap_marked;
    if (goal > kDefaultHeapMinimum) most = std::max(most, goal - kDefaultHeapMinimum);
    const std::uint64_t wanted = runway_ > goal ? least : goal - runway_;
    return std::clamp(wanted, least, std::max(most, least));
  }

 private:
  struct GoalAndFloor {
    std::uint64_t goal;
    std::uint64_t floor;  // Of the trigger.
  };

  // gcControllerState.heapGoalInternal.
  GoalAndFloor goal_and_floor(const MappedMemory& memory) const {
    const std::uint64_t limited_goal = memory_limit_heap_goal(memory);
    if (limited_goal < gc_percent_heap_goal_) return {limited_goal, 0};
    std::uint64_t goal = std::max(gc_percent_heap_goal_, sweep_dist_min_trigger);
    constexpr std::uint64_t kMinRunway = std::uint64_t{64} << 10;
    if (triggered_ != kNoGoal) goal = std::max(goal, triggered_ + kMinRunway);
    return {goal, sweep_dist_min_trigger};
  }

  // gcControllerState.memoryLimitHeapGoal.
  std::uint64_t memory_limit_heap_goal(const MappedMemory& memory) const {
    if (!limited()) return kNoGoal;
    const std::uint64_t held = memory.heap_free + (total_alloc - total_free);
    const std::uint64_t non_heap = memory.mapped_ready > held ? memory.mapped_ready - held : 0;
    const std::uint64_t overage =
        memory.mapped_ready > memory_limit_ ? memory.mapped_ready - memory_limit_ : 0;
    if (non_heap + overage >= memory_limit_) return heap_marked;
    const std::uint64_t goal = memory_limit_ - (non_heap + overage);
    constexpr std::uint64_t kMinHeadroom = std::uint64_t{1} << 20;
    const std::uint64_t headroom = std::max(goal / 100 * 3, kMinHeadroom);
    const bool scarce = goal < headroom || goal - headroom < headroom;
    return std::max(scarce ? headroom : goal - headroom, heap_marked);
  }

  std::int64_t gogc_;
  std::uint64_t memory_limit_;
  std::uint64_t globals_scan_;
  std::uint64_t gc_percent_heap_goal_ = kNoGoal;

  bool marking_ = false;
  std::uint64_t triggered_ = kNoGoal;  // heap_live at the start of the running cycle.
  double scanned_ = 0;
  double assist_work_per_byte_ = 0;
  double assist_bytes_per_work_ = 0;
  std::uint64_t runway_ = 0;
  double cons_mark_ = 0;
  std::array<double, 4> last_cons_mark_{};
};

}  // namespace go
