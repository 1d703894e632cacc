// TCMalloc as gperftools builds it: assembles the tiers and carries out malloc, free, realloc and memalign.
//
// An allocation of up to 256 KiB goes up the tiers until one has objects of its class:
//   1. size_map: the size's class.
//   2. thread_cache: the top of the thread's own list of that class, without a lock. Here most end.
//   3. transfer_cache: a whole batch that another thread gave back, if a whole batch is wanted.
//   4. central_free_list: objects of the first span that has any.
//   5. page_heap: a span of the class's length, carved from the shortest free one that fits.
//   6. system_alloc: at least 1 MiB more from the operating system.
// The caller gets the first object, its thread's list the others. A larger allocation, or one aligned above a
// page, starts at 5 and owns its span.
//
// A free goes back down as far as there is too much:
//   1. thread_cache: onto the thread's list, whichever thread allocated the object. A thread without a cache
//      skips this step.
//   2. transfer_cache: if the list is too long, or the cache too large, batches of it, while there are slots.
//   3. central_free_list: anything else, object by object, to its span.
//   4. page_heap: a span whose last object is back; it merges with free neighbours.
//   5. the operating system: one span each time enough pages have been freed; its address space stays.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "harness/allocator.hpp"
#include "page_heap.hpp"
#include "size_map.hpp"
#include "thread_cache.hpp"
#include "transfer_cache.hpp"
#include "version.hpp"

namespace tcmalloc {

// Checked, and given its defaults, in __init__.py.
struct Options {
  Version version;
  Page page;
  std::uint32_t min_alignment = 16;
  std::uint32_t transfer_num_objects = 0;
  bool starts_as_process = false;  // As a process that is linked with the library; otherwise empty.
  double release_rate = 0;
  std::uint64_t max_total_thread_cache_bytes = 0;
  bool aggressive_decommit = false;
  bool counts_touched_pages = false;
  Touch touch = Touch::kNone;
  std::uint64_t heap_limit_mb = 0;
  std::uint64_t heap_base = 0;
};

class Tcmalloc {
 public:
  using Block = tcmalloc::Block;

  explicit Tcmalloc(const Options& options)
      : version_(options.version),
        touch_(options.touch),
        tiers_(std::make_unique<Tiers>(options)),
        objects_(2 * std::size_t{tiers_->size_map.count()}),
        kept_(tiers_->size_map.count()) {
    tiers_->limits.set_overall(options.max_total_thread_cache_bytes);
    tiers_->page_heap.set_aggressive_decommit(options.aggressive_decommit);
    if (options.counts_touched_pages) tiers_->page_heap.count_touched_pages(options.heap_base);
    if (options.starts_as_process) {
      start_process(options);
    } else {
      tiers_->page_heap.set_scavenge_counter(PageHeap::kDefaultReleaseDelayPages);
      initialise_variables(options);
    }
  }

  // malloc, calloc (which is malloc here: only its zeroes cost) and memalign.
  Block allocate(const harness::Request& request) {
    const Block block =
        request.alignment > kAlignment ? memalign(request) : malloc(request.thread, request.size);
    if (block) [[likely]] {
      note_allocation(block);
      if (tiers_->page_heap.touched_pages() != nullptr) [[unlikely]]
        touch_allocation(block, request);
    }
    return block;
  }

  void release(Block block, std::uint16_t thread) {
    note_release(block);
    free(thread, block);
  }

  static constexpr std::uint32_t kExchangedAlignment = 8;  // What malloc gives at least.
  // malloc or free of a small object, where the thread's cache need not ask another tier.
  class Exchanger {
   public:
    explicit Exchanger(Tcmalloc& of)
        : class_of_index_(of.tiers_->size_map.class_of_index()),
          caches_(of.caches_.data()),
          threads_(of.exchanging_threads_),
          objects_(of.objects_.data()) {}

