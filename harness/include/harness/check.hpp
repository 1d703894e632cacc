// Checks, renames and enriches the rows of a trace, once for every allocator that replays it.
//
// What comes out is dense and complete: slots and thread numbers are reused once they are free, the row of a
// free carries what its object had asked for, and `requested` is the sum that the program holds. The first
// row that no program could have produced throws TraceFault; nothing behind it reaches a model.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "harness/cloned.hpp"
#include "harness/events.hpp"
#include "harness/huge_pages.hpp"
#include "harness/id_table.hpp"

namespace harness {

// A row that no program could have produced; the text names row, column, what was found and expected.
class TraceFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Rows as they stand in the file; the last three are empty where the file lacks the column.
struct RawEvents {
  std::span<const std::uint8_t> op;
  std::span<const std::uint32_t> thread;
  std::span<const std::uint64_t> object;
  std::span<const std::uint64_t> size;
  std::span<const std::uint32_t> alignment = {};
  std::span<const std::uint8_t> noscan = {};
  std::span<const std::int64_t> time_ns = {};
};

// The columns of harness::Events, owned.
struct CheckedEvents {
  std::vector<std::uint8_t> op;
  std::vector<std::uint16_t> thread;
  std::vector<std::uint32_t> slot;
  std::vector<std::uint64_t> size;
  std::vector<std::uint32_t> alignment;
  std::vector<std::uint8_t> noscan;
  std::vector<std::uint16_t> owner;
  std::vector<std::int64_t> time_ns;
  std::vector<std::uint64_t> requested;
};

// Batches that nobody needs any more, for the next ones: a batch in new memory takes a tenth longer to check.
// Batches may end on any thread, and outlive this.
class BatchPool {
 public:
  std::shared_ptr<CheckedEvents> take() {
    std::unique_ptr<CheckedEvents> taken;
    {
      const std::lock_guard lock(kept_->mutex);
      if (!kept_->batches.empty()) {
        taken = std::move(kept_->batches.back());
        kept_->batches.pop_back();
      }
    }
    if (!taken) taken = std::make_unique<CheckedEvents>();
    const auto give_back = [kept = kept_](CheckedEvents* batch) {
      std::unique_ptr<CheckedEvents> given(batch);
      const std::lock_guard lock(kept->mutex);
      if (kept->batches.size() < kBatches) kept->batches.push_back(std::move(given));
    };
    return {taken.release(), give_back};
  }

 private:
  // As many as a replay has under way at a time; whoever held all of a trace's batches gives up the others.
  static constexpr std::size_t kBatches = 4;

  struct Kept {
    Kept() { batches.reserve(kBatches); }

    std::mutex mutex;
    std::vector<std::unique_ptr<CheckedEvents>> batches;
  };

  std::shared_ptr<Kept> kept_ = std::make_shared<Kept>();
};

// What the trace is, whatever allocator replays it.
struct TraceTotals {
  std::uint64_t events = 0;
  std::uint64_t allocations = 0;  // alloc and calloc.
  std::uint64_t reallocations = 0;
  std::uint64_t frees = 0;
  std::uint64_t collections = 0;
  std::uint64_t thread_ends = 0;
  std::uint64_t threads = 0;
  std::uint64_t remote_frees = 0;  // By a thread other than the object's.
  std::uint64_t allocated_bytes = 0;
  std::uint64_t requested = 0;  // Held now.
  std::uint64_t peak_requested = 0;
  std::uint64_t peak_requested_event = 0;
  std::uint64_t live_objects = 0;
  std::uint64_t peak_live_objects = 0;
  Uint128 requested_sum = 0;  // Over events.

  // Counts an event whose effect is in the other members.
  void end_event() {
    requested_sum += requested;
    const bool is_peak = requested > peak_requested;
    peak_requested = is_peak ? requested : peak_requested;
    peak_requested_event = is_peak ? events : peak_requested_event;
    peak_live_objects = std::max(peak_live_objects, live_objects);
    ++events;
  }
};

class Checker {
 public:
  // Where the file does not say which objects hold no pointers, or the user says otherwise: a share of them,
  // chosen by the allocation's ordinal alone, so that it is the same on every machine.
  // slot_rest: kSlotRest for events that are to be replayed; 0 to keep the numbers of slots low.
  explicit Checker(double noscan_fraction, bool override_noscan, std::size_t slot_rest = kSlotRest)
      : noscan_threshold_(threshold(noscan_fraction)),
        override_noscan_(override_noscan),
        slot_rest_(slot_rest) {}

