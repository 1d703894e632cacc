// Makes rows of harness-trace/1 of records that name objects by their addresses: who reads a foreign trace
// hands its records in here, and what no program could have done is reported with its place, or mended and
// counted.
//
// Addresses become dense slots, reused only after the free; a realloc keeps its object, wherever it moves.
// Failed allocations and frees of null are left out. Memory grows with the live objects alone. What a
// recorder is known to miss or to tell late is no fault of its files: Recorder.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "harness/allocator.hpp"
#include "harness/events.hpp"
#include "harness/free_slots.hpp"
#include "harness/id_table.hpp"

namespace formats {

using harness::Op;

// A record that no program could have left; the text says where it stands, what was found and expected.
class RecordFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An op of records alone: a realloc begins. From here on the address it was given may be anyone's; the
// thread's next realloc record says what became of the object. A recorder that tells both ends of a call
// needs it, for another thread may be given the old address before the call returns.
inline constexpr std::uint8_t kReallocBegin = 128;

// What a recorder's files may lack though nothing is wrong with them.
enum class Recorder {
  kWhole,    // Nothing.
  kPartial,  // Events: it began late, lost some, or does not see every function. Counted, never a fault.
  // As kPartial, and frees are told once they are done, when their address may be another object's by then.
  kLateFrees,
  // As kLateFrees, for frees by a realloc, of which those to nothing are not told at all.
  kLateReallocs,
};

// Records as they were read, one an event. `address` is what an allocation returned, 0 where it failed, or
// what was freed; `old_address` what a realloc was given. Where a column is empty, the trace says nothing of
// it.
struct RecordColumns {
  std::span<const std::uint8_t> op;  // As in harness-trace/1.
  std::span<const std::uint32_t> thread;
  std::span<const std::uint64_t> address;
  std::span<const std::uint64_t> old_address;
  std::span<const std::uint64_t> size;
  std::span<const std::uint32_t> alignment = {};
  std::span<const std::uint8_t> noscan = {};
  std::span<const std::int64_t> time_ns = {};
  std::span<const std::uint32_t> site = {};
  std::span<const std::uint64_t> place;  // Where the record stands, in the reader's unit.
};

// Columns of harness-trace/1; the optional ones are empty where the records lack them.
struct BookedRows {
  std::vector<std::uint8_t> op;
  std::vector<std::uint32_t> thread;
  std::vector<std::uint64_t> object;
  std::vector<std::uint64_t> size;
  std::vector<std::uint32_t> alignment;
  std::vector<std::uint8_t> noscan;
  std::vector<std::int64_t> time_ns;
  std::vector<std::uint32_t> site;
};

// What was left out as a matter of course, and what was mended because the reader was asked to be lenient.
struct BookCounts {
  std::uint64_t failed_allocations = 0;
  std::uint64_t null_frees = 0;

  std::uint64_t unknown_frees = 0;          // Dropped.
  std::uint64_t unknown_reallocations = 0;  // Made allocations.
  std::uint64_t unseen_frees = 0;           // An address was given out again: its free was put in.
  std::uint64_t clock_steps_back = 0;       // The time before was taken.
  std::uint64_t impossible_sizes = 0;       // Dropped.
  std::uint64_t impossible_alignments = 0;  // Taken for none.

  std::uint64_t late_frees =
      0;  // That came when their address was another object's; they found the right one.
};

class AddressBook {
 public:
  // `unit` names what places count: line, record, byte. Where names are no addresses (`null_names`), 0 is one
  // too, and messages show them as numbers.
  AddressBook(bool is_lenient, std::string unit, bool null_names, Recorder recorder = Recorder::kWhole)
      : is_lenient_(is_lenient), unit_(std::move(unit)), null_names_(null_names), recorder_(recorder) {}

  const BookCounts& counts() const { return counts_; }

  // Throws RecordFault at the first record that cannot be, unless the book is lenient.
  BookedRows rows(const RecordColumns& records) {
    BookedRows out;
    const std::size_t count = records.op.size();
    out.op.reserve(count);
    out.thread.reserve(count);
    out.object.reserve(count);
    out.size.reserve(count);
    if (!records.alignment.empty()) out.alignment.reserve(count);
    if (!records.noscan.empty()) out.noscan.reserve(count);
    if (!records.time_ns.empty()) out.time_ns.reserve(count);
    if (!records.site.empty()) out.site.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (i + kAhead < count) prefetch(records, i + kAhead);
      add(records, i, out);
    }
    return out;
  }

