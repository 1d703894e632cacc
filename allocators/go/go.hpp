// The heap of the Go runtime, assembled from its tiers: size_classes, mspan, scavenge_index, page_alloc,
// pacer, scavenger, mheap, mcentral, mcache, tiny, marker and sweeper.hpp, each of which knows only those
// below it.
//
// The path of an allocation:
//   1. allocate() rounds the request, finds the P of its thread and the kind of the object: none (0 bytes),
//   tiny,
//      small or large.
//   2. tiny.hpp: a noscan object of less than 16 bytes goes into the P's current tiny block if it fits.
//   3. mcache.hpp: the lowest free slot of the P's span of the class; a full span is replaced by refill().
//   4. mcentral.hpp: cache_span() gives a swept span with free slots, or sweeps one, or asks for a new one.
//   5. mheap.hpp: alloc() lets the sweeper reclaim pages, then takes them from the P's page cache
//      (page_alloc.hpp), by first fit, or by growth; scavenger.hpp gives back what the heap keeps too much.
//      A large object begins here.
//   6. pacer.hpp: after a refill or a large object heap_live is compared with the trigger; cycle() collects.
// The path of a death:
//   7. release() clears the slot's live bit: the slot is dead, and nothing else happens.
//   8. cycle(): marker.hpp makes the live bits the marks, the pacer sets the next goal, every P's caches are
//   flushed.
//   9. sweeper.hpp: marks become free slots; an empty span goes to the page heap, others to their central
//   list.
//  10. mheap.hpp: free_span() clears the span's pages; the next growth may scavenge them.
// Calls upwards (4 and 5 sweep) go through the interfaces Sweeps and Reclaims, which sweeper.hpp implements.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "harness/allocator.hpp"
#include "marker.hpp"
#include "mcache.hpp"
#include "mcentral.hpp"
#include "mheap.hpp"
#include "mspan.hpp"
#include "pacer.hpp"
#include "size_classes.hpp"
#include "snapshot.hpp"
#include "sweeper.hpp"
#include "tiny.hpp"

namespace go {

// When a cycle's sweep runs. Eager: at once, by a background sweeper that is never late, after the pacer has
// set the next goal. Lazy: by allocation alone. Stopped: at once and before the pacer
// (GODEBUG=gcstoptheworld=2).
enum class SweepMode : std::uint8_t { kEager, kLazy, kStopped };

struct Options {
  std::int64_t gogc = 100;               // Negative: off.
  std::uint64_t memory_limit = kNoGoal;  // kNoGoal: off.
  std::uint32_t procs = 8;               // Ps at most; made as threads appear.
  bool greentea = true;
  SweepMode sweep = SweepMode::kEager;
  bool scavenge = true;
  std::uint64_t globals_scan_bytes = 0;
  std::uint64_t stack_scan_bytes = 0;
  std::uint64_t metadata_bytes = 0;  // Off-heap memory that the memory limit counts.
};

class Go {
 public:
  enum class Kind : std::uint8_t { kNull, kZeroSize, kTiny, kSmall, kLarge };

  // An object: its span, its slot and, in a tiny block, its place.
  struct Block {
    std::uint32_t span = 0;
    std::uint16_t slot = 0;
    Kind kind = Kind::kNull;
    std::uint8_t tiny_offset = 0;
    explicit operator bool() const { return kind != Kind::kNull; }
  };
  static_assert(sizeof(Block) == 8);

  // snapshot: nullptr for a heap that begins empty.
  Go(const Options& options, const Snapshot* snapshot)
      : options_(options), tiers_(std::make_unique<Tiers>(options)) {
    heap_.set_reclaimer(sweeper_);
    if (snapshot != nullptr) restore(*snapshot);
    renew_trigger();
  }