  const TraceTotals& totals() const { return totals_; }

  std::shared_ptr<CheckedEvents> check(const RawEvents& raw) {
    const std::shared_ptr<CheckedEvents> batch = batches_.take();
    CheckedEvents& out = *batch;
    const std::size_t count = raw.op.size();
    out.op.assign(raw.op.begin(), raw.op.end());
    out.time_ns.assign(raw.time_ns.begin(), raw.time_ns.end());
    out.thread.resize(count);
    out.slot.resize(count);
    out.size.resize(count);
    out.owner.resize(count);
    out.requested.resize(count);
    out.alignment.resize(count);
    out.noscan.resize(count);
    for (std::size_t begin = 0; begin < count;) {
      // The last rows of a batch have no others to look ahead to: they are a block of their own.
      const std::size_t rest = count - begin;
      const std::size_t rows = rest > kPrefetchRows ? std::min(kBlockRows, rest - kPrefetchRows) : rest;
      check_block(raw, out, begin, begin + rows);
      begin += rows;
    }
    return batch;
  }

 private:
  // All that is known of a live object, in two words.
  struct Object {
    static constexpr std::uint64_t kNone = UINT64_MAX;

    std::uint64_t asked = 0;    // 47 bits of size, one of noscan, 16 of the owner's number.
    std::uint64_t who = kNone;  // 32 bits of the owner's ordinal, 32 of the slot.

    bool is_live() const { return who != kNone; }
    std::uint64_t size() const { return asked >> 17; }
    std::uint8_t noscan() const { return asked >> 16 & 1; }
    std::uint16_t owner() const { return static_cast<std::uint16_t>(asked); }
    std::uint32_t slot() const { return static_cast<std::uint32_t>(who); }
  };

  // x86-64 and arm64 give a process 47 bits of addresses.
  static constexpr std::uint64_t kAddressSpaceBytes = std::uint64_t{1} << 47;
  static constexpr std::uint32_t kMaxThreads = 65'535;
  static constexpr std::size_t kMaxSlots = 4'294'967'294;

  // The ops of plain rows, as bits; of their numbers, 1, 2 and 4, only the last has the bit of value 4.
  static constexpr std::uint32_t kAllocates =
      1u << static_cast<int>(Op::kAlloc) | 1u << static_cast<int>(Op::kCalloc);
  static constexpr std::uint32_t kFrees = 1u << static_cast<int>(Op::kFree);
  static bool is_plain(std::uint8_t op) { return op < kOpsEnd && ((kAllocates | kFrees) >> op & 1) != 0; }
  static constexpr std::uint8_t kOpsEnd = 8;  // Above all numbers that have no bits but those of ops.
  static std::uint64_t free_bit(std::uint8_t plain_op) { return plain_op >> 2; }

  // Rows that are looked over together: they stay in a second-level cache.
  static constexpr std::size_t kBlockRows = 4096;
  // Rows that are renamed together, in the first-level cache. Those behind one that is not plain are looked
  // at twice, so there must not be many.
  static constexpr std::size_t kRowsTogether = 32;
  // Threads that are found without a search.
  static constexpr std::uint32_t kKnownThreads = 1024;
  // One more than rest at least, a power of two.
  static constexpr std::size_t kRestingSlots = 2 * kSlotRest;
  // From a row to the one whose object is fetched from memory.
  static constexpr std::size_t kPrefetchRows = 80;

  // What is known of rows that are renamed together.
  struct Together {
    std::array<std::uint64_t, kRowsTogether> asked{};      // By an allocation; then, by the row's object.
    std::array<std::uint64_t, kRowsTogether> who{};        // The thread's ordinal; then, what differs.
    std::array<std::uint64_t, kRowsTogether> free_mask{};  // All ones where the row is a free.
  };

