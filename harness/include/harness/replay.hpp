// The replay loop: every event of a trace, in order, against one allocator.
//
// A template, so that the backend's fast path is inlined: no indirect call, no Python, no lock and no clock
// inside the loop. The batch was decoded, checked and renamed before (check.hpp), once for all allocators.
// Sampling is data: a list of event indexes to stop after. Exact sums over events are kept here, as integers;
// ratios are made of them in harness/metrics.py.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "harness/allocator.hpp"
#include "harness/births_and_deaths.hpp"
#include "harness/cloned.hpp"
#include "harness/columns.hpp"
#include "harness/events.hpp"
#include "harness/huge_pages.hpp"
#include "harness/partition.hpp"
#include "harness/results.hpp"
#include "harness/ticks.hpp"

namespace harness {

// The names of a backend's gauges; none where it has none.
template <typename A>
constexpr auto gauge_names() {
  if constexpr (Gauges<A>) {
    return A::kGaugeNames;
  } else {
    return std::array<const char*, 0>{};
  }
}

template <Allocator A>
class Replay {
 public:
  using Block = typename A::Block;

  template <typename... Options>
    requires std::constructible_from<A, Options...>
  explicit Replay(Options&&... options) : allocator_(std::forward<Options>(options)...) {
    note_memory();
    if constexpr (KeepsTime<A>) deadline_ns_ = allocator_.next_deadline_ns();
    if constexpr (HasClasses<A>) {
      requested_by_class_.resize(allocator_.class_rows());
      if constexpr (!CountsAllocations<A>) allocations_by_class_.resize(allocator_.class_rows());
    }
  }

  A& allocator() { return allocator_; }
  const A& allocator() const { return allocator_; }
  Totals totals() const {
    Totals now = totals_;
    now.committed_sum += static_cast<Uint128>(committed_now_) * (events_ - committed_since_);
    return now;
  }
  std::uint64_t events() const { return events_; }
  std::span<const Block> blocks() const { return blocks_; }  // By slot; null ones are of no object.

  void record_placements(bool on) { placing_ = on; }
  Placements take_placements() { return std::exchange(placements_, {}); }

  // Replays a batch; a stop of k samples after the batch's first k events. Stops ascend.
  std::vector<Sample> feed(const Events& events, std::span<const std::int64_t> stops) {
    std::vector<Sample> samples;
    samples.reserve(stops.size());
    const std::size_t count = events.op.size();
    outlook_ = {};
    std::size_t done = 0;
    for (const std::int64_t stop : stops) {
      if (stop < static_cast<std::int64_t>(done) || stop > static_cast<std::int64_t>(count)) {
        throw InvariantError("stop " + std::to_string(stop) + " lies outside events " + std::to_string(done) +
                             " to " + std::to_string(count) + " of the batch");
      }
      run(events, done, static_cast<std::size_t>(stop));
      done = static_cast<std::size_t>(stop);
      if (done > 0) requested_now_ = events.requested[done - 1];
      samples.push_back(take_sample());
    }
    run(events, done, count);
    if (count > 0) requested_now_ = events.requested[count - 1];
    return samples;
  }

  // The classes at the stop with the most committed bytes so far, or now where there was no stop.
  std::vector<ClassUse> class_uses() const
    requires HasClasses<A>
  {
    return class_uses_.empty() ? allocator_.classes() : class_uses_;
  }
  std::vector<std::uint64_t> class_requested() const {
    return class_uses_.empty() ? requested_by_class_ : class_requested_;
  }
  std::vector<std::uint64_t> class_allocations() const
    requires HasClasses<A>
  {
    if constexpr (CountsAllocations<A>) {
      std::vector<std::uint64_t> allocations(allocator_.class_rows());
      for (std::uint32_t row = 0; row < allocations.size(); ++row)
        allocations[row] = allocator_.class_allocations(row);
      return allocations;
    } else {
      return allocations_by_class_;
    }
  }

  using GaugeValues = std::array<std::int64_t, gauge_names<A>().size()>;
  // Of the stops since the last call, one for each.
  std::vector<GaugeValues> take_gauges() { return std::exchange(gauges_, {}); }
  const GaugeValues& peak_gauges() const { return peak_gauges_; }

