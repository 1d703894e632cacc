// The heap of the Go runtime, assembled from its tiers: size_classes, mspan, scavenge_index, page_alloc,
// pacer, scavenger, mheap, mcentral, mcache, tiny, p, marker, sweeper, clock and collector.hpp, each of which
// knows only those below it.
//
// The path of an allocation:
//   1. allocate() rounds the request, finds the P of its thread and the kind of the object: none (0 bytes),
//      tiny, small or large. While a cycle marks, the program first assists (collector.hpp).
//   2. tiny.hpp: a noscan object of less than 16 bytes goes into the P's current tiny block if it fits.
//   3. mcache.hpp: the lowest free slot of the P's span of the class; a full span is replaced by refill().
//   4. mcentral.hpp: cache_span() gives a swept span with free slots, or sweeps one, or asks for a new one.
//   5. mheap.hpp: alloc() lets the sweeper reclaim pages, then takes them from the P's page cache
//      (page_alloc.hpp), by first fit, or by growth; scavenger.hpp gives back what the heap keeps too much.
//      A large object begins here.
//   6. collector.hpp: after a refill or a large object heap_live is compared with the pacer's trigger; a
//   cycle
//      may start, or go on.
// The path of a death:
//   7. release() turns the slot's live bit over: the slot is dead, and nothing else happens.
//   8. collector.hpp: when a cycle starts, marker.hpp makes the live bits the marks; when it ends, the pacer
//      sets the next goal and every P's caches are flushed.
//   9. sweeper.hpp: marks become free slots; an empty span goes to the page heap, others to their central
//      list.
//  10. mheap.hpp: free_span() clears the span's pages; the next growth may scavenge them.
// Calls upwards (4 and 5 sweep) go through Sweeps and Reclaims, which sweeper.hpp implements. Steps 3 and 7
// of many objects in a row are fast_path.hpp's.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "collector.hpp"
#include "fast_path.hpp"
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

struct Options {
  std::int64_t gogc = 100;               // Negative: off.
  std::uint64_t memory_limit = kNoGoal;  // kNoGoal: off.
  std::uint32_t procs = 8;               // Ps at most; made as threads appear.
  bool greentea = true;
  CollectorMode collector = CollectorMode::kConcurrent;
  bool clock_of_trace = true;
  bool scavenge_growth = true;  // When the heap grows or passes the memory limit.
  bool scavenge_in_background = true;
  std::uint64_t globals_scan_bytes = 0;
  std::uint64_t stack_scan_bytes = 0;
  std::uint64_t metadata_bytes = 0;  // Off-heap memory that the memory limit counts.
};

class Go {
 public:
  using Block = go::Block;

  // snapshot: nullptr for a heap that begins empty.
  Go(const Options& options, const Snapshot* snapshot)
      : options_(options), tiers_(std::make_unique<Tiers>(options)) {
    heap_.set_reclaimer(sweeper_);
    if (snapshot != nullptr) restore(*snapshot);
    collector_.renew_trigger();
  }

  Block allocate(const harness::Request& request) {
    P& p = p_of(request.thread);
    if (!collector_.marking()) return allocate_on(p, request);
    collector_.deduct_assist_credit(p, request.size);
    const Block block = allocate_on(p, request);
    // What rounding added is owed too, but for a place in a tiny block that was there.
    if (block && block.kind != Kind::kZeroSize && block.tiny_offset == 0) {
      const std::uint64_t taken = heap_.spans().of_word(block.word).element_bytes();
      p.assist_bytes -= static_cast<std::int64_t>(taken - std::min(request.size, taken));
    }
    return block;
  }

  // A death. Its slot is free again when a cycle has swept it.
  void release(Block block, std::uint16_t thread) {
    p_of(thread);
    ++paths_.deaths;
    die(block);
  }

  static constexpr std::uint32_t kExchangedAlignment = 8;

  template <bool kPlain>
  Births<kPlain> births(const harness::Events& events) {
    return Births<kPlain>(events, p_by_thread_.data(), collector_, centrals_, heap_);
  }
  bool births_are_plain() const { return one_thread_ && !collector_.marking(); }

