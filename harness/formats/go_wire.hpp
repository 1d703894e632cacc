// Go's execution traces as they stand in a file: batches of each thread's events, a generation at a time,
// become one sequence of events in the order of their times.
//
// Format: internal/trace of the Go toolchain, tracev2 (Go 1.22 to 1.27), and src/runtime/traceallocfree.go.
// A generation is about a second of the program; its batches are kept until the last of its events was taken.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "address_book.hpp"

namespace formats {

// Types of events, by tracev2/events.go, of which something is made here.
enum GoEventType : std::uint8_t {
  kGoEventBatch = 1,
  kGoStacks = 2,
  kGoStack = 3,
  kGoStrings = 4,
  kGoString = 5,
  kGoCpuSamples = 6,
  kGoFrequency = 8,
  kGoProcsChange = 9,
  kGoProcStart = 10,
  kGoProcStatus = 13,
  kGoGcActive = 28,
  kGoGcBegin = 29,
  kGoGcEnd = 30,
  kGoExperimentalBatch = 49,
  kGoSync = 50,
  kGoClockSnapshot = 51,
  kGoEndOfGeneration = 52,
  kGoSpan = 128,
  kGoSpanAlloc = 129,
  kGoSpanFree = 130,
  kGoHeapObject = 131,
  kGoHeapObjectAlloc = 132,
  kGoHeapObjectFree = 133,
  kGoStackExists = 134,
  kGoStackAlloc = 135,
  kGoStackFree = 136,
};

// A file that holds nothing to be read, however lenient its reader.
class GoTraceRefused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct GoEvent {
  std::uint64_t time_ticks = 0;  // Since when, and how long a tick is, the machine says.
  std::uint64_t place = 0;       // The first byte of its batch in the file.
  std::uint32_t machine = 0;     // Which of the program's threads, in order of appearance; Go's M.
  std::uint8_t type = 0;
  std::array<std::uint64_t, 4> arguments = {};  // But for the first, the time.
};

struct GoType {
  std::uint64_t address = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t pointer_bytes = 0;  // Up to the last pointer in it; 0 has none.
  std::string name;
};

// What a generation tells beside its events.
struct GoGeneration {
  std::uint64_t number = 0;
  std::uint64_t ticks_per_second = 0;  // 0 where it does not say.
  std::unordered_map<std::uint64_t, GoType> types;
  std::unordered_set<std::uint64_t> stacks_of_gc;  // Those with a call of runtime.GC.
};

// What was mended or passed over by a lenient reader.
struct GoWireCounts {
  std::uint64_t bytes = 0;  // Read.
  std::uint64_t generations = 0;
  std::uint64_t events = 0;
  std::uint64_t damaged_batches = 0;
  std::uint64_t unread_bytes = 0;  // From the first fault in the file's structure to its end.
};

class GoWire {
 public:
  explicit GoWire(bool is_lenient) : is_lenient_(is_lenient) {}

  const GoWireCounts& counts() const { return counts_; }
  // The number after `go 1.` in the header; 0 before it was read.
  int version() const { return version_; }
  // The address that all numbers of the trace are relative to; none where it has no allocation events.
  std::optional<std::uint64_t> heap_address() const { return heap_address_; }
  // Of the event that next() gave last.
  const GoGeneration& generation() const { return generation_; }
  // Why a lenient reader stopped before the end; empty where it did not.
  const std::string& cut() const { return cut_; }

  void feed(std::string_view block) {
    counts_.bytes += block.size();
    if (!cut_.empty()) {
      counts_.unread_bytes += block.size();
      return;
    }
    // What was parsed goes, so that the rest is one batch at most and this block.
    input_.erase(0, at_);
    offset_ += at_;
    at_ = 0;
    input_.append(block);
  }

  void end() { has_ended_ = true; }

  // False where more must be fed, or nothing is left after end(). Throws RecordFault.
  bool next(GoEvent& event) {
    while (true) {
      if (is_merging_) {
        if (take(event)) return true;
        is_merging_ = false;
        batches_.clear();
        machines_ = {};
      }
      if (!gather()) return false;
      begin_merge();
    }
  }

  // The time of the event that next() would give; none where the generation has no other thread's left.
  std::optional<std::uint64_t> next_ticks() const {
    if (heap_.empty()) return std::nullopt;
    return cursors_[heap_[0]].event.time_ticks;
  }