    [[gnu::always_inline]] bool follow(std::uint16_t thread) {
      cache_ = thread < threads_ ? caches_[thread].get() : nullptr;
      return cache_ != nullptr;
    }

    [[gnu::always_inline]] std::uint32_t exchange(harness::Choice allocates, Block& block,
                                                  const harness::Request& request) {
      if (request.size > kMaxSizeBytes) [[unlikely]]
        return harness::kNotExchanged;
      const std::uint64_t size_class = allocates.of(
          std::uint64_t{SizeMap::class_of(request.size, class_of_index_)}, std::uint64_t{block.size_class});
      if (!cache_->exchange(allocates, size_class, block)) [[unlikely]]
        return harness::kNotExchanged;
      ++objects_[2 * size_class + allocates.number()];
      return static_cast<std::uint32_t>(size_class);
    }

   private:
    const std::uint8_t* class_of_index_;
    const std::unique_ptr<ThreadCache>* caches_;
    std::size_t threads_;
    std::uint64_t* objects_;
    ThreadCache* cache_ = nullptr;
  };
  Exchanger exchanger() { return Exchanger(*this); }

  // A null block, and the old one stands, where there is no memory for the new one.
  Block reallocate(Block old, const harness::Request& request) {
    const std::uint64_t old_bytes = usable_bytes(old);
    if (keeps_block(old_bytes, request.size)) {
      ++kept_[old.size_class];
      touch_program_bytes(old, request.size);
      return old;
    }
    const Block moved = malloc_for_realloc(request, old_bytes);
    if (!moved) return {};
    note_allocation(moved);
    const std::uint64_t copied_bytes = std::min(old_bytes, request.size);
    copied_bytes_ += copied_bytes;
    tiers_->page_heap.written_pages().touch(*placement(moved), copied_bytes);
    touch(moved, copied_bytes);
    touch_program_bytes(moved, request.size);
    release(old, request.thread);
    return moved;
  }

  void thread_end(std::uint16_t thread) { delete_cache(thread); }

  std::optional<std::uint64_t> placement(Block block) const {
    return page().bytes_of(tiers_->page_heap.spans()[block.span].start_page) +
           std::uint64_t{block.object} * tiers_->size_map[block.size_class].object_bytes;
  }

  std::uint64_t mapped_bytes() const { return tiers_->page_heap.stats().system_bytes; }
  std::uint64_t committed_bytes() const { return tiers_->page_heap.stats().committed_bytes; }

  // Each part is counted where it is held, so that their sum is a check on all tiers.
  harness::Footprint footprint() const {
    harness::Footprint now;
    now.live = static_cast<std::int64_t>(page().bytes_of(large_live_pages_));
    for (std::size_t c = 1; c < tiers_->size_map.count(); ++c) {
      const std::int64_t object_bytes = tiers_->size_map[c].object_bytes;
      now.live += live_objects(c) * object_bytes;
      now.transfer += static_cast<std::int64_t>(tiers_->transfer[c].free_objects()) * object_bytes;
      now.central += static_cast<std::int64_t>(tiers_->central[c].free_objects()) * object_bytes;
      now.tail +=
          static_cast<std::int64_t>(tiers_->central[c].spans()) * tiers_->size_map[c].tail_waste_bytes;
    }
    now.front_end = static_cast<std::int64_t>(tiers_->limits.free_bytes());
    now.page_heap = static_cast<std::int64_t>(tiers_->page_heap.stats().free_bytes);
    now.released = static_cast<std::int64_t>(tiers_->page_heap.stats().unmapped_bytes);
    now.runtime = start_up_bytes_;
    now.mapped = static_cast<std::int64_t>(mapped_bytes());
    now.metadata = static_cast<std::int64_t>(tiers_->page_heap.metadata().bytes());
    return now;
  }

