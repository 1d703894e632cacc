// Makes rows of harness-trace/1 of records that name objects by their addresses: who reads a foreign trace
// hands its records in here, and what no program could have done is reported with its place, or mended and
// counted.
//
// Addresses become dense slots, reused only after the free; a realloc keeps its object, wherever it moves.
// Failed allocations and frees of null are left out. Memory grows with the live objects alone.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness/allocator.hpp"
#include "harness/free_slots.hpp"
#include "harness/id_table.hpp"
#include "harness/replay.hpp"

namespace formats {

using harness::Op;

// A record that no program could have left; the text says where it stands, what was found and expected.
class RecordFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
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
  std::uint64_t earlier_frees = 0;          // Of what was allocated before a late recording began.
  std::uint64_t earlier_reallocations = 0;  // Made allocations.

  std::uint64_t unknown_frees = 0;          // Dropped.
  std::uint64_t unknown_reallocations = 0;  // Made allocations.
  std::uint64_t unseen_frees = 0;           // An address was given out again: its free was put in.
  std::uint64_t clock_steps_back = 0;       // The time before was taken.
  std::uint64_t impossible_sizes = 0;       // Dropped.
  std::uint64_t impossible_alignments = 0;  // Taken for none.
};

class AddressBook {
 public:
  // `unit` names what places count: line, record, byte. Where names are no addresses (`null_names`), 0 is one
  // too. Of a recording that `begins_late`, in a program that had objects already, their ends are no faults.
  AddressBook(bool is_lenient, std::string unit, bool null_names, bool begins_late)
      : is_lenient_(is_lenient), unit_(std::move(unit)), null_names_(null_names), begins_late_(begins_late) {}

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

  static constexpr std::uint32_t kNone = UINT32_MAX;
  static constexpr std::uint64_t kAddressSpaceBytes = std::uint64_t{1} << 47;  // As check.hpp has it.
  // Records between touching where an address stands and its use: about as long as memory takes to answer.
  static constexpr std::size_t kAhead = 16;

  void prefetch(const RecordColumns& records, std::size_t i) const {
    objects_.prefetch(records.address[i]);
    if (static_cast<Op>(records.op[i]) == Op::kRealloc) objects_.prefetch(records.old_address[i]);
  }

  void add(const RecordColumns& records, std::size_t i, BookedRows& out) {
    if (!records.time_ns.empty()) tell_time(records, i);
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
    vacate(records, i, out);
    const std::uint32_t slot = take_slot(records, i);
    objects_.insert(address, {.size = records.size[i], .slot = slot});
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
    if (is_null(address)) {
      if (size == 0) {
        release(records, i, old_address, out);
      } else {
        ++counts_.failed_allocations;  // The object stands where it stood.
      }
      return;
    }
    const Live* const found = objects_.find(old_address);
    if (found == nullptr) {
      if (begins_late_) {
        ++counts_.earlier_reallocations;
        allocate(records, i, Op::kAlloc, out);
        return;
      }
      if (!is_lenient_) {
        fault(records, i,
              "found a realloc of " + hexadecimal(old_address) +
                  ", which is not live (never allocated, or freed "
                  "already); expected a live address");
      }
      ++counts_.unknown_reallocations;
      allocate(records, i, Op::kAlloc, out);
      return;
    }
    const Live object = *found;
    if (!is_possible(records, i, object.size)) return;
    objects_.erase(old_address);
    vacate(records, i, out);
    objects_.insert(address, {.size = size, .slot = object.slot});
    requested_bytes_ += size - object.size;
    append(records, i, Op::kRealloc, object.slot, size, out);
  }

  // What an allocation was given must be nobody's.
  void vacate(const RecordColumns& records, std::size_t i, BookedRows& out) {
    const std::uint64_t address = records.address[i];
    if (objects_.find(address) == nullptr) return;
    if (!is_lenient_) {
      fault(records, i,
            "found an allocation at " + hexadecimal(address) +
                ", where an object lives that was not freed; expected a free before it");
    }
    ++counts_.unseen_frees;
    release(records, i, address, out);
  }

  void release(const RecordColumns& records, std::size_t i, std::uint64_t address, BookedRows& out) {
    const Live* const found = objects_.find(address);
    if (found == nullptr) {
      if (begins_late_) {
        ++counts_.earlier_frees;
        return;
      }
      if (!is_lenient_) {
        fault(records, i,
              "found a free of " + hexadecimal(address) +
                  ", which is not live (never allocated, or freed already); expected a live address");
      }
      ++counts_.unknown_frees;
      return;
    }
    const Live object = *found;
    objects_.erase(address);
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

  static std::string hexadecimal(std::uint64_t number) {
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
  bool begins_late_;
  harness::IdTable<Live> objects_;  // By address.
  harness::FreeSlots free_slots_;
  std::uint32_t slots_taken_ = 0;
  std::uint64_t requested_bytes_ = 0;
  std::int64_t last_time_ns_ = INT64_MIN;
  BookCounts counts_;
};

}  // namespace formats