  // Takes no more events of a thread, the last of which must wait for another thread's; and takes them again.
  // A generation ends when none of its threads has events left, so that each must be released.
  void hold(std::uint32_t machine) {
    std::erase_if(heap_, [&](std::size_t i) { return cursors_[i].machine == machine; });
    make_heap();
  }
  void release(std::uint32_t machine) {
    const auto found = std::ranges::lower_bound(cursors_, machine, {}, &Cursor::machine);
    if (found->is_done) return;
    heap_.push_back(static_cast<std::size_t>(found - cursors_.begin()));
    make_heap();
  }

  [[noreturn]] static void fault(std::uint64_t place, const std::string& what) {
    throw RecordFault("byte " + std::to_string(place) + ": " + what);
  }

 private:
  // tracev2/events.go: MaxBatchSize, and what a header of a batch takes at most.
  static constexpr std::uint64_t kMaxBatchBytes = 64 << 10;
  static constexpr std::size_t kHeaderBytes = 16;
  static constexpr std::size_t kMaxNumberBytes = 10;
  static constexpr int kOldestVersion = 22;
  static constexpr int kNewestVersion = 26;
  static constexpr std::string_view kCollects = "runtime.GC";

  // Thrown within a batch, caught where its place is known.
  struct Bad {
    std::string what;
  };

  class Bytes {
   public:
    Bytes(const std::uint8_t* begin, const std::uint8_t* end) : at_(begin), end_(end) {}
    explicit Bytes(std::span<const std::uint8_t> data) : Bytes(data.data(), data.data() + data.size()) {}

    bool empty() const { return at_ == end_; }

    std::uint8_t byte() {
      if (at_ == end_) throw Bad{"the end of a batch within an event"};
      return *at_++;
    }

    std::uint64_t number() {
      std::uint64_t value = 0;
      for (unsigned shift = 0; shift < 64; shift += 7) {
        const std::uint8_t part = byte();
        value |= std::uint64_t{part & 0x7fu} << shift;
        if (part < 0x80) return value;
      }
      throw Bad{"a number of more than 64 bits"};
    }

    std::string_view text(std::uint64_t count) {
      if (count > static_cast<std::uint64_t>(end_ - at_)) throw Bad{"a text that its batch cuts off"};
      const auto* const begin = reinterpret_cast<const char*>(at_);
      at_ += count;
      return {begin, static_cast<std::size_t>(count)};
    }

   private:
    const std::uint8_t* at_;
    const std::uint8_t* end_;
  };

  struct Batch {
    std::uint64_t place = 0;
    std::uint64_t time_ticks = 0;
    std::vector<std::uint8_t> data;
  };

  // The events of one thread: its batches in the order of the file, which is that of the events.
  struct Cursor {
    std::uint32_t machine = 0;
    std::vector<std::size_t> batches;
    std::size_t next_batch = 0;
    Bytes bytes = Bytes(nullptr, nullptr);
    std::uint64_t time_ticks = 0;
    std::uint64_t most_ticks = UINT64_MAX;
    bool is_done = false;
    GoEvent event;  // The next.
  };

  // ---- The structure of the file ----

  // Collects the batches of one generation; false where more must be fed or nothing is left.
  bool gather() {
    try {
      return gather_strictly();
    } catch (const RecordFault& fault) {
      if (!is_lenient_) throw;
      cut_ = fault.what();
      counts_.unread_bytes += input_.size() - at_;
      at_ = input_.size();
      return finish_generation();
    }
  }

  bool gather_strictly() {
    if (!cut_.empty()) return finish_generation();
    if (version_ == 0 && !read_header()) return false;
    while (true) {
      const std::size_t begin = at_;
      if (begin == input_.size()) {
        if (!has_ended_) return false;
        if (version_ >= 26 && has_generation()) {
          fault(offset_ + begin, "found the end of the file within a generation, expected more of it");
        }
        return finish_generation();
      }
      const auto type = static_cast<std::uint8_t>(input_[begin]);
      if (type == kGoEndOfGeneration && version_ >= 26) {
        ++at_;
        if (finish_generation()) return true;
        continue;
      }
      if (type != kGoEventBatch && !(type == kGoExperimentalBatch && version_ >= 23)) {
        fault(offset_ + begin, "found the byte " + std::to_string(type) + ", expected a batch of events");
      }
      Header header;
      if (!read_batch_header(header)) {
        if (!has_ended_) return false;
        fault(offset_ + begin, "found the end of the file within a batch, expected more of it");
      }
      if (header.generation == 0)
        fault(offset_ + begin, "found generation 0, expected a batch of 1 or later");
      if (has_generation() && header.generation != gathered_.number) {
        if (version_ < 26 && header.generation == gathered_.number + 1) {
          return finish_generation();  // The batch is read again, as the next one's first.
        }
        fault(offset_ + begin, "found generation " + std::to_string(header.generation) +
                                   " within generation " + std::to_string(gathered_.number) +
                                   ", expected them one after the other");
      }
      gathered_.number = header.generation;
      at_ = header.data + header.size;
      add_batch(header, offset_ + begin);
    }
  }