  Census census()
    requires HasSpans<A>
  {
    Census found;
    found.spans = allocator_.spans();
    std::vector<std::uint32_t> position;  // By span number.
    std::vector<std::int64_t> objects(found.spans.size());
    for (std::uint32_t i = 0; i < found.spans.size(); ++i) {
      if (found.spans[i].span >= position.size()) position.resize(found.spans[i].span + 1, kNowhere);
      position[found.spans[i].span] = i;
    }
    for (std::uint32_t slot = 0; slot < blocks_.size(); ++slot) {
      if (!blocks_[slot]) continue;
      const std::optional<std::uint64_t> span = allocator_.span_of(blocks_[slot]);
      if (!span) continue;
      if (*span >= position.size() || position[*span] == kNowhere) {
        throw InvariantError("object " + std::to_string(slot) + " lies in span " + std::to_string(*span) +
                             ", which is none of the heap's");
      }
      ++objects[position[*span]];
      found.object_slot.push_back(slot);
      found.object_span.push_back(position[*span]);
    }
    for (std::size_t i = 0; i < objects.size(); ++i) {
      if (found.spans[i].live_slots == kUnknown) found.spans[i].live_slots = objects[i];
    }
    found.classes = allocator_.classes();
    found.class_requested = requested_by_class_;
    return found;
  }

 private:
  static constexpr std::uint32_t kNowhere = ~std::uint32_t{0};

  // Events that are looked at before the first of them is replayed; their columns are fetched as long before.
  static constexpr std::size_t kForeseen = 2048;
  static constexpr std::size_t kPrefetchColumns = kForeseen;
  // In events, too. Far enough for a line to arrive from memory, near enough for it to stay in the first
  // cache.
  static constexpr std::size_t kPrefetchBlock = 96;
  static constexpr std::size_t kPrefetchTarget = 32;
  static constexpr std::size_t kFetched = 16;
  // The same in births or in deaths, of which there is one in two events or so.
  static constexpr std::size_t kColumnsFetched = 16;
  static constexpr std::size_t kPrefetchBlockApart = 96;
  static constexpr std::size_t kPrefetchTargetApart = 16;
  // Of today's servers, the smaller ones.
  static constexpr std::size_t kSecondCacheBytes = std::size_t{1} << 20;
  // Events behind those that are looked at, whose births and deaths are listed to be fetched.
  static constexpr std::size_t kListedBeyond = 4 * kPrefetchBlockApart;
  static_assert(kForeseen <= Ticks::kMostEvents && kForeseen <= kSlotRest);
  static_assert(kForeseen + kListedBeyond <= BirthsAndDeaths::kMostEvents);
  static_assert(kPrefetchBlockApart <= BirthsAndDeaths::kBeyond);

  // Of the events from `begin` up to `end`, not included.
  struct Outlook {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::size_t uneven = 0;   // The next that goes to step() for what its columns say, as far as is known.
    bool passes_peak = true;  // Whether any may bring a new maximum of what is requested.
    bool one_thread = false;
  };

  // How far births and deaths have come that are carried out apart. Both count what is listed; together they
  // are the events from outlook_.begin on, but for the deaths that wait.
  struct Progress {
    std::size_t births = 0;
    std::size_t deaths = 0;
    std::size_t deaths_told = 0;  // Of those that are listed, which may wait.
    std::size_t accounted = 0;    // The first event of the batch that no total knows of.
  };

  // A slot for every object that these name, so that no event has to look whether there is one.
  void make_room(std::span<const std::uint32_t> slots) {
    std::uint32_t last = 0;
    for (const std::uint32_t slot : slots) last = std::max(last, slot);
    if (last >= blocks_.size() && !slots.empty()) blocks_.resize(last + std::size_t{1});
  }

  // The events of a batch from `first` up to `last`, not included.
  void run(const Events& events, std::size_t first, std::size_t last) {
    if constexpr (HoldsRequested<A>) {
      add_up(events.requested.subspan(first, last - first));
    } else {
      placing_ ? run<true>(events, first, last) : run<false>(events, first, last);
    }
  }

