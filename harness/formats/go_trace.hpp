// Makes rows of harness-trace/1 of a Go execution trace with allocation events (GODEBUG=traceallocfree=1).
//
// go_wire.hpp gives the events in the order of their times. What the heap's events say is followed here:
// spans, so that a slot has a size; objects by their slots; collections, because a death is seen only by the
// sweep after the collection that found it. Rows are held back until that sweep is over, and each death is
// put right before its collection. What is held back is objects that live: memory is bounded by these, and by
// one generation of the trace.
//
// Several tiny objects (below 16 bytes, without pointers) share a block: each is an object of its own, and
// all of a block die with it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "go_size_classes.hpp"
#include "go_wire.hpp"
#include "harness/free_slots.hpp"
#include "harness/id_table.hpp"

namespace formats {

// Columns of harness-trace/1, and where in the program's memory each object lies.
struct GoRows {
  std::vector<std::uint8_t> op;
  std::vector<std::uint32_t> thread;  // Go's P.
  std::vector<std::uint64_t> object;
  std::vector<std::uint64_t> size;
  std::vector<std::uint8_t> noscan;
  std::vector<std::int64_t> time_ns;
  std::vector<std::uint32_t> site;
  std::vector<std::uint64_t> address;  // 0 for a collection.
};

// A span's event; `row` counts the rows before it. Spans without objects (stacks and work buffers) have the
// class kNoClass.
struct GoSpanEvents {
  static constexpr std::uint32_t kNoClass = UINT32_MAX;

  std::vector<std::uint64_t> row;
  std::vector<std::uint8_t> is_free;
  std::vector<std::uint64_t> address;
  std::vector<std::uint64_t> pages;
  std::vector<std::uint32_t> span_class;  // Twice the size class, and 1 more where objects hold no pointers.
  std::vector<std::int64_t> time_ns;
};

// The collections that the trace saw begin, or under way; `row` is that of op gc.
struct GoCollections {
  std::vector<std::uint64_t> row;
  std::vector<std::int64_t> begin_ns;
  std::vector<std::int64_t> end_ns;       // -1 where the trace ends before.
  std::vector<std::uint8_t> is_explicit;  // Begun by runtime.GC.
};

struct GoCounts {
  std::uint64_t objects_at_start = 0;
  std::uint64_t allocations = 0;  // Seen as they happened.
  std::uint64_t free_events = 0;  // One for a block of tiny objects.
  std::uint64_t exact_sizes = 0;  // Of the objects at the start, too.
  std::uint64_t class_sizes = 0;
  std::uint64_t tiny_joins = 0;  // Objects put into a block that was there.
  std::uint64_t manual_spans = 0;
  std::uint64_t stack_events = 0;
  std::uint64_t max_procs = 0;

  std::uint64_t untold_spans = 0;  // Of which the trace tells the begin or the end alone.
  std::uint64_t waited = 0;        // Events that stood before another thread's that they follow.

  std::uint64_t late_frees = 0;  // Came after the next allocation of the slot, however long that waited.
  std::uint64_t late_span_frees = 0;
  std::uint64_t unseen_frees = 0;   // Never came; the slot was given out again.
  std::uint64_t unknown_frees = 0;  // Dropped.
  std::uint64_t unknown_spans = 0;  // Objects in no span: dropped.
  std::uint64_t unknown_types = 0;
  std::uint64_t pointer_contradictions = 0;  // Between span and type; the span's word was taken.
  std::uint64_t bad_spans = 0;               // Dropped.
  std::uint64_t late_starts = 0;             // Objects that existed at the start, told later: dropped.
};

class GoTrace {
 public:
  GoTrace(bool is_lenient, bool keeps_spans)
      : is_lenient_(is_lenient), keeps_spans_(keeps_spans), wire_(is_lenient), segments_(1) {}

  const GoWire& wire() const { return wire_; }
  const GoCounts& counts() const { return counts_; }
  const GoCollections& collections() const { return collections_; }
  const std::vector<GoType>& types() const { return sites_; }  // By site; the first is none.

  void feed(std::string_view block) { wire_.feed(block); }
  void end() { wire_.end(), has_ended_ = true; }