  // A row per class; row 0 holds the objects with a span of their own.
  std::uint32_t class_row(Block block) const { return block.size_class; }
  std::uint32_t class_rows() const { return tiers_->size_map.count(); }
  std::uint64_t class_allocations(std::uint32_t row) const { return allocated_objects(row) + kept_[row]; }
  std::vector<harness::ClassUse> classes() const;
  static std::optional<std::uint64_t> span_of(Block block) { return block.span; }
  std::vector<harness::SpanUse> spans() const;

  harness::Counters counters() const;
  // The library's numeric properties by its own names (MallocExtension::GetNumericProperty).
  harness::Counters properties() const;
  const SizeMap& size_map() const { return tiers_->size_map; }
  const PageHeap& page_heap() const { return tiers_->page_heap; }
  // What the library tells of a class: free objects by tier, and the tails of its spans.
  struct FreeObjects {
    std::uint64_t central = 0;
    std::uint64_t transfer = 0;
    std::uint64_t thread = 0;
    std::uint64_t tail_bytes = 0;
  };
  FreeObjects free_objects(std::uint32_t size_class) const {
    FreeObjects found{
        .central = tiers_->central[size_class].free_objects(),
        .transfer = tiers_->transfer[size_class].free_objects(),
        .thread = 0,
        .tail_bytes = tiers_->central[size_class].spans() * tiers_->size_map[size_class].tail_waste_bytes};
    for (const ThreadCache* cache = tiers_->limits.first(); cache != nullptr; cache = cache->next()) {
      found.thread += cache->free_objects(size_class);
    }
    return found;
  }
  // Of the lock of a class's transfer cache and central list.
  std::uint64_t lock_acquisitions(std::size_t size_class) const {
    return tiers_->transfer[size_class].lock_acquisitions() + tiers_->central[size_class].lock_acquisitions();
  }
  // "Thread heaps in use": caches.
  std::uint64_t thread_heaps_in_use() const { return tiers_->thread_cache_allocator.objects_in_use(); }

  // What a program can ask of the library and no trace holds.

  // MallocExtension::ReleaseToSystem. What a call returned in excess counts for the next one.
  void release_to_system(std::uint64_t bytes) {
    if (bytes <= extra_bytes_released_) {
      extra_bytes_released_ -= bytes;
      return;
    }
    bytes -= extra_bytes_released_;
    const std::uint64_t pages = std::max<std::uint64_t>(bytes >> page().shift, 1);
    const std::uint64_t released = page().bytes_of(tiers_->page_heap.release(pages));
    extra_bytes_released_ = released > bytes ? released - bytes : 0;
  }

  // MallocExtension::MarkThreadIdle: the thread's next allocation makes a new cache.
  void mark_thread_idle(std::uint16_t thread) { delete_cache(thread); }

  // MallocExtension::MarkThreadTemporarilyIdle.
  void mark_thread_temporarily_idle(std::uint16_t thread) {
    if (version_.deletes_temporarily_idle_cache()) {
      delete_cache(thread);
    } else if (ThreadCache* cache = find_cache(thread)) {
      cache->cleanup();
    }
  }

  // The main thread starts a thread with a new stack: glibc callocs the vector of its TLS modules, and keeps
  // it as long as the stack.
  void start_thread(std::uint64_t vector_bytes) {
    const Block vector = malloc(kMainThread, vector_bytes);
    if (!vector) return;
    thread_vectors_ += vector.size_class != 0;
    keep_for_start_up(vector);
    touch(vector, usable_bytes(vector));
  }

  void set_max_total_thread_cache_bytes(std::uint64_t bytes) { tiers_->limits.set_overall(bytes); }
  void set_min_per_thread_cache_bytes(std::uint64_t bytes) { tiers_->limits.set_min_per_thread(bytes); }
  void set_aggressive_memory_decommit(bool on) { tiers_->page_heap.set_aggressive_decommit(on); }
  void set_heap_limit_mb(std::uint64_t limit_mb) { tiers_->page_heap.set_heap_limit_mb(limit_mb); }
  void set_release_rate(double rate) { tiers_->page_heap.set_release_rate(rate); }