  // A tiny object is taken from the P's current tiny block or begins one, without a branch that depends on
  // it. What leaves the usual way is not taken: a block without a slot at hand, one that had no object left.
  // The work of a block and of its slot is done on words, which a later death reads as such.
  [[gnu::noinline]] std::uint32_t take_otherwise(const harness::Events& events, std::size_t i, Block& block) {
    const std::uint64_t size = events.size[i];
    P& p = *p_by_thread_[events.thread[i]];
    CachedSpan& cached = p.mcache.at(kTinySpanClass);
    const std::uint64_t offset = p.tiny.offset_of(size);
    const harness::Choice fits(p.tiny.fits(size));
    const std::uint64_t free = cached.alloc_cache | fits.if_first(~std::uint64_t{0});
    if (events.noscan[i] == 0 || size == 0 || size >= kTinyBytes || free == 0 || collector_.marking())
      return harness::kNotExchanged;
    const auto bit = static_cast<std::uint64_t>(std::countr_zero(free));
    const std::uint64_t fresh = SlotBits::holders_word_of(cached.block.word, bit);
    const std::uint64_t at = fits.of(p.tiny.block_word(), fresh);
    std::uint8_t& holders = heap_.spans().bits().holders(std::bit_cast<SlotBit>(at));
    const std::uint64_t others = fits.if_first(holders);
    const std::uint64_t combined = fits.if_first(1);
    if (others < combined) return harness::kNotExchanged;
    holders = static_cast<std::uint8_t>(others + 1);
    block = std::bit_cast<Block>(at | kTinyBlock | fits.if_first(offset) << kTinyOffsetShift);
    p.tiny.take(fits, at, size);
    cached.alloc_cache &= cached.alloc_cache - (1 - combined);
    heap_.occupancy().note_taken_bytes((1 - combined) * kTinyBytes);
    paths_.tiny_combined += static_cast<std::int64_t>(combined);
    paths_.tiny_blocks += static_cast<std::int64_t>(1 - combined);
    return kTinySpanClass;
  }

  // An object of a size class whose span has no slot in the word at hand, by the shortest way that there is.
  std::uint32_t take_slowly(const harness::Events& events, std::size_t i, Block& block) {
    const std::uint64_t size = events.size[i];
    if (size > kMaxSmallBytes || collector_.marking()) return harness::kNotExchanged;
    const SpanClass wanted = kUntinySpanClass[(size + 7) / 8][events.noscan[i]];
    if (wanted == 0) return harness::kNotExchanged;
    running_ = p_by_thread_[events.thread[i]];
    block = allocate_small(*running_, wanted);
    return wanted;
  }

  Deaths deaths() { return Deaths(heap_); }
  bool deaths_are_far() const {
    constexpr std::size_t kNearWords = (std::size_t{256} << 10) / sizeof(std::uint64_t);
    return heap_.spans().bits().words > kNearWords;
  }

  [[gnu::noinline]] void die_otherwise(Block block) { die(block); }

  // What looks at deaths: a collection, and the sweeper's reclaiming where the process itself holds tiny
  // objects. So many bytes bring the heap no further than a span of them more.
  bool looks_at_deaths(std::uint64_t size) const {
    return collector_.may_start(size + kMaxSpanBytes) || !heap_.spans().bits().startup.empty();
  }

  void note_apart(std::uint64_t births, std::uint64_t deaths, std::uint16_t thread) {
    paths_.allocations += static_cast<std::int64_t>(births);
    paths_.deaths += static_cast<std::int64_t>(deaths);
    running_ = p_by_thread_[thread];
  }

  // A thread gets its P with its first event, whatever that is.
  std::size_t newcomer(std::span<const std::uint16_t> threads) const {
    if (threads_ == p_by_thread_.size()) return threads.size();
    const auto found = std::ranges::find_if(
        threads, [this](std::uint16_t thread) { return p_by_thread_[thread] == nullptr; });
    return static_cast<std::size_t>(found - threads.begin());
  }

