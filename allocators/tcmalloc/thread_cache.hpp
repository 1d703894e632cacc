// The thread caches: per thread and size class a stack of free objects that needs no lock.
//
// The first tier; stands on the transfer caches. A list starts short and may grow as it is used; a cache that
// holds more than its limit gives back half of what it did not need lately, and then its limit grows, first
// from what no cache has claimed, then from others' limits (gperftools, src/thread_cache.cc).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <span>

#include "size_map.hpp"
#include "transfer_cache.hpp"

namespace tcmalloc {

class ThreadCache;

// Where allocations were served.
struct ServedAllocations {
  std::uint64_t refills = 0;  // By FetchFromCentralCache, which got so many objects.
  std::uint64_t refilled_objects = 0;
  std::uint64_t transfer_refills = 0;  // Refills by the farthest tier that was asked.
  std::uint64_t central_refills = 0;
  std::uint64_t new_span_refills = 0;
  std::uint64_t new_system_memory_refills = 0;
};

struct ThreadCacheStats {
  ServedAllocations served;
  std::uint64_t flushes = 0;  // ReleaseToCentralCache.
  std::uint64_t flushed_objects = 0;
  std::uint64_t scavenges = 0;
  std::uint64_t steals = 0;  // Limits that grew at another cache's cost.
  std::uint64_t caches_created = 0;
  std::uint64_t caches_deleted = 0;
};

// How much each cache may hold: the static part of the original's ThreadCache, under the page heap's lock.
class CacheLimits {
 public:
  // thread_cache.h: kDefaultOverallThreadCacheSize, kMinThreadCacheSize.
  static constexpr std::uint64_t kDefaultOverallBytes = 32 << 20;
  static constexpr std::uint64_t kMinPerThreadBytes = 512 << 10;

  std::uint64_t overall_bytes() const { return overall_bytes_; }
  ThreadCache* first() const { return first_; }
  inline std::uint64_t free_bytes() const;  // In all caches.
  void set_min_per_thread(std::uint64_t bytes) { min_per_thread_bytes_ = bytes; }

  inline void set_overall(std::uint64_t bytes);
  inline void increase(ThreadCache& cache);
  inline void claim_minimum(ThreadCache& cache);
  inline void link(ThreadCache& cache);
  inline void unlink(ThreadCache& cache);

  ThreadCacheStats stats;

 private:
  static constexpr std::int64_t kStealBytes = 64 << 10;           // kStealAmount
  static constexpr std::uint64_t kMaxThreadCacheBytes = 4 << 20;  // Of the common share, not of a cache.
  static constexpr std::uint64_t kMaxOverallBytes = 1 << 30;
  static constexpr int kStealProbes = 10;

  std::uint64_t overall_bytes_ = kDefaultOverallBytes;
  std::uint64_t min_per_thread_bytes_ = kMinPerThreadBytes;
  std::uint64_t per_thread_bytes_ = kMaxThreadCacheBytes;
  std::int64_t unclaimed_bytes_ = kDefaultOverallBytes;  // May be negative.
  ThreadCache* first_ = nullptr;                         // All caches, the newest first.
  ThreadCache* next_to_steal_from_ = nullptr;
};

class ThreadCache {
 public:
  // The limit is raised before the cache is among those to steal from.
  ThreadCache(const SizeMap& size_map, TransferCaches& transfer, CacheLimits& limits)
      : size_map_(size_map), transfer_(transfer), limits_(limits) {
    for (std::uint32_t c = 0; c < size_map.count(); ++c) {
      const std::int64_t object_bytes = size_map[c].object_bytes;
      lists_[c].bytes_change = {-object_bytes, object_bytes};
      lists_[c].allow(1);  // Slow start.
    }
    // Class 0 has no list: its objects have a span of their own. So no exchange finds room in it.
    lists_[0].set_max_length(0);
    limits_.increase(*this);
    if (max_bytes() == 0) limits_.claim_minimum(*this);
    limits_.link(*this);
    ++limits_.stats.caches_created;
  }
  ThreadCache(const ThreadCache&) = delete;  // The limits know it by address.