  // Events of an allocator whose bytes are those of this column.
  void add_up(std::span<const std::uint64_t> requested) {
    constexpr std::size_t kSummedAtOnce = 65'536;  // Of so many numbers below 2^47 a word holds the sum.
    while (!requested.empty()) {
      const auto part = requested.first(std::min(requested.size(), kSummedAtOnce));
      std::uint64_t sum = 0;
      std::int64_t peak_bytes = 0;  // Signed, as vectors are compared.
      for (const std::uint64_t bytes : part) {
        sum += bytes;
        peak_bytes = std::max(peak_bytes, static_cast<std::int64_t>(bytes));
      }
      const auto peak = static_cast<std::uint64_t>(peak_bytes);
      if (peak > totals_.peak_committed || events_ == 0) {
        totals_.peak_mapped = totals_.peak_committed = totals_.peak_requested = peak;
        totals_.requested_at_peak_committed = totals_.committed_at_peak_requested = peak;
        totals_.peak_committed_event =
            events_ + static_cast<std::uint64_t>(std::ranges::find(part, peak) - part.begin());
        allocator_.hold(peak);
        totals_.peak_footprint = allocator_.footprint();
      }
      recent_mapped_ = std::max(recent_mapped_, peak);
      recent_committed_ = std::max(recent_committed_, peak);
      totals_.committed_sum += sum;
      events_ += part.size();
      committed_since_ = events_;
      allocator_.hold(part.back());
      requested = requested.subspan(part.size());
    }
  }

  template <bool kPlacing>
  void run(const Events& events, std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last;) {
      if (i >= outlook_.end) look_ahead(events, i);
      const std::size_t end = std::min(last, outlook_.end);
      if constexpr (Exchanges<A>) {
        const std::size_t exchanged_end = first_to_step(events, i, end);
        i = outlook_.one_thread ? exchange_up_to<kPlacing, true>(events, i, exchanged_end)
                                : exchange_up_to<kPlacing, false>(events, i, exchanged_end);
        if (i == end) continue;
      } else if constexpr (DefersDeaths<A>) {
        i = replay_apart<kPlacing>(events, i, first_to_step(events, i, end));
        if (i == end) continue;
      } else if (i % kFetched == 0) {
        prefetch(events, i, blocks_.data());
      }
      tell_time(events, i);
      step(events, i++);
    }
  }

  // What the columns say of the next events, while these are at hand: vectors are faster at it than a loop
  // that replays events.
  [[HARNESS_CLONED]] void look_ahead(const Events& events, std::size_t first) {
    const std::size_t count = events.op.size();
    outlook_.begin = first;
    outlook_.end = std::min(first + kForeseen, count);
    const std::size_t listed = std::min(kForeseen + kListedBeyond, count - first);
    make_room(events.slot.subspan(first, listed));
    if constexpr (Foresees<A>) allocator_.foresee(events.subspan(first, outlook_.end - first));
    if constexpr (DefersDeaths<A>) {
      listed_.list(events.op.subspan(first, listed));
      progress_ = {.accounted = first};
    }
    if constexpr (HasTicker<A>) {
      if (!events.time_ns.empty()) list_ticks(events, first);
    }
    if constexpr (Exchanges<A>)
      outlook_.one_thread = is_one_thread(events.thread.subspan(first, outlook_.end - first));
    if constexpr (kLooksFarther) {
      outlook_.uneven = find_uneven(events, first);
      outlook_.passes_peak =
          any_above(totals_.peak_requested, events.requested.subspan(first, outlook_.end - first));
    }
  }
  static constexpr bool kLooksFarther = Exchanges<A> || DefersDeaths<A>;

  [[gnu::always_inline]] void list_ticks(const Events& events, std::size_t first) {
    ticks_.list(events.time_ns.subspan(first, outlook_.end - first), allocator_.ticker(),
                first - outlook_.begin);
  }

  // The first event from `first` on that goes to step() for what its columns say.
  std::size_t first_to_step(const Events& events, std::size_t first, std::size_t last) {
    if (!may_exchange_) return first;
    if (outlook_.uneven < first) find_uneven_again(events, first);
    return std::min(outlook_.uneven, first_due(events, first, last));
  }
  [[gnu::noinline]] void find_uneven_again(const Events& events, std::size_t first) {
    outlook_.uneven = find_uneven(events, first);
  }

  // The first event from `first` on that is no plain allocation or free, or whose alignment is too large, or
  // whose thread is a newcomer; the outlook's end where there is none.
  [[gnu::always_inline]] std::size_t find_uneven(const Events& events, std::size_t first) const {
    constexpr std::size_t kTogether = 256;
    const std::size_t begin = first;
    const std::size_t count = outlook_.end;
    while (first < count) {
      const std::size_t length = std::min(kTogether, count - first);
      if (!are_plain_at(events, first, length)) break;
      first += length;
    }
    while (first < count && are_plain_at(events, first, 1)) ++first;
    if constexpr (DefersDeaths<A>)
      return begin + allocator_.newcomer(events.thread.subspan(begin, first - begin));
    return first;
  }