  void check_block(const RawEvents& raw, CheckedEvents& out, std::size_t begin, std::size_t end) {
    choose_alignment(raw, out, begin, end);
    choose_noscan(raw, out, begin, end);
    const bool is_regular = is_regular_block(raw, begin, end);
    for (std::size_t i = begin; i < end;) {
      if (is_regular) {
        if (free_count_ < end - i) add_slots();
        i = plain_rows(raw, out, i, end);
      }
      // Where ids are too large for the table's array, plain rows are not tried for anew at each of them.
      for (bool is_other = i < end; is_other;) {
        if (i + kPrefetchRows < raw.object.size()) objects_.prefetch(raw.object[i + kPrefetchRows]);
        row(raw, out, i++);
        is_other = i < end && !(is_regular && raw.object[i] < objects_.direct().size());
      }
    }
  }

  // Whether no row has a fault that can be seen without knowing the objects and threads.
  [[gnu::noinline, HARNESS_CLONED]] bool is_regular_block(const RawEvents& raw, std::size_t begin,
                                                          std::size_t end) const {
    std::uint8_t ops = 0;
    std::uint64_t sizes = 0;
    std::uint64_t sizes_sum = 0;
    for (std::size_t i = begin; i < end; ++i) {
      ops |= raw.op[i];
      sizes |= raw.size[i];
      sizes_sum += raw.size[i];
    }
    std::uint32_t alignments = 0;
    if (!raw.alignment.empty()) {
      for (std::size_t i = begin; i < end; ++i) alignments |= raw.alignment[i] & (raw.alignment[i] - 1);
    }
    return ops < kOpsEnd && alignments == 0 && sizes < kAddressSpaceBytes &&
           totals_.requested + sizes_sum < kAddressSpaceBytes && !goes_back(raw.time_ns, begin, end);
  }

  [[gnu::always_inline]] bool goes_back(std::span<const std::int64_t> times, std::size_t begin,
                                        std::size_t end) const {
    if (times.empty()) return false;
    // The sign of a difference says which is earlier, but where it overflows: then the times' own signs
    // differ.
    std::uint64_t signs = 0;
    std::uint64_t differences = 0;
    for (std::size_t i = begin + 1; i < end; ++i) {
      const auto time = static_cast<std::uint64_t>(times[i]);
      const auto before = static_cast<std::uint64_t>(times[i - 1]);
      signs |= time ^ before;
      differences |= time - before;
    }
    const bool may_go_back = ((signs | differences) >> 63) != 0;
    return times[begin] < last_time_ns_ ||
           (may_go_back && !std::is_sorted(times.begin() + static_cast<std::ptrdiff_t>(begin),
                                           times.begin() + static_cast<std::ptrdiff_t>(end)));
  }

  static void choose_alignment(const RawEvents& raw, CheckedEvents& out, std::size_t begin, std::size_t end) {
    std::uint32_t* const chosen = out.alignment.data();
    if (raw.alignment.empty()) {
      std::fill(chosen + begin, chosen + end, 0);
      return;
    }
    const std::uint8_t* const ops = raw.op.data();
    const std::uint32_t* const alignments = raw.alignment.data();
    for (std::size_t i = begin; i < end; ++i) {
      const bool counts = (ops[i] < static_cast<std::uint8_t>(Op::kFree)) & (alignments[i] >= 8);
      chosen[i] = alignments[i] & (0 - std::uint32_t{counts});
    }
  }

  [[gnu::noinline, HARNESS_CLONED]] void choose_noscan(const RawEvents& raw, CheckedEvents& out,
                                                       std::size_t begin, std::size_t end) const {
    std::uint8_t* const noscan = out.noscan.data();
    if (!override_noscan_ && !raw.noscan.empty()) {
      const std::uint8_t* const known = raw.noscan.data();
      for (std::size_t i = begin; i < end; ++i) noscan[i] = known[i] != 0;
      return;
    }
    if (noscan_threshold_ == 0) {
      std::fill(noscan + begin, noscan + end, 0);
      return;
    }
    const std::uint8_t* const op = raw.op.data();
    std::uint64_t ordinal = totals_.allocations;
    for (std::size_t i = begin; i < end; ++i) {
      noscan[i] = mix(ordinal) < noscan_threshold_;
      ordinal += kAllocates >> (op[i] & 7) & 1;
    }
  }