  // Cleanup: gives every object back.
  void cleanup() {
    for (std::uint32_t c = 0; c < size_map_.count(); ++c) {
      if (!lists_[c].objects.empty()) release_to_central_cache(c, lists_[c].length());
    }
  }

  // The end of the cache.
  void end() {
    cleanup();
    limits_.unlink(*this);
    ++limits_.stats.caches_deleted;
  }

  std::uint64_t free_objects(std::size_t size_class) const { return lists_[size_class].length(); }
  std::uint64_t free_bytes() const { return static_cast<std::uint64_t>(bytes_); }
  const ThreadCache* next() const { return next_; }

  Block allocate(std::uint8_t size_class) {
    FreeList& list = lists_[size_class];
    if (list.objects.empty()) [[unlikely]]
      return fetch_from_central_cache(size_class);
    const Block object = list.objects.head();
    list.objects.pop();
    list.low_water = std::min(list.low_water, list.length());
    bytes_ += list.bytes_change[0];
    return object;
  }

  void deallocate(Block object) {
    FreeList& list = lists_[object.size_class];
    list.objects.push(object);
    bytes_ += list.bytes_change[1];
    if (list.length() > list.max_length()) [[unlikely]] {
      list_too_long(object.size_class);
    } else if (bytes_ > max_bytes()) [[unlikely]] {
      scavenge();
    }
  }

  // allocate() or deallocate(), where a list has what is wanted, or room: both move one object between its
  // head and the block. Returns false, nothing done, where another tier is needed.
  [[gnu::always_inline]] bool exchange(harness::Choice allocates, std::uint64_t size_class, Block& block) {
    // One address, and every field at a distance from it: GCC would compute several, of which each takes its
    // part of an event's time.
    FreeList* list_address = &lists_[size_class];
    asm("" : "+r"(list_address));
    FreeList& list = *list_address;
    const std::uint32_t old_length = list.length();
    const std::int64_t bytes = bytes_ + list.bytes_change[allocates.number()];
    if (static_cast<std::uint32_t>(allocates.inverted_if_first(old_length)) >=
            list.bounds[allocates.number()] ||
        bytes > most_bytes_[allocates.number()]) [[unlikely]]
      return false;
    // Both are done: what comes is laid above the head, where nothing stands, and the head is taken. So an
    // event need not wait for what the one before has read.
    Block* const head = list.objects.blocks_.get() + old_length;
    head[1] = block;
    block = std::bit_cast<Block>(allocates.if_first(std::bit_cast<std::uint64_t>(head[0])));
    const auto length = static_cast<std::uint32_t>(allocates.one_less_if_first_else_one_more(old_length));
    list.objects.size_ = length;
    if (length < list.low_water) [[unlikely]]
      list.low_water = length;
    bytes_ = bytes;
    return true;
  }

 private:
  friend class CacheLimits;

  static constexpr std::uint32_t kMaxListLength = 8192;  // kMaxDynamicFreeListLength
  static constexpr std::uint32_t kMaxOverages = 3;

  struct alignas(64) FreeList {
    Chain objects;
    std::uint32_t low_water = 0;  // Least length since the last scavenge.
    std::uint32_t overages = 0;
    // What an exchange goes by, of an allocation and of a death. The first takes place where the length's
    // complement is below its bound, which any but that of 0 is, the second where the length is.
    std::array<std::uint32_t, 2> bounds = {~std::uint32_t{0}, 0};
    std::array<std::int64_t, 2> bytes_change{};
    std::uint32_t length() const { return objects.size(); }
    std::uint32_t max_length() const { return bounds[1]; }
    // A list that is longer keeps what it has.
    void set_max_length(std::uint32_t objects_at_most) { bounds[1] = objects_at_most; }
    // There is room for as many as there may be.
    void allow(std::uint32_t objects_at_most) {
      set_max_length(objects_at_most);
      objects.reserve(objects_at_most);
    }
  };