 private:
  struct Live {
    std::uint64_t size = 0;
    std::uint32_t slot = kNone;
    bool is_live() const { return slot != kNone; }
  };

  struct Awaited {
    std::uint64_t until;  // In records.
    std::uint64_t address;
    std::uint32_t slot;
  };

  static constexpr std::uint32_t kNone = UINT32_MAX;
  static constexpr std::uint64_t kAddressSpaceBytes = std::uint64_t{1} << 47;  // As check.hpp has it.
  // Records between touching where an address stands and its use: about as long as memory takes to answer.
  static constexpr std::size_t kAhead = 16;
  // Records within which the free of an address that was given out anew is still to be told: what other
  // threads do between the end of a call and its record.
  static constexpr std::uint64_t kAwaited = 256;

  void prefetch(const RecordColumns& records, std::size_t i) const {
    objects_.prefetch(records.address[i]);
    if (static_cast<Op>(records.op[i]) == Op::kRealloc) objects_.prefetch(records.old_address[i]);
  }

  // Whether frees and allocations that were not recorded are no reason to stop.
  bool may_have_gaps() const { return is_lenient_ || recorder_ != Recorder::kWhole; }

  void add(const RecordColumns& records, std::size_t i, BookedRows& out) {
    if (!records.time_ns.empty()) tell_time(records, i);
    ++records_;
    if (!awaited_.empty() && awaited_.front().until < records_) give_up(records, i, out);
    if (records.op[i] == kReallocBegin) {
      begin_realloc(records, i, out);
      return;
    }
    switch (static_cast<Op>(records.op[i])) {
      case Op::kAlloc:
      case Op::kCalloc:
        allocate(records, i, static_cast<Op>(records.op[i]), out);
        return;
      case Op::kRealloc:
        reallocate(records, i, out);
        return;
      case Op::kFree:
        if (is_null(records.address[i])) {
          ++counts_.null_frees;
        } else {
          release(records, i, records.address[i], out);
        }
        return;
      case Op::kGc:
      case Op::kThreadEnd:
        append(records, i, static_cast<Op>(records.op[i]), 0, 0, out);
        return;
    }
    throw std::invalid_argument("a record of op " + std::to_string(records.op[i]));
  }

  void tell_time(const RecordColumns& records, std::size_t i) {
    const std::int64_t time_ns = records.time_ns[i];
    if (time_ns >= last_time_ns_) {
      last_time_ns_ = time_ns;
      return;
    }
    if (!is_lenient_) {
      fault(records, i,
            "found the time " + std::to_string(time_ns) + " ns after " + std::to_string(last_time_ns_) +
                ", expected times that do not go back");
    }
    ++counts_.clock_steps_back;
  }

  void allocate(const RecordColumns& records, std::size_t i, Op op, BookedRows& out) {
    const std::uint64_t address = records.address[i];
    if (is_null(address)) {
      ++counts_.failed_allocations;
      return;
    }
    if (!is_possible(records, i, 0)) return;
    Live& object = objects_.make(address);
    if (object.is_live()) vacate(records, i, object, out);
    const std::uint32_t slot = take_slot(records, i);
    object = {.size = records.size[i], .slot = slot};
    requested_bytes_ += records.size[i];
    append(records, i, op, slot, records.size[i], out);
  }