  bool read_header() {
    if (input_.size() < kHeaderBytes && !has_ended_) return false;
    const std::string_view head = std::string_view(input_).substr(0, kHeaderBytes);
    constexpr std::string_view kBegin = "go 1.";
    constexpr std::string_view kEnd(" trace\0\0\0", 9);
    int version = 0;
    if (head.size() == kHeaderBytes && head.starts_with(kBegin) && head.ends_with(kEnd) && head[5] >= '1' &&
        head[5] <= '9' && head[6] >= '0' && head[6] <= '9') {
      version = (head[5] - '0') * 10 + (head[6] - '0');
    }
    if (version == 0) throw GoTraceRefused("holds no header `go 1.NN trace`, expected a Go execution trace");
    const std::string format = "the format of Go 1." + std::to_string(version);
    if (version < kOldestVersion) {
      throw GoTraceRefused("found " + format +
                           ", which has no allocation events; expected one of Go 1.23 or newer");
    }
    if (version > kNewestVersion) {
      throw GoTraceRefused("found " + format + ", expected one from 1." + std::to_string(kOldestVersion) +
                           " to 1." + std::to_string(kNewestVersion) + ", which Go 1.26 and 1.27 write");
    }
    version_ = version;
    at_ = kHeaderBytes;
    return true;
  }

  struct Header {
    std::uint8_t experiment = 0;
    std::uint64_t generation = 0;
    std::uint64_t machine = 0;
    std::uint64_t time_ticks = 0;
    std::size_t data = 0;  // Where in the input.
    std::size_t size = 0;
  };

  // False where the input does not hold the whole batch.
  bool read_batch_header(Header& header) {
    std::size_t at = at_;
    const bool is_experimental = static_cast<std::uint8_t>(input_[at++]) == kGoExperimentalBatch;
    if (is_experimental) {
      if (at == input_.size()) return false;
      header.experiment = static_cast<std::uint8_t>(input_[at++]);
      if (header.experiment == 0) fault(offset_ + at_, "found experiment 0, expected 1 or above");
    }
    std::uint64_t size = 0;
    for (std::uint64_t* const field : {&header.generation, &header.machine, &header.time_ticks, &size}) {
      unsigned shift = 0;
      while (true) {
        if (at == input_.size()) return false;
        if (shift >= 7 * kMaxNumberBytes) {
          fault(offset_ + at_, "found a number of more than 64 bits in a batch's header");
        }
        const auto part = static_cast<std::uint8_t>(input_[at++]);
        *field |= std::uint64_t{part & 0x7fu} << shift;
        if (part < 0x80) break;
        shift += 7;
      }
    }
    if (size > kMaxBatchBytes) {
      fault(offset_ + at_, "found a batch of " + std::to_string(size) + " bytes, expected at most " +
                               std::to_string(kMaxBatchBytes));
    }
    header.data = at;
    header.size = static_cast<std::size_t>(size);
    return input_.size() - at >= header.size;
  }

  bool has_generation() const { return gathered_.number != 0; }

  // Whether there was one.
  bool finish_generation() {
    if (!has_generation()) return false;
    if (gathered_.ticks_per_second == 0 && !is_lenient_) {
      fault(offset_ + at_, "found generation " + std::to_string(gathered_.number) +
                               " without the clock's frequency, expected more of it");
    }
    find_stacks_of_gc();
    generation_ = std::exchange(gathered_, {});
    ++counts_.generations;
    collecting_string_ = 0;
    return true;
  }

  void add_batch(const Header& header, std::uint64_t place) {
    const auto* const begin = reinterpret_cast<const std::uint8_t*>(input_.data()) + header.data;
    if (header.size == 0) return;
    const std::span<const std::uint8_t> data(begin, header.size);
    within_batch(place, [&] {
      if (header.experiment != 0) {
        if (header.experiment == 1) read_allocation_batch(Bytes(data));
      } else if (data[0] == kGoStrings) {
        read_strings(Bytes(data));
      } else if (data[0] == kGoStacks) {
        stacks_.push_back({place, 0, {data.begin(), data.end()}});
      } else if (data[0] == kGoFrequency || data[0] == kGoSync) {
        read_clock(Bytes(data));
      } else if (data[0] != kGoCpuSamples) {
        const auto [found, is_new] =
            machine_numbers_.try_emplace(header.machine, static_cast<std::uint32_t>(machine_numbers_.size()));
        machines_[found->second].push_back(batches_.size());
        batches_.push_back({place, header.time_ticks, {data.begin(), data.end()}});
      }
    });
  }