  [[gnu::always_inline]] static bool are_plain_at(const Events& events, std::size_t first,
                                                  std::size_t length) {
    return are_plain(events.op.subspan(first, length), events.alignment.subspan(first, length),
                     A::kExchangedAlignment);
  }

  // The first event from `first` on that the allocator must be told the time of; `last` where there is none.
  // Times do not go back.
  std::size_t first_due(const Events& events, std::size_t first, std::size_t last) const {
    if constexpr (KeepsTime<A>) {
      if (events.time_ns.empty() || events.time_ns[last - 1] < deadline_ns_) return last;
      const auto times = events.time_ns.subspan(first, last - first);
      return first + static_cast<std::size_t>(std::ranges::lower_bound(times, deadline_ns_) - times.begin());
    }
    return last;
  }

  void tell_time(const Events& events, std::size_t i) {
    if constexpr (KeepsTime<A>) {
      if (events.time_ns.empty()) return;
      if constexpr (HasTicker<A>) allocator_.set_last_tick(ticks_.at(i - outlook_.begin));
      if (events.time_ns[i] >= deadline_ns_) [[unlikely]]
        advance(events, i);
    }
  }
  [[gnu::noinline]] void advance(const Events& events, std::size_t i) {
    allocator_.advance(events.time_ns[i]);
    if constexpr (HasTicker<A>) {
      // It may have set its clock.
      if (allocator_.ticker().last_ns != ticks_.at(i - outlook_.begin)) list_ticks(events, i + 1);
    }
  }

  // Fetches what kFetched events will need, from `first` on, a multiple of it. All at once, since to find a
  // line takes the processor longer than an event, and it finds many at a time. Whatever the event will be:
  // which it is cannot be foretold, and to guess wrong costs more than a line.
  //
  // Columns are fetched too: among so many lines from all over the memory the processor does not notice that
  // they are read in order. Inlined by force: GCC takes a function that only prefetches for one without
  // effect.
  [[gnu::always_inline]] void prefetch(const Events& events, std::size_t first, const Block* blocks) const {
    if (first + kPrefetchBlock + kFetched > events.slot.size()) return;  // The next batch is not known.
    prefetch_columns<kFetched>(events, first);
    for (std::size_t i = first; i < first + kFetched; ++i) {
      __builtin_prefetch(&blocks[events.slot[i + kPrefetchBlock]], 1);
    }
    if constexpr (Prefetches<A>) {
      for (std::size_t i = first; i < first + kFetched; ++i) {
        allocator_.prefetch(blocks[events.slot[i + kPrefetchTarget]]);
      }
    }
  }

  // Of so many events, kPrefetchColumns ahead of `first`.
  template <std::size_t kEvents>
  [[gnu::always_inline]] static void prefetch_columns(const Events& events, std::size_t first) {
    first += kPrefetchColumns;
    prefetch_column<kEvents>(events.op, first);
    prefetch_column<kEvents>(events.thread, first);
    prefetch_column<kEvents>(events.slot, first + (DefersDeaths<A> ? kListedBeyond : kPrefetchBlock));
    prefetch_column<kEvents>(events.size, first);
    prefetch_column<kEvents>(events.alignment, first);
    prefetch_column<kEvents>(events.noscan, first);
    prefetch_column<kEvents>(events.requested, first);
    if constexpr (HasTicker<A>) prefetch_column<kEvents>(events.time_ns, first);
  }