  void reallocate(const RecordColumns& records, std::size_t i, BookedRows& out) {
    const std::uint64_t old_address = records.old_address[i];
    const std::uint64_t address = records.address[i];
    const std::uint64_t size = records.size[i];
    if (is_null(old_address)) {
      allocate(records, i, Op::kAlloc, out);
      return;
    }
    const Live object = take(records, i, old_address, out);
    if (is_null(address) && size > 0) {
      ++counts_.failed_allocations;
      if (object.is_live()) put_back(records, i, old_address, object, out);
      return;
    }
    if (is_null(address)) {
      end_or_fault(records, i, old_address, object, out);
      return;
    }
    if (!object.is_live()) {
      if (!may_have_gaps()) {
        fault(records, i,
              "found a realloc of " + name(old_address) +
                  ", which is not live (never allocated, or freed "
                  "already); expected a live address");
      }
      ++counts_.unknown_reallocations;
      allocate(records, i, Op::kAlloc, out);
      return;
    }
    if (!is_possible(records, i, object.size)) {
      put_back(records, i, old_address, object, out);
      return;
    }
    Live& moved = objects_.make(address);
    if (moved.is_live()) vacate(records, i, moved, out);
    moved = {.size = size, .slot = object.slot};
    requested_bytes_ += size - object.size;
    append(records, i, Op::kRealloc, object.slot, size, out);
  }

  // Takes what a realloc was given out of the book, until the thread's next record.
  void begin_realloc(const RecordColumns& records, std::size_t i, BookedRows& out) {
    const Live object = take(records, i, records.address[i], out);
    if (object.is_live()) moving_[records.thread[i]] = {records.address[i], object};
  }

  // Takes the object that a thread means by an address out of the book; none, where nothing lives there.
  Live take(const RecordColumns& records, std::size_t i, std::uint64_t address, BookedRows& out) {
    if (!moving_.empty()) {
      const auto found = moving_.find(records.thread[i]);
      if (found != moving_.end()) {
        const auto [old_address, object] = found->second;
        moving_.erase(found);
        if (old_address == address) return object;
        put_back(records, i, old_address, object, out);  // What became of it was not recorded.
      }
    }
    if (!displaced_.empty()) {
      const Live object = take_displaced(address);
      if (object.is_live()) return object;
    }
    return objects_.take(address);
  }

  // The first of the objects of an address whose frees are still to be told.
  Live take_displaced(std::uint64_t address) {
    const auto found = displaced_.find(address);
    if (found == displaced_.end()) return {};
    std::vector<Live>& late = found->second;
    const Live object = late.front();
    late.erase(late.begin());
    if (late.empty()) displaced_.erase(found);
    return object;
  }

  // Ends the object whose free has been awaited for too long: it was never told.
  void give_up(const RecordColumns& records, std::size_t i, BookedRows& out) {
    const Awaited awaited = awaited_.front();
    awaited_.pop_front();
    const auto found = displaced_.find(awaited.address);
    if (found == displaced_.end() || found->second.front().slot != awaited.slot) return;  // It came.
    --counts_.late_frees;
    ++counts_.unseen_frees;
    end(records, i, take_displaced(awaited.address), out);
  }

  // Lets an object stand where it stood, or end, where that is another's.
  void put_back(const RecordColumns& records, std::size_t i, std::uint64_t address, const Live& object,
                BookedRows& out) {
    if (objects_.find(address) == nullptr) {
      objects_.insert(address, object);
      return;
    }
    ++counts_.unseen_frees;
    end(records, i, object, out);
  }

  // What an allocation was given must be nobody's; whose it was makes room for it.
  void vacate(const RecordColumns& records, std::size_t i, const Live& object, BookedRows& out) {
    const std::uint64_t address = records.address[i];
    if (recorder_ == Recorder::kLateFrees || recorder_ == Recorder::kLateReallocs) {
      // Its free is still to be told.
      ++counts_.late_frees;
      displaced_[address].push_back(object);
      if (recorder_ == Recorder::kLateReallocs)
        awaited_.push_back({records_ + kAwaited, address, object.slot});
      return;
    }
    if (!may_have_gaps()) {
      fault(records, i,
            "found an allocation at " + name(address) +
                ", where an object lives that was not freed; expected a free before it");
    }
    ++counts_.unseen_frees;
    end(records, i, object, out);
  }

  void release(const RecordColumns& records, std::size_t i, std::uint64_t address, BookedRows& out) {
    end_or_fault(records, i, address, take(records, i, address, out), out);
  }

