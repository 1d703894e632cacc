// Makes the rows of a trace of the raw file that preload.c wrote: addresses become slots, pairs of realloc
// records one row, and what no trace may hold is mended and counted.
//
// One sequential pass; memory grows with the live objects and the distinct stacks alone. It can run behind a
// program that is still writing. recorder.py drives it.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "harness/allocator.hpp"
#include "harness/events.hpp"
#include "harness/free_slots.hpp"
#include "harness/id_table.hpp"
#include "raw.h"
#include "stack_sites.hpp"

namespace recording {

// A raw file that cannot be opened or is none; the text does not name the file.
class RawError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class RawFile {
 public:
  explicit RawFile(const std::string& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) throw RawError(std::strerror(errno));
    if (read(&header_, sizeof header_, 0) != sizeof header_ || header_.magic != RAW_MAGIC) {
      ::close(descriptor_);
      throw RawError("is no raw file of a recording, or one that never began");
    }
    header_.parent[RAW_NAME_BYTES - 1] = '\0';
    header_.command_bytes = std::min<std::uint32_t>(header_.command_bytes, RAW_COMMAND_BYTES);
    if (header_.record_words != RAW_WORDS && header_.record_words != RAW_WORDS_WITH_SITE) {
      ::close(descriptor_);
      throw RawError("is damaged: records of " + std::to_string(header_.record_words) + " words");
    }
  }
  ~RawFile() { ::close(descriptor_); }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  const raw_header& header() const { return header_; }
  std::size_t record_words() const { return header_.record_words; }
  bool has_sites() const { return record_words() == RAW_WORDS_WITH_SITE; }

  // Why the recording ended early, as the header says now.
  std::uint32_t stopped() const {
    raw_header now;
    return read(&now, sizeof now, 0) == sizeof now ? now.stopped : header_.stopped;
  }

  // Up to `count` whole records of record_words() from record `first` on.
  std::size_t read_records(std::uint64_t* words, std::size_t count, std::uint64_t first) const {
    const std::size_t record_bytes = record_words() * sizeof *words;
    return read(words, count * record_bytes, RAW_HEADER_BYTES + first * record_bytes) / record_bytes;
  }