  // Replays events up to `end`, not included; as far as it comes where a deadline changes or no event may be
  // exchanged any more. Returns the first event that is left.
  template <bool kPlacing, bool kOneThread>
  [[gnu::noinline, HARNESS_CLONED]] std::size_t exchange_up_to(const Events& events, std::size_t first,
                                                               std::size_t end) {
    const Events columns = events;  // A copy of its own, which nothing that is written meanwhile can change.
    Block* const blocks = blocks_.data();
    std::uint64_t* const requested = requested_by_class_.data();
    const std::int64_t deadline_ns = deadline_ns_;
    while (first < end) {
      auto exchanger = allocator_.exchanger();
      std::size_t i = first;
      bool exchanged = !kOneThread || exchanger.follow(columns.thread[first]);
      while (i < end && exchanged) {
        if (i % kFetched == 0) prefetch(columns, i, blocks);
        const std::size_t stop = std::min(end, i + kFetched - i % kFetched);
        // In this loop nothing is called, so that it has the registers to itself.
        for (; i < stop; ++i) {
          const Choice allocates =
              Choice::numbered(std::uint64_t{columns.op[i]} / static_cast<std::uint8_t>(Op::kFree));
          const Request request = request_of(columns, i);
          std::uint32_t row = kNotExchanged;
          if (kOneThread || exchanger.follow(columns.thread[i]))
            row = exchanger.exchange(allocates, blocks[columns.slot[i]], request);
          exchanged = row != kNotExchanged;
          if (!exchanged) [[unlikely]]
            break;
          if constexpr (HasClasses<A>) {
            requested[row] += allocates.negated_if_second(request.size);
            if constexpr (!CountsAllocations<A>) allocations_by_class_[row] += allocates.if_first(1);
          }
          if constexpr (kPlacing) {
            if (is_allocation(columns.op[i])) place(blocks_[columns.slot[i]], events_);
            ++events_;
          }
        }
      }
      if (outlook_.passes_peak) note_requested(most_of(columns.requested.subspan(first, i - first)));
      if constexpr (!kPlacing) events_ += i - first;
      if (exchanged) return i;
      first = i + 1;
      step(events, i);
      if (deadline_ns_ != deadline_ns || !may_exchange_) return first;
    }
    return first;
  }

  // Replays events likewise, births in their order, and the deaths among them when something is about to look
  // at these.
  template <bool kPlacing>
  std::size_t replay_apart(const Events& events, std::size_t first, std::size_t end) {
    if (first == end) return end;
    const std::int64_t deadline_ns = deadline_ns_;
    const std::size_t births_end = listed_.births_before(end - outlook_.begin);
    progress_.accounted = first;
    while (progress_.births < births_end) {
      if (kPlacing || !allocator_.births_are_plain()) {
        carry_out_births<kPlacing, false, true>(events, births_end);
      } else if (blocks_.size() * sizeof(Block) > kSecondCacheBytes) {
        carry_out_births<false, true, true>(events, births_end);
      } else {
        carry_out_births<false, true, false>(events, births_end);
      }
      if (deadline_ns_ != deadline_ns || !may_exchange_) {
        carry_out_deaths(events, progress_.accounted);
        return progress_.accounted;
      }
    }
    if (progress_.accounted < end) {
      account(events, end);
      if constexpr (HasTicker<A>) {
        if (!events.time_ns.empty()) allocator_.set_last_tick(ticks_.at(end - 1 - outlook_.begin));
      }
    }
    carry_out_deaths(events, end);
    return end;
  }

  // Up to the birth that is listed as births_end, or to one after which other things hold than before.
  // Far: blocks do not stay in the second cache.
  template <bool kPlacing, bool kPlain, bool kFar>
  [[gnu::noinline, HARNESS_CLONED]] void carry_out_births(const Events& events, std::size_t births_end) {
    const Events columns = events.subspan(outlook_.begin, events.op.size() - outlook_.begin);
    auto births = allocator_.template births<kPlain>(columns);
    const BirthsAndDeaths::Place* const places = listed_.births();
    Block* const blocks = blocks_.data();
    std::uint64_t* const requested = requested_by_class_.data();
    for (std::size_t birth = progress_.births; birth < births_end; ++birth) {
      const std::size_t i = places[birth];
      if (birth % kColumnsFetched == 0) prefetch_columns<3 * kColumnsFetched>(columns, i);
      if constexpr (kFar) __builtin_prefetch(&blocks[columns.slot[places[birth + kPrefetchBlockApart]]], 1);
      Block& block = blocks[columns.slot[i]];
      // Two branches, since what is rare for two reasons is foretold better for each.
      std::uint32_t row = births.row_of(i);
      bool taken = true;
      if (row == 0) [[unlikely]] {
        row = allocator_.take_otherwise(columns, i, block);
        taken = row != kNotExchanged;
      } else {
        taken = births.take(row, i, block);
      }
      if (!taken) [[unlikely]] {
        births.settle();
        progress_.births = birth;
        if (!step_birth(events, outlook_.begin + i)) return;
        continue;
      }
      requested[row] += columns.size[i];
      if constexpr (kPlacing) place(block, events_ + (outlook_.begin + i - progress_.accounted));
    }
    births.settle();
    progress_.births = births_end;
  }