  // The next rows; none where more must be fed, or nothing is left after end(). Throws RecordFault.
  std::optional<GoRows> take() {
    GoEvent event;
    while (ready_rows_ < kChunkRows && !is_done_) {
      if (!waiting_.empty()) {
        const std::optional<std::uint64_t> next_ticks = wire_.next_ticks();
        if (!next_ticks || *next_ticks > waiting_.front().time_ticks + kMostTicksAhead) {
          is_forced_ = true;
          static_cast<void>(follow(waiting_.front()));
          is_forced_ = false;
          stop_waiting(waiting_.begin());
          continue;
        }
      }
      if (!wire_.next(event)) {
        if (!has_ended_) return std::nullopt;
        finish();
        break;
      }
      if (wire_.counts().generations != known_generation_) begin_generation(event);
      if (!follow(event)) {
        ++counts_.waited;
        waiting_.push_back(event);
        wire_.hold(event.machine);
      } else if (!waiting_.empty()) {
        follow_waiting();
      }
    }
    if (ready_.empty()) return std::nullopt;
    GoRows rows = std::move(ready_.front());
    ready_.pop_front();
    ready_rows_ -= rows.op.size();
    return rows;
  }

  // The events of spans before the rows that were taken, since the last call.
  GoSpanEvents take_spans() { return std::exchange(spans_out_, {}); }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  static constexpr std::size_t kChunkRows = 1 << 15;
  // ProcStatus, tracev2/events.go.
  static constexpr std::uint64_t kProcRunning = 1;
  static constexpr std::uint64_t kProcSyscall = 3;
  // As check.hpp has it.
  static constexpr std::uint64_t kAddressSpaceBytes = std::uint64_t{1} << 47;
  // A tick of a clock whose frequency the trace does not tell; the runtime's are 64 cycles or so.
  static constexpr std::uint64_t kUnknownTicksPerSecond = 50'000'000;
  // Go 1.23 leaves a span's event out where its thread is within another of its own (traceTryAcquire in
  // mheap.go); its format is that of Go 1.24, which does not.
  static constexpr int kTellsAllSpans = 25;
  // How far a thread's times can run ahead: a tick an event, and a batch of 64 KiB has no more of them.
  static constexpr std::uint64_t kMostTicksAhead = 64 << 10;

  struct Span {
    std::uint64_t page = 0;
    std::uint64_t pages = 0;
    std::uint32_t span_class = GoSpanEvents::kNoClass;
    bool is_live() const { return pages != 0; }
    bool is_manual() const { return span_class == GoSpanEvents::kNoClass; }
    bool is_noscan() const { return (span_class & 1) != 0; }
    std::uint64_t slot_bytes() const {
      const std::uint32_t size_class = span_class >> 1;
      return size_class == 0 ? pages * GoSizeClasses::kPageBytes : kGoSizeClasses.slot_bytes(size_class);
    }
  };

  struct SpanPage {
    std::uint64_t first_page = 0;
    bool is_live_ = false;
    bool is_live() const { return is_live_; }
  };

  // What lives in a slot.
  struct Slot {
    std::uint32_t head = kNone;  // The last object put there, from which the others are reached.
    std::uint32_t segment = 0;   // Of the last; 0 for what was there at the start.
    bool is_live() const { return head != kNone; }
  };

  // A block of tiny objects that may get another one: where the last of them begins, and the row that says
  // so.
  struct TinyBlock {
    std::uint32_t segment = kNone;
    std::uint32_t begin_bytes = 0;
    std::uint64_t row = 0;
    bool is_exact = false;
    bool is_live() const { return segment != kNone; }
  };

  struct Row {
    Op op = Op::kAlloc;
    std::uint32_t thread = 0;
    std::uint32_t object = 0;
    std::uint64_t size = 0;
    bool noscan = false;
    std::uint32_t site = 0;
    std::uint64_t address = 0;
  };

  // Rows in pieces that can be handed on.
  struct Rows {
    std::vector<GoRows> chunks;
    std::uint64_t count = 0;