  // Sizes of types with pointers are multiples of a word in Go. What was not is counted before it is
  // replayed, for many events at once: that needs no order, and takes less than a count with each event.
  [[gnu::always_inline]] void foresee(const harness::Events& events) {
    std::uint16_t first_thread = UINT16_MAX;
    std::uint16_t last_thread = 0;
    for (const std::uint16_t thread : events.thread) {
      first_thread = std::min(first_thread, thread);
      last_thread = std::max(last_thread, thread);
    }
    one_thread_ = first_thread == last_thread;
    if (p_by_thread_.size() <= last_thread) p_by_thread_.resize(last_thread + std::size_t{1}, nullptr);
    constexpr std::size_t kTogether = 192;  // Counts of so many fit into a byte, so that vectors are full.
    for (std::size_t first = 0; first < events.op.size(); first += kTogether) {
      const std::size_t end = std::min(first + kTogether, events.op.size());
      std::uint8_t rounded = 0;
      for (std::size_t i = first; i < end; ++i) {
        const auto odd_bytes = static_cast<std::uint8_t>(events.size[i] & 7);
        const bool allocates = events.op[i] <= static_cast<std::uint8_t>(harness::Op::kRealloc);
        rounded =
            static_cast<std::uint8_t>(rounded + (allocates & (events.noscan[i] == 0) & (odd_bytes != 0)));
      }
      sizes_rounded_to_words_ += rounded;
    }
  }

  // runtime.GC.
  void collect() {
    if (running_ == nullptr) p_of(0);
    collector_.collect(*running_);
  }

  // A cycle at the times that a real process's had (collector.hpp).
  void begin_recorded_cycle() {
    if (running_ == nullptr) p_of(0);
    collector_.begin_recorded_cycle(*running_);
  }
  void end_recorded_cycle(bool sweeps) { collector_.end_recorded_cycle(*running_, sweeps); }

  void thread_end(std::uint16_t thread) {
    if (p_by_thread_[thread] != nullptr) {
      p_by_thread_[thread] = nullptr;
      --threads_;
    }
  }

  harness::Ticker ticker() const { return collector_.ticker(); }
  void set_last_tick(std::int64_t time_ns) { collector_.set_last_tick(time_ns); }
  std::int64_t next_deadline_ns() const { return collector_.next_deadline_ns(); }
  void advance(std::int64_t time_ns) {
    if (running_ == nullptr) p_of(0);
    collector_.advance(time_ns, *running_);
  }

