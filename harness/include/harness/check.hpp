// Checks, renames and enriches the rows of a trace, once for every allocator that replays it.
//
// What comes out is dense and complete: slots and thread numbers are reused once they are free, the row of a
// free carries what its object had asked for, and `requested` is the sum that the program holds. The first
// row that no program could have produced throws TraceFault; nothing behind it reaches a model.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "harness/id_table.hpp"
#include "harness/replay.hpp"

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
};

class Checker {
 public:
  // Where the file does not say which objects hold no pointers, or the user says otherwise: a share of them,
  // chosen by the allocation's ordinal alone, so that it is the same on every machine.
  explicit Checker(double noscan_fraction, bool override_noscan)
      : noscan_threshold_(threshold(noscan_fraction)), override_noscan_(override_noscan) {}

  const TraceTotals& totals() const { return totals_; }

  CheckedEvents check(const RawEvents& raw) {
    const std::size_t count = raw.op.size();
    CheckedEvents out;
    out.op.assign(raw.op.begin(), raw.op.end());
    out.thread.resize(count);
    out.slot.resize(count);
    out.size.resize(count);
    out.alignment.resize(count);
    out.noscan.resize(count);
    out.owner.resize(count);
    out.time_ns.assign(raw.time_ns.begin(), raw.time_ns.end());
    out.requested.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      prefetch(raw, i);
      row(raw, out, i);
      out.requested[i] = totals_.requested;
      totals_.requested_sum += totals_.requested;
      if (totals_.requested > totals_.peak_requested) {
        totals_.peak_requested = totals_.requested;
        totals_.peak_requested_event = totals_.events;
      }
      ++totals_.events;
    }
    return out;
  }

 private:
  struct Object {
    std::uint64_t size = 0;
    std::uint32_t owner_ordinal = 0;  // Whoever inherits the owner's number is another thread.
    std::uint16_t owner = 0;
    bool noscan = false;
  };

  // x86-64 and arm64 give a process 47 bits of addresses.
  static constexpr std::uint64_t kAddressSpaceBytes = std::uint64_t{1} << 47;
  static constexpr std::uint32_t kMaxThreads = 65'535;
  static constexpr std::uint16_t kNoThread = 65'535;

  // Whose rows come next: first where the table has the id, then the object that it names.
  static constexpr std::size_t kPrefetchId = 32;
  static constexpr std::size_t kPrefetchObject = 16;

  [[gnu::always_inline]] void prefetch(const RawEvents& raw, std::size_t i) const {
    if (i + kPrefetchId >= raw.object.size()) return;
    slots_.prefetch(raw.object[i + kPrefetchId]);
    const std::uint32_t slot = slots_.guess(raw.object[i + kPrefetchObject]);
    if (slot < objects_.size()) __builtin_prefetch(&objects_[slot], 1);
  }

  void row(const RawEvents& raw, CheckedEvents& out, std::size_t i) {
    const std::uint64_t id = raw.object[i];
    if (!raw.time_ns.empty()) check_time(raw.time_ns[i]);
    const auto op = static_cast<Op>(raw.op[i]);
    if (op < Op::kAlloc || op > Op::kThreadEnd) {
      fault("op", "found " + std::to_string(raw.op[i]) +
                      ", expected 1 alloc, 2 calloc, 3 realloc, 4 free, 5 gc or 6 thread_end");
    }
    const std::uint16_t thread = thread_of(raw.thread[i]);
    out.thread[i] = thread;
    switch (op) {
      case Op::kAlloc:
      case Op::kCalloc: {
        if (slots_.find(id) != IdTable::kNone) {
          fault("object", name(op) + " of object " + std::to_string(id) +
                              ", which is live; expected its free before, or another id");
        }
        const std::uint32_t slot = take_slot();
        slots_.insert(id, slot);
        objects_[slot] = {.size = checked_size(raw.size[i], 0),
                          .owner_ordinal = ordinals_[thread],
                          .owner = thread,
                          .noscan = is_noscan(raw, i)};
        ++totals_.allocations;
        ++totals_.live_objects;
        totals_.peak_live_objects = std::max(totals_.peak_live_objects, totals_.live_objects);
        totals_.allocated_bytes += raw.size[i];
        totals_.requested += raw.size[i];
        out.alignment[i] = checked_alignment(raw, i);
        describe(out, i, slot);
        break;
      }
      case Op::kRealloc: {
        const std::uint32_t slot = live_slot(id, op);
        Object& object = objects_[slot];
        checked_size(raw.size[i], object.size);
        totals_.requested += raw.size[i] - object.size;
        totals_.allocated_bytes += raw.size[i];
        object.size = raw.size[i];
        ++totals_.reallocations;
        out.alignment[i] = checked_alignment(raw, i);
        describe(out, i, slot);
        break;
      }
      case Op::kFree: {
        const std::uint32_t slot = live_slot(id, op);
        describe(out, i, slot);
        const Object& object = objects_[slot];
        totals_.requested -= object.size;
        totals_.remote_frees += object.owner_ordinal != ordinals_[thread];
        ++totals_.frees;
        --totals_.live_objects;
        slots_.erase(id);
        free_slots_.push_back(slot);
        break;
      }
      case Op::kGc:
        ++totals_.collections;
        break;
      case Op::kThreadEnd:
        ++totals_.thread_ends;
        end_thread(raw.thread[i], thread);
        break;
    }
  }

  void describe(CheckedEvents& out, std::size_t i, std::uint32_t slot) const {
    const Object& object = objects_[slot];
    out.slot[i] = slot;
    out.size[i] = object.size;
    out.noscan[i] = object.noscan;
    out.owner[i] = object.owner;
  }

  std::uint32_t take_slot() {
    if (!free_slots_.empty()) {
      const std::uint32_t slot = free_slots_.back();
      free_slots_.pop_back();
      return slot;
    }
    if (objects_.size() >= IdTable::kNone) fault("object", "more than 4,294,967,294 objects live at once");
    objects_.emplace_back();
    return static_cast<std::uint32_t>(objects_.size() - 1);
  }

  std::uint32_t live_slot(std::uint64_t id, Op op) const {
    const std::uint32_t slot = slots_.find(id);
    if (slot == IdTable::kNone) {
      fault("object", name(op) + " of object " + std::to_string(id) +
                          ", which is not live (never allocated, or freed already); expected a live object");
    }
    return slot;
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

  std::uint32_t checked_alignment(const RawEvents& raw, std::size_t i) const {
    if (raw.alignment.empty() || raw.alignment[i] == 0) return 0;
    if (!std::has_single_bit(raw.alignment[i])) {
      fault("alignment", "found " + std::to_string(raw.alignment[i]) + ", expected a power of two, or 0");
    }
    return raw.alignment[i] < 8 ? 0 : raw.alignment[i];
  }

  void check_time(std::int64_t time_ns) {
    if (time_ns < last_time_ns_) {
      fault("time_ns", "found " + std::to_string(time_ns) + " after " + std::to_string(last_time_ns_) +
                           ", expected times that do not go back");
    }
    last_time_ns_ = time_ns;
  }

  std::uint16_t thread_of(std::uint32_t id) {
    if (id == last_thread_id_ && last_thread_ != kNoThread) return last_thread_;
    auto [found, is_new] = threads_.try_emplace(id, kNoThread);
    if (is_new) {
      if (threads_.size() > kMaxThreads) {
        fault("thread", "more than 65,535 threads alive at once; expected thread_end events for ended ones");
      }
      if (free_threads_.empty()) {
        found->second = static_cast<std::uint16_t>(threads_.size() - 1);
        ordinals_.push_back(0);
      } else {
        found->second = free_threads_.back();
        free_threads_.pop_back();
      }
      ordinals_[found->second] = static_cast<std::uint32_t>(totals_.threads++);
    }
    last_thread_id_ = id;
    last_thread_ = found->second;
    return last_thread_;
  }

  void end_thread(std::uint32_t id, std::uint16_t thread) {
    threads_.erase(id);
    free_threads_.push_back(thread);
    last_thread_ = kNoThread;
  }

  bool is_noscan(const RawEvents& raw, std::size_t i) {
    if (!override_noscan_ && !raw.noscan.empty()) return raw.noscan[i] != 0;
    return mix(totals_.allocations) < noscan_threshold_;
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
  IdTable slots_;
  std::vector<Object> objects_;  // By slot.
  std::vector<std::uint32_t> free_slots_;
  std::unordered_map<std::uint32_t, std::uint16_t> threads_;
  std::vector<std::uint16_t> free_threads_;
  std::vector<std::uint32_t> ordinals_;  // By dense number: which thread of the trace holds it now.
  std::uint32_t last_thread_id_ = 0;
  std::uint16_t last_thread_ = kNoThread;
  std::int64_t last_time_ns_ = std::numeric_limits<std::int64_t>::min();
  TraceTotals totals_;
};

}  // namespace harness