  std::int64_t max_bytes() const { return most_bytes_[1]; }
  // A value of 32 bits as in the original: a minimum of 2 GiB makes it negative. That is less than any size
  // and, compared unsigned with what may be stolen, more than any.
  void set_max_bytes(std::int32_t bytes) { most_bytes_[1] = bytes; }
  void raise_limit(std::int64_t bytes) { set_max_bytes(static_cast<std::int32_t>(max_bytes() + bytes)); }

  // A null block where the page heap has nothing to give.
  Block fetch_from_central_cache(std::uint8_t size_class) {
    FreeList& list = lists_[size_class];
    const std::uint32_t batch = size_map_[size_class].batch_objects;
    const std::uint32_t wanted = std::min(list.max_length(), batch);
    const bool from_transfer = transfer_.remove_range(size_class, wanted, list.objects);
    if (list.objects.empty()) return {};
    note_refill(size_class, from_transfer);
    // The chain's head goes to the caller.
    const Block head = list.objects.head();
    list.objects.pop();
    bytes_ += std::int64_t{list.length()} * size_map_[size_class].object_bytes;
    // One more each time up to a batch, then a batch more each time, in whole batches.
    if (list.max_length() < batch) {
      list.allow(list.max_length() + 1);
    } else {
      const std::uint32_t longer = std::min(list.max_length() + batch, kMaxListLength);
      list.allow(longer - longer % batch);
    }
    return head;
  }

  void note_refill(std::uint8_t size_class, bool from_transfer) {
    ServedAllocations& served = limits_.stats.served;
    ++served.refills;
    served.refilled_objects += lists_[size_class].length();
    if (from_transfer) {
      ++served.transfer_refills;
      return;
    }
    switch (transfer_.last_source(size_class)) {
      case CentralFreeList::Source::kSpan:
        ++served.central_refills;
        break;
      case CentralFreeList::Source::kNewSpan:
        ++served.new_span_refills;
        break;
      case CentralFreeList::Source::kNewSystemMemory:
        ++served.new_system_memory_refills;
        break;
    }
  }

  void list_too_long(std::uint8_t size_class) {
    FreeList& list = lists_[size_class];
    const std::uint32_t batch = size_map_[size_class].batch_objects;
    release_to_central_cache(size_class, batch);
    if (list.max_length() < batch) {
      list.allow(list.max_length() + 1);
    } else if (list.max_length() > batch && ++list.overages > kMaxOverages) {
      list.set_max_length(list.max_length() - batch);
      list.overages = 0;
    }
    if (bytes_ > max_bytes()) scavenge();
  }

  // At most n objects from the top, in chains of a batch and one of what remains.
  void release_to_central_cache(std::uint32_t size_class, std::uint32_t objects) {
    FreeList& list = lists_[size_class];
    const SizeClass& properties = size_map_[size_class];
    objects = std::min(objects, list.length());
    ++limits_.stats.flushes;
    limits_.stats.flushed_objects += objects;
    for (std::uint32_t left = objects; left > 0;) {
      const std::uint32_t count = std::min(left, properties.batch_objects);
      const std::uint32_t kept = list.length() - count;
      transfer_.insert_range(static_cast<std::uint8_t>(size_class), list.objects.from(kept));
      list.objects.truncate(kept);
      left -= count;
    }
    list.low_water = std::min(list.low_water, list.length());
    bytes_ -= std::int64_t{objects} * properties.object_bytes;
  }

  // Drops half of what no allocation has touched since the last time, and asks for a higher limit.
  void scavenge() {
    ++limits_.stats.scavenges;
    for (std::uint32_t c = 0; c < size_map_.count(); ++c) {
      FreeList& list = lists_[c];
      if (const std::uint32_t low = list.low_water; low > 0) {
        release_to_central_cache(c, std::max<std::uint32_t>(low / 2, 1));
        const std::uint32_t batch = size_map_[c].batch_objects;
        if (list.max_length() > batch) list.set_max_length(std::max(list.max_length() - batch, batch));
      }
      list.low_water = list.length();
    }
    limits_.increase(*this);
  }