    void add(const Row& row, std::int64_t time_ns) {
      if (count % kChunkRows == 0) {
        chunks.emplace_back();
      }
      GoRows& to = chunks.back();
      to.op.push_back(static_cast<std::uint8_t>(row.op));
      to.thread.push_back(row.thread);
      to.object.push_back(row.object);
      to.size.push_back(row.size);
      to.noscan.push_back(row.noscan);
      to.time_ns.push_back(time_ns);
      to.site.push_back(row.site);
      to.address.push_back(row.address);
      ++count;
    }

    std::uint64_t& size(std::uint64_t row) { return chunks[row / kChunkRows].size[row % kChunkRows]; }
  };

  // From the begin of one collection to that of the next: who was found dead by the first, its row, and what
  // came after it. The first segment has no collection, but what existed at the start.
  struct Segment {
    GoSpanEvents spans_at_start;
    Rows start;
    Rows deaths;
    Rows rows;
    GoSpanEvents spans;  // Their rows count from the first of `rows`.
    std::optional<Row> collection;
    std::int64_t begin_ns = 0;
  };

  struct Existing {
    Row row;
    std::uint64_t slot = 0;
    std::uint64_t slot_bytes = 0;
  };

  struct KnownType {
    std::uint32_t site = 0;
    std::uint64_t size_bytes = 0;
    bool has_pointers = false;
  };

  [[noreturn]] static void refuse_without_allocations() {
    throw GoTraceRefused(
        "holds no allocation events, expected some; run the program (Go 1.23 or newer) with "
        "GODEBUG=traceallocfree=1 in its environment from the start");
  }

  // ---- Threads that wait for each other ----
  //
  // The runtime puts a tick at least between two events of a thread, so that a busy one's times run ahead of
  // the clock, and of what other threads do after it. An event that cannot be yet waits for what must have
  // been before: an allocation for the free of its slot, a free for the allocation.

  // Whether the event's turn has not come; forced, it never has.
  bool must_wait(bool is_impossible) const { return is_impossible && !is_forced_; }

  void follow_waiting() {
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      it = follow(*it) ? stop_waiting(it) : it + 1;
    }
  }

  // The first again, since what could not be before may be possible now.
  std::vector<GoEvent>::iterator stop_waiting(std::vector<GoEvent>::iterator it) {
    const std::uint32_t machine = it->machine;
    waiting_.erase(it);
    wire_.release(machine);
    return waiting_.begin();
  }

  // ---- Generations, clock, processors ----

  void begin_generation(const GoEvent& event) {
    known_generation_ = wire_.counts().generations;
    const GoGeneration& generation = wire_.generation();
    if (!wire_.heap_address()) {
      refuse_without_allocations();
    }
    known_types_.clear();
    for (const auto& [id, type] : generation.types) {
      const auto [site, is_new] =
          site_of_type_.try_emplace(type.address, static_cast<std::uint32_t>(sites_.size()));
      if (is_new) sites_.push_back(type);
      known_types_.emplace(id, KnownType{site->second, type.size_bytes, type.pointer_bytes != 0});
    }
    // Frequencies of generations differ a little, being measured: each holds from its own begin on.
    const std::uint64_t last_ticks = std::max(last_ticks_, event.time_ticks);
    if (ticks_per_second_ == 0) {
      origin_ticks_ = event.time_ticks;
    } else {
      origin_ns_ = to_ns(last_ticks);
      origin_ticks_ = last_ticks;
    }
    if (generation.ticks_per_second != 0) {
      ticks_per_second_ = generation.ticks_per_second;
    } else if (ticks_per_second_ == 0) {
      ticks_per_second_ = kUnknownTicksPerSecond;
    }
  }

  std::int64_t to_ns(std::uint64_t ticks) const {
    if (ticks < origin_ticks_) return origin_ns_;
    const auto past_ns =
        static_cast<harness::Uint128>(ticks - origin_ticks_) * 1'000'000'000u / ticks_per_second_;
    // A damaged clock does not make a time overflow.
    const auto most_ns = static_cast<harness::Uint128>(INT64_MAX - origin_ns_);
    return origin_ns_ + static_cast<std::int64_t>(std::min(past_ns, most_ns));
  }