  Block allocate(const harness::Request& request) {
    P& p = p_of(request.thread);
    std::uint64_t size = request.size;
    if (size == 0) {
      ++zero_size_;
      return {.kind = Kind::kZeroSize};
    }
    // Go's sizes of types with pointers are multiples of a word, and its slots are aligned to their sizes
    // only.
    if (!request.noscan) {
      size = round_up(size, 8);
      sizes_rounded_to_words_ += size != request.size;
    }
    if (request.alignment > 8) {
      size = round_up(size, request.alignment);
      ++alignments_met_by_size_;
    }
    if (size > kMaxSmallBytes) return allocate_large(p, size, request.noscan);
    if (request.noscan && size < kTinyBytes) return allocate_tiny(p, size);
    const std::uint64_t header = !request.noscan && size > kHeapBitsInSpanMaxBytes ? kMallocHeaderBytes : 0;
    return allocate_small(p, make_span_class(size_class_for(size + header), request.noscan));
  }

  // A death. Its slot is free again when a cycle has swept it.
  void release(Block block, std::uint16_t thread) {
    p_of(thread);
    if (block.kind == Kind::kZeroSize) return;
    Span& span = heap_.spans().at(block.span);
    if (span.holders != nullptr && --span.holders[block.slot] > 0) return;
    clear_bit(span.live_bits(), block.slot);
    --span.live_count;
    ClassOccupancy& use = heap_.occupancy().of(span.span_class);
    const auto bytes = static_cast<std::int64_t>(span.element_bytes);
    use.live_bytes -= bytes;
    --use.live_objects;
    if (span.startup && test_bit(span.startup_bits(), block.slot)) {
      ++span.startup_count;
      use.runtime_bytes += bytes;
    } else {
      use.dead_bytes += bytes;
    }
  }

  // runtime.GC: a cycle, and all of its sweep.
  void collect() {
    ++forced_;
    cycle();
    sweeper_.finish();
    renew_trigger();
  }

  void thread_end(std::uint16_t thread) {
    if (thread < p_by_thread_.size()) p_by_thread_[thread] = nullptr;
  }

  // Due: to learn the time after a cycle, and two minutes later to collect once more (proc.go: sysmon).
  std::int64_t next_deadline_ns() const {
    if (cycles_ == 0 || options_.gogc < 0) return std::numeric_limits<std::int64_t>::max();
    if (!last_cycle_ns_) return std::numeric_limits<std::int64_t>::min();
    constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
    if (*last_cycle_ns_ > kNever - kForceGcPeriodNs) return kNever;
    return *last_cycle_ns_ + kForceGcPeriodNs;
  }

  void advance(std::int64_t time_ns) {
    if (!last_cycle_ns_) {
      last_cycle_ns_ = time_ns;
      return;
    }
    // A pause of days would collect the same heap again and again: the last day of it is enough.
    constexpr std::int64_t kDayNs = 86'400'000'000'000;
    std::int64_t at = *last_cycle_ns_;
    if (static_cast<std::uint64_t>(time_ns) - static_cast<std::uint64_t>(at) >
        static_cast<std::uint64_t>(kDayNs)) {
      at = time_ns - kDayNs;
    }
    while (time_ns - at >= kForceGcPeriodNs) {
      at += kForceGcPeriodNs;
      ++forced_;
      cycle();
    }
    last_cycle_ns_ = at;
  }

  void prefetch(Block block) const {
    if (block) __builtin_prefetch(&heap_.spans().at(block.span), 1);
  }

  std::optional<std::uint64_t> placement(Block block) const {
    if (block.kind == Kind::kZeroSize) return std::nullopt;
    const Span& span = heap_.spans().at(block.span);
    return span.base + block.slot * span.element_bytes + header_bytes_of(span.span_class) + block.tiny_offset;
  }

  harness::Footprint footprint() const {
    const ClassOccupancy total = heap_.occupancy().total();
    const auto cached_free = static_cast<std::int64_t>(heap_.cached_free_bytes());
    return {.live = total.live_bytes,
            .dead = total.dead_bytes,
            .front_end = total.front_end_bytes + cached_free,
            .transfer = 0,
            .central = total.central_bytes,
            .tail = total.tail_bytes,
            .page_heap = static_cast<std::int64_t>(heap_.free_bytes()) - cached_free,
            .released = static_cast<std::int64_t>(heap_.released_bytes()),
            .runtime = total.runtime_bytes + static_cast<std::int64_t>(heap_.manual_bytes()),
            .mapped = static_cast<std::int64_t>(heap_.mapped_bytes()),
            .metadata = harness::kUnknown};
  }
  std::uint64_t mapped_bytes() const { return heap_.mapped_bytes(); }
  std::uint64_t committed_bytes() const { return heap_.committed_bytes(); }

