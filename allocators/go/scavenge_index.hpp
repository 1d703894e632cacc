// The scavenge index: how dense each 4 MiB chunk is, and from where the scavenger searches downwards.
//
// Above nothing but the size classes' units; the page allocator tells it of every page taken and freed, the
// scavenger asks it for a chunk. A chunk that was dense must stay sparse for a whole cycle before it is given
// back.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "size_classes.hpp"

namespace go {

inline constexpr std::uint32_t kChunkPages = 512;  // mpagealloc.go: pallocChunkPages; also the unit of growth
inline constexpr std::uint64_t kChunkBytes = kChunkPages * kPageBytes;

// A page as the page allocator numbers it: from the heap's first chunk.
using Page = std::uint64_t;

class ScavengeIndex {
 public:
  struct Chunk {
    std::uint32_t in_use = 0;
    std::uint32_t last_in_use = 0;  // When the current generation first touched the chunk.
    std::uint32_t generation = 0;
    bool empty = true;  // Nothing to give back, as far as is known.
  };

  struct Found {
    std::uint64_t chunk = 0;
    std::uint32_t page = 0;  // Search from here downwards.
  };

  void grow(std::uint64_t chunks) { chunks_.resize(chunks_.size() + chunks); }

  void alloc(std::uint64_t chunk, std::uint32_t pages) {
    Chunk& c = touch(chunk);
    c.in_use += pages;
    if (c.in_use > kChunkPages) {
      throw harness::InvariantError("chunk " + std::to_string(chunk) + ": " + std::to_string(c.in_use) +
                                    " pages in use of " + std::to_string(kChunkPages));
    }
    if (c.in_use == kChunkPages) c.empty = true;
  }

  void free(std::uint64_t chunk, std::uint32_t first, std::uint32_t pages) {
    Chunk& c = touch(chunk);
    if (c.in_use < pages) {
      throw harness::InvariantError("chunk " + std::to_string(chunk) + ": " + std::to_string(pages) +
                                    " pages freed of " + std::to_string(c.in_use) + " in use");
    }
    c.in_use -= pages;
    c.empty = false;
    const Page last = chunk * kChunkPages + first + pages - 1;
    if (!free_high_water_ || *free_high_water_ < last) free_high_water_ = last;
    if (!search_force_ || *search_force_ < last) search_force_ = last;
  }

  void set_empty(std::uint64_t chunk) { chunks_[chunk].empty = true; }

  // The highest chunk worth scavenging; none where there is none. Forced: density does not matter.
  std::optional<Found> find(bool force) {
    std::optional<Page>& search = force ? search_force_ : search_;
    if (!search) return std::nullopt;
    const std::uint64_t start = *search / kChunkPages;
    for (std::uint64_t i = start + 1; i-- > 0;) {
      if (!should_scavenge(chunks_[i], force)) continue;
      if (i == start) return Found{i, static_cast<std::uint32_t>(*search % kChunkPages)};
      search = i * kChunkPages + kChunkPages - 1;
      return Found{i, kChunkPages - 1};
    }
    search.reset();
    return std::nullopt;
  }

  void next_generation() {
    ++generation_;
    if (free_high_water_ && (!search_ || *search_ < *free_high_water_)) search_ = free_high_water_;
    free_high_water_.reset();
  }

  void restore(std::uint32_t generation, std::optional<Page> free_high_water, std::optional<Page> search) {
    generation_ = generation;
    free_high_water_ = free_high_water;
    search_ = search;
    search_force_ = free_high_water;
  }
  void restore_chunk(std::uint64_t chunk, const Chunk& state) { chunks_[chunk] = state; }

 private:
  // Denser chunks are left alone (mgcscavenge.go: scavChunkHiOccFrac, 31/32).
  static constexpr std::uint32_t kHighOccupancyPages = 496;

  Chunk& touch(std::uint64_t chunk) {
    Chunk& c = chunks_[chunk];
    if (c.generation != generation_) {
      c.last_in_use = c.in_use;
      c.generation = generation_;
    }
    return c;
  }

  bool should_scavenge(const Chunk& c, bool force) const {
    if (c.empty) return false;
    if (force) return true;
    return c.in_use < kHighOccupancyPages &&
           (c.generation != generation_ || c.last_in_use < kHighOccupancyPages);
  }

  std::vector<Chunk> chunks_;
  std::uint32_t generation_ = 0;
  std::optional<Page> free_high_water_;  // Highest page freed in this generation.
  std::optional<Page> search_;           // Go: searchAddrBg.
  std::optional<Page> search_force_;     // Go: searchAddrForce.
};

}  // namespace go