  std::optional<std::uint64_t> placement(Block block) const {
    if (block.kind == Kind::kZeroSize) return std::nullopt;
    const Span& span = heap_.spans().of_word(block.word);
    return span.base() + slot_of(span, block) * span.element_bytes() + header_bytes_of(span.span_class) +
           block.tiny_offset;
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

  // Rows are span classes; 0 and 1 are objects with a span of their own.
  static std::uint32_t class_rows() { return kSpanClasses; }
  static std::uint32_t class_row(Block block) { return block.span_class; }
  std::vector<harness::ClassUse> classes() const {
    std::vector<harness::ClassUse> rows;
    rows.reserve(kSpanClasses);
    for (int i = 0; i < kSpanClasses; ++i) {
      const auto span_class = static_cast<SpanClass>(i);
      const SizeClass& entry = kSizeClassTable[static_cast<std::size_t>(size_class_of(span_class))];
      const ClassOccupancy use = heap_.occupancy().of(span_class, unsettled(span_class));
      rows.push_back(
          {.class_index = size_class_of(span_class),
           .noscan = is_noscan(span_class) ? 1 : 0,
           .slot_bytes = entry.object_bytes,
           .span_bytes = static_cast<std::int64_t>(entry.span_pages * kPageBytes),
           .spans = use.spans,
           .spans_requested = use.spans_requested,
           .spans_returned = use.spans_returned,
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

  // Objects that share a slot count each, and so do those without one (allocate_on).
  std::uint64_t class_allocations(std::uint32_t row) const {
    const auto span_class = static_cast<SpanClass>(row);
    std::uint64_t objects =
        heap_.occupancy().taken_objects(span_class) + static_cast<std::uint64_t>(unsettled(span_class));
    if (row == kTinySpanClass) objects += static_cast<std::uint64_t>(paths_.tiny_combined);
    if (row == kZeroSizeSpanClass) objects += static_cast<std::uint64_t>(paths_.zero_size);
    return objects;
  }

  std::optional<std::uint64_t> span_of(Block block) const {
    if (block.kind == Kind::kZeroSize) return std::nullopt;
    return heap_.spans().bits().span[block.word];
  }
  std::vector<harness::SpanUse> spans() {
    settle();
    const SpanTable& table = heap_.spans();
    std::vector<harness::SpanUse> found;
    for (std::uint32_t i = 0; i < table.size(); ++i) {
      const Span& span = table.at(i);
      if (span.state != SpanState::kInUse) continue;
      const auto element_bytes = static_cast<std::int64_t>(span.element_bytes());
      const std::int64_t live = table.bits().live_count(span);
      const std::int64_t tail = static_cast<std::int64_t>(span.bytes()) - span.nelems * element_bytes;
      found.push_back({.span = span.index,
                       .class_row = span.span_class,
                       .slots = span.nelems,
                       .live_slots = live,
                       .bytes = static_cast<std::int64_t>(span.bytes()),
                       .slot_bytes = element_bytes,
                       .dead_bytes = (span.alloc_count - live - span.startup_count) * element_bytes,
                       .runtime_slots = span.startup_count,
                       .runtime_bytes = span.startup_count * element_bytes + (span.startup ? tail : 0)});
    }
    return found;
  }

  static constexpr std::array<const char*, 5> kGaugeNames = {
      "gc_live_bytes", "gc_marked_bytes", "gc_goal_bytes", "gc_trigger_bytes", "gc_cycles"};
  std::array<std::int64_t, 5> gauges() const {
    const MappedMemory memory = heap_.memory();
    const auto bytes = [](std::uint64_t value) {
      return value == kNoGoal ? harness::kUnknown : static_cast<std::int64_t>(value);
    };
    return {bytes(pacer_.heap_live), bytes(pacer_.heap_marked), bytes(pacer_.goal(memory)),
            bytes(pacer_.trigger(memory)), collector_.counters().cycles};
  }

  harness::Counters counters() const {
    const HeapCounters& heap = heap_.counters();
    const SpanSetCounters& sets = centrals_.counters();
    const SweepCounters& sweep = sweeper_.counters();
    const CollectorCounters& gc = collector_.counters();
    return {
        {"threads", static_cast<std::int64_t>(thread_ordinal_)},
        {"ps", static_cast<std::int64_t>(ps_.size())},
        {"sizes_rounded_to_words", sizes_rounded_to_words_},
        {"alignments_met_by_size", alignments_met_by_size_},
        {"mallocs", paths_.zero_size + paths_.allocations + paths_.large},
        {"front_end_hits", paths_.zero_size + paths_.allocations - paths_.refills},
        {"zero_size_allocations", paths_.zero_size},
        {"tiny_allocs", paths_.tiny_combined},
        {"tiny_blocks", paths_.tiny_blocks},
        {"mcache_hits", paths_.slots() - paths_.refills},
        {"refills", paths_.refills},
        {"refilled_objects", paths_.refilled_objects},
        {"flushes", gc.flushes},
        {"refills_from_central",
         paths_.refills - paths_.refills_from_new_span - paths_.refills_from_new_os_memory},
        {"refills_from_new_span", paths_.refills_from_new_span},
        {"refills_from_new_os_memory", paths_.refills_from_new_os_memory},
        {"large_allocations", paths_.large},
        {"large_allocations_from_new_os_memory", paths_.large_from_new_os_memory},
        {"spans_requested", heap.spans_requested},
        {"spans_returned", heap.spans_returned},
        {"span_set_pushes", sets.pushes},
        {"span_set_pops", sets.pops},
        {"page_cache_refills", heap.page_cache_refills},
        {"heap_lock_acquisitions", heap.lock_acquisitions},
        {"growths", heap.growths},
        {"gc_cycles", gc.cycles},
        {"gc_forced", gc.forced},
        {"gc_mark_bytes_scan", gc.mark_bytes_scan},
        {"gc_mark_bytes_noscan", gc.mark_bytes_noscan},
        {"gc_assists", gc.assists},
        {"gc_assist_bytes", gc.assist_bytes},
        {"gc_sweep_spans", sweep.spans},
        {"gc_sweep_spans_freed", sweep.freed_spans},
        {"gc_reclaimed_pages", sweep.reclaimed_pages},
        {"released_bytes_total", heap_.scavenger().scavenged_pages() * static_cast<std::int64_t>(kPageBytes)},
        {"os_calls", heap.arena_reservations + heap.growths + heap_.scavenger().runs()},
        {"os_bytes_requested", heap.grown_bytes},
        {"fresh_bytes", heap.fresh_bytes}};
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
            {"gc_cycles", static_cast<std::uint64_t>(collector_.counters().cycles)}};
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
        const SlotBit slot = SlotBits::slot_of_holders(p->tiny.block());
        const Span& span = heap_.spans().of_word(slot.word);
        record.tiny = span.base() + ((slot.word - span.word) * 64 + slot.bit) * kTinyBytes;
        record.tiny_offset = p->tiny.offset();
      }
      for (int i = 0; i < kSpanClasses; ++i) record.cached.push_back(p->mcache.base(i));
    }
    return records;
  }
  std::vector<Snapshot::Central> central() const {
    std::vector<Snapshot::Central> records(kSpanClasses);
    const auto bases = [](const std::vector<const Span*>& spans, std::vector<std::uint64_t>& to) {
      for (const Span* span : spans) to.push_back(span->base());
    };
    for (int i = 0; i < kSpanClasses; ++i) {
      const Mcentral& list = centrals_.of(static_cast<SpanClass>(i));
      bases(list.swept(false), records[static_cast<std::size_t>(i)].partial);
      bases(list.swept(true), records[static_cast<std::size_t>(i)].full);
    }
    return records;
  }

  Collector& collector() { return collector_; }
  // To be called before spans are looked at.
  void settle() { collector_.settle(); }

 private:
  // Objects of no size take nothing, and are counted in class 1 noscan: every other such object is tiny, so
  // that row is free.
  static constexpr SpanClass kZeroSizeSpanClass = make_span_class(1, true);

  void die(Block block) {
    if (block.kind == Kind::kZeroSize) return;
    SlotBits& bits = heap_.spans().bits();
    SlotBit slot{block.word, block.bit};
    std::uint64_t turned = 1;
    std::uint64_t units = 1;
    if (block.kind == Kind::kTiny) {
      // Nothing foretells which object is the last of its slot.
      turned = units = --bits.holders(slot) == 0;
      slot = SlotBits::slot_of_holders(slot);
      if (bits.is_startup(slot) && turned != 0) note_startup(heap_.spans().of_word(slot.word), 1);
    } else if (block.kind == Kind::kLarge) {
      units = heap_.spans().of_word(block.word).element_bytes();
      heap_.occupancy().note_large_death(block.span_class);
    }
    bits.live[slot.word] ^= turned << slot.bit;
    heap_.occupancy().note_died(block.span_class, units);
  }

  Block allocate_on(P& p, const harness::Request& request) {
    std::uint64_t size = request.size;
    if (size == 0) {
      ++paths_.zero_size;
      return {.span_class = kZeroSizeSpanClass, .kind = Kind::kZeroSize};
    }
    // Go's sizes of types with pointers are multiples of a word, and its slots are aligned to their sizes
    // only. Nothing foretells which objects hold pointers, so nothing branches on it.
    const std::uint64_t granule = request.noscan ? 1 : 8;
    size = (size + granule - 1) & -granule;
    if (request.alignment > kExchangedAlignment) {
      ++alignments_met_by_size_;
      Block block = allocate_rounded(p, round_up(size, request.alignment), request.noscan);
      if (block.kind == Kind::kSmall) block.kind = Kind::kAligned;
      return block;
    }
    return allocate_rounded(p, size, request.noscan);
  }

  // An object of so many bytes, at least one.
  Block allocate_rounded(P& p, std::uint64_t size, bool noscan) {
    if (size > kMaxSmallBytes) return allocate_large(p, size, noscan);
    const SpanClass span_class = kUntinySpanClass[(size + 7) / 8][noscan];
    if (span_class != 0) return allocate_small(p, span_class);
    return size < kTinyBytes ? allocate_tiny(p, size) : allocate_small(p, kTinySpanClass);
  }

  static std::uint64_t round_up(std::uint64_t bytes, std::uint64_t multiple) {
    return (bytes + multiple - 1) / multiple * multiple;
  }

  // The P of a thread: by order of appearance, round and round. Becomes the running one.
  P& p_of(std::uint16_t thread) {
    P*& p = p_by_thread_[thread];
    if (p == nullptr) {
      const std::size_t number = thread_ordinal_++ % options_.procs;
      while (ps_.size() <= number) ps_.push_back(std::make_unique<P>());
      p = ps_[number].get();
      ++threads_;
    }
    running_ = p;
    return *p;
  }

  // Slots that the Ps have handed out and not settled.
  std::int64_t unsettled(SpanClass span_class) const {
    std::int64_t slots = 0;
    for (const auto& p : ps_) slots += p->mcache.unsettled(span_class);
    return slots;
  }

  // The P's span of a class, with a free slot; nullptr where the heap is at its limit.
  [[gnu::always_inline]] CachedSpan* span_with_slot(P& p, SpanClass span_class, bool& refilled) {
    CachedSpan& cached = p.mcache.at(span_class);
    if (cached.alloc_cache != 0) return &cached;
    if (p.mcache.next_word(span_class, heap_, pacer_.marking())) return &cached;
    refilled = true;
    return refill(p, span_class) ? &cached : nullptr;
  }

  [[gnu::noinline]] bool refill(P& p, SpanClass span_class) {
    ++paths_.refills;
    const std::int64_t growths = heap_.counters().growths;
    const std::int64_t requested = heap_.counters().spans_requested;
    const Span* const span =
        p.mcache.refill(span_class, centrals_.of(span_class), heap_, pacer_, sweeper_, p.page_cache);
    if (span == nullptr) return false;
    if (heap_.counters().spans_requested > requested) [[unlikely]]
      ++(heap_.counters().growths > growths ? paths_.refills_from_new_os_memory
                                            : paths_.refills_from_new_span);
    const std::int64_t objects = span->nelems - span->alloc_count;
    paths_.refilled_objects += objects;
    paths_.refill_bytes += objects * static_cast<std::int64_t>(span->element_bytes());
    return true;
  }

  // Makes a free slot of a cached span the program's.
  SlotBit take_live_slot(CachedSpan& cached) {
    const SlotBit slot{cached.block.word, static_cast<std::uint32_t>(std::countr_zero(cached.alloc_cache))};
    cached.alloc_cache &= ~slot.mask();
    heap_.occupancy().note_taken_bytes(kSlotBytes[cached.block.span_class]);
    return slot;
  }

  Block allocate_small(P& p, SpanClass span_class) {
    bool refilled = false;
    CachedSpan* const cached = span_with_slot(p, span_class, refilled);
    if (cached == nullptr) return {};
    ++paths_.allocations;
    const SlotBit slot = take_live_slot(*cached);
    Block block = with_bit(cached->block, slot.bit);
    if (span_class == kTinySpanClass) block = first_in_tiny_block(slot);
    if (refilled) collector_.allocated_span(p, threads_);
    return block;
  }

  Block allocate_tiny(P& p, std::uint64_t size) {
    if (const std::optional<std::uint32_t> offset = p.tiny.place(size)) {
      ++paths_.allocations;
      ++paths_.tiny_combined;
      const SlotBit at = p.tiny.block();
      if (heap_.spans().bits().holders(at)++ == 0) revive(SlotBits::slot_of_holders(at));
      return tiny_block(at, *offset);
    }
    bool refilled = false;
    CachedSpan* const cached = span_with_slot(p, kTinySpanClass, refilled);
    if (cached == nullptr) return {};
    ++paths_.allocations;
    ++paths_.tiny_blocks;
    const SlotBit at = take_live_slot(*cached);
    const Block block = first_in_tiny_block(at);
    p.tiny.started({block.word, block.bit}, size);
    if (refilled) collector_.allocated_span(p, threads_);
    return block;
  }

  static Block tiny_block(SlotBit holders, std::uint32_t offset) {
    return {holders.word, static_cast<std::uint8_t>(holders.bit), kTinySpanClass, Kind::kTiny,
            static_cast<std::uint8_t>(offset)};
  }
  Block first_in_tiny_block(SlotBit slot) {
    const SlotBit holders = SlotBits::holders_at(slot);
    heap_.spans().bits().holders(holders) = 1;
    return tiny_block(holders, 0);
  }
  static std::uint32_t slot_of(const Span& span, Block block) {
    SlotBit slot{block.word, block.bit};
    if (block.kind == Kind::kTiny) slot = SlotBits::slot_of_holders(slot);
    return (slot.word - span.word) * 64 + slot.bit;
  }

  // A tiny block whose objects are all dead, or the process's own, takes another object of the program.
  void revive(SlotBit at) {
    SlotBits& bits = heap_.spans().bits();
    bits.live[at.word] ^= at.mask();
    if (bits.is_startup(at)) note_startup(heap_.spans().of_word(at.word), -1);
    heap_.occupancy().note_revived(kTinySpanClass);
  }

  // Slots that only the process holds.
  void note_startup(Span& span, int slots) {
    span.startup_count = static_cast<std::uint16_t>(span.startup_count + slots);
    heap_.occupancy().note_startup(span, slots);
  }

  Block allocate_large(P& p, std::uint64_t size, bool noscan) {
    const std::uint64_t pages = (size + kPageBytes - 1) / kPageBytes;
    sweeper_.deduct_sweep_credit(pages * kPageBytes, pages);
    const SpanClass span_class = make_span_class(0, noscan);
    const std::int64_t growths = heap_.counters().growths;
    Span* span = heap_.alloc(pages, span_class, p.page_cache, sweeper_.sweepgen(), sweeper_.sweeping());
    if (span == nullptr) return {};
    ++paths_.large;
    paths_.large_bytes += static_cast<std::int64_t>(span->bytes());
    if (heap_.counters().growths > growths) ++paths_.large_from_new_os_memory;
    // Taken at once, without a cache between.
    heap_.occupancy().hold(*span);
    heap_.occupancy().note_taken(span_class, span->element_bytes());
    heap_.occupancy().note_taken_bytes(span->element_bytes());
    heap_.occupancy().note_large_allocation(span_class);
    heap_.spans().bits().live[span->word] |= 1;
    span->freeindex = span->alloc_count = 1;
    collector_.allocated_large(*span);
    centrals_.of(span_class).push_swept(*span);
    pacer_.update(span->bytes(), noscan);
    pacer_.total_alloc += span->bytes();
    const Block block{span->word, 0, span_class, Kind::kLarge, 0};
    collector_.allocated_span(p, threads_);
    return block;
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
        p.mcache.hold(span, heap_);
        span.sweepgen = sweeper_.sweepgen() + 3;
      }
      if (record.tiny != 0) {
        Span& span = *by_base.at(record.tiny / kPageBytes * kPageBytes);
        const auto slot = static_cast<std::uint32_t>((record.tiny - span.base()) / kTinyBytes);
        p.tiny.restore(SlotBits::holders_at(slot_bit(span, slot)), record.tiny_offset);
      }
    }
    pacer_.heap_live = from.heap_live;
    pacer_.heap_marked = from.heap_marked;
    pacer_.total_alloc = from.total_alloc;
    pacer_.total_free = from.total_free;
    pacer_.last_heap_goal = from.last_heap_goal;
    pacer_.commit(true);
    pacer_.sweep_dist_min_trigger = from.sweep_dist_min_trigger;
    collector_.restore(from.finalizer_bytes, from.root_work);
    sweeper_.restore(from.pages_swept);
  }