  // Rows are span classes; 0 and 1 are objects with a span of their own. An object of 0 bytes, which takes
  // nothing, is counted in class 1 noscan: every other such object is tiny, so that row is free.
  static std::uint32_t class_rows() { return kSpanClasses; }
  std::uint32_t class_row(Block block) const {
    if (block.kind == Kind::kZeroSize) return make_span_class(1, true);
    return heap_.spans().at(block.span).span_class;
  }
  std::vector<harness::ClassUse> classes() const {
    std::vector<harness::ClassUse> rows;
    rows.reserve(kSpanClasses);
    for (int i = 0; i < kSpanClasses; ++i) {
      const auto span_class = static_cast<SpanClass>(i);
      const SizeClass& entry = kSizeClassTable[static_cast<std::size_t>(size_class_of(span_class))];
      const ClassOccupancy& use = heap_.occupancy().of(span_class);
      rows.push_back(
          {.class_index = size_class_of(span_class),
           .noscan = is_noscan(span_class) ? 1 : 0,
           .slot_bytes = entry.object_bytes,
           .span_bytes = static_cast<std::int64_t>(entry.span_pages * kPageBytes),
           .spans = use.spans,
           .live_objects = use.live_objects,
           .live_bytes = use.live_bytes,
           .header_bytes = use.live_objects * static_cast<std::int64_t>(header_bytes_of(span_class)),
           .dead_bytes = use.dead_bytes,
           .front_end_bytes = use.front_end_bytes,
           .transfer_bytes = 0,
           .central_bytes = use.central_bytes,
           .tail_bytes = use.tail_bytes});
    }
    return rows;
  }

  harness::Counters counters() const {
    const HeapCounters& heap = heap_.counters();
    const SpanSetCounters& sets = centrals_.counters();
    const SweepCounters& sweep = sweeper_.counters();
    const std::int64_t slots = small_ + tiny_blocks_;
    return {
        {"threads", static_cast<std::int64_t>(thread_ordinal_)},
        {"ps", static_cast<std::int64_t>(ps_.size())},
        {"sizes_rounded_to_words", sizes_rounded_to_words_},
        {"alignments_met_by_size", alignments_met_by_size_},
        {"mallocs", zero_size_ + tiny_combined_ + slots + large_},
        {"front_end_hits", zero_size_ + tiny_combined_ + slots - refills_},
        {"zero_size_allocations", zero_size_},
        {"tiny_allocs", tiny_combined_},
        {"tiny_blocks", tiny_blocks_},
        {"mcache_hits", slots - refills_},
        {"refills", refills_},
        {"refills_from_central", refills_ - refills_from_new_span_ - refills_from_new_os_memory_},
        {"refills_from_new_span", refills_from_new_span_},
        {"refills_from_new_os_memory", refills_from_new_os_memory_},
        {"large_allocations", large_},
        {"large_allocations_from_new_os_memory", large_from_new_os_memory_},
        {"spans_requested", heap.spans_requested},
        {"spans_returned", heap.spans_returned},
        {"span_set_pushes", sets.pushes},
        {"span_set_pops", sets.pops},
        {"page_cache_refills", heap.page_cache_refills},
        {"heap_lock_acquisitions", heap.lock_acquisitions},
        {"growths", heap.growths},
        {"gc_cycles", cycles_},
        {"gc_forced", forced_},
        {"gc_mark_bytes_scan", mark_bytes_scan_},
        {"gc_mark_bytes_noscan", mark_bytes_noscan_},
        {"gc_sweep_spans", sweep.spans},
        {"gc_sweep_spans_freed", sweep.freed_spans},
        {"gc_reclaimed_pages", sweep.reclaimed_pages},
        {"released_bytes_total", heap_.scavenger().scavenged_pages() * static_cast<std::int64_t>(kPageBytes)},
        {"os_calls", heap.arena_reservations + heap.growths + heap_.scavenger().runs()},
        {"os_bytes_requested", heap.grown_bytes}};
  }