 private:
  static constexpr std::uint32_t kAlignment = kExchangedAlignment;
  static constexpr std::uint64_t kThreadCacheBytes = 4160;  // sizeof(ThreadCache)
  static constexpr std::uint16_t kMainThread = 0;           // The first that a trace names.

  // They refer to each other, so they stay where they are when the model moves.
  struct Tiers {
    explicit Tiers(const Options& options)
        : size_map(options.page, options.min_alignment, options.transfer_num_objects),
          page_heap(options.version, options.page, options.heap_base),
          central(make_central()),
          transfer(size_map, central),
          thread_cache_allocator(page_heap.metadata(), kThreadCacheBytes) {}

    std::vector<CentralFreeList> make_central() {
      std::vector<CentralFreeList> lists;
      lists.reserve(size_map.count());
      for (std::uint32_t c = 0; c < size_map.count(); ++c) {
        lists.emplace_back(size_map[c], static_cast<std::uint8_t>(c), page_heap);
      }
      return lists;
    }

    SizeMap size_map;
    PageHeap page_heap;
    std::vector<CentralFreeList> central;
    TransferCaches transfer;
    PageHeapAllocator thread_cache_allocator;
    CacheLimits limits;
  };

  Page page() const { return tiers_->size_map.page(); }

  std::unique_ptr<ThreadCache> new_heap() {
    tiers_->thread_cache_allocator.allocate();
    return std::make_unique<ThreadCache>(tiers_->size_map, tiers_->transfer, tiers_->limits);
  }

  ThreadCache* find_cache(std::uint16_t thread) const {
    return thread < caches_.size() ? caches_[thread].get() : nullptr;
  }

  // A thread's first allocation makes its cache.
  ThreadCache& cache_of(std::uint16_t thread) {
    if (ThreadCache* cache = find_cache(thread)) [[likely]]
      return *cache;
    return give_cache(thread, new_heap());
  }

  ThreadCache& give_cache(std::uint16_t thread, std::unique_ptr<ThreadCache> cache) {
    if (thread >= caches_.size()) caches_.resize(thread + std::size_t{1});
    caches_[thread] = std::move(cache);
    // Where touched pages are counted, every allocation may touch some.
    if (tiers_->page_heap.touched_pages() == nullptr) exchanging_threads_ = caches_.size();
    return *caches_[thread];
  }

  void delete_cache(std::uint16_t thread) {
    ThreadCache* cache = find_cache(thread);
    if (cache == nullptr) return;
    cache->end();
    caches_[thread].reset();
    tiers_->thread_cache_allocator.release();
  }

  Block malloc(std::uint16_t thread, std::uint64_t size) {
    ThreadCache& cache = cache_of(thread);  // A large allocation makes one too.
    if (size <= kMaxSizeBytes) [[likely]]
      return cache.allocate(tiers_->size_map.class_of(size));
    return allocate_large(page().pages_of(size));
  }

  Block allocate_large(std::uint64_t pages) {
    const std::uint64_t growths = tiers_->page_heap.stats().reserve_count;
    const Block block{.span = tiers_->page_heap.new_span(pages)};
    note_large(block, growths);
    return block;
  }

  void note_large(Block block, std::uint64_t growths_before) {
    if (!block) return;
    ++large_allocations_;
    large_system_memory_ += tiers_->page_heap.stats().reserve_count != growths_before;
  }

  // Up to a page, the size rounded up to the alignment has a class whose objects are aligned.
  Block memalign(const harness::Request& request) {
    const std::uint64_t alignment = request.alignment;
    if (alignment > page().bytes()) {
      const std::uint64_t growths = tiers_->page_heap.stats().reserve_count;
      const Block block{
          .span = tiers_->page_heap.new_aligned(std::max<std::uint64_t>(page().pages_of(request.size), 1),
                                                alignment >> page().shift)};
      note_large(block, growths);
      return block;
    }
    const std::uint64_t rounded = (request.size + alignment - 1) & ~(alignment - 1);
    return malloc(request.thread, rounded == 0 ? alignment : rounded);
  }