  void tell_time(const GoEvent& event) {
    if (event.time_ticks <= last_ticks_) return;
    last_ticks_ = event.time_ticks;
    now_ns_ = std::max(now_ns_, to_ns(event.time_ticks));
  }

  void set_proc(const GoEvent& event, std::uint64_t proc) {
    if (event.machine >= proc_of_machine_.size()) proc_of_machine_.resize(event.machine + 1, 0);
    proc_of_machine_[event.machine] = static_cast<std::uint32_t>(proc);
  }

  // A machine that allocates or sweeps has a processor, and said so when it got it.
  std::uint32_t proc_of(const GoEvent& event) const {
    return event.machine < proc_of_machine_.size() ? proc_of_machine_[event.machine] : 0;
  }

  // ---- Events ----

  // False where the event must wait.
  bool follow(const GoEvent& event) {
    const std::uint64_t first = event.arguments[0];
    const std::uint64_t second = event.arguments[1];
    tell_time(event);
    switch (event.type) {
      case kGoProcsChange:
        counts_.max_procs = std::max(counts_.max_procs, first);
        break;
      case kGoProcStart:
        set_proc(event, first);
        break;
      case kGoProcStatus:
        if (second == kProcRunning || second == kProcSyscall) set_proc(event, first);
        break;
      case kGoGcActive:
        if (!is_collecting_) begin_collection(event, false);
        break;
      case kGoGcBegin:
        begin_collection(event, wire_.generation().stacks_of_gc.contains(second));
        break;
      case kGoGcEnd:
        if (is_collecting_) end_collection();
        break;
      case kGoSpan:
        return add_span(event, true);
      case kGoSpanAlloc:
        // A stack may be needed before what exists is told.
        if ((event.arguments[2] & 1) == 0) end_start();
        return add_span(event, false);
      case kGoSpanFree:
        if (!is_manual_span(first)) end_start();
        return free_span(event);
      case kGoHeapObject:
        exist(event);
        break;
      case kGoHeapObjectAlloc:
        end_start();
        return allocate(event);
      case kGoHeapObjectFree:
        end_start();
        return release(event);
      case kGoStackExists:
      case kGoStackAlloc:
      case kGoStackFree:
        ++counts_.stack_events;
        break;
      default:
        break;
    }
    return true;
  }

  // ---- Collections ----

  void begin_collection(const GoEvent& event, bool is_explicit) {
    if (is_collecting_) end_collection();  // Its end was lost.
    is_collecting_ = true;
    segments_.emplace_back();
    ++back_segment_;
    segments_.back().collection = Row{.op = Op::kGc, .thread = proc_of(event)};
    segments_.back().begin_ns = now_ns_;
    collections_.begin_ns.push_back(now_ns_);
    collections_.end_ns.push_back(-1);
    collections_.is_explicit.push_back(is_explicit);
  }

  // The sweep of the collection before is over, since this one has begun; what it held back can go.
  void end_collection() {
    is_collecting_ = false;
    collections_.end_ns.back() = now_ns_;
    end_start();
    hand_on(segments_.front());
    segments_.pop_front();
    counts_.unseen_frees += late_.size();
    late_.clear();
    // Every processor has begun a block anew (mcache.prepareForSweep).
    tiny_blocks_ = {};
  }

  void hand_on(Segment& segment) {
    hand_on(segment.spans_at_start);
    hand_on(segment.start);
    hand_on(segment.deaths);
    if (segment.collection) {
      collections_.row.push_back(rows_handed_on_);
      Rows row;
      row.add(*segment.collection, segment.begin_ns);
      hand_on(row);
    }
    hand_on(segment.spans);
    hand_on(segment.rows);
  }

  void hand_on(GoSpanEvents& spans) {
    for (std::uint64_t& row : spans.row) row += rows_handed_on_;
    append(spans_out_.row, spans.row);
    append(spans_out_.is_free, spans.is_free);
    append(spans_out_.address, spans.address);
    append(spans_out_.pages, spans.pages);
    append(spans_out_.span_class, spans.span_class);
    append(spans_out_.time_ns, spans.time_ns);
  }