  // What runtime/metrics and the pacer would say, for a comparison with a real process.
  std::vector<std::pair<std::string, std::uint64_t>> state() const {
    const MappedMemory memory = heap_.memory();
    return {{"heap_live", pacer_.heap_live},
            {"heap_marked", pacer_.heap_marked},
            {"goal", pacer_.goal(memory)},
            {"trigger", pacer_.trigger(memory)},
            {"heap_in_use", heap_.in_use_bytes()},
            {"heap_free", heap_.free_bytes()},
            {"heap_released", heap_.released_bytes()},
            {"manual", heap_.manual_bytes()},
            {"total_alloc", pacer_.total_alloc},
            {"total_free", pacer_.total_free},
            {"pages_swept", sweeper_.pages_swept()},
            {"sweep_done", sweeper_.sweeping() ? 0 : 1},
            {"last_heap_goal", pacer_.last_heap_goal},
            {"scavenge_goal", heap_.scavenger().gc_percent_goal()},
            {"gc_cycles", static_cast<std::uint64_t>(cycles_)}};
  }
  const Mheap& heap() const { return heap_; }
  std::uint32_t sweepgen() const { return sweeper_.sweepgen(); }

  // What each P keeps, and the swept spans of each span class, as a snapshot has them.
  std::vector<Snapshot::Processor> processors() const {
    std::vector<Snapshot::Processor> records;
    for (const auto& p : ps_) {
      Snapshot::Processor& record = records.emplace_back();
      if (!p->page_cache.empty()) {
        record.page_cache_base = heap_.address_of(p->page_cache.base);
        record.page_cache = p->page_cache.cache;
        record.page_cache_scavenged = p->page_cache.scav;
      }
      if (p->tiny.has_block()) {
        const Tiny::Block& block = p->tiny.block();
        record.tiny = block.span->base + block.slot * kTinyBytes;
        record.tiny_offset = p->tiny.offset();
      }
      for (int i = 0; i < kSpanClasses; ++i) record.cached.push_back(p->mcache.base(i));
    }
    return records;
  }
  std::vector<Snapshot::Central> central() const {
    std::vector<Snapshot::Central> records(kSpanClasses);
    const auto bases = [this](std::span<const std::uint32_t> spans, std::vector<std::uint64_t>& to) {
      for (const std::uint32_t span : spans) to.push_back(heap_.spans().at(span).base);
    };
    for (int i = 0; i < kSpanClasses; ++i) {
      const Mcentral& list = centrals_.of(static_cast<SpanClass>(i));
      bases(list.swept(false), records[static_cast<std::size_t>(i)].partial);
      bases(list.swept(true), records[static_cast<std::size_t>(i)].full);
    }
    return records;
  }

  // Every cycle since the last call, or since recording began: live bytes at its start, marked bytes, spans
  // of work buffers.
  void record_cycles(bool on) { recording_cycles_ = on; }
  std::vector<std::array<std::uint64_t, 3>> take_cycles() { return std::exchange(cycle_history_, {}); }

  // The stacks of a real process that each coming cycle is to reckon with, one value a cycle; the last one
  // stays.
  void set_stack_scans(std::vector<std::uint64_t> bytes) { stack_scans_ = std::move(bytes); }

 private:
  // 2 minutes; sysmon waits for more than that, not for as much.
  static constexpr std::int64_t kForceGcPeriodNs = 120'000'000'001;

  // What one P of Go's scheduler keeps for itself.
  struct P {
    PageCache page_cache;
    Mcache mcache;
    Tiny tiny;
  };

  static std::uint64_t round_up(std::uint64_t bytes, std::uint64_t multiple) {
    return (bytes + multiple - 1) / multiple * multiple;
  }