  // Ends the object that was found at an address, if one was.
  void end_or_fault(const RecordColumns& records, std::size_t i, std::uint64_t address, const Live& object,
                    BookedRows& out) {
    if (object.is_live()) {
      end(records, i, object, out);
      return;
    }
    if (!may_have_gaps()) {
      fault(records, i,
            "found a free of " + name(address) +
                ", which is not live (never allocated, or freed already); expected a live address");
    }
    ++counts_.unknown_frees;
  }

  void end(const RecordColumns& records, std::size_t i, const Live& object, BookedRows& out) {
    free_slots_.put(object.slot);
    requested_bytes_ -= object.size;
    append(records, i, Op::kFree, object.slot, 0, out);
  }

  // Whether the record's size and all that lives fit into an address space, which the checker of rows will
  // ask.
  bool is_possible(const RecordColumns& records, std::size_t i, std::uint64_t old_bytes) {
    const std::uint64_t size = records.size[i];
    if (size < kAddressSpaceBytes && requested_bytes_ - old_bytes + size < kAddressSpaceBytes) return true;
    if (!is_lenient_) {
      fault(records, i,
            "found " + std::to_string(size) + " bytes where " + std::to_string(requested_bytes_) +
                " are live, expected less than 2^47 in all, the address space");
    }
    ++counts_.impossible_sizes;
    return false;
  }

  std::uint32_t alignment_of(const RecordColumns& records, std::size_t i, Op op) {
    if (op == Op::kFree || op == Op::kGc || op == Op::kThreadEnd) return 0;
    const std::uint32_t alignment = records.alignment[i];
    if (alignment == 0 || std::has_single_bit(alignment)) return alignment;
    if (!is_lenient_) {
      fault(records, i,
            "found the alignment " + std::to_string(alignment) + ", expected a power of two, or 0");
    }
    ++counts_.impossible_alignments;
    return 0;
  }

  void append(const RecordColumns& records, std::size_t i, Op op, std::uint32_t slot, std::uint64_t size,
              BookedRows& out) {
    const bool allocates = op == Op::kAlloc || op == Op::kCalloc || op == Op::kRealloc;
    out.op.push_back(static_cast<std::uint8_t>(op));
    out.thread.push_back(records.thread[i]);
    out.object.push_back(slot);
    out.size.push_back(size);
    if (!records.alignment.empty()) out.alignment.push_back(alignment_of(records, i, op));
    if (!records.noscan.empty()) out.noscan.push_back(allocates ? records.noscan[i] : 0);
    if (!records.time_ns.empty()) out.time_ns.push_back(last_time_ns_);
    if (!records.site.empty()) out.site.push_back(allocates ? records.site[i] : 0);
  }

  std::uint32_t take_slot(const RecordColumns& records, std::size_t i) {
    if (!free_slots_.empty()) return free_slots_.take();
    if (slots_taken_ == kNone) fault(records, i, "found more than 4,294,967,294 objects live at once");
    return slots_taken_++;
  }

  bool is_null(std::uint64_t address) const { return address == 0 && !null_names_; }

  std::string name(std::uint64_t number) const {
    if (null_names_) return std::to_string(number);
    char digits[2 + 16 + 1];
    std::snprintf(digits, sizeof digits, "0x%llx", static_cast<unsigned long long>(number));
    return digits;
  }

  [[noreturn]] void fault(const RecordColumns& records, std::size_t i, const std::string& what) const {
    throw RecordFault(unit_ + " " + std::to_string(records.place[i]) + ": " + what);
  }

  bool is_lenient_;
  std::string unit_;
  bool null_names_;
  Recorder recorder_;
  harness::IdTable<Live> objects_;  // By address.
  // What threads are about to move, by thread, each with the address it had.
  std::unordered_map<std::uint32_t, std::pair<std::uint64_t, Live>> moving_;
  // Objects whose address was given out anew before their free was told, by address, the oldest first.
  std::unordered_map<std::uint64_t, std::vector<Live>> displaced_;
  std::deque<Awaited> awaited_;  // Of these the ones whose free may never be told.
  std::uint64_t records_ = 0;
  harness::FreeSlots free_slots_;
  std::uint32_t slots_taken_ = 0;
  std::uint64_t requested_bytes_ = 0;
  std::int64_t last_time_ns_ = INT64_MIN;
  BookCounts counts_;
};

}  // namespace formats