  void hand_on(Rows& rows) {
    rows_handed_on_ += rows.count;
    ready_rows_ += rows.count;
    for (GoRows& chunk : rows.chunks) {
      // A collection is one row, and many a sweep finds few: pieces that small would cost more than their
      // rows.
      if (ready_.empty() || ready_.back().op.size() + chunk.op.size() > kChunkRows) {
        ready_.push_back(std::move(chunk));
        continue;
      }
      GoRows& to = ready_.back();
      append(to.op, chunk.op);
      append(to.thread, chunk.thread);
      append(to.object, chunk.object);
      append(to.size, chunk.size);
      append(to.noscan, chunk.noscan);
      append(to.time_ns, chunk.time_ns);
      append(to.site, chunk.site);
      append(to.address, chunk.address);
    }
    rows = {};
  }

  template <typename T>
  static void append(std::vector<T>& to, std::vector<T>& from) {
    to.insert(to.end(), from.begin(), from.end());
    from = {};
  }

  void finish() {
    is_done_ = true;
    if (!wire_.heap_address()) refuse_without_allocations();
    end_start();
    for (Segment& segment : segments_) hand_on(segment);
    counts_.unseen_frees += late_.size();
    late_.clear();
  }

  // ---- Spans ----

  bool add_span(const GoEvent& event, bool exists) {
    const std::uint64_t page = event.arguments[0];
    const std::uint64_t pages = event.arguments[1];
    const std::uint64_t kind = event.arguments[2];
    const bool is_manual = (kind & 1) != 0;
    const std::uint64_t span_class = kind >> 1;
    const std::uint64_t size_class = span_class >> 1;
    // A class's spans are of one size, by which a damaged event is found out.
    if (pages == 0 || pages >= kAddressSpaceBytes / GoSizeClasses::kPageBytes ||
        (!is_manual &&
         (size_class >= GoSizeClasses::kCount ||
          (size_class > 0 && pages != kGoSizeClasses.span_pages(static_cast<std::uint32_t>(size_class)))))) {
      if (!is_lenient_) {
        GoWire::fault(event.place, "found a span of " + std::to_string(pages) + " pages of kind and class " +
                                       std::to_string(kind) + ", expected one that Go's heap has");
      }
      ++counts_.bad_spans;
      return true;
    }
    if (const Span* const old = spans_.find(page + 1)) {
      if (must_wait(!exists)) return false;
      const bool is_untold = old->is_manual() && !tells_all_spans();
      forget(*old);
      if (is_untold) {
        ++counts_.untold_spans;
      } else if (!exists) {
        ++late_span_frees_[page];
      }
    }
    const Span span{page, pages, is_manual ? GoSpanEvents::kNoClass : static_cast<std::uint32_t>(span_class)};
    spans_.insert(page + 1, span);
    if (is_manual) ++counts_.manual_spans;
    for (std::uint64_t i = 0; i < indexed_pages(span); ++i) {
      const std::uint64_t id = page + i + 1;
      if (pages_.find(id) != nullptr) pages_.erase(id);
      pages_.insert(id, {page, true});
    }
    note_span(span, false);
    return true;
  }

  bool free_span(const GoEvent& event) {
    const std::uint64_t page = event.arguments[0];
    const auto late = late_span_frees_.find(page);
    if (late != late_span_frees_.end()) {
      ++counts_.late_span_frees;
      if (--late->second == 0) late_span_frees_.erase(late);
      return true;
    }
    const Span* const found = spans_.find(page + 1);
    if (!tells_all_spans() && (found == nullptr || holds_objects(*found))) {
      ++counts_.untold_spans;
      return true;
    }
    if (must_wait(found == nullptr)) return false;
    if (found == nullptr) {
      if (!is_lenient_) {
        GoWire::fault(event.place, "found the free of a span at page " + std::to_string(page) +
                                       ", where none is; expected one that was allocated");
      }
      ++counts_.bad_spans;
      return true;
    }
    forget(*found);
    return true;
  }

  bool tells_all_spans() const { return wire_.version() >= kTellsAllSpans; }

  bool holds_objects(const Span& span) {
    if (span.is_manual()) return false;
    const std::uint64_t begin = span.page * GoSizeClasses::kPageBytes;
    const std::uint64_t end = begin + span.pages * GoSizeClasses::kPageBytes;
    for (std::uint64_t slot = begin; slot + span.slot_bytes() <= end; slot += span.slot_bytes()) {
      if (slots_.find(slot / 8 + 1) != nullptr) return true;
    }
    return false;
  }