  // The P of a thread: by order of appearance, round and round. Becomes the running one.
  P& p_of(std::uint16_t thread) {
    if (thread >= p_by_thread_.size()) p_by_thread_.resize(thread + std::size_t{1}, nullptr);
    P*& p = p_by_thread_[thread];
    if (p == nullptr) {
      const std::size_t number = thread_ordinal_++ % options_.procs;
      while (ps_.size() <= number) ps_.push_back(std::make_unique<P>());
      p = ps_[number].get();
    }
    running_ = p;
    return *p;
  }

  // The P's span of a class, with a free slot; nullptr where the heap is at its limit.
  Span* span_with_slot(P& p, SpanClass span_class, bool& refilled) {
    Span* span = p.mcache.span(span_class);
    if (!span->full()) return span;
    refilled = true;
    ++refills_;
    const HeapCounters before = heap_.counters();
    if (!p.mcache.refill(span_class, centrals_.of(span_class), heap_, pacer_, sweeper_, p.page_cache)) {
      return nullptr;
    }
    if (heap_.counters().growths > before.growths) {
      ++refills_from_new_os_memory_;
    } else if (heap_.counters().spans_requested > before.spans_requested) {
      ++refills_from_new_span_;
    }
    return p.mcache.span(span_class);
  }

  // Makes a free slot of a cached span the program's.
  std::uint32_t take_live_slot(Span& span) {
    const std::uint32_t slot = span.take_slot();
    set_bit(span.live_bits(), slot);
    ++span.live_count;
    ClassOccupancy& use = heap_.occupancy().of(span.span_class);
    const auto bytes = static_cast<std::int64_t>(span.element_bytes);
    use.front_end_bytes -= bytes;
    use.live_bytes += bytes;
    ++use.live_objects;
    return slot;
  }

  Block allocate_small(P& p, SpanClass span_class) {
    bool refilled = false;
    Span* span = span_with_slot(p, span_class, refilled);
    if (span == nullptr) return {};
    ++small_;
    const std::uint32_t slot = take_live_slot(*span);
    if (span->holders != nullptr) span->holders[slot] = 1;
    const Block block{span->index, static_cast<std::uint16_t>(slot), Kind::kSmall, 0};
    if (refilled) collect_if_due();
    return block;
  }

  Block allocate_tiny(P& p, std::uint64_t size) {
    if (const std::optional<std::uint32_t> offset = p.tiny.place(size)) {
      ++tiny_combined_;
      Span& span = *p.tiny.block().span;
      const std::uint32_t slot = p.tiny.block().slot;
      if (span.holders[slot]++ == 0) revive(span, slot);
      return {span.index, static_cast<std::uint16_t>(slot), Kind::kTiny, static_cast<std::uint8_t>(*offset)};
    }
    bool refilled = false;
    Span* span = span_with_slot(p, kTinySpanClass, refilled);
    if (span == nullptr) return {};
    ++tiny_blocks_;
    const std::uint32_t slot = take_live_slot(*span);
    span->holders[slot] = 1;
    p.tiny.started({span, slot}, size);
    const Block block{span->index, static_cast<std::uint16_t>(slot), Kind::kTiny, 0};
    if (refilled) collect_if_due();
    return block;
  }

  // A tiny block whose objects are all dead, or the process's own, takes another object of the program.
  void revive(Span& span, std::uint32_t slot) {
    set_bit(span.live_bits(), slot);
    ++span.live_count;
    ClassOccupancy& use = heap_.occupancy().of(span.span_class);
    const auto bytes = static_cast<std::int64_t>(span.element_bytes);
    if (span.startup && test_bit(span.startup_bits(), slot)) {
      --span.startup_count;
      use.runtime_bytes -= bytes;
    } else {
      use.dead_bytes -= bytes;
    }
    use.live_bytes += bytes;
    ++use.live_objects;
  }