  Span& restore_span(const Snapshot::SpanRecord& record) {
    const bool manual = record.kind != Snapshot::kHeap;
    Span& span = heap_.spans().make(manual ? SpanState::kManual : SpanState::kInUse, record.span_class,
                                    manual ? 0 : record.nelems, !manual);
    span.set_base(record.base);
    span.pages = static_cast<std::uint32_t>(record.pages);
    if (!manual) {
      span.sweepgen = sweeper_.sweepgen();
      span.freeindex = static_cast<std::uint16_t>(record.freeindex);
      span.alloc_count = static_cast<std::uint16_t>(record.alloc_count);
      span.alloc_count_before_cache = static_cast<std::uint16_t>(record.alloc_count_before_cache);
      span.startup_count = span.alloc_count;
      span.startup_page_marked = record.page_marked;
      SlotBits& bits = heap_.spans().bits();
      bits.startup.resize(bits.words);
      std::copy_n(record.alloc_bits.begin(), span.words(), bits.alloc.begin() + span.word);
      for (std::uint32_t slot = 0; slot < span.nelems; ++slot) {
        const SlotBit at = slot_bit(span, slot);
        if (slot < span.freeindex || (bits.alloc[at.word] & at.mask()) != 0)
          bits.startup[at.word] |= at.mask();
      }
    }
    heap_.restore_span(span);
    if (record.kind == Snapshot::kWorkBuffer) collector_.restore_work_buffer(span);
    return span;
  }