  // By value: what is erased moves others.
  void forget(const Span span) {
    note_span(span, true);
    for (std::uint64_t i = 0; i < indexed_pages(span); ++i) {
      const std::uint64_t id = span.page + i + 1;
      const SpanPage* const page = pages_.find(id);
      if (page != nullptr && page->first_page == span.page) pages_.erase(id);
    }
    spans_.erase(span.page + 1);
  }

  // Objects lie in all pages of a small class's span; a large object begins at the first.
  static std::uint64_t indexed_pages(const Span& span) {
    if (span.is_manual()) return 0;
    return (span.span_class >> 1) == 0 ? 1 : span.pages;
  }

  void note_span(const Span& span, bool is_free) {
    if (!keeps_spans_) return;
    // What was there at the start stands before the objects that were.
    GoSpanEvents& to = has_started_ ? segments_.back().spans : segments_.front().spans_at_start;
    to.row.push_back(has_started_ ? segments_.back().rows.count : 0);
    to.is_free.push_back(is_free);
    to.address.push_back(*wire_.heap_address() + span.page * GoSizeClasses::kPageBytes);
    to.pages.push_back(span.pages);
    to.span_class.push_back(span.span_class);
    to.time_ns.push_back(now_ns_);
  }

  const Span* find_span(std::uint64_t address) {
    const SpanPage* const page = pages_.find(address / GoSizeClasses::kPageBytes + 1);
    return page == nullptr ? nullptr : spans_.find(page->first_page + 1);
  }

  bool is_manual_span(std::uint64_t page) {
    const Span* const span = spans_.find(page + 1);
    return span != nullptr && span->is_manual();
  }

  // The span that an object lies in; null where none is known, which a strict reader reports.
  const Span* span_of(const GoEvent& event, std::uint64_t address) {
    const Span* const span = find_span(address);
    if (span == nullptr) {
      if (!is_lenient_) {
        GoWire::fault(event.place, "found an object at 0x" + hexadecimal(*wire_.heap_address() + address) +
                                       ", which lies in no span; expected a span's event before it");
      }
      ++counts_.unknown_spans;
    }
    return span;
  }

  // ---- Objects ----

  // What both kinds of an object's begin have in common; false where there is nothing to be made of it.
  bool describe(const GoEvent& event, Existing& object) {
    const std::uint64_t address = event.arguments[0] * 8;
    const Span* const span = span_of(event, address);
    if (span == nullptr) return false;
    const std::uint64_t base = span->page * GoSizeClasses::kPageBytes;
    object.slot_bytes = span->slot_bytes();
    object.slot = base + (address - base) / object.slot_bytes * object.slot_bytes;
    object.row.thread = proc_of(event);
    object.row.noscan = span->is_noscan();
    object.row.address = *wire_.heap_address() + address;
    GoRequestRange range = go_request_range(span->span_class, span->pages);
    is_tiny_ = span->span_class == GoSizeClasses::kTinySpanClass;
    if (is_tiny_) range.at_most_bytes -= std::min(address - object.slot, range.at_most_bytes);
    object.row.size = range.at_most_bytes;
    is_exact_ = false;
    const std::uint64_t type = event.arguments[1];
    if (type == 0) return true;
    const auto known = known_types_.find(type);
    if (known == known_types_.end()) {
      if (!is_lenient_) {
        GoWire::fault(event.place, "found an object of type " + std::to_string(type) +
                                       ", which its generation does not tell; expected one that it does");
      }
      ++counts_.unknown_types;
      return true;
    }
    if (known->second.has_pointers == object.row.noscan) {
      if (!is_lenient_) {
        GoWire::fault(event.place,
                      "found an object of type " + sites_[known->second.site].name +
                          " in a span of the other kind, expected pointers where the type has any");
      }
      ++counts_.pointer_contradictions;
    }
    object.row.site = known->second.site;
    if (const std::uint64_t size = range.only_multiple_bytes(known->second.size_bytes)) {
      object.row.size = size;
      is_exact_ = true;
    }
    return true;
  }