  void free(std::uint16_t thread, Block block) {
    if (block.size_class == 0) {
      tiers_->page_heap.delete_span(block.span);
    } else if (ThreadCache* cache = find_cache(thread)) [[likely]] {
      cache->deallocate(block);
    } else {
      tiers_->transfer.insert_range(block.size_class, std::span(&block, 1));
    }
  }

  void touch(Block block, std::uint64_t bytes) {
    if (TouchedPages* const touched = tiers_->page_heap.touched_pages()) {
      touched->touch(*placement(block), bytes);
    }
  }

  void touch_program_bytes(Block block, std::uint64_t size) {
    if (touch_ == Touch::kFirst) touch(block, std::min<std::uint64_t>(size, 1));
    if (touch_ == Touch::kWhole) touch(block, size);
  }

  void touch_allocation(Block block, const harness::Request& request) {
    // calloc zeroes all that is usable, fresh memory too; there is none with an alignment.
    if (request.zeroed && request.alignment <= kAlignment) touch(block, usable_bytes(block));
    touch_program_bytes(block, request.size);
  }

  std::uint64_t usable_bytes(Block block) const {
    if (block.size_class != 0) return tiers_->size_map[block.size_class].object_bytes;
    return page().bytes_of(tiers_->page_heap.spans()[block.span].pages);
  }

  // What malloc of a size would make usable (nallocx).
  std::uint64_t usable_bytes_of(std::uint64_t size) const {
    if (size <= kMaxSizeBytes) return tiers_->size_map[tiers_->size_map.class_of(size)].object_bytes;
    return page().bytes_of(page().pages_of(size));
  }

  bool keeps_block(std::uint64_t old_bytes, std::uint64_t size) const {
    if (version_.reallocates_by_size_class()) return usable_bytes_of(size) == old_bytes;
    return size <= old_bytes && size >= old_bytes / 2;
  }

  // Up to 2.17 a block that grows a little asks for a quarter more than it had, so as to grow less often.
  Block malloc_for_realloc(const harness::Request& request, std::uint64_t old_bytes) {
    const std::uint64_t padded = old_bytes + old_bytes / 4;
    if (!version_.reallocates_by_size_class() && request.size > old_bytes && request.size < padded) {
      if (const Block block = malloc(request.thread, padded)) return block;
    }
    return malloc(request.thread, request.size);
  }

  std::uint64_t allocated_objects(std::size_t size_class) const { return objects_[2 * size_class]; }
  std::int64_t live_objects(std::size_t size_class) const {
    return static_cast<std::int64_t>(objects_[2 * size_class] - objects_[2 * size_class + 1]);
  }
  void note_allocation(Block block) {
    ++objects_[2 * std::size_t{block.size_class}];
    if (block.size_class == 0) large_live_pages_ += tiers_->page_heap.spans()[block.span].pages;
  }
  void note_release(Block block) {
    ++objects_[2 * std::size_t{block.size_class} + 1];
    if (block.size_class == 0) large_live_pages_ -= tiers_->page_heap.spans()[block.span].pages;
  }

  // Allocations that a list of a thread cache served: all small ones that needed no refill.
  std::uint64_t front_end_hits() const {
    std::uint64_t small = thread_vectors_;
    for (std::size_t c = 1; c < tiers_->size_map.count(); ++c) small += allocated_objects(c);
    return small - tiers_->limits.stats.served.refills;
  }

