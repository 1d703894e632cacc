// The page allocator: which pages of the heap are taken and which are scavenged; first fit by address.
//
// Above the scavenge index, below the page heap. Bitmaps per 4 MiB chunk, as in mpagealloc.go; over them a
// tree of (free pages at the start, longest free run, free pages at the end), so that no search walks the
// heap. Pages are numbered from the heap's first chunk; only the page heap knows addresses. Model space is
// contiguous.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "scavenge_index.hpp"

namespace go {

inline constexpr std::uint32_t kPageCachePages = 64;  // mpagecache.go: pageCachePages

// The first of `pages` neighbouring ones in a word; 64 where there is no such run (mpallocbits.go:
// findBitRange64).
inline std::uint32_t find_bit_range(std::uint64_t word, std::uint32_t pages) {
  std::uint32_t left = pages - 1;
  for (std::uint32_t step = 1; left > 0 && word != 0; step *= 2) {
    const std::uint32_t shift = std::min(step, left);
    word &= word >> shift;
    left -= shift;
  }
  return static_cast<std::uint32_t>(std::countr_zero(word));
}

// `count` ones from bit `first` on; 1 to 64 of them.
inline std::uint64_t bit_mask(std::uint32_t first, std::uint32_t count) {
  return (~std::uint64_t{0} >> (64 - count)) << first;
}

// Pages that one P owns and allocates from without a lock: the free ones of an aligned window of 64.
struct PageCache {
  Page base = 0;
  std::uint64_t cache = 0;  // 1 = free.
  std::uint64_t scav = 0;   // 1 = scavenged.

  bool empty() const { return cache == 0; }
  std::int64_t unscavenged_pages() const { return std::popcount(cache & ~scav); }
};

struct PageRun {
  Page base = 0;
  std::uint64_t scavenged_pages = 0;
};

class PageAlloc {
 public:
  struct Chunk {
    std::array<std::uint64_t, 8> taken{};
    std::array<std::uint64_t, 8> scavenged{};
  };

  std::uint64_t chunk_count() const { return chunks_.size(); }
  const Chunk& chunk(std::uint64_t i) const { return chunks_[i]; }
  ScavengeIndex& index() { return index_; }

  // New chunks at the end, free and scavenged.
  void grow(std::uint64_t chunks) {
    const std::uint64_t first = chunks_.size();
    Chunk fresh;
    fresh.scavenged.fill(~std::uint64_t{0});
    chunks_.resize(first + chunks, fresh);
    index_.grow(chunks);
    if (chunks_.size() > leaves_) {
      leaves_ = std::bit_ceil(chunks_.size());
      tree_.assign(2 * leaves_, Summary{});
      rebuild(0, chunks_.size());
    } else {
      rebuild(first, chunks_.size());
    }
  }

  // The lowest run of so many pages, taken.
  std::optional<PageRun> alloc(std::uint64_t pages) {
    const std::optional<Page> found = find(pages);
    if (!found) return std::nullopt;
    return PageRun{*found, take(*found, pages)};
  }

  void free(Page base, std::uint64_t pages) {
    for_each_part(base, pages, [this](std::uint64_t c, std::uint32_t first, std::uint32_t count) {
      change_bits(chunks_[c].taken, first, count, false);
      index_.free(c, first, count);
    });
    update(base, pages);
  }

  // The window of 64 pages around the lowest free page, its free pages taken (mpagecache.go: allocToCache).
  PageCache alloc_to_cache() {
    const std::optional<Page> found = find(1);
    if (!found) return {};
    const std::uint64_t c = *found / kChunkPages;
    const std::size_t word = *found % kChunkPages / 64;
    Chunk& chunk = chunks_[c];
    const PageCache cache{*found / 64 * 64, ~chunk.taken[word], chunk.scavenged[word] & ~chunk.taken[word]};
    chunk.taken[word] = ~std::uint64_t{0};
    chunk.scavenged[word] &= ~cache.scav;
    index_.alloc(c, static_cast<std::uint32_t>(std::popcount(cache.cache)));
    update(cache.base, kPageCachePages);
    return cache;
  }