  Block allocate_large(P& p, std::uint64_t size, bool noscan) {
    const std::uint64_t pages = (size + kPageBytes - 1) / kPageBytes;
    sweeper_.deduct_sweep_credit(pages * kPageBytes, pages);
    const SpanClass span_class = make_span_class(0, noscan);
    const std::int64_t growths = heap_.counters().growths;
    Span* span = heap_.alloc(pages, span_class, p.page_cache, sweeper_.sweepgen(), sweeper_.sweeping());
    if (span == nullptr) return {};
    ++large_;
    if (heap_.counters().growths > growths) ++large_from_new_os_memory_;
    heap_.occupancy().remove(*span);
    set_bit(span->live_bits(), 0);
    span->freeindex = span->alloc_count = span->live_count = 1;
    heap_.occupancy().add(*span);
    centrals_.of(span_class).push_swept(*span);
    pacer_.heap_live += span->bytes();
    pacer_.total_alloc += span->bytes();
    const Block block{span->index, 0, Kind::kLarge, 0};
    collect_if_due();
    return block;
  }

  void collect_if_due() {
    if (pacer_.limited()) {
      // While marking takes no time, a heap at its limit would be collected at every refill. In Go the
      // program runs on meanwhile, and the GC CPU limiter sees to it that it does: here by a sixteenth of the
      // marked heap, 64 KiB at least.
      constexpr std::uint64_t kMinRunway = std::uint64_t{64} << 10;
      const std::uint64_t runway = std::max(pacer_.heap_marked / 16, kMinRunway);
      const std::uint64_t trigger = std::max(pacer_.trigger(heap_.memory()), pacer_.heap_marked + runway);
      if (pacer_.heap_live >= trigger) cycle();
    } else if (pacer_.heap_live >= trigger_) {
      cycle();
    }
  }

  // Without a memory limit the trigger only changes when the pacer commits.
  void renew_trigger() {
    trigger_ = pacer_.limited() ? kNoGoal : pacer_.trigger(heap_.memory());
    if (options_.gogc < 0 && !pacer_.limited()) trigger_ = kNoGoal;
  }

  // A whole collection, the world stopped (mgc.go: gcStart to gcMarkTermination): what is left of the last
  // sweep, the mark, the next goal, and a sweep when SweepMode says.
  void cycle() {
    sweeper_.finish();
    ++cycles_;
    last_cycle_ns_.reset();
    if (running_ == nullptr) p_of(0);
    const std::uint64_t triggered = pacer_.heap_live;

    MarkWork work = mark(heap_);
    for (const auto& p : ps_) {
      if (p->tiny.has_block()) mark_slot(*p->tiny.block().span, p->tiny.block().slot, work);
    }
    take_work_buffers(work_buffer_spans(work.queued_objects + startup_root_work_));
    mark_bytes_scan_ += static_cast<std::int64_t>(work.scan_bytes);
    mark_bytes_noscan_ += static_cast<std::int64_t>(work.noscan_bytes);

    pacer_.end_cycle(triggered, heap_.memory());
    pacer_.heap_marked = work.scan_bytes + work.noscan_bytes + finalizer_bytes_;
    pacer_.heap_live = pacer_.heap_marked;
    if (!stack_scans_.empty()) {
      pacer_.last_stack_scan = stack_scans_.front();
      stack_scans_.erase(stack_scans_.begin());
    }
    if (recording_cycles_) cycle_history_.push_back({triggered, pacer_.heap_marked, work_buffers_.size()});
    sweeper_.begin();
    if (options_.sweep == SweepMode::kStopped) {
      for (const auto& p : ps_) flush_mcache(*p);
      sweeper_.finish();
      free_work_buffers();
    }
    pacer_.commit(!sweeper_.sweeping());
    sweeper_.pace(pacer_.trigger(heap_.memory()));
    heap_.scavenger().pace(pacer_.goal(heap_.memory()), pacer_.last_heap_goal, heap_.in_use_bytes(),
                           heap_.retained_bytes());
    heap_.scavenger().next_generation();
    for (const auto& p : ps_) {
      if (options_.sweep != SweepMode::kStopped) flush_mcache(*p);
      // Only the P that collects runs; idle ones give their pages back (mgc.go: gcMarkTermination, forEachP).
      if (p.get() != running_) heap_.flush_page_cache(p->page_cache);
    }
    if (options_.sweep == SweepMode::kEager) {
      sweeper_.finish();
      free_work_buffers();
    }
    renew_trigger();
  }