  void exist(const GoEvent& event) {
    if (has_started_) {
      if (!is_lenient_) {
        GoWire::fault(event.place,
                      "found an object that exists after others were allocated, expected these first");
      }
      ++counts_.late_starts;
      return;
    }
    Existing object;
    if (!describe(event, object)) return;
    ++(is_exact_ ? counts_.exact_sizes : counts_.class_sizes);
    existing_.push_back(object);
  }

  // Puts what existed at the start before everything else, by address.
  void end_start() {
    if (has_started_) return;
    has_started_ = true;
    std::ranges::stable_sort(existing_, {}, &Existing::slot);
    for (Existing& object : existing_) {
      if (slots_.find(object.slot / 8 + 1) != nullptr) continue;
      object.row.object = take_object();
      slots_.insert(object.slot / 8 + 1, {object.row.object, 0});
      segments_.front().start.add(object.row, 0);
      ++counts_.objects_at_start;
    }
    existing_ = {};
  }

  bool allocate(const GoEvent& event) {
    if (must_wait(find_span(event.arguments[0] * 8) == nullptr)) return false;
    Existing object;
    if (!describe(event, object)) return true;
    const std::uint64_t id = object.slot / 8 + 1;
    const Slot* const found = slots_.find(id);
    std::uint32_t before = kNone;
    if (found != nullptr) {
      // Who was there when the last collection began may be dead, and his free be late. A block that gets
      // another tiny object is younger, since processors begin them anew with the sweep.
      if (is_tiny_ && (found->segment > front_segment() || front_segment() == 0)) {
        before = found->head;
        ++counts_.tiny_joins;
      } else if (must_wait(true)) {
        return false;
      } else {
        die(id, proc_of(event));
        late_.insert(id);
      }
    }
    ++counts_.allocations;
    object.row.object = take_object();
    next_in_slot_[object.row.object] = before;
    if (before == kNone) {
      slots_.insert(id, {object.row.object, back_segment_ + 1});
    } else {
      *slots_.find(id) = {object.row.object, back_segment_ + 1};
    }
    if (is_tiny_) fit_into_block(object, id);
    ++(is_exact_ ? counts_.exact_sizes : counts_.class_sizes);
    segments_.back().rows.add(object.row, now_ns_);
    return true;
  }

  // Chooses, for a tiny object whose size the type does not tell, the largest that leaves room for all that
  // the block holds; so that an allocator of the same rule puts as many into one.
  void fit_into_block(Existing& object, std::uint64_t id) {
    // In bytes, to a multiple of eight: the trace knows no better.
    const auto offset =
        static_cast<std::uint32_t>((object.row.address - *wire_.heap_address()) - object.slot);
    std::uint32_t begin = offset;
    if (TinyBlock* const block = tiny_blocks_.find(id)) {
      Segment& segment = segments_[block->segment - front_segment()];
      std::uint64_t& size = segment.rows.size(block->row);
      if (!block->is_exact) {
        // Both begin in the same eight bytes, or the first ends with them.
        const std::uint32_t room = std::max(offset, block->begin_bytes / 8 * 8 + 8) - block->begin_bytes;
        size = offset > block->begin_bytes ? room : std::max(room / 2, 1u);
      }
      begin = std::max(offset, block->begin_bytes + static_cast<std::uint32_t>(size));
      begin = std::min(begin, offset + 7);
      tiny_blocks_.erase(id);
    }
    if (!is_exact_) object.row.size = GoSizeClasses::kTinyBlockBytes - begin;
    tiny_blocks_.insert(id, {back_segment_, begin, segments_.back().rows.count, is_exact_});
  }

  bool release(const GoEvent& event) {
    const std::uint64_t id = event.arguments[0] + 1;
    const bool is_late = late_.erase(id) != 0;
    const bool is_unknown = slots_.find(id) == nullptr;
    if (must_wait(!is_late && is_unknown)) return false;
    ++counts_.free_events;
    if (is_late) {
      ++counts_.late_frees;
      return true;
    }
    if (is_unknown) {
      if (!is_lenient_) {
        GoWire::fault(event.place, "found the free of 0x" +
                                       hexadecimal(*wire_.heap_address() + event.arguments[0] * 8) +
                                       ", where no object lives; expected one that was allocated");
      }
      ++counts_.unknown_frees;
      return true;
    }
    die(id, proc_of(event));
    return true;
  }