  // Gives back what is left of a cache (mpagecache.go: flush).
  void flush(PageCache& cache) {
    if (cache.empty()) return;
    const std::uint64_t c = cache.base / kChunkPages;
    const auto first = static_cast<std::uint32_t>(cache.base % kChunkPages);
    chunks_[c].taken[first / 64] &= ~cache.cache;
    chunks_[c].scavenged[first / 64] |= cache.scav;
    for (std::uint32_t i = 0; i < kPageCachePages; ++i) {
      if (cache.cache >> i & 1) index_.free(c, first + i, 1);
    }
    update(cache.base, kPageCachePages);
    cache = {};
  }

  // Marks as scavenged the highest free run of a chunk from `page` downwards: at most `max_pages` of it, more
  // only where that would break a free huge page. Returns its length (mgcscavenge.go: findScavengeCandidate).
  std::uint32_t scavenge_one(std::uint64_t c, std::uint32_t page, std::uint64_t max_pages,
                             std::uint32_t huge_page_pages) {
    Chunk& chunk = chunks_[c];
    const auto kept = [&chunk](std::uint32_t i) {
      return ((chunk.taken[i / 64] | chunk.scavenged[i / 64]) >> (i % 64) & 1) != 0;
    };
    std::uint32_t end = (page / 64 + 1) * 64;
    while (end > 0 && kept(end - 1)) --end;
    if (end == 0) {
      index_.set_empty(c);
      return 0;
    }
    std::uint32_t run = 1;
    while (run < end && !kept(end - run - 1)) ++run;
    auto pages = static_cast<std::uint32_t>(std::min<std::uint64_t>(run, max_pages));
    std::uint32_t start = end - pages;
    if (huge_page_pages > 1) {
      const std::uint32_t above = (start + huge_page_pages - 1) / huge_page_pages * huge_page_pages;
      const std::uint32_t below = start / huge_page_pages * huge_page_pages;
      if (above <= end && below >= end - run) {
        pages += start - below;
        start = below;
      }
    }
    change_bits(chunk.scavenged, start, pages, true);
    return pages;
  }

  void restore(std::uint64_t c, const Chunk& state) {
    chunks_[c] = state;
    rebuild(c, c + 1);
  }

 private:
  struct Summary {
    std::uint64_t start = 0, longest = 0, end = 0;
    bool operator==(const Summary&) const = default;
  };

  template <typename Visit>
  static void for_each_part(Page base, std::uint64_t pages, Visit visit) {
    while (pages > 0) {
      const auto first = static_cast<std::uint32_t>(base % kChunkPages);
      const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(pages, kChunkPages - first));
      visit(base / kChunkPages, first, count);
      base += count;
      pages -= count;
    }
  }

  template <typename Visit>
  static void for_each_word(std::uint32_t first, std::uint32_t count, Visit visit) {
    while (count > 0) {
      const std::uint32_t in_word = std::min(count, 64 - first % 64);
      visit(first / 64, bit_mask(first % 64, in_word));
      first += in_word;
      count -= in_word;
    }
  }

  // Sets or clears a range that must be the opposite throughout.
  static void change_bits(std::array<std::uint64_t, 8>& bits, std::uint32_t first, std::uint32_t count,
                          bool to) {
    for_each_word(first, count, [&bits, to](std::size_t word, std::uint64_t mask) {
      const std::uint64_t expected = to ? 0 : mask;
      if ((bits[word] & mask) != expected) {
        throw harness::InvariantError("page bits " + std::to_string(bits[word] & mask) + " are not " +
                                      std::to_string(expected));
      }
      bits[word] ^= mask;
    });
  }

  std::uint64_t take(Page base, std::uint64_t pages) {
    std::uint64_t scavenged = 0;
    for_each_part(base, pages, [&](std::uint64_t c, std::uint32_t first, std::uint32_t count) {
      change_bits(chunks_[c].taken, first, count, true);
      for_each_word(first, count, [&](std::size_t word, std::uint64_t mask) {
        scavenged += static_cast<std::uint64_t>(std::popcount(chunks_[c].scavenged[word] & mask));
        chunks_[c].scavenged[word] &= ~mask;
      });
      index_.alloc(c, count);
    });
    update(base, pages);
    return scavenged;
  }