  void flush_mcache(P& p) {
    p.mcache.release_all(heap_, pacer_, [this](Span& span) { sweeper_.sweep(span, false); });
    p.tiny.clear();
  }

  // Spans of work buffers, from the page cache of the P that collects. Where no background sweeper runs to
  // free them, they wait for the next cycle.
  void take_work_buffers(std::uint64_t spans) {
    while (work_buffers_.size() < spans) {
      Span* span = heap_.alloc_manual(kWorkBufferSpanPages, running_->page_cache);
      if (span == nullptr) return;
      work_buffers_.push_back(span);
    }
  }
  void free_work_buffers() {
    for (Span* span : work_buffers_) heap_.free_span(*span);
    work_buffers_.clear();
  }

  // Begins as a real process stood. What it had allocated stays: it is the runtime's own.
  void restore(const Snapshot& from) {
    const std::uint64_t base = from.chunks.front().base;
    heap_.restore(base, from.chunks.size(), from.arena_end, from.free_bytes, from.released_bytes);
    for (std::size_t i = 0; i < from.chunks.size(); ++i) {
      const Snapshot::Chunk& chunk = from.chunks[i];
      heap_.pages().restore(i, {chunk.taken, chunk.scavenged});
      heap_.pages().index().restore_chunk(i,
                                          {chunk.in_use, chunk.last_in_use, chunk.generation, chunk.empty});
    }
    const auto page = [this, base](std::uint64_t address) -> std::optional<Page> {
      if (address < base) return std::nullopt;
      return heap_.page_of(address);
    };
    heap_.pages().index().restore(from.scavenge_generation, page(from.free_high_water),
                                  page(from.scavenge_search));
    heap_.scavenger().restore(from.scavenge_goal);

    std::unordered_map<std::uint64_t, Span*> by_base;
    for (const Snapshot::SpanRecord& record : from.spans) by_base[record.base] = &restore_span(record);
    for (std::size_t i = 0; i < from.central.size(); ++i) {
      Mcentral& central = centrals_.of(static_cast<SpanClass>(i));
      for (const std::uint64_t span : from.central[i].partial)
        central.restore_swept(*by_base.at(span), false);
      for (const std::uint64_t span : from.central[i].full) central.restore_swept(*by_base.at(span), true);
    }
    for (const Snapshot::Processor& record : from.processors) {
      P& p = *ps_.emplace_back(std::make_unique<P>());
      if (record.page_cache != 0) {
        p.page_cache = {heap_.page_of(record.page_cache_base), record.page_cache,
                        record.page_cache_scavenged};
      }
      heap_.restore_page_cache(p.page_cache);
      for (const std::uint64_t cached : record.cached) {
        if (cached == 0) continue;
        Span& span = *by_base.at(cached);
        p.mcache.hold(span, heap_.occupancy());
        span.sweepgen = sweeper_.sweepgen() + 3;
      }
      if (record.tiny != 0) {
        Span& span = *by_base.at(record.tiny / kPageBytes * kPageBytes);
        p.tiny.restore({&span, static_cast<std::uint32_t>((record.tiny - span.base) / kTinyBytes)},
                       record.tiny_offset);
      }
    }
    pacer_.heap_live = from.heap_live;
    pacer_.heap_marked = from.heap_marked;
    pacer_.total_alloc = from.total_alloc;
    pacer_.total_free = from.total_free;
    pacer_.last_heap_goal = from.last_heap_goal;
    pacer_.commit(true);
    pacer_.sweep_dist_min_trigger = from.sweep_dist_min_trigger;
    finalizer_bytes_ = from.finalizer_bytes;
    startup_root_work_ = from.root_work;
    sweeper_.restore(from.pages_swept);
  }