  // A birth that takes more than a slot at hand. Returns whether the loop may go on as it did.
  [[gnu::noinline]] bool step_birth(const Events& events, std::size_t i) {
    const std::int64_t deadline_ns = deadline_ns_;
    const bool plain = allocator_.births_are_plain();
    account(events, i);
    if (allocator_.looks_at_deaths(events.size[i])) carry_out_deaths(events, i);
    tell_time(events, i);
    Block& block = blocks_[events.slot[i]];
    const std::uint32_t row = allocator_.take_slowly(events, i, block);
    if (row == kNotExchanged) {
      step(events, i);
    } else {
      if (block) {
        requested_by_class_[row] += events.size[i];
      } else {
        fall_short(events.slot[i], events.size[i]);
      }
      if (placing_) [[unlikely]]
        place(block, events_);
      note_step(events, i);
    }
    progress_.accounted = i + 1;
    return deadline_ns_ == deadline_ns && may_exchange_ && plain == allocator_.births_are_plain();
  }

  // All deaths before `end`.
  void carry_out_deaths(const Events& events, std::size_t end) {
    if (allocator_.deaths_are_far()) {
      carry_out_deaths<true>(events, end);
    } else {
      carry_out_deaths<false>(events, end);
    }
  }

  template <bool kFar>
  [[gnu::noinline, HARNESS_CLONED]] void carry_out_deaths(const Events& events, std::size_t end) {
    const Events columns = events.subspan(outlook_.begin, events.op.size() - outlook_.begin);
    auto deaths = allocator_.deaths();
    const BirthsAndDeaths::Place* const places = listed_.deaths();
    Block* const blocks = blocks_.data();
    const std::uint64_t* sizes = columns.size.data();
    const std::uint32_t* slots = columns.slot.data();
    // Pointers of this stretch's own: GCC would add its first event to each place instead.
    asm("" : "+r"(sizes), "+r"(slots));
    std::uint64_t* const requested = requested_by_class_.data();
    const std::size_t deaths_end = end - outlook_.begin - progress_.births;
    for (std::size_t death = progress_.deaths; death < deaths_end; ++death) {
      const std::size_t i = places[death];
      __builtin_prefetch(&blocks[slots[places[death + kPrefetchBlockApart]]], 1);
      if constexpr (kFar) deaths.prefetch(blocks[slots[places[death + kPrefetchTargetApart]]]);
      const Block block = std::exchange(blocks[slots[i]], Block{});
      requested[allocator_.class_row(block)] -= sizes[i];
      if (!deaths.die(block)) [[unlikely]]
        allocator_.die_otherwise(block);
    }
    deaths.settle();
    progress_.deaths = deaths_end;
  }

  // The totals of events up to `end`, whose births are carried out.
  void account(const Events& events, std::size_t end) {
    const std::size_t first = progress_.accounted;
    if (first == end) return;
    if (outlook_.passes_peak) note_requested(most_of(events.requested.subspan(first, end - first)));
    const std::size_t deaths = end - outlook_.begin - progress_.births - progress_.deaths_told;
    allocator_.note_apart(end - first - deaths, deaths, events.thread[end - 1]);
    progress_.deaths_told += deaths;
    progress_.accounted = end;
    events_ += end - first;
  }

  static bool is_allocation(std::uint8_t op) {
    return static_cast<Op>(op) == Op::kAlloc || static_cast<Op>(op) == Op::kCalloc;
  }

  [[gnu::noinline]] void step(const Events& events, std::size_t i) {
    switch (static_cast<Op>(events.op[i])) {
      case Op::kAlloc:
      case Op::kCalloc:
        allocate(events, i);
        break;
      case Op::kRealloc:
        reallocate(events, i);
        break;
      case Op::kFree:
        release(events, i);
        break;
      case Op::kGc:
        if constexpr (Collects<A>) allocator_.collect();
        break;
      case Op::kThreadEnd:
        if constexpr (EndsThreads<A>) allocator_.thread_end(events.thread[i]);
        break;
    }
    note_step(events, i);
  }