  // Takes rows of a regular block from `first` on for as long as each is an allocation of a dead object or a
  // free of a live one, by a thread known already, its id within the table's array; returns where that ends.
  // All else, and every fault, is for row(). There must be a free slot for each.
  [[gnu::noinline, HARNESS_CLONED]] std::size_t plain_rows(const RawEvents& raw, CheckedEvents& out,
                                                           std::size_t first, std::size_t end) {
    const std::uint64_t frees = totals_.frees;
    std::size_t i = first;
    for (bool goes_on = true; goes_on && i < end;) {
      const std::size_t together = std::min(kRowsTogether, end - i);
      const std::size_t known = look_over(raw, out, i, together);
      // The last rows of a batch have no others ahead.
      const bool steady = totals_.frees >= slot_rest_ && i + together + kPrefetchRows <= raw.op.size();
      const std::size_t renamed =
          steady ? rename<true>(raw, out, i, known) : rename<false>(raw, out, i, known);
      enter(out, i, renamed);
      goes_on = renamed == together;
      i += renamed;
    }
    const std::uint64_t freed = totals_.frees - frees;
    objects_.adjust_size(i - first - freed, freed);
    totals_.allocations += i - first - freed;
    if (i > first && !raw.time_ns.empty()) last_time_ns_ = raw.time_ns[i - 1];
    return i;
  }

  // Enters in together_ what rows say by themselves, and their threads in `out`. Returns how many there are
  // before the first that is none of the plain ones, or whose thread is not known.
  [[gnu::always_inline]] std::size_t look_over(const RawEvents& raw, CheckedEvents& out, std::size_t first,
                                               std::size_t count) {
    const std::uint8_t* const ops = raw.op.data() + first;
    const std::uint32_t* const ids = raw.thread.data() + first;
    const std::uint64_t* const sizes = raw.size.data() + first;
    const std::uint8_t* const noscans = out.noscan.data() + first;
    std::uint16_t* const threads = out.thread.data() + first;
    std::uint8_t others = 0;
    // No bits but one: each is 1, 2 or 4, since none is above 7.
    for (std::size_t j = 0; j < count; ++j)
      others |= static_cast<std::uint8_t>((ops[j] & (ops[j] - 1)) | (ops[j] == 0));
    if (others != 0) count = static_cast<std::size_t>(std::find_if_not(ops, ops + count, is_plain) - ops);
    std::uint32_t differences = 0;
    for (std::size_t j = 0; j < count; ++j) differences |= ids[j] ^ ids[0];
    if (differences == 0) {
      const KnownThread thread = known_threads_[ids[0] % kKnownThreads];
      if (thread.id != ids[0]) return 0;
      std::fill_n(threads, count, thread.number);
      std::fill_n(together_.who.begin(), count, thread.shifted_ordinal);
    } else {
      for (std::size_t j = 0; j < count; ++j) {
        const KnownThread& thread = known_threads_[ids[j] % kKnownThreads];
        if (thread.id != ids[j]) count = j;
        threads[j] = thread.number;
        together_.who[j] = thread.shifted_ordinal;
      }
    }
    for (std::size_t j = 0; j < count; ++j) {
      together_.asked[j] = sizes[j] << 17 | std::uint64_t{noscans[j]} << 16 | threads[j];
      together_.free_mask[j] = 0 - free_bit(ops[j]);
    }
    return count;
  }

  // Gives and takes the slots of rows, and leaves in together_ what each object had asked and how its owner
  // differs from the row's thread. Which of the two a row does nobody can foretell, so that nothing in the
  // loop jumps by it: masks choose. Of all loops it is the one that must go row by row, and only what must
  // is in it.
  // Steady: so many slots were freed that one has rested whenever another is freed; rows ahead are fetched.
  template <bool kSteady>
  [[gnu::always_inline]] std::size_t rename(const RawEvents& raw, CheckedEvents& out, std::size_t first,
                                            std::size_t count) {
    // Pointers and sums are locals: a store to a column might, for all that the compiler knows, change a
    // member.
    Object* const objects = objects_.direct().data();
    const std::size_t ids_end = objects_.direct().size();
    std::uint32_t* const free_slots = free_slots_.data();
    const std::uint64_t* const ids = raw.object.data() + first;
    std::uint32_t* const slots = out.slot.data() + first;
    std::size_t free_count = free_count_;
    std::uint64_t freed = totals_.frees;
    std::size_t j = 0;
    for (; j < count; ++j) {
      // An address, since it need not be one of an object: fetching has no effect that could be wrong.
      if (kSteady)
        __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(objects) +
                                                         ids[j + kPrefetchRows] * sizeof(Object)),
                           1);
      const std::uint64_t id = ids[j];
      if (id >= ids_end) break;
      Object& object = objects[id];
      const std::uint64_t was_asked = object.asked;
      const std::uint64_t was_who = object.who;
      const std::uint64_t free_mask = together_.free_mask[j];
      const std::uint64_t is_free = 0 - free_mask;
      if (std::uint64_t{was_who != Object::kNone} != is_free) break;