  template <typename Read>
  void within_batch(std::uint64_t place, Read read) {
    try {
      read();
    } catch (const Bad& bad) {
      if (!is_lenient_) fault(place, "found " + bad.what + ", expected a whole batch");
      ++counts_.damaged_batches;
    }
  }

  // ---- What a generation tells beside its events ----

  void read_allocation_batch(Bytes bytes) {
    constexpr std::uint8_t kTypes = 0;
    constexpr std::uint8_t kInfo = 1;
    const std::uint8_t kind = bytes.byte();
    if (kind == kInfo) {
      const std::uint64_t address = bytes.number();
      const std::uint64_t page_bytes = bytes.number();
      const std::uint64_t object_align_bytes = bytes.number();
      static_cast<void>(bytes.number());  // How stacks are aligned.
      if (page_bytes != 8192 || object_align_bytes != 8) {
        throw Bad{"pages of " + std::to_string(page_bytes) + " bytes and objects at multiples of " +
                  std::to_string(object_align_bytes) + " (8192 and 8 are known)"};
      }
      heap_address_ = address;
      return;
    }
    if (kind != kTypes) throw Bad{"a batch of allocation data of kind " + std::to_string(kind)};
    while (!bytes.empty()) {
      const std::uint64_t id = bytes.number();
      GoType type;
      type.address = bytes.number();
      type.size_bytes = bytes.number();
      type.pointer_bytes = bytes.number();
      type.name = bytes.text(bytes.number());
      gathered_.types.insert_or_assign(id, std::move(type));
    }
  }

  void read_strings(Bytes bytes) {
    static_cast<void>(bytes.byte());
    while (!bytes.empty()) {
      if (bytes.byte() != kGoString) throw Bad{"something else among strings"};
      const std::uint64_t id = bytes.number();
      if (bytes.text(bytes.number()) == kCollects) collecting_string_ = id;
    }
  }

  void read_clock(Bytes bytes) {
    if (version_ >= 25) static_cast<void>(bytes.byte());
    while (!bytes.empty()) {
      const std::uint8_t type = bytes.byte();
      if (type == kGoFrequency) {
        gathered_.ticks_per_second = bytes.number();
      } else if (type == kGoClockSnapshot && version_ >= 25) {
        for (int i = 0; i < 4; ++i) static_cast<void>(bytes.number());
      } else {
        throw Bad{"something else beside the clock's frequency"};
      }
    }
  }

  // A collection says on which stack it was begun, and a stack names its functions by number.
  void find_stacks_of_gc() {
    const std::vector<Batch> stacks = std::exchange(stacks_, {});
    for (const Batch& batch : stacks) {
      within_batch(batch.place, [&] {
        Bytes bytes(batch.data);
        static_cast<void>(bytes.byte());
        while (!bytes.empty()) {
          if (bytes.byte() != kGoStack) throw Bad{"something else among stacks"};
          const std::uint64_t id = bytes.number();
          for (std::uint64_t left = bytes.number(); left > 0; --left) {
            static_cast<void>(bytes.number());  // The program counter.
            if (bytes.number() == collecting_string_ && collecting_string_ != 0) {
              gathered_.stacks_of_gc.insert(id);
            }
            static_cast<void>(bytes.number());  // The file.
            static_cast<void>(bytes.number());  // The line.
          }
        }
      });
    }
  }

  // ---- Events in the order of their times ----

  // How many numbers follow an event's type, the time among them; 0 for what is no event of a thread's.
  static int arguments_of(std::uint8_t type, int version) {
    // From 9, ProcsChange, on; tracev2/events.go, specs.
    static constexpr std::array<std::uint8_t, 43> kArguments = {3, 3, 1, 4, 3, 4, 2, 3, 1, 1, 3, 3, 4, 3, 1,
                                                                1, 4, 3, 1, 2, 3, 2, 2, 2, 3, 2, 2, 1, 2, 2,
                                                                2, 5, 3, 4, 4, 5, 3, 3, 4, 5, 0, 0, 4};
    // From 128, Span, on.
    static constexpr std::array<std::uint8_t, 9> kAllocationArguments = {4, 4, 2, 3, 3, 2, 3, 3, 2};
    if (type >= 128) {
      const std::size_t i = type - 128u;
      return version >= 23 && i < kAllocationArguments.size() ? kAllocationArguments[i] : 0;
    }
    const std::size_t i = type - 9u;
    return type >= 9 && i < kArguments.size() ? kArguments[i] : 0;
  }