  // After an event that may have changed pages and deadlines.
  void note_step(const Events& events, std::size_t i) {
    if (memory_changed() || events_ == 0) [[unlikely]]
      note_memory_of_step(events, i);
    if constexpr (DefersDeaths<A>) {
      // Whatever it was, it is listed as one of the two.
      if (BirthsAndDeaths::is_among_deaths(events.op[i])) {
        ++progress_.deaths;
        ++progress_.deaths_told;
      } else {
        ++progress_.births;
      }
    }
    note_requested(events.requested[i] - failed_bytes_);
    may_exchange_ = shortfalls_.empty();
    ++events_;
    if constexpr (KeepsTime<A>) deadline_ns_ = allocator_.next_deadline_ns();
  }

  static Request request_of(const Events& events, std::size_t i) {
    return {.size = events.size[i],
            .alignment = events.alignment[i],
            .thread = events.thread[i],
            .noscan = (events.noscan[i] & 1) != 0,
            .zeroed = static_cast<Op>(events.op[i]) == Op::kCalloc};
  }

  void allocate(const Events& events, std::size_t i) {
    const std::uint32_t slot = events.slot[i];
    const Block block = allocator_.allocate(request_of(events, i));
    blocks_[slot] = block;
    if (block) {
      take(block, events.size[i]);
    } else {
      fall_short(slot, events.size[i]);
    }
    place(block, events_);
  }

  void reallocate(const Events& events, std::size_t i) {
    const std::uint32_t slot = events.slot[i];
    const Block old = blocks_[slot];
    const std::uint64_t held = object_size_before(events, i) - take_shortfall(slot);
    const Request request = request_of(events, i);
    if (old) untake(old, held);
    Block block{};
    if constexpr (Reallocates<A>) {
      block = old ? allocator_.reallocate(old, request) : allocator_.allocate(request);
    } else {
      block = allocator_.allocate(request);
      if (old && block) allocator_.release(old, request.thread);
    }
    if (block) {
      take(block, request.size);
      blocks_[slot] = block;
    } else {
      if (old) untake(old, std::uint64_t{0} - held);  // The program still holds the old block.
      fall_short(slot, request.size - held);
    }
    if (moved(old, block)) place(block, events_);
  }

  // What the object held before a realloc: the change of `requested` says it without a column of its own.
  std::uint64_t object_size_before(const Events& events, std::size_t i) const {
    const std::uint64_t before = i > 0 ? events.requested[i - 1] : requested_now_;
    return before + events.size[i] - events.requested[i];
  }

  void release(const Events& events, std::size_t i) {
    const std::uint32_t slot = events.slot[i];
    const Block block = std::exchange(blocks_[slot], Block{});
    const std::uint64_t held = events.size[i] - take_shortfall(slot);
    if (!block) return;
    untake(block, held);
    allocator_.release(block, events.thread[i]);
  }

  void take(Block block, std::uint64_t size) {
    if constexpr (HasClasses<A>) {
      const std::uint32_t row = allocator_.class_row(block);
      requested_by_class_[row] += size;
      if constexpr (!CountsAllocations<A>) ++allocations_by_class_[row];
    }
  }

  void untake(Block block, std::uint64_t size) {
    if constexpr (HasClasses<A>) requested_by_class_[allocator_.class_row(block)] -= size;
  }

  // A failed allocation leaves its object with less than the trace says that it asked for. Differences are
  // modulo 2^64, since a failed realloc may have asked for less than the old block holds.
  void fall_short(std::uint32_t slot, std::uint64_t bytes) {
    ++totals_.failed_allocations;
    shortfalls_[slot] = bytes;
    failed_bytes_ += bytes;
  }

  std::uint64_t take_shortfall(std::uint32_t slot) {
    if (shortfalls_.empty()) return 0;
    const auto found = shortfalls_.find(slot);
    if (found == shortfalls_.end()) return 0;
    const std::uint64_t bytes = found->second;
    shortfalls_.erase(found);
    failed_bytes_ -= bytes;
    return bytes;
  }

  bool moved(Block old, Block block) const {
    if constexpr (Places<A>) {
      if (!old || !block) return true;
      return allocator_.placement(old) != allocator_.placement(block);
    }
    return true;
  }

  void place(Block block, std::uint64_t event) {
    if constexpr (Places<A>) {
      if (!placing_) return;
      const std::optional<std::uint64_t> address = block ? allocator_.placement(block) : std::nullopt;
      placements_.event.push_back(event);
      placements_.address.push_back(address.value_or(0));
      placements_.has_address.push_back(address.has_value());
    }
  }

