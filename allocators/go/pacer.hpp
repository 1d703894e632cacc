// The pacer: when the next collection starts and what heap it aims at.
//
// Knows bytes only, no span and no page. The rules of mgcpacer.go with a runway of 0, which is what they come
// to while marking takes no time. All arithmetic is Go's: unsigned 64-bit, divisions where Go divides.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace go {

inline constexpr std::uint64_t kNoGoal = std::numeric_limits<std::uint64_t>::max();
inline constexpr std::uint64_t kDefaultHeapMinimum = std::uint64_t{4}
                                                     << 20;  // mgcpacer.go: defaultHeapMinimum
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
  std::uint64_t total_alloc = 0;  // Bytes of objects in spans that left a cache; so it lags.
  std::uint64_t total_free = 0;
  std::uint64_t last_stack_scan = 0;
  std::uint64_t last_heap_goal = 0;  // At the end of the last marking; 0 before the first.
  std::uint64_t sweep_dist_min_trigger = 0;

  bool limited() const { return memory_limit_ != kNoGoal; }
  std::int64_t gogc() const { return gogc_; }
  std::uint64_t memory_limit() const { return memory_limit_; }

  // gcControllerState.commit. Uses heap_marked and heap_live as they stand.
  void commit(bool sweep_done) {
    sweep_dist_min_trigger = sweep_done ? 0 : heap_live + kSweepMinHeapDistance;
    commit_goal();
  }
  void commit_goal() {
    gc_percent_heap_goal_ = kNoGoal;
    if (gogc_ < 0) return;
    const auto percent = static_cast<std::uint64_t>(gogc_);
    gc_percent_heap_goal_ = heap_marked + (heap_marked + last_stack_scan + globals_scan_) * percent / 100;
    gc_percent_heap_goal_ = std::max(gc_percent_heap_goal_, kDefaultHeapMinimum * percent / 100);
  }

  // A cycle starts, and ends: the goal it ends with is the scavenger's yardstick.
  void end_cycle(std::uint64_t triggered, const MappedMemory& memory) {
    last_heap_goal = goal_and_floor(memory, triggered).goal;
  }

  std::uint64_t goal(const MappedMemory& memory) const { return goal_and_floor(memory, kNoGoal).goal; }

  // gcControllerState.trigger.
  std::uint64_t trigger(const MappedMemory& memory) const {
    const auto [goal, floor] = goal_and_floor(memory, kNoGoal);
    if (heap_marked >= goal) return goal;
    // Not before 70 % of the way from the marked heap to the goal, not after 95 % of it or 4 MiB before the
    // goal.
    const std::uint64_t way = (goal - heap_marked) / 64;
    const std::uint64_t least = std::max({floor, heap_marked, way * 45 + heap_marked});
    std::uint64_t most = way * 61 + heap_marked;
    if (goal > kDefaultHeapMinimum) most = std::max(most, goal - kDefaultHeapMinimum);
    return std::clamp(goal, least, std::max(most, least));
  }

 private:
  struct GoalAndFloor {
    std::uint64_t goal;
    std::uint64_t floor;  // Of the trigger.
  };

  // gcControllerState.heapGoalInternal. triggered: heap_live at the start of the running cycle, or kNoGoal.
  GoalAndFloor goal_and_floor(const MappedMemory& memory, std::uint64_t triggered) const {
    const std::uint64_t limited_goal = memory_limit_heap_goal(memory);
    if (limited_goal < gc_percent_heap_goal_) return {limited_goal, 0};
    std::uint64_t goal = std::max(gc_percent_heap_goal_, sweep_dist_min_trigger);
    constexpr std::uint64_t kMinRunway = std::uint64_t{64} << 10;
    if (triggered != kNoGoal) goal = std::max(goal, triggered + kMinRunway);
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
};

}  // namespace go
