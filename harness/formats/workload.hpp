// Workloads of glibc's malloc tracing tools (.wl): a program for each thread, and where one waits for
// another.
//
// Format: glibc, branch dj/malloc, malloc/trace2wl.cc and trace_run.c, opcodes in mtrace.h. The file begins
// with numbers of pointers, syncs and threads and where each thread's operations stand; an operation is a
// byte and numbers of seven bits a byte, the highest first. Pointers are numbers from 1; 0 is null.
//
// The order of calls on different threads is known only where they synchronise. Between, threads take turns,
// a call each, as they would on as many processors.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lines.hpp"

namespace formats {

// Bytes of a part of a file, in order.
class FilePart {
 public:
  FilePart(int file, std::uint64_t begin, std::uint64_t end, std::size_t buffer_bytes)
      : file_(file), next_read_(begin), end_(end), buffer_bytes_(buffer_bytes) {}

  // Where the next byte stands.
  std::uint64_t place() const { return next_read_ - (held_.size() - used_); }
  bool empty() const { return place() == end_; }

  // Throws BadLine at the end of the part.
  std::uint8_t byte() {
    if (used_ == held_.size()) fill();
    return held_[used_++];
  }

  // A number, as the format has them.
  std::uint64_t number() {
    std::uint64_t value = 0;
    for (;;) {
      const std::uint8_t next = byte();
      if (value >> 57 != 0) throw BadLine("expected a number of 64 bits");
      value = value << 7 | (next & 0x7Fu);
      if (next < 0x80) return value;
    }
  }

  void close() { held_ = {}; }

 private:
  void fill() {
    const std::uint64_t left = end_ - next_read_;
    held_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer_bytes_)));
    used_ = 0;
    ssize_t count = 0;
    if (!held_.empty()) {
      count = pread(file_, held_.data(), held_.size(), static_cast<off_t>(next_read_));
      if (count < 0) throw std::runtime_error(std::strerror(errno));
    }
    held_.resize(static_cast<std::size_t>(count));
    next_read_ += static_cast<std::uint64_t>(count);
    if (count == 0) throw BadLine("expected more operations up to one that ends them");
  }

  int file_;
  std::uint64_t next_read_;
  std::uint64_t end_;
  std::size_t buffer_bytes_;
  std::vector<std::uint8_t> held_;
  std::size_t used_ = 0;
};

class WorkloadReader {
 public:
  // Reads the file's beginning; TextFault where it is none. The file stays the caller's.
  WorkloadReader(int file, std::uint64_t file_bytes, bool is_lenient)
      : file_(file), file_bytes_(file_bytes), is_lenient_(is_lenient) {
    FilePart start(file, 0, file_bytes, kMostBufferBytes);
    std::uint64_t place = 0;
    try {
      std::vector<std::uint64_t> begins;
      for (;;) {
        place = start.place();
        const std::uint8_t operation = start.byte();
        if (operation == kDone) break;
        begin(operation, start, begins);
      }
      lay_out(std::move(begins));
    } catch (const BadLine& fault) {
      throw TextFault("byte " + std::to_string(place) + ": found no beginning of a workload, " +
                      fault.what());
    }
  }

  std::size_t threads() const { return threads_.size(); }
  std::uint64_t missing_syncs() const { return missing_syncs_; }
  std::uint64_t broken_threads() const { return broken_threads_; }

  // About so many of the next calls; none at the end.
  Records read(std::size_t count) {
    Records records;
    records.reserve(count);
    records.alignment.reserve(count);
    while (records.op.size() < count && wake()) {
      const std::uint32_t thread = ready_.front();
      ready_.pop_front();
      turn(thread, records);
    }
    return records;
  }

 private:
  enum Operation : std::uint8_t {
    kNop = 0,
    kDone = 1,
    kMalloc = 2,
    kCalloc = 3,
    kRealloc = 4,
    kFree = 5,
    kSyncWrite = 6,
    kSyncRead = 7,
    kPointers = 8,
    kSyncs = 9,
    kThreads = 10,
    kStartThread = 11,
    kMemalign = 12,
    kValloc = 13,
    kPvalloc = 14,
  };

  static constexpr std::uint64_t kPageBytes = 4096;         // What valloc aligns to, where the tools run.
  static constexpr std::size_t kMostThreads = 65'535;       // As harness-trace/1 has them.
  static constexpr std::size_t kMostBufferBytes = 1 << 16;  // Of a thread; all together:
  static constexpr std::size_t kBufferBytes = 1 << 24;

  struct Thread {
    FilePart operations;
    std::uint64_t waits_for = 0;  // A sync, where it waits.
  };

  void begin(std::uint8_t operation, FilePart& start, std::vector<std::uint64_t>& begins) {
    switch (operation) {
      case kNop:
        return;
      case kPointers:
        pointers_ = start.number();
        return;
      case kSyncs:
        syncs_ = start.number();
        // Each is written and read.
        if (syncs_ > file_bytes_) throw BadLine("expected no more syncs than the file has bytes");
        return;
      case kThreads:
        start.number();
        return;
      case kStartThread:
        begins.push_back(start.number());
        if (begins.back() >= file_bytes_) throw BadLine("expected a thread that begins inside the file");
        if (begins.size() > kMostThreads) throw BadLine("expected at most 65,535 threads");
        return;
      default:
        throw BadLine("expected operation 8, 9, 10, 11 or 1");
    }
  }