  Span& restore_span(const Snapshot::SpanRecord& record) {
    const bool manual = record.kind != Snapshot::kHeap;
    Span& span = heap_.spans().make(manual ? SpanState::kManual : SpanState::kInUse, record.span_class,
                                    manual ? 0 : record.nelems, !manual);
    span.base = record.base;
    span.pages = static_cast<std::uint32_t>(record.pages);
    if (!manual) {
      const SizeClass& entry = kSizeClassTable[static_cast<std::size_t>(size_class_of(record.span_class))];
      span.element_bytes = entry.object_bytes == 0 ? span.bytes() : entry.object_bytes;
      span.sweepgen = sweeper_.sweepgen();
      span.freeindex = static_cast<std::uint16_t>(record.freeindex);
      span.alloc_count = static_cast<std::uint16_t>(record.alloc_count);
      span.alloc_count_before_cache = static_cast<std::uint16_t>(record.alloc_count_before_cache);
      span.startup_count = span.alloc_count;
      span.startup_page_marked = record.page_marked;
      std::copy_n(record.alloc_bits.begin(), span.words(), span.alloc_bits().begin());
      for (std::uint32_t slot = 0; slot < span.nelems; ++slot) {
        if (slot < span.freeindex || test_bit(span.alloc_bits(), slot)) set_bit(span.startup_bits(), slot);
      }
    }
    heap_.restore_span(span);
    if (record.kind == Snapshot::kWorkBuffer) work_buffers_.push_back(&span);
    return span;
  }

  // Tiers refer to one another, so they stay where they are while a Go, which its binding wants movable, may
  // move.
  struct Tiers {
    explicit Tiers(const Options& options)
        : pacer(options.gogc, options.memory_limit, options.globals_scan_bytes, options.stack_scan_bytes),
          heap(pacer, options.metadata_bytes, options.greentea, options.scavenge),
          centrals(heap),
          sweeper(heap, centrals, pacer) {}
    Pacer pacer;
    Mheap heap;
    Mcentrals centrals;
    Sweeper sweeper;
  };

  Options options_;
  std::unique_ptr<Tiers> tiers_;
  Pacer& pacer_ = tiers_->pacer;
  Mheap& heap_ = tiers_->heap;
  Mcentrals& centrals_ = tiers_->centrals;
  Sweeper& sweeper_ = tiers_->sweeper;
  std::uint64_t trigger_ = kNoGoal;
  std::uint64_t finalizer_bytes_ = 0;
  std::uint64_t startup_root_work_ = 0;

  std::vector<std::unique_ptr<P>> ps_;
  std::vector<P*> p_by_thread_;
  P* running_ = nullptr;
  std::size_t thread_ordinal_ = 0;
  std::vector<Span*> work_buffers_;
  std::vector<std::uint64_t> stack_scans_;
  std::optional<std::int64_t> last_cycle_ns_;  // None: to be learnt from the next event.
  bool recording_cycles_ = false;
  std::vector<std::array<std::uint64_t, 3>> cycle_history_;

  std::int64_t sizes_rounded_to_words_ = 0;
  std::int64_t alignments_met_by_size_ = 0;
  std::int64_t zero_size_ = 0;
  std::int64_t tiny_combined_ = 0;  // Objects that shared the block of an earlier one (Go: tinyAllocs).
  std::int64_t tiny_blocks_ = 0;
  std::int64_t small_ = 0;
  std::int64_t large_ = 0;
  std::int64_t large_from_new_os_memory_ = 0;
  std::int64_t refills_ = 0;
  std::int64_t refills_from_new_span_ = 0;  // Of memory that the heap had.
  std::int64_t refills_from_new_os_memory_ = 0;
  std::int64_t cycles_ = 0;
  std::int64_t forced_ = 0;
  std::int64_t mark_bytes_scan_ = 0;
  std::int64_t mark_bytes_noscan_ = 0;
};

static_assert(harness::Allocator<Go>);
static_assert(harness::Collects<Go> && harness::EndsThreads<Go> && harness::Prefetches<Go>);
static_assert(harness::KeepsTime<Go> && harness::Places<Go> && harness::Counts<Go> &&
              harness::HasClasses<Go>);

}  // namespace go