  void begin_merge() {
    cursors_.clear();
    heap_.clear();
    for (auto& [machine, batches] : machines_) {
      Cursor cursor;
      cursor.machine = machine;
      cursor.batches = std::move(batches);
      cursors_.push_back(std::move(cursor));
    }
    // By thread and not by the table's order, so that equal times have one order on every machine.
    std::ranges::sort(cursors_, {}, &Cursor::machine);
    for (std::size_t i = 0; i < cursors_.size(); ++i) {
      if (advance(cursors_[i])) heap_.push_back(i);
    }
    make_heap();
    is_merging_ = true;
  }

  void make_heap() {
    for (std::size_t i = heap_.size(); i-- > 0;) sift_down(i);
  }

  bool take(GoEvent& event) {
    if (heap_.empty()) return false;
    Cursor& first = cursors_[heap_[0]];
    event = first.event;
    ++counts_.events;
    if (!advance(first)) {
      heap_[0] = heap_.back();
      heap_.pop_back();
    }
    if (!heap_.empty()) sift_down(0);
    return true;
  }

  // Reads a thread's next event; false where it has none left.
  bool advance(Cursor& cursor) {
    while (true) {
      while (cursor.bytes.empty()) {
        if (cursor.next_batch > 0) batches_[cursor.batches[cursor.next_batch - 1]].data = {};
        if (cursor.next_batch == cursor.batches.size()) {
          cursor.is_done = true;
          return false;
        }
        const Batch& batch = batches_[cursor.batches[cursor.next_batch++]];
        cursor.bytes = Bytes(batch.data);
        cursor.time_ticks = batch.time_ticks;
        // The runtime puts at least a tick between two events, so that a busy thread's times run ahead of
        // the clock; the next batch's begin, which is the clock's, sets them right.
        cursor.most_ticks = cursor.next_batch == cursor.batches.size()
                                ? UINT64_MAX
                                : batches_[cursor.batches[cursor.next_batch]].time_ticks;
        cursor.event.place = batch.place;
        cursor.event.machine = cursor.machine;
      }
      bool is_whole = false;
      within_batch(cursor.event.place, [&] {
        read_event(cursor);
        is_whole = true;
      });
      if (is_whole) return true;
      cursor.bytes = Bytes(nullptr, nullptr);
    }
  }

  void read_event(Cursor& cursor) {
    GoEvent& event = cursor.event;
    event.type = cursor.bytes.byte();
    const int count = arguments_of(event.type, version_);
    if (count == 0) throw Bad{"an event of type " + std::to_string(event.type)};
    cursor.time_ticks += cursor.bytes.number();
    event.time_ticks = std::min(cursor.time_ticks, cursor.most_ticks);
    for (std::size_t i = 0; i + 1 < static_cast<std::size_t>(count); ++i) {
      event.arguments[i] = cursor.bytes.number();
    }
  }

  bool is_before(std::size_t left, std::size_t right) const {
    const GoEvent& a = cursors_[heap_[left]].event;
    const GoEvent& b = cursors_[heap_[right]].event;
    return a.time_ticks != b.time_ticks ? a.time_ticks < b.time_ticks : a.machine < b.machine;
  }

  void sift_down(std::size_t at) {
    while (true) {
      std::size_t least = at;
      for (const std::size_t child : {2 * at + 1, 2 * at + 2}) {
        if (child < heap_.size() && is_before(child, least)) least = child;
      }
      if (least == at) return;
      std::swap(heap_[at], heap_[least]);
      at = least;
    }
  }

  bool is_lenient_;
  int version_ = 0;
  bool has_ended_ = false;
  std::string cut_;
  std::optional<std::uint64_t> heap_address_;
  GoWireCounts counts_;

  std::string input_;  // From at_ on not parsed yet.
  std::size_t at_ = 0;
  std::uint64_t offset_ = 0;  // Of the input's first byte in the file.

  GoGeneration gathered_;    // Being read.
  GoGeneration generation_;  // Being merged.
  std::uint64_t collecting_string_ = 0;
  std::vector<Batch> stacks_;
  std::vector<Batch> batches_;
  std::unordered_map<std::uint64_t, std::uint32_t> machine_numbers_;      // Of the whole trace.
  std::unordered_map<std::uint32_t, std::vector<std::size_t>> machines_;  // Batches of each.

  bool is_merging_ = false;
  std::vector<Cursor> cursors_;
  std::vector<std::size_t> heap_;  // Of cursors, the earliest event first.
};

}  // namespace formats