  // What a debugger shows of a dynamically linked process before main(): libstdc++ makes its emergency pool,
  // then the library's own guard object allocates and frees a byte twice.
  void start_process(const Options& options) {
    std::unique_ptr<ThreadCache> first = new_heap();
    if (version_.keeps_first_cache()) tiers_->page_heap.metadata().allocate(kSlowTlsEntryBytes);
    allocate_at_start(*first, kEmergencyPoolBytes);
    const Block byte = first->allocate(tiers_->size_map.class_of(1));
    // The library's own static variables are initialised only now. Until then the release rate read as zero,
    // which put off the first look at what to return by 2 GiB of frees.
    initialise_variables(options);
    // At this point the thread cannot see its cache: the byte goes to its span.
    tiers_->transfer.insert_range(byte.size_class, std::span(&byte, 1));
    if (version_.keeps_first_cache()) {
      give_cache(kMainThread, std::move(first));
    } else {
      orphan_cache_ = std::move(first);
    }
    ThreadCache& main = cache_of(kMainThread);
    main.deallocate(main.allocate(tiers_->size_map.class_of(1)));
    if (!version_.starts_without_extension_object()) {
      allocate_at_start(main, 16);
      allocate_at_start(main, 8);
    }
    tiers_->limits.stats.served = {};  // From here on the trace's allocations are counted.
  }

  void initialise_variables(const Options& options) {
    tiers_->page_heap.set_release_rate(options.release_rate);
    tiers_->page_heap.set_heap_limit_mb(options.heap_limit_mb);
  }

  // Never freed.
  void allocate_at_start(ThreadCache& cache, std::uint64_t size) {
    keep_for_start_up(cache.allocate(tiers_->size_map.class_of(size)));
  }
  void keep_for_start_up(Block block) {
    start_up_bytes_ += static_cast<std::int64_t>(usable_bytes(block));
    start_up_blocks_.push_back(block);
  }

  static constexpr std::uint64_t kEmergencyPoolBytes = 72704;  // libstdc++, GCC 5 to 12: eh_alloc.cc.
  static constexpr std::uint64_t kSlowTlsEntryBytes = 40;      // thread_cache_ptr.cc: SlowTLS::Entry.

