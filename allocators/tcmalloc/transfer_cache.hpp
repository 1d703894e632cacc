// The transfer caches: per size class, whole batches of objects on their way from one thread to another.
//
// Stand on the central free lists, with which each shares a lock, and below the thread caches. All classes
// share a fixed number of slots: one that needs more takes them from the class whose turn it is (gperftools,
// src/central_freelist.cc, where they are part of CentralFreeList).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "central_free_list.hpp"
#include "size_map.hpp"

namespace tcmalloc {

// The batches of one class, last in, first out.
class TransferCache {
 public:
  TransferCache(const SizeClass& size_class, CentralFreeList& central)
      : central_(central),
        batch_objects_(size_class.batch_objects),
        cache_size_(size_class.transfer_slots),
        max_cache_size_(size_class.transfer_slots_max) {}

  std::uint64_t free_objects() const { return objects_.size(); }
  // Of the lock that it shares with its central list, but for those around visits to the page heap.
  std::uint64_t lock_acquisitions() const { return lock_acquisitions_; }

 private:
  friend class TransferCaches;

  bool full() const { return used_slots_ == cache_size_; }

  CentralFreeList& central_;
  Chain objects_;  // Batch upon batch, each a chain.
  std::uint32_t batch_objects_;
  std::uint32_t used_slots_ = 0;
  std::uint32_t cache_size_;  // Slots at present.
  std::uint32_t max_cache_size_;
  std::uint64_t lock_acquisitions_ = 0;
};

struct TransferStats {
  std::uint64_t hits = 0;
  std::uint64_t inserts = 0;
  std::uint64_t evictions = 0;  // Slots taken from another class.
};

class TransferCaches {
 public:
  TransferCaches(const SizeMap& size_map, std::vector<CentralFreeList>& central) {
    caches_.reserve(size_map.count());
    for (std::uint32_t c = 0; c < size_map.count(); ++c) caches_.emplace_back(size_map[c], central[c]);
  }

  const TransferCache& operator[](std::size_t size_class) const { return caches_[size_class]; }
  const TransferStats& stats() const { return stats_; }
  // Where the last request of a class that found no batch was served.
  CentralFreeList::Source last_source(std::uint8_t size_class) const {
    return caches_[size_class].central_.last_source();
  }

  // CentralFreeList::RemoveRange: appends up to n objects to the chain. Returns whether a batch served.
  bool remove_range(std::uint8_t size_class, std::uint32_t objects, Chain& chain) {
    TransferCache& cache = caches_[size_class];
    ++cache.lock_acquisitions_;
    if (objects == cache.batch_objects_ && cache.used_slots_ > 0) {
      ++stats_.hits;
      --cache.used_slots_;
      const std::uint32_t left = cache.objects_.size() - objects;
      chain.append(cache.objects_.from(left));
      cache.objects_.truncate(left);
      return true;
    }
    cache.central_.remove_range(objects, chain);
    return false;
  }

  // CentralFreeList::InsertRange: a whole batch into a slot, if there is one; anything else to its spans.
  void insert_range(std::uint8_t size_class, std::span<const Block> chain) {
    TransferCache& cache = caches_[size_class];
    ++cache.lock_acquisitions_;
    if (chain.size() == cache.batch_objects_ && make_cache_space(size_class)) {
      ++stats_.inserts;
      ++cache.used_slots_;
      cache.objects_.append(chain);
      return;
    }
    cache.central_.release_list_to_spans(chain);
  }

 private:
  bool make_cache_space(std::uint8_t size_class) {
    TransferCache& cache = caches_[size_class];
    if (!cache.full()) return true;
    if (cache.cache_size_ == cache.max_cache_size_) return false;
    if (!evict_random_size_class(size_class, false) && !evict_random_size_class(size_class, true))
      return false;
    ++stats_.evictions;
    ++cache.cache_size_;
    return true;
  }

  // Takes a slot from the next class in turn. Once around, the counter stays where it is for one turn more,
  // as in the original.
  bool evict_random_size_class(std::uint8_t size_class, bool force) {
    std::size_t turn = race_counter_++;
    if (turn >= caches_.size()) race_counter_ = turn %= caches_.size();
    if (turn == size_class || !shrink_cache(caches_[turn], force)) return false;
    // LockInverter: the other class's lock, and then again the own one.
    ++caches_[turn].lock_acquisitions_;
    ++caches_[size_class].lock_acquisitions_;
    return true;
  }

  bool shrink_cache(TransferCache& cache, bool force) {
    if (cache.cache_size_ == 0) return false;
    const bool full = cache.full();
    if (full && !force) return false;
    --cache.cache_size_;
    if (full) {
      --cache.used_slots_;
      const std::uint32_t left = cache.objects_.size() - cache.batch_objects_;
      cache.central_.release_list_to_spans(cache.objects_.from(left));
      cache.objects_.truncate(left);
    }
    return true;
  }

  std::vector<TransferCache> caches_;
  std::size_t race_counter_ = 0;
  TransferStats stats_;
};

}  // namespace tcmalloc