  // Puts the death of all that is in a slot before the collection that found it.
  void die(std::uint64_t id, std::uint32_t thread) {
    const Slot slot = *slots_.find(id);
    slots_.erase(id);
    if (tiny_blocks_.find(id) != nullptr) tiny_blocks_.erase(id);
    // The collection whose sweep is under way; the one that has begun since, where the world is stopped
    // for both mark and sweep (GODEBUG=gcstoptheworld=2); and no collection, where neither can have been.
    Rows* rows = &segments_.back().rows;
    std::int64_t time_ns = now_ns_;
    if (slot.segment <= front_segment()) {
      rows = &segments_.front().deaths;
      time_ns = segments_.front().begin_ns;
    } else if (slot.segment <= back_segment_) {
      rows = &segments_.back().deaths;
      time_ns = segments_.back().begin_ns;
    }
    for (std::uint32_t object = slot.head; object != kNone; object = next_in_slot_[object]) {
      rows->add({.op = Op::kFree, .thread = thread, .object = object}, time_ns);
      free_objects_.put(object);
    }
  }

  std::uint32_t take_object() {
    if (!free_objects_.empty()) return free_objects_.take();
    next_in_slot_.push_back(kNone);
    return static_cast<std::uint32_t>(next_in_slot_.size() - 1);
  }

  // The collection that was swept last, or is being swept; 0 for those before the trace.
  std::uint32_t front_segment() const {
    return back_segment_ - static_cast<std::uint32_t>(segments_.size() - 1);
  }

  static std::string hexadecimal(std::uint64_t number) {
    char digits[16 + 1];
    std::snprintf(digits, sizeof digits, "%llx", static_cast<unsigned long long>(number));
    return digits;
  }

  bool is_lenient_;
  bool keeps_spans_;
  GoWire wire_;
  GoCounts counts_;
  GoCollections collections_;
  bool has_ended_ = false;
  bool is_done_ = false;

  std::uint64_t known_generation_ = 0;
  std::unordered_map<std::uint64_t, KnownType> known_types_;       // By number in the generation.
  std::unordered_map<std::uint64_t, std::uint32_t> site_of_type_;  // By address.
  std::vector<GoType> sites_ = std::vector<GoType>(1);

  std::uint64_t ticks_per_second_ = 0;
  std::uint64_t origin_ticks_ = 0;
  std::int64_t origin_ns_ = 0;
  std::uint64_t last_ticks_ = 0;
  std::int64_t now_ns_ = 0;
  std::vector<std::uint32_t> proc_of_machine_;

  // The trace's numbers are relative to the heap's begin; one more is a key, since 0 would be none.
  harness::IdTable<Span> spans_;      // By first page.
  harness::IdTable<SpanPage> pages_;  // By page.
  std::unordered_map<std::uint64_t, std::uint32_t> late_span_frees_;
  harness::IdTable<Slot> slots_;            // By address, in units of eight bytes.
  std::unordered_set<std::uint64_t> late_;  // Slots whose last object's free is still to come.
  harness::IdTable<TinyBlock> tiny_blocks_;
  std::vector<std::uint32_t> next_in_slot_;  // By object: the one before it in the same block.
  harness::FreeSlots free_objects_;

  bool has_started_ = false;
  std::vector<Existing> existing_;
  // What describe() says of the object beside its row.
  bool is_tiny_ = false;
  bool is_exact_ = false;

  std::vector<GoEvent> waiting_;  // One a thread at most.
  bool is_forced_ = false;

  bool is_collecting_ = false;
  std::deque<Segment> segments_;    // Of the collection being swept, and of the one under way.
  std::uint32_t back_segment_ = 0;  // How many collections have begun.
  std::deque<GoRows> ready_;
  std::uint64_t ready_rows_ = 0;
  std::uint64_t rows_handed_on_ = 0;
  GoSpanEvents spans_out_;
};

}  // namespace formats