  // Tiers refer to one another, so they stay where they are while a Go, which its binding wants movable, may
  // move.
  struct Tiers {
    explicit Tiers(const Options& options)
        : pacer(options.gogc, options.memory_limit, options.globals_scan_bytes, options.stack_scan_bytes),
          heap(pacer, options.metadata_bytes, options.greentea, options.scavenge_growth),
          centrals(heap),
          sweeper(heap, centrals, pacer),
          collector(
              {options.collector, options.procs, options.clock_of_trace, options.scavenge_in_background},
              heap, pacer, sweeper, ps, paths) {}
    Pacer pacer;
    Mheap heap;
    Mcentrals centrals;
    Sweeper sweeper;
    std::vector<std::unique_ptr<P>> ps;
    Paths paths;
    Collector collector;
  };

  Options options_;
  std::unique_ptr<Tiers> tiers_;
  Pacer& pacer_ = tiers_->pacer;
  Mheap& heap_ = tiers_->heap;
  Mcentrals& centrals_ = tiers_->centrals;
  Sweeper& sweeper_ = tiers_->sweeper;
  Collector& collector_ = tiers_->collector;
  Paths& paths_ = tiers_->paths;
  std::vector<std::unique_ptr<P>>& ps_ = tiers_->ps;

  std::vector<P*> p_by_thread_ = {nullptr};
  P* running_ = nullptr;
  bool one_thread_ = false;
  std::size_t thread_ordinal_ = 0;
  std::size_t threads_ = 0;

  std::int64_t sizes_rounded_to_words_ = 0;
  std::int64_t alignments_met_by_size_ = 0;
};

static_assert(harness::Allocator<Go>);
static_assert(harness::Collects<Go> && harness::EndsThreads<Go> && harness::DefersDeaths<Go>);
static_assert(harness::KeepsTime<Go> && harness::HasTicker<Go> && harness::Places<Go> && harness::Counts<Go>);
static_assert(harness::HasSpans<Go> && harness::CountsAllocations<Go> && harness::Gauges<Go>);

}  // namespace go