  Version version_;
  Touch touch_;  // What the program touches, where touched pages are counted.
  std::unique_ptr<Tiers> tiers_;
  std::unique_ptr<ThreadCache>
      orphan_cache_;  // Of the main thread, up to 2.15: listed, and never used again.
  std::vector<std::unique_ptr<ThreadCache>> caches_;  // By thread.
  std::size_t exchanging_threads_ = 0;                // How many of them exchange() may use.
  std::vector<std::uint64_t> objects_;                // By class, what was allocated and what died.
  std::vector<std::uint64_t> kept_;                   // By class, objects reallocated in place.
  std::uint64_t thread_vectors_ = 0;                  // Small ones.
  std::uint64_t large_live_pages_ = 0;
  std::int64_t start_up_bytes_ = 0;
  std::vector<Block> start_up_blocks_;
  std::uint64_t extra_bytes_released_ = 0;
  std::uint64_t large_allocations_ = 0;
  std::uint64_t large_system_memory_ = 0;
  std::uint64_t copied_bytes_ = 0;
};

inline std::vector<harness::ClassUse> Tcmalloc::classes() const {
  std::vector<harness::ClassUse> rows(tiers_->size_map.count());
  rows[0].spans = rows[0].live_objects = live_objects(0);
  rows[0].live_bytes = static_cast<std::int64_t>(page().bytes_of(large_live_pages_));
  for (std::size_t c = 1; c < rows.size(); ++c) {
    const SizeClass& size_class = tiers_->size_map[c];
    const std::int64_t object_bytes = size_class.object_bytes;
    const FreeObjects free = free_objects(static_cast<std::uint32_t>(c));
    rows[c] = {.class_index = static_cast<std::int64_t>(c),
               .slot_bytes = object_bytes,
               .span_bytes = static_cast<std::int64_t>(size_class.span_bytes),
               .spans = static_cast<std::int64_t>(tiers_->central[c].spans()),
               .spans_requested = static_cast<std::int64_t>(tiers_->central[c].spans_requested()),
               .spans_returned = static_cast<std::int64_t>(tiers_->central[c].spans_returned()),
               .live_objects = live_objects(c),
               .live_bytes = live_objects(c) * object_bytes,
               .front_end_bytes = static_cast<std::int64_t>(free.thread) * object_bytes,
               .transfer_bytes = static_cast<std::int64_t>(free.transfer) * object_bytes,
               .central_bytes = static_cast<std::int64_t>(free.central) * object_bytes,
               .tail_bytes = static_cast<std::int64_t>(free.tail_bytes),
               .lock_acquisitions = static_cast<std::int64_t>(lock_acquisitions(c))};
  }
  return rows;
}

inline std::vector<harness::SpanUse> Tcmalloc::spans() const {
  const SpanTable& table = tiers_->page_heap.spans();
  std::vector<harness::SpanUse> found;
  std::vector<std::size_t> position(table.size());
  for (const SpanIndex index : table.by_address()) {
    const Span& span = table[index];
    if (span.location != Span::Location::kInUse) continue;
    const bool has_slots = span.size_class != 0;
    const SizeClass& size_class = tiers_->size_map[span.size_class];
    const auto bytes = static_cast<std::int64_t>(page().bytes_of(span.pages));
    position[index] = found.size();
    found.push_back({.span = index,
                     .class_row = span.size_class,
                     .slots = has_slots ? size_class.span_objects : 1,
                     .bytes = bytes,
                     .slot_bytes = has_slots ? std::int64_t{size_class.object_bytes} : bytes});
  }
  for (const Block block : start_up_blocks_) {
    harness::SpanUse& use = found[position[block.span]];
    ++use.runtime_slots;
    use.runtime_bytes += static_cast<std::int64_t>(usable_bytes(block));
  }
  return found;
}

inline harness::Counters Tcmalloc::counters() const {
  std::uint64_t fetches = 0, requested = 0, returned = 0, central_locks = 0;
  const std::uint64_t kept = std::accumulate(kept_.begin(), kept_.end(), std::uint64_t{0});
  for (const CentralFreeList& central : tiers_->central) {
    fetches += central.fetches();
    requested += central.spans_requested();
    returned += central.spans_returned();
  }
  for (std::size_t c = 0; c < tiers_->central.size(); ++c) central_locks += lock_acquisitions(c);
  const ThreadCacheStats& front = tiers_->limits.stats;
  const TransferStats& transfer = tiers_->transfer.stats();
  const PageHeapStats& pages = tiers_->page_heap.stats();
  const SystemAllocator& system = tiers_->page_heap.system();
  // Caches are made, ended and given higher limits under the page heap's lock.
  const std::uint64_t page_heap_locks =
      pages.lock_acquisitions + front.caches_created + front.caches_deleted + front.scavenges;
  const std::pair<const char*, std::uint64_t> counts[] = {
      {"front_end_hits", front_end_hits()},
      {"refills", front.served.refills},
      {"refilled_objects", front.served.refilled_objects},
      {"refills_from_transfer", front.served.transfer_refills},
      {"refills_from_central", front.served.central_refills},
      {"refills_from_new_span", front.served.new_span_refills},
      {"refills_from_new_os_memory", front.served.new_system_memory_refills},
      {"large_allocations", large_allocations_},
      {"large_allocations_from_new_os_memory", large_system_memory_},
      {"reallocations_in_place", kept},
      {"reallocation_copied_bytes", copied_bytes_},
      {"flushes", front.flushes},
      {"flushed_objects", front.flushed_objects},
      {"thread_cache_scavenges", front.scavenges},
      {"thread_cache_steals", front.steals},
      {"thread_caches_created", front.caches_created},
      {"thread_caches_deleted", front.caches_deleted},
      {"transfer_hits", transfer.hits},
      {"transfer_inserts", transfer.inserts},
      {"transfer_evictions", transfer.evictions},
      {"central_fetches", fetches},
      {"spans_requested", requested},
      {"spans_returned", returned},
      {"page_heap_growths", pages.reserve_count},
      {"page_heap_commits", pages.commit_count},
      {"page_heap_decommits", pages.decommit_count},
      {"page_heap_scavenges", pages.scavenge_count},
      {"page_heap_forced_coalesces", pages.forced_coalesces},
      {"os_calls", system.calls() + pages.decommit_count},
      {"os_bytes_requested", system.taken_bytes()},
      {"released_bytes_total", pages.total_decommit_bytes},
      {"page_faults", tiers_->page_heap.written_pages().faults()},
      {"central_lock_acquisitions", central_locks},
      {"page_heap_lock_acquisitions", page_heap_locks}};
  harness::Counters result;
  for (const auto& [name, count] : counts) result.emplace_back(name, static_cast<std::int64_t>(count));
  if (const TouchedPages* const touched = tiers_->page_heap.touched_pages()) {
    result.emplace_back("touched_resident_bytes", static_cast<std::int64_t>(touched->bytes()));
    result.emplace_back("peak_touched_resident_bytes", static_cast<std::int64_t>(touched->peak_bytes()));
  }
  return result;
}

inline harness::Counters Tcmalloc::properties() const {
  const harness::Footprint now = footprint();
  const PageHeapStats& pages = tiers_->page_heap.stats();
  const auto integer = [](std::uint64_t value) { return static_cast<std::int64_t>(value); };
  return {{"generic.current_allocated_bytes", now.live + now.runtime},
          {"generic.heap_size", now.mapped},
          {"generic.total_physical_bytes", now.mapped + now.metadata - now.released},
          // The library counts the tail of a span with its free objects.
          {"tcmalloc.central_cache_free_bytes", now.central + now.tail},
          {"tcmalloc.transfer_cache_free_bytes", now.transfer},
          {"tcmalloc.thread_cache_free_bytes", now.front_end},
          {"tcmalloc.pageheap_free_bytes", now.page_heap},
          {"tcmalloc.pageheap_unmapped_bytes", now.released},
          {"tcmalloc.pageheap_committed_bytes", integer(pages.committed_bytes)},
          {"tcmalloc.pageheap_scavenge_count", integer(pages.scavenge_count)},
          {"tcmalloc.pageheap_commit_count", integer(pages.commit_count)},
          {"tcmalloc.pageheap_total_commit_bytes", integer(pages.total_commit_bytes)},
          {"tcmalloc.pageheap_decommit_count", integer(pages.decommit_count)},
          {"tcmalloc.pageheap_total_decommit_bytes", integer(pages.total_decommit_bytes)},
          {"tcmalloc.pageheap_reserve_count", integer(pages.reserve_count)},
          {"tcmalloc.pageheap_total_reserve_bytes", integer(pages.total_reserve_bytes)},
          {"tcmalloc.max_total_thread_cache_bytes", integer(tiers_->limits.overall_bytes())},
          {"tcmalloc.current_total_thread_cache_bytes", now.front_end},
          {"tcmalloc.aggressive_memory_decommit", tiers_->page_heap.aggressive_decommit()},
          {"tcmalloc.slack_bytes", now.page_heap + now.released}};
}

static_assert(harness::Allocator<Tcmalloc>);
static_assert(harness::Reallocates<Tcmalloc>);
static_assert(harness::EndsThreads<Tcmalloc>);
static_assert(harness::Exchanges<Tcmalloc>);
static_assert(harness::CountsAllocations<Tcmalloc>);
static_assert(harness::Places<Tcmalloc>);
static_assert(harness::Counts<Tcmalloc>);
static_assert(harness::HasSpans<Tcmalloc>);

}  // namespace tcmalloc