  const SizeMap& size_map_;
  TransferCaches& transfer_;
  CacheLimits& limits_;
  std::array<FreeList, kMaxClasses> lists_;
  std::int64_t bytes_ = 0;
  // Of an allocation, which never brings too many, and of a death.
  std::array<std::int64_t, 2> most_bytes_ = {std::numeric_limits<std::int64_t>::max(), 0};
  ThreadCache* next_ = nullptr;
  ThreadCache* previous_ = nullptr;
};

inline std::uint64_t CacheLimits::free_bytes() const {
  std::uint64_t bytes = 0;
  for (const ThreadCache* cache = first_; cache != nullptr; cache = cache->next()) {
    bytes += cache->free_bytes();
  }
  return bytes;
}

// set_overall_thread_cache_size and RecomputePerThreadCacheSize: clipped to what the library allows; a
// smaller share lowers every limit in proportion, a larger one raises none.
inline void CacheLimits::set_overall(std::uint64_t bytes) {
  overall_bytes_ = std::min(std::max(bytes, min_per_thread_bytes_), kMaxOverallBytes);
  std::uint64_t caches = 0;
  for (const ThreadCache* cache = first_; cache != nullptr; cache = cache->next_) ++caches;
  const std::uint64_t share =
      std::min(std::max(overall_bytes_ / std::max<std::uint64_t>(caches, 1), min_per_thread_bytes_),
               kMaxThreadCacheBytes);
  const double ratio = static_cast<double>(share) / std::max(1.0, static_cast<double>(per_thread_bytes_));
  std::int64_t claimed = 0;
  for (ThreadCache* cache = first_; cache != nullptr; cache = cache->next_) {
    if (ratio < 1.0) {
      cache->set_max_bytes(static_cast<std::int32_t>(static_cast<double>(cache->max_bytes()) * ratio));
    }
    claimed += cache->max_bytes();
  }
  unclaimed_bytes_ = static_cast<std::int64_t>(overall_bytes_) - claimed;
  per_thread_bytes_ = share;
}

// IncreaseCacheLimit: 64 KiB of what nobody claims; otherwise from the next cache in turn that is above the
// minimum. Looks at ten and gives up.
inline void CacheLimits::increase(ThreadCache& cache) {
  if (unclaimed_bytes_ > 0) {
    unclaimed_bytes_ -= kStealBytes;
    cache.raise_limit(kStealBytes);
    return;
  }
  for (int probe = 0; probe < kStealProbes; ++probe) {
    if (next_to_steal_from_ == nullptr) next_to_steal_from_ = first_;
    if (next_to_steal_from_ == nullptr) return;  // The first cache, under a limit of nothing at all.
    ThreadCache& victim = *next_to_steal_from_;
    next_to_steal_from_ = victim.next_;
    if (&victim == &cache || static_cast<std::uint64_t>(victim.max_bytes()) <= min_per_thread_bytes_)
      continue;
    victim.raise_limit(-kStealBytes);
    cache.raise_limit(kStealBytes);
    ++stats.steals;
    return;
  }
}

inline void CacheLimits::claim_minimum(ThreadCache& cache) {
  cache.set_max_bytes(static_cast<std::int32_t>(min_per_thread_bytes_));
  unclaimed_bytes_ =
      static_cast<std::int64_t>(static_cast<std::uint64_t>(unclaimed_bytes_) - min_per_thread_bytes_);
}

inline void CacheLimits::link(ThreadCache& cache) {
  cache.next_ = first_;
  (first_ != nullptr ? first_->previous_ : next_to_steal_from_) = &cache;
  first_ = &cache;
}

inline void CacheLimits::unlink(ThreadCache& cache) {
  if (cache.next_ != nullptr) cache.next_->previous_ = cache.previous_;
  (cache.previous_ != nullptr ? cache.previous_->next_ : first_) = cache.next_;
  if (next_to_steal_from_ == &cache) next_to_steal_from_ = cache.next_;
  if (next_to_steal_from_ == nullptr) next_to_steal_from_ = first_;
  unclaimed_bytes_ += cache.max_bytes();
}

}  // namespace tcmalloc
