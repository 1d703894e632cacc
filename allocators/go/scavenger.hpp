// The scavenger: how much memory the heap keeps, and giving the rest back to the OS.
//
// Above the page allocator, below the page heap, which calls it when it grows or passes the memory limit; the
// collector calls it for the background scavenger, which is driven by the clock.
#pragma once

#include <cstdint>

#include "pacer.hpp"
#include "page_alloc.hpp"

namespace go {

class Scavenger {
 public:
  Scavenger(PageAlloc& pages, bool on) : pages_(pages), on_(on) {}

  bool on() const { return on_; }
  std::uint64_t gc_percent_goal() const { return gc_percent_goal_; }
  std::int64_t runs() const { return runs_; }
  std::int64_t scavenged_pages() const { return scavenged_pages_; }

  // mgcscavenge.go: gcPaceScavenger. In use after the last cycle, scaled by the goal's growth, and a tenth
  // more.
  void pace(std::uint64_t heap_goal, std::uint64_t last_heap_goal, std::uint64_t last_heap_in_use,
            std::uint64_t retained) {
    gc_percent_goal_ = kNoGoal;
    if (last_heap_goal == 0) return;
    const double ratio = static_cast<double>(heap_goal) / static_cast<double>(last_heap_goal);
    const double scaled = static_cast<double>(last_heap_in_use) * ratio;
    // With GOGC off the goal is 2^64 - 1 and the product lies beyond what a uint64 holds: nothing to keep
    // back.
    if (scaled >= 0x1p63) return;
    auto goal = static_cast<std::uint64_t>(scaled);
    goal += goal / 10;
    goal = (goal + kPhysPageBytes - 1) & ~(kPhysPageBytes - 1);
    if (retained > goal && retained - goal >= kPhysPageBytes) gc_percent_goal_ = goal;
  }

  void next_generation() { pages_.index().next_generation(); }

  // Gives back at least so many bytes, if there are, from the highest address down. Returns the pages given
  // back.
  std::uint64_t scavenge(std::uint64_t bytes, bool force) {
    std::uint64_t released = 0;
    while (released * kPageBytes < bytes) {
      const std::optional<ScavengeIndex::Found> found = pages_.index().find(force);
      if (!found) break;
      const std::uint64_t wanted = (bytes - released * kPageBytes + kPageBytes - 1) / kPageBytes;
      const std::uint32_t pages = pages_.scavenge_one(found->chunk, found->page, wanted, kHugePagePages);
      released += pages;
      if (pages > 0) ++runs_;
    }
    scavenged_pages_ += static_cast<std::int64_t>(released);
    return released;
  }

  void restore(std::uint64_t gc_percent_goal) { gc_percent_goal_ = gc_percent_goal; }

 private:
  static constexpr std::uint32_t kHugePagePages = 256;  // 2 MiB: linux/amd64 with transparent huge pages

  PageAlloc& pages_;
  bool on_;
  std::uint64_t gc_percent_goal_ = kNoGoal;
  std::int64_t runs_ = 0;
  std::int64_t scavenged_pages_ = 0;
};

}  // namespace go