  static Summary summarize(const Chunk& chunk) {
    std::uint64_t start = 0, longest = 0, run = 0;
    bool whole = true;  // Free from the start so far.
    for (const std::uint64_t word : chunk.taken) {
      if (word == 0) {
        run += 64;
        continue;
      }
      run += static_cast<std::uint64_t>(std::countr_zero(word));
      if (whole) start = run;
      whole = false;
      longest = std::max(longest, run);
      run = static_cast<std::uint64_t>(std::countl_zero(word));
      // Runs inside the word, between its first and its last taken page: only if they could be the longest.
      std::uint64_t free = ~word;
      if (std::cmp_greater(std::popcount(free), longest)) {
        while (free != 0) {
          free >>= std::countr_zero(free);
          const int length = std::countr_one(free);
          if (length == 64) break;
          longest = std::max(longest, static_cast<std::uint64_t>(length));
          free >>= length;
        }
      }
    }
    if (whole) start = run;
    return {start, std::max(longest, run), run};
  }

  void update(Page base, std::uint64_t pages) {
    rebuild(base / kChunkPages, (base + pages - 1) / kChunkPages + 1);
  }

  // Renews the leaves [first, last) and what stands over them, as far up as anything changes.
  void rebuild(std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t c = first; c < last; ++c) tree_[leaves_ + c] = summarize(chunks_[c]);
    std::uint64_t low = (leaves_ + first) / 2;
    std::uint64_t high = (leaves_ + last - 1) / 2;
    for (std::uint64_t node_pages = kChunkPages; low > 0; low /= 2, high /= 2, node_pages *= 2) {
      bool changed = false;
      for (std::uint64_t i = low; i <= high; ++i) {
        const Summary& left = tree_[2 * i];
        const Summary& right = tree_[2 * i + 1];
        const Summary merged{left.start == node_pages ? node_pages + right.start : left.start,
                             std::max({left.longest, right.longest, left.end + right.start}),
                             right.end == node_pages ? node_pages + left.end : right.end};
        if (merged == tree_[i]) continue;
        tree_[i] = merged;
        changed = true;
      }
      if (!changed) break;
    }
  }

  std::optional<Page> find(std::uint64_t pages) const {
    if (tree_.empty() || tree_[1].longest < pages) return std::nullopt;
    std::uint64_t node = 1;
    std::uint64_t first_page = 0;
    std::uint64_t node_pages = leaves_ * kChunkPages;
    while (node < leaves_) {
      node_pages /= 2;
      const Summary& left = tree_[2 * node];
      if (left.longest >= pages) {
        node = 2 * node;
      } else if (left.end + tree_[2 * node + 1].start >= pages) {
        return first_page + node_pages - left.end;
      } else {
        node = 2 * node + 1;
        first_page += node_pages;
      }
    }
    return first_page + find_in(chunks_[node - leaves_], pages);
  }

  // The first run in a chunk that has one.
  static Page find_in(const Chunk& chunk, std::uint64_t pages) {
    std::uint64_t run = 0;  // Free pages right before the word.
    for (std::uint64_t word = 0; word < chunk.taken.size(); ++word) {
      const std::uint64_t taken = chunk.taken[word];
      const auto leading = static_cast<std::uint64_t>(std::countr_zero(taken));
      if (run + leading >= pages) return word * 64 - run;
      if (taken == 0) {
        run += 64;
        continue;
      }
      if (pages <= 64) {
        const std::uint32_t at = find_bit_range(~taken, static_cast<std::uint32_t>(pages));
        if (at < 64) return word * 64 + at;
      }
      run = static_cast<std::uint64_t>(std::countl_zero(taken));
    }
    throw harness::InvariantError("no run of " + std::to_string(pages) +
                                  " pages in a chunk whose summary shows one");
  }

  std::vector<Chunk> chunks_;
  ScavengeIndex index_;
  // Node 1 is the whole heap, node i has 2i and 2i + 1 below it, leaf c is leaves_ + c. A leaf beyond the
  // heap's end is full.
  std::vector<Summary> tree_;
  std::uint64_t leaves_ = 0;
};

}  // namespace go
