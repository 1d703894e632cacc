// The heap of a real Go process at one moment, as a start for the model: plain data, filled by module.cpp.
//
// Beside the tiers: only go.hpp reads it. Addresses are the process's own. runtime/snapshot.py describes the
// file.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "size_classes.hpp"

namespace go {

struct Snapshot {
  // What a span is for; those of stacks and work buffers have no slots.
  enum SpanKind : std::uint8_t { kHeap, kStack, kWorkBuffer };

  struct SpanRecord {
    std::uint64_t base = 0;
    std::uint64_t pages = 0;
    SpanKind kind = kHeap;
    SpanClass span_class = 0;
    std::uint32_t nelems = 0;
    std::uint32_t freeindex = 0;
    std::uint32_t alloc_count = 0;
    std::uint32_t alloc_count_before_cache = 0;  // Of a cached span.
    bool page_marked = false;                    // By the last cycle.
    std::vector<std::uint64_t> alloc_bits;
  };
  struct Processor {
    std::uint64_t page_cache_base = 0;
    std::uint64_t page_cache = 0;
    std::uint64_t page_cache_scavenged = 0;
    std::uint64_t tiny = 0;  // Address of the current tiny block, or 0.
    std::uint64_t tiny_offset = 0;
    std::vector<std::uint64_t> cached;  // Base of the span of each span class, or 0.
  };
  struct Central {
    std::vector<std::uint64_t> partial;  // Bases, first out first.
    std::vector<std::uint64_t> full;
  };
  struct Chunk {
    std::uint64_t base = 0;
    std::array<std::uint64_t, 8> taken{};
    std::array<std::uint64_t, 8> scavenged{};
    std::uint32_t in_use = 0;
    std::uint32_t last_in_use = 0;
    std::uint32_t generation = 0;
    bool empty = true;
  };

  std::vector<SpanRecord> spans;
  std::vector<Processor> processors;  // By number of the P.
  std::vector<Central> central;       // By span class.
  std::vector<Chunk> chunks;          // Contiguous, ascending.
  std::uint64_t arena_end = 0;
  std::uint64_t free_bytes = 0;
  std::uint64_t released_bytes = 0;
  std::uint64_t mapped_ready = 0;
  std::uint64_t heap_live = 0;
  std::uint64_t heap_marked = 0;
  std::uint64_t total_alloc = 0;
  std::uint64_t total_free = 0;
  std::uint64_t globals_scan = 0;
  std::uint64_t stack_scan = 0;
  std::uint64_t last_heap_goal = 0;
  std::uint64_t sweep_dist_min_trigger = 0;
  std::uint64_t finalizer_bytes = 0;  // Objects with finalizers or cleanups: marked twice.
  std::uint64_t pages_swept = 0;
  std::uint64_t root_work =
      0;  // Objects in work buffers when the last cycle had marked what globals point at.
  std::uint64_t scavenge_goal = 0;
  std::uint32_t scavenge_generation = 0;
  std::uint64_t free_high_water = 0;  // Addresses; 0 for none.
  std::uint64_t scavenge_search = 0;
};

}  // namespace go