 private:
  std::size_t read(void* to, std::size_t bytes, std::uint64_t offset) const {
    std::size_t done = 0;
    while (done < bytes) {
      const ssize_t got = ::pread(descriptor_, static_cast<char*>(to) + done, bytes - done,
                                  static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw RawError(std::strerror(errno));
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

  int descriptor_;
  raw_header header_{};
};

// Columns of harness-trace/1, with room for more rows than there are yet.
struct Rows {
  std::vector<std::uint8_t> op;
  std::vector<std::uint32_t> thread;
  std::vector<std::uint64_t> object;
  std::vector<std::uint64_t> size;
  std::vector<std::uint32_t> alignment;
  std::vector<std::int64_t> time_ns;
  std::vector<std::uint32_t> site;  // 0 where no stack was kept.
  std::size_t count = 0;

  void resize(std::size_t rows) {
    op.resize(rows);
    thread.resize(rows);
    object.resize(rows);
    size.resize(rows);
    alignment.resize(rows);
    time_ns.resize(rows);
    site.resize(rows);
  }
};

struct ConversionCounts {
  std::uint64_t events = 0;
  std::uint64_t threads = 0;
  std::uint64_t inherited_objects = 0;      // Alive at the fork.
  std::uint64_t unknown_frees = 0;          // Of objects from before the recording: dropped.
  std::uint64_t unknown_reallocations = 0;  // Likewise: turned into an allocation.
  std::uint64_t unseen_frees = 0;           // An address came again without its free: one was put in.
  std::uint64_t lost_records = 0;           // Places taken by a thread that was killed before it wrote.
};

class Conversion {
 public:
  explicit Conversion(const std::string& path)
      : file_(path), begin_ns_(file_.header().begin_ns), buffer_(kBufferRecords * RAW_MAX_WORDS) {}

  const RawFile& file() const { return file_; }
  const ConversionCounts& counts() const { return counts_; }
  const StackSites& sites() const { return sites_; }

  // What a forked child finds alive: the state after the first `records` of an ancestor's file. Ancestors
  // come oldest first and before the first take().
  void inherit(const std::string& path, std::uint64_t records) {
    const RawFile ancestor(path);
    keeps_shapes_ = true;
    Rows unused;
    unused.resize(kMaxRowsOfRecord);
    std::uint64_t position = 0;
    while (position < records) {
      const std::size_t wanted =
          static_cast<std::size_t>(std::min<std::uint64_t>(kBufferRecords, records - position));
      const std::size_t got = ancestor.read_records(buffer_.data(), wanted, position);
      if (got == 0) break;
      for (std::size_t i = 0; i < got; ++i) {
        unused.count = 0;
        add(&buffer_[i * ancestor.record_words()], ancestor.has_sites(), unused);
      }
      position += got;
    }
    // Only the thread that forked lives on in the child.
    sites_.drop_chain();
    pending_.clear();
    counts_ = {};
    last_time_ns_ = 0;
  }

  // The next rows, at least one unless there is nothing more. While the program still writes (`is_final`
  // false) the pass stops at the first place that was taken and not written yet; afterwards it steps over
  // them.
  Rows take(std::size_t max_rows, bool is_final) {
    Rows rows;
    rows.resize(max_rows + kMaxRowsOfRecord);
    if (keeps_shapes_) emit_inherited(rows, max_rows);
    while (rows.count < max_rows) {
      if (next_ == filled_ && !refill(is_final)) break;
      const std::uint64_t* const words = &buffer_[next_++ * file_.record_words()];
      if (words[0] == 0) {
        ++gap_records_;
      } else {
        counts_.lost_records += std::exchange(gap_records_, 0);
      }
      add(words, file_.has_sites(), rows);
    }
    rows.resize(rows.count);
    return rows;
  }

 private:
  static_assert(RAW_ALLOC == static_cast<int>(harness::Op::kAlloc) &&
                RAW_CALLOC == static_cast<int>(harness::Op::kCalloc) &&
                RAW_REALLOC == static_cast<int>(harness::Op::kRealloc) &&
                RAW_FREE == static_cast<int>(harness::Op::kFree) &&
                RAW_THREAD_END == static_cast<int>(harness::Op::kThreadEnd));

  // A realloc under way: its object, or kNone where the address was unknown.
  struct Pending {
    std::uint32_t slot;
    std::uint64_t old_address;
  };
  // What is needed to allocate an inherited object again.
  struct Shape {
    std::uint64_t address = 0;
    std::uint64_t size = 0;
    std::uint32_t log2_alignment = 0;
    bool is_calloc = false;
    std::uint32_t site = 0;
  };

  static constexpr std::size_t kBufferRecords = 1 << 15;  // 1 MiB at most: within a second-level cache.
  static constexpr std::size_t kMaxRowsOfRecord = 2;      // A free that was not seen, and the event itself.
  static constexpr std::uint32_t kNone = UINT32_MAX;
  static constexpr std::uint32_t kDefaultLog2Alignment = 3;  // Up to 8 bytes every allocator aligns anyway.
  static constexpr std::uint32_t kMaxLog2Alignment = 31;     // What the column holds.

  struct Slot {
    std::uint32_t number = kNone;
    bool is_live() const { return number != kNone; }
  };

  std::uint32_t slot_of(std::uint64_t address) {
    const Slot* const slot = slots_.find(address);
    return slot == nullptr ? kNone : slot->number;
  }

  // False where there is nothing to take.
  bool refill(bool is_final) {
    position_ += filled_;
    next_ = 0;
    filled_ = file_.read_records(buffer_.data(), kBufferRecords, position_);
    if (!is_final) {
      std::size_t written = 0;
      while (written < filled_ && buffer_[written * file_.record_words()] != 0) ++written;
      filled_ = written;
      // The first words were stored last, but the copy promises no order: only now are the others whole.
      filled_ = file_.read_records(buffer_.data(), filled_, position_);
    }
    return filled_ != 0;
  }

  // One record; a place that was never written is one of nothing.
  void add(const std::uint64_t* words, bool has_site, Rows& rows) {
    switch (words[0] & 0xFF) {
      case 0:
        sites_.drop_chain();
        return;
      case RAW_STACK:
      case RAW_MODULE:
        sites_.begin_chain(words);
        return;
      case RAW_MORE:
        sites_.continue_chain(words);
        return;
      default:
        break;
    }
    site_ = has_site ? sites_.site_of(static_cast<std::uint32_t>(words[RAW_WORDS])) : 0;
    raw_record record;
    std::copy_n(words, RAW_WORDS, record.word);
    add(raw_decode(record), rows);
  }

  void add(const raw_event& event, Rows& rows) {
    last_time_ns_ = std::max(last_time_ns_, static_cast<std::int64_t>(event.time_ns - begin_ns_));
    counts_.threads = std::max<std::uint64_t>(counts_.threads, event.thread + 1);
    switch (event.op) {
      case RAW_ALLOC:
      case RAW_CALLOC:
        allocate(event, rows);
        break;
      case RAW_REALLOC_BEGIN: {
        const std::uint32_t slot = slot_of(event.address);
        if (slot != kNone) slots_.erase(event.address);
        pending_of(event.thread).push_back({slot, event.address});
        break;
      }
      case RAW_REALLOC:
        end_reallocation(event, rows);
        break;
      case RAW_FREE: {
        const std::uint32_t slot = slot_of(event.address);
        if (slot == kNone) {
          ++counts_.unknown_frees;
          break;
        }
        slots_.erase(event.address);
        release(slot, event.thread, rows);
        break;
      }
      case RAW_THREAD_END:
        append(rows, RAW_THREAD_END, event.thread, 0, 0, 0);
        break;
      default:
        throw RawError("is damaged: an unknown kind of record, " + std::to_string(event.op));
    }
  }

  void allocate(const raw_event& event, Rows& rows) {
    vacate(event, rows);
    const std::uint32_t slot = take_slot();
    slots_.insert(event.address, {slot});
    append(rows, event.op, event.thread, slot, event.size, event.log2_alignment);
    if (keeps_shapes_) {
      shape(slot) = {event.address, event.size, event.log2_alignment, event.op == RAW_CALLOC, site_};
    }
  }

  void end_reallocation(const raw_event& event, Rows& rows) {
    std::vector<Pending>& pending = pending_of(event.thread);
    std::uint32_t slot = kNone;
    std::uint64_t old_address = 0;
    if (!pending.empty()) {
      slot = pending.back().slot;
      old_address = pending.back().old_address;
      pending.pop_back();
    }
    if (event.address == 0) {
      if (slot == kNone) return;
      if (event.size == 0) {
        release(slot, event.thread, rows);
      } else {
        slots_.insert(old_address, {slot});  // It failed: the object stands where it stood.
      }
      return;
    }
    if (slot == kNone) {
      ++counts_.unknown_reallocations;
      raw_event allocation = event;
      allocation.op = RAW_ALLOC;
      allocate(allocation, rows);
      return;
    }
    vacate(event, rows);
    slots_.insert(event.address, {slot});
    append(rows, RAW_REALLOC, event.thread, slot, event.size, 0);
    if (keeps_shapes_) shape(slot) = {event.address, event.size, 0, false, site_};
  }

  // The address that an allocation was given must be nobody's.
  void vacate(const raw_event& event, Rows& rows) {
    const std::uint32_t squatter = slot_of(event.address);
    if (squatter == kNone) return;
    ++counts_.unseen_frees;
    slots_.erase(event.address);
    release(squatter, event.thread, rows);
  }

  void release(std::uint32_t slot, std::uint32_t thread, Rows& rows) {
    append(rows, RAW_FREE, thread, slot, 0, 0);
    free_slots_.put(slot);
    if (keeps_shapes_) shape(slot).address = 0;
  }

  void append(Rows& rows, std::uint32_t op, std::uint32_t thread, std::uint32_t slot, std::uint64_t size,
              std::uint32_t log2_alignment) {
    const bool is_default = log2_alignment <= kDefaultLog2Alignment;
    const std::size_t row = rows.count++;
    rows.op[row] = static_cast<std::uint8_t>(op);
    rows.thread[row] = thread;
    rows.object[row] = slot;
    rows.size[row] = size;
    rows.alignment[row] = is_default ? 0 : 1u << std::min(log2_alignment, kMaxLog2Alignment);
    rows.time_ns[row] = last_time_ns_;
    rows.site[row] = op == RAW_FREE || op == RAW_THREAD_END ? 0 : site_;
    ++counts_.events;
  }

  // Slots are given anew, so that they are dense, in the order of the old ones.
  void emit_inherited(Rows& rows, std::size_t max_rows) {
    keeps_shapes_ = false;
    slots_ = harness::IdTable<Slot>();
    free_slots_ = harness::FreeSlots();
    slots_taken_ = 0;
    const std::vector<Shape> objects = std::exchange(shapes_, {});
    rows.resize(max_rows + kMaxRowsOfRecord + objects.size());
    for (const Shape& object : objects) {
      if (object.address == 0) continue;
      const std::uint32_t slot = take_slot();
      slots_.insert(object.address, {slot});
      site_ = object.site;
      append(rows, object.is_calloc ? RAW_CALLOC : RAW_ALLOC, 0, slot, object.size, object.log2_alignment);
      ++counts_.inherited_objects;
    }
  }

  std::uint32_t take_slot() {
    if (!free_slots_.empty()) return free_slots_.take();
    if (slots_taken_ == kNone) throw RawError("more than 4,294,967,294 objects live at once");
    return slots_taken_++;
  }

  Shape& shape(std::uint32_t slot) {
    if (slot >= shapes_.size()) shapes_.resize(slot + 1);
    return shapes_[slot];
  }

  std::vector<Pending>& pending_of(std::uint32_t thread) {
    if (thread >= pending_.size()) pending_.resize(thread + 1);
    return pending_[thread];
  }

  RawFile file_;
  std::uint64_t begin_ns_;
  std::vector<std::uint64_t> buffer_;  // Records of record_words() each.
  std::uint64_t position_ = 0;         // Of the buffer's first record.
  std::size_t next_ = 0;
  std::size_t filled_ = 0;
  std::uint64_t gap_records_ =
      0;  // Unwritten places since the last record; at the end they are only the rest.

  harness::IdTable<Slot> slots_;  // By address.
  harness::FreeSlots free_slots_;
  std::uint32_t slots_taken_ = 0;
  std::vector<std::vector<Pending>>
      pending_;  // By thread; a signal handler's realloc stands above its thread's.
  bool keeps_shapes_ = false;
  std::vector<Shape> shapes_;  // By slot, while ancestors are read.
  std::int64_t last_time_ns_ = 0;
  StackSites sites_;
  std::uint32_t site_ = 0;  // Of the event at hand.
  ConversionCounts counts_;
};

}  // namespace recording