      // The stack of free slots: an allocation takes its top, a free lays the slot on it that has rested.
      // What either writes where the other would have is of no account.
      free_count += ~free_mask;
      const std::uint64_t top = free_slots[free_count];
      const auto slot = static_cast<std::uint32_t>(top ^ ((top ^ was_who) & free_mask));
      resting_slots_[freed % kRestingSlots] = slot;
      free_slots[free_count] = resting_slots_[rested_before(freed)];
      free_count += kSteady ? is_free : is_free & static_cast<std::uint64_t>(freed >= slot_rest_);
      freed += is_free;

      const std::uint64_t asked = together_.asked[j] ^ ((together_.asked[j] ^ was_asked) & free_mask);
      const std::uint64_t who = together_.who[j] | slot;
      together_.asked[j] = asked;
      together_.who[j] = who ^ was_who;
      object.asked = asked;
      object.who = who | free_mask;
      slots[j] = slot;
    }
    totals_.frees = freed;
    free_count_ = free_count;
    return j;
  }

  // Enters what was renamed, and sums.
  [[gnu::always_inline]] void enter(CheckedEvents& out, std::size_t first, std::size_t count) {
    std::uint64_t* const sizes = out.size.data() + first;
    std::uint8_t* const noscans = out.noscan.data() + first;
    std::uint16_t* const owners = out.owner.data() + first;
    std::uint64_t* const requested_after = out.requested.data() + first;
    std::uint64_t remote_frees = 0;
    std::uint64_t frees = 0;
    std::uint64_t sizes_sum = 0;
    for (std::size_t j = 0; j < count; ++j) {
      const std::uint64_t asked = together_.asked[j];
      const std::uint64_t free_mask = together_.free_mask[j];
      sizes[j] = asked >> 17;
      sizes_sum += asked >> 17;
      requested_after[j] = (asked >> 17 ^ free_mask) - free_mask;
      frees -= free_mask;
      remote_frees += std::uint64_t{together_.who[j] != 0} & free_mask;
    }
    for (std::size_t j = 0; j < count; ++j) noscans[j] = together_.asked[j] >> 16 & 1;
    for (std::size_t j = 0; j < count; ++j) owners[j] = static_cast<std::uint16_t>(together_.asked[j]);
    std::uint64_t requested = totals_.requested;
    std::uint64_t requested_sum = 0;  // Of at most kRowsTogether numbers below 2^47.
    std::uint64_t peak = totals_.peak_requested;
    for (std::size_t j = 0; j < count; ++j) {
      requested += requested_after[j];
      requested_after[j] = requested;
      requested_sum += requested;
      peak = std::max(peak, requested);
    }
    if (peak > totals_.peak_requested) {
      totals_.peak_requested_event =
          totals_.events + static_cast<std::uint64_t>(
                               std::find(requested_after, requested_after + count, peak) - requested_after);
      totals_.peak_requested = peak;
    }
    if (totals_.live_objects + count - frees > totals_.peak_live_objects) {
      std::uint64_t live = totals_.live_objects;
      for (std::size_t j = 0; j < count; ++j) {
        live += 1 + 2 * together_.free_mask[j];
        totals_.peak_live_objects = std::max(totals_.peak_live_objects, live);
      }
    }
    totals_.live_objects += count - 2 * frees;
    totals_.remote_frees += remote_frees;
    totals_.requested_sum += requested_sum;
    // Allocations are what was added and frees what was taken away, and both are in the sum.
    totals_.allocated_bytes += (sizes_sum + requested - totals_.requested) / 2;
    totals_.requested = requested;
    totals_.events += count;
  }

  // Any row, its columns checked in the order in which a fault in them is named.
  void row(const RawEvents& raw, CheckedEvents& out, std::size_t i) {
    const std::uint64_t id = raw.object[i];
    if (!raw.time_ns.empty()) check_time(raw.time_ns[i]);
    const auto op = static_cast<Op>(raw.op[i]);
    if (op < Op::kAlloc || op > Op::kThreadEnd) {
      fault("op", "found " + std::to_string(raw.op[i]) +
                      ", expected 1 alloc, 2 calloc, 3 realloc, 4 free, 5 gc or 6 thread_end");
    }
    const KnownThread thread = thread_of(raw.thread[i]);
    Object object;
    switch (op) {
      case Op::kAlloc:
      case Op::kCalloc: {
        if (objects_.find(id) != nullptr) {
          fault("object", name(op) + " of object " + std::to_string(id) +
                              ", which is live; expected its free before, or another id");
        }
        const std::uint32_t slot = take_slot();
        const std::uint64_t size = checked_size(raw.size[i], 0);
        object = {size << 17 | std::uint64_t{out.noscan[i]} << 16 | thread.number,
                  thread.shifted_ordinal | slot};
        objects_.insert(id, object);
        ++totals_.allocations;
        ++totals_.live_objects;
        totals_.allocated_bytes += size;
        totals_.requested += size;
        check_alignment(raw, i);
        break;
      }
      case Op::kRealloc: {
        Object& old = live_object(id, op);
        const std::uint64_t size = checked_size(raw.size[i], old.size());
        totals_.requested += size - old.size();
        totals_.allocated_bytes += size;
        old.asked = size << 17 | (old.asked & 0x1FFFF);
        object = old;
        ++totals_.reallocations;
        check_alignment(raw, i);
        break;
      }
      case Op::kFree: {
        object = live_object(id, op);
        totals_.requested -= object.size();
        totals_.remote_frees += object.who != (thread.shifted_ordinal | object.slot());
        put_slot(object.slot());
        ++totals_.frees;
        --totals_.live_objects;
        objects_.erase(id);
        break;
      }
      case Op::kGc:
        ++totals_.collections;
        break;
      case Op::kThreadEnd:
        ++totals_.thread_ends;
        end_thread(thread);
        break;
    }
    out.thread[i] = thread.number;
    out.slot[i] = object.is_live() ? object.slot() : 0;
    out.size[i] = object.size();
    out.noscan[i] = object.noscan();
    out.owner[i] = object.owner();
    out.requested[i] = totals_.requested;
    totals_.end_event();
  }

  // A slot that was freed if there is one, so that slots stay as few as the objects that ever lived at once,
  // but for those that rest.
  std::uint32_t take_slot() {
    if (free_count_ == 0) add_slots();
    return free_slots_[--free_count_];
  }

  void put_slot(std::uint32_t slot) {
    resting_slots_[totals_.frees % kRestingSlots] = slot;
    if (totals_.frees >= slot_rest_)
      free_slots_[free_count_++] = resting_slots_[rested_before(totals_.frees)];
  }
  // Where the slot stands that was freed slot_rest_ frees before. This is half of what there is room for or
  // nothing, so that it is one bit of the difference.
  std::size_t rested_before(std::uint64_t frees) const { return (frees ^ slot_rest_) % kRestingSlots; }

  // Doubles the slots: new ones are laid at the bottom of the stack, the smallest on top.
  void add_slots() {
    const std::size_t known = free_slots_.size();
    if (known == kMaxSlots) fault("object", "more than 4,294,967,294 objects live at once");
    free_slots_.resize(std::min(std::max(2 * known, kBlockRows), kMaxSlots));
    const std::size_t added = free_slots_.size() - known;
    std::copy_backward(free_slots_.begin(), free_slots_.begin() + static_cast<std::ptrdiff_t>(free_count_),
                       free_slots_.begin() + static_cast<std::ptrdiff_t>(free_count_ + added));
    for (std::size_t i = 0; i < added; ++i) {
      free_slots_[i] = static_cast<std::uint32_t>(known + added - 1 - i);
    }
    free_count_ += added;
  }

  Object& live_object(std::uint64_t id, Op op) {
    Object* const object = objects_.find(id);
    if (object == nullptr) {
      fault("object", name(op) + " of object " + std::to_string(id) +
                          ", which is not live (never allocated, or freed already); expected a live object");
    }
    return *object;
  }

  std::uint64_t checked_size(std::uint64_t size, std::uint64_t old_size) const {
    if (size >= kAddressSpaceBytes) {
      fault("size", "found " + std::to_string(size) + " bytes, expected less than 2^47, the address space");
    }
    if (totals_.requested - old_size + size >= kAddressSpaceBytes) {
      fault("size", "with these " + std::to_string(size) + " bytes the live objects hold " +
                        std::to_string(totals_.requested - old_size + size) +
                        ", expected less than 2^47, the address space");
    }
    return size;
  }

  void check_alignment(const RawEvents& raw, std::size_t i) const {
    if (raw.alignment.empty() || raw.alignment[i] == 0 || std::has_single_bit(raw.alignment[i])) return;
    fault("alignment", "found " + std::to_string(raw.alignment[i]) + ", expected a power of two, or 0");
  }

  void check_time(std::int64_t time_ns) {
    if (time_ns < last_time_ns_) {
      fault("time_ns", "found " + std::to_string(time_ns) + " after " + std::to_string(last_time_ns_) +
                           ", expected times that do not go back");
    }
    last_time_ns_ = time_ns;
  }

  struct KnownThread {
    std::uint64_t shifted_ordinal = 0;  // Counts the trace's threads; where it stands in an object's `who`.
    std::uint32_t id = 0;
    std::uint16_t number = 0;
  };

  const KnownThread& thread_of(std::uint32_t id) {
    KnownThread& known = known_threads_[id % kKnownThreads];
    if (known.id == id) return known;
    auto [found, is_new] = threads_.try_emplace(id);
    if (is_new) {
      if (threads_.size() > kMaxThreads) {
        fault("thread", "more than 65,535 threads alive at once; expected thread_end events for ended ones");
      }
      found->second.id = id;
      found->second.shifted_ordinal = totals_.threads++ << 32;
      if (free_threads_.empty()) {
        found->second.number = static_cast<std::uint16_t>(threads_.size() - 1);
      } else {
        found->second.number = free_threads_.back();
        free_threads_.pop_back();
      }
    }
    known = found->second;
    return known;
  }

  void end_thread(const KnownThread& thread) {
    free_threads_.push_back(thread.number);
    threads_.erase(thread.id);
    known_threads_[thread.id % kKnownThreads] = nobody(thread.id % kKnownThreads);
  }

  // What stands where no thread is known: an id that belongs to another place.
  static KnownThread nobody(std::uint32_t place) { return {.id = place + 1}; }

  static std::vector<KnownThread> nobodies() {
    std::vector<KnownThread> places;
    for (std::uint32_t place = 0; place < kKnownThreads; ++place) places.push_back(nobody(place));
    return places;
  }

  // 53 bits, so that a fraction of 1 takes every object and one of 0 none.
  static std::uint64_t threshold(double fraction) {
    return static_cast<std::uint64_t>(fraction * static_cast<double>(std::uint64_t{1} << 53));
  }

  // The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
  static std::uint64_t mix(std::uint64_t ordinal) {
    std::uint64_t z = (ordinal + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) >> 11;
  }

  static std::string name(Op op) {
    constexpr const char* kNames[] = {"alloc", "calloc", "realloc", "free", "gc", "thread_end"};
    return kNames[static_cast<int>(op) - 1];
  }

  [[noreturn]] void fault(const char* column, const std::string& what) const {
    throw TraceFault("row " + std::to_string(totals_.events) + ", column " + column + ": " + what);
  }

  std::uint64_t noscan_threshold_;
  bool override_noscan_;
  std::size_t slot_rest_;
  IdTable<Object> objects_;
  HugePageVector<std::uint32_t> free_slots_;  // A stack of free_count_; it has room for every slot.
  std::size_t free_count_ = 0;
  // A slot rests before it is free again: the last slot_rest_ that were freed, each at the number of its
  // free, modulo the length.
  std::array<std::uint32_t, kRestingSlots> resting_slots_{};
  std::unordered_map<std::uint32_t, KnownThread> threads_;
  std::vector<KnownThread> known_threads_ = nobodies();  // The last seen, by id modulo their number.
  std::vector<std::uint16_t> free_threads_;
  std::int64_t last_time_ns_ = std::numeric_limits<std::int64_t>::min();
  TraceTotals totals_;
  Together together_;
  BatchPool batches_;
};

}  // namespace harness