  bool memory_changed() const {
    return allocator_.committed_bytes() != committed_now_ || allocator_.mapped_bytes() != mapped_now_;
  }

  // Most events leave the heap's pages as they are: sums and maxima are brought up to date where one does
  // not.
  [[gnu::noinline]] void note_memory_of_step(const Events& events, std::size_t i) {
    note_memory();
    if (events_ == 0) totals_.committed_at_peak_requested = committed_now_;
    if (committed_now_ <= totals_.peak_committed && events_ > 0) return;
    if constexpr (DefersDeaths<A>) carry_out_deaths(events, i);
    totals_.peak_committed = committed_now_;
    totals_.requested_at_peak_committed = events.requested[i] - failed_bytes_;
    totals_.peak_committed_event = events_;
    totals_.peak_footprint = allocator_.footprint();
    if constexpr (Gauges<A>) peak_gauges_ = allocator_.gauges();
  }

  void note_requested(std::uint64_t requested) {
    if (requested > totals_.peak_requested) {
      totals_.peak_requested = requested;
      totals_.committed_at_peak_requested = committed_now_;
    }
  }

  // Before the event is counted that has changed it.
  void note_memory() {
    totals_.committed_sum += static_cast<Uint128>(committed_now_) * (events_ - committed_since_);
    committed_since_ = events_;
    mapped_now_ = allocator_.mapped_bytes();
    committed_now_ = allocator_.committed_bytes();
    recent_mapped_ = std::max(recent_mapped_, mapped_now_);
    recent_committed_ = std::max(recent_committed_, committed_now_);
    totals_.peak_mapped = std::max(totals_.peak_mapped, mapped_now_);
  }

  Sample take_sample() {
    const Footprint now = allocator_.footprint();
    bool is_known = true;
    if constexpr (MayNotKnow<A>) is_known = allocator_.knows(now);  // Else it cannot be added up.
    if (is_known) {
      check_partition(now, allocator_.mapped_bytes(), allocator_.committed_bytes(),
                      requested_now_ - failed_bytes_, events_);
    }
    if constexpr (Gauges<A>) gauges_.push_back(allocator_.gauges());
    if constexpr (HasClasses<A>) {
      if (class_uses_.empty() || now.mapped - now.released > class_committed_) {
        class_committed_ = now.mapped - now.released;
        class_uses_ = allocator_.classes();
        class_requested_ = requested_by_class_;
      }
    }
    const Sample sample{now.live,
                        now.dead,
                        now.front_end,
                        now.transfer,
                        now.central,
                        now.tail,
                        now.page_heap,
                        now.released,
                        now.runtime,
                        now.mapped,
                        now.metadata,
                        static_cast<std::int64_t>(recent_mapped_),
                        static_cast<std::int64_t>(recent_committed_)};
    recent_mapped_ = allocator_.mapped_bytes();
    recent_committed_ = allocator_.committed_bytes();
    return sample;
  }

  A allocator_;
  HugePageVector<Block> blocks_;  // By slot.
  Totals totals_;
  std::uint64_t events_ = 0;
  std::uint64_t requested_now_ = 0;
  std::unordered_map<std::uint32_t, std::uint64_t> shortfalls_;  // By slot; empty but under a heap limit.
  std::uint64_t failed_bytes_ = 0;                               // Their sum.
  std::uint64_t mapped_now_ = 0;
  std::uint64_t committed_now_ = 0;
  std::uint64_t committed_since_ = 0;  // The first event that committed_sum lacks.
  std::uint64_t recent_mapped_ = 0;
  std::uint64_t recent_committed_ = 0;
  // Not before the first event has gone the long way, nor beside a shortfall.
  bool may_exchange_ = false;
  Outlook outlook_;
  BirthsAndDeaths listed_;
  Progress progress_;
  Ticks ticks_;
  std::int64_t deadline_ns_ = 0;  // As the allocator last said.
  std::vector<std::uint64_t> requested_by_class_;
  std::vector<std::uint64_t> allocations_by_class_;
  std::vector<ClassUse> class_uses_;
  std::vector<std::uint64_t> class_requested_;
  std::int64_t class_committed_ = 0;
  std::vector<GaugeValues> gauges_;
  GaugeValues peak_gauges_{};
  bool placing_ = false;
  Placements placements_;
};

}  // namespace harness