  // A thread's operations end where another's begin.
  void lay_out(std::vector<std::uint64_t> begins) {
    std::vector<std::uint64_t> sorted = begins;
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
      throw BadLine("expected threads that begin in different places");
    }
    sorted.push_back(file_bytes_);
    const std::size_t buffer_bytes =
        std::clamp<std::size_t>(kBufferBytes / std::max<std::size_t>(begins.size(), 1), 64, kMostBufferBytes);
    for (const std::uint64_t begin : begins) {
      const std::uint64_t end = *std::upper_bound(sorted.begin(), sorted.end(), begin);
      ready_.push_back(static_cast<std::uint32_t>(threads_.size()));
      threads_.push_back({.operations = FilePart(file_, begin, end, buffer_bytes)});
    }
    is_given_.resize(syncs_ + 1);
  }

  // Whether any thread can go on; where all wait for each other, the file is wrong.
  bool wake() {
    if (!ready_.empty()) return true;
    if (waiting_.empty()) return false;
    std::uint32_t first = UINT32_MAX;
    for (const auto& [sync, waiting] : waiting_) first = std::min(first, *std::ranges::min_element(waiting));
    const std::uint64_t sync = threads_[first].waits_for;
    if (!is_lenient_) {
      throw TextFault("byte " + std::to_string(threads_[first].operations.place()) + ": found thread " +
                      std::to_string(first) + " waiting for sync " + std::to_string(sync) +
                      ", expected another one to give it");
    }
    ++missing_syncs_;
    give(sync);
    return true;
  }

  // Lets a thread go on up to a call of its, or until it has to wait.
  void turn(std::uint32_t number, Records& records) {
    Thread& thread = threads_[number];
    FilePart& from = thread.operations;
    const std::size_t before = records.op.size();
    while (records.op.size() == before) {
      records.line = from.place();
      try {
        const std::uint8_t operation = from.byte();
        if (operation == kDone) {
          end(number, records);
          return;
        }
        if (operation == kSyncRead) {
          const std::uint64_t sync = checked(from.number(), syncs_ + 1, "a sync");
          if (!is_given_[sync]) {
            thread.waits_for = sync;
            waiting_[sync].push_back(number);
            return;
          }
        } else {
          call(operation, number, from, records);
        }
      } catch (const BadLine& fault) {
        if (!is_lenient_) {
          throw TextFault("byte " + std::to_string(records.line) + ": found an operation of thread " +
                          std::to_string(number) + " that is none, " + fault.what());
        }
        // Nobody knows where the next one begins.
        ++broken_threads_;
        end(number, records);
        return;
      }
    }
    ready_.push_back(number);
  }

  void call(std::uint8_t operation, std::uint32_t number, FilePart& from, Records& records) {
    std::uint64_t alignment = 0;
    switch (operation) {
      case kNop:
        return;
      case kSyncWrite:
        give(checked(from.number(), syncs_ + 1, "a sync"));
        return;
      case kMalloc:
      case kCalloc: {
        const std::uint64_t at = pointer(from);
        records.add(operation == kMalloc ? Op::kAlloc : Op::kCalloc, number, at, 0, from.number());
        break;
      }
      case kRealloc: {
        const std::uint64_t at = pointer(from);
        const std::uint64_t old = pointer(from);
        records.add(Op::kRealloc, number, at, old, from.number());
        break;
      }
      case kFree:
        records.add(Op::kFree, number, pointer(from), 0, 0);
        break;
      case kMemalign: {
        const std::uint64_t at = pointer(from);
        alignment = checked(from.number(), std::uint64_t{1} << 32, "an alignment");
        records.add(Op::kAlloc, number, at, 0, from.number());
        break;
      }
      case kValloc:
      case kPvalloc: {
        const std::uint64_t at = pointer(from);
        std::uint64_t size = from.number();
        if (operation == kPvalloc) {
          if (size > UINT64_MAX - kPageBytes) throw BadLine("expected a size of whole pages");
          size = (size + kPageBytes - 1) / kPageBytes * kPageBytes;
        }
        alignment = kPageBytes;
        records.add(Op::kAlloc, number, at, 0, size);
        break;
      }
      default:
        throw BadLine("expected operation 0 to 7 or 12 to 14");
    }
    records.alignment.push_back(static_cast<std::uint32_t>(alignment));
  }

  void end(std::uint32_t number, Records& records) {
    records.add(Op::kThreadEnd, number, 0, 0, 0);
    records.alignment.push_back(0);
    threads_[number].operations.close();
  }

  void give(std::uint64_t sync) {
    is_given_[sync] = true;
    const auto found = waiting_.find(sync);
    if (found == waiting_.end()) return;
    ready_.insert(ready_.end(), found->second.begin(), found->second.end());
    waiting_.erase(found);
  }

  std::uint64_t pointer(FilePart& from) const { return checked(from.number(), pointers_, "a pointer"); }

  static std::uint64_t checked(std::uint64_t found, std::uint64_t past, const char* what) {
    if (found < past) return found;
    throw BadLine(std::string("expected ") + what + " below " + std::to_string(past) + ", not " +
                  std::to_string(found));
  }

  int file_;
  std::uint64_t file_bytes_;
  bool is_lenient_;
  std::uint64_t pointers_ = 0;
  std::uint64_t syncs_ = 0;
  std::vector<Thread> threads_;
  std::deque<std::uint32_t> ready_;                                        // In the order of their turns.
  std::vector<bool> is_given_;                                             // By sync.
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> waiting_;  // Threads, by sync.
  std::uint64_t missing_syncs_ = 0;
  std::uint64_t broken_threads_ = 0;
};

}  // namespace formats
