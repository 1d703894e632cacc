// What a cut of a trace needs to know: which objects live at its beginning, and what becomes of them in it.
//
// Fed with checked rows and the raw thread numbers beside them: skip() before the cut, alive() at the cut,
// take() within it. Objects are renamed to dense slots of the part's own. Memory is bounded by the live
// objects and threads. harness/conversion.py drives it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "harness/events.hpp"

namespace harness {

// Checked rows, but for threads, which have the file's own numbers, and sites, empty where there are none.
struct CutRows {
  std::span<const std::uint8_t> op;
  std::span<const std::uint32_t> thread;
  std::span<const std::uint32_t> slot;
  std::span<const std::uint64_t> size;
  std::span<const std::uint32_t> alignment;
  std::span<const std::uint8_t> noscan;
  std::span<const std::uint32_t> site;
};

// Rows that allocate what lives at the cut.
struct AliveRows {
  std::vector<std::uint8_t> op;
  std::vector<std::uint32_t> thread;
  std::vector<std::uint64_t> object;
  std::vector<std::uint64_t> size;
  std::vector<std::uint32_t> alignment;
  std::vector<std::uint8_t> noscan;
  std::vector<std::uint32_t> site;
};

// Which rows of a batch belong to the part, and what their objects are called there.
struct TakenRows {
  std::vector<std::uint8_t> is_taken;
  std::vector<std::uint64_t> object;
};

class LiveSet {
 public:
  // Keeps the objects that the threads allocate; every object where none is named.
  explicit LiveSet(const std::vector<std::uint32_t>& threads) : chosen_(threads.begin(), threads.end()) {}

  // Follows rows that stand before the part.
  void skip(const CutRows& rows) {
    for (std::size_t i = 0; i < rows.op.size(); ++i) {
      switch (static_cast<Op>(rows.op[i])) {
        case Op::kAlloc:
        case Op::kCalloc:
          born(rows, i);
          break;
        case Op::kRealloc:
          resize(rows, i);
          break;
        case Op::kFree:
          objects_[rows.slot[i]].is_kept = false;
          break;
        case Op::kGc:
          break;
        case Op::kThreadEnd:
          end_thread(rows.thread[i]);
          break;
      }
    }
  }

  // Allocates, in the order in which they were allocated, the objects that live now. A thread that has ended
  // and whose objects live on ends after the last of them, so that a later thread of its number is another.
  AliveRows alive() {
    std::vector<Object*> living;
    for (Object& object : objects_) {
      if (object.is_kept) living.push_back(&object);
    }
    std::sort(living.begin(), living.end(),
              [](const Object* a, const Object* b) { return a->ordinal < b->ordinal; });
    std::unordered_map<std::uint64_t, std::uint64_t> objects_of_ended;  // By incarnation.
    for (const Object* object : living) {
      if (has_ended(*object)) ++objects_of_ended[object->incarnation];
    }
    AliveRows out;
    for (Object* object : living) {
      object->new_slot = take_slot();
      append(out, object->op, *object);
      if (!has_ended(*object)) {
        seen_.insert(object->thread);
      } else if (--objects_of_ended[object->incarnation] == 0) {
        append(out, Op::kThreadEnd, {.thread = object->thread});
      }
    }
    return out;
  }

  // Says which rows belong to the part.
  TakenRows take(const CutRows& rows) {
    TakenRows out;
    out.is_taken.resize(rows.op.size());
    out.object.resize(rows.op.size());
    for (std::size_t i = 0; i < rows.op.size(); ++i) {
      bool taken = true;
      switch (static_cast<Op>(rows.op[i])) {
        case Op::kAlloc:
        case Op::kCalloc: {
          Object& object = born(rows, i);
          taken = object.is_kept;
          if (taken) out.object[i] = object.new_slot = take_slot();
          break;
        }
        case Op::kRealloc:
        case Op::kFree: {
          Object& object = objects_[rows.slot[i]];
          taken = object.is_kept;
          if (taken) out.object[i] = object.new_slot;
          if (taken && static_cast<Op>(rows.op[i]) == Op::kFree) {
            object.is_kept = false;
            free_slots_.push_back(object.new_slot);
          }
          break;
        }
        case Op::kGc:
          break;
        case Op::kThreadEnd:
          // Another thread's end counts where the part has seen that thread: it freed what was kept.
          taken = is_chosen(rows.thread[i]) || seen_.contains(rows.thread[i]);
          end_thread(rows.thread[i]);
          break;
      }
      out.is_taken[i] = taken;
      if (taken && static_cast<Op>(rows.op[i]) != Op::kThreadEnd) see(rows.thread[i]);
    }
    return out;
  }

 private:
  struct Object {
    std::uint64_t ordinal = 0;
    std::uint64_t incarnation = 0;
    std::uint64_t size = 0;
    std::uint32_t thread = 0;
    std::uint32_t alignment = 0;
    std::uint32_t site = 0;
    std::uint32_t new_slot = 0;
    Op op = Op::kAlloc;
    bool noscan = false;
    bool is_kept = false;
  };

  bool is_chosen(std::uint32_t thread) const { return chosen_.empty() || chosen_.contains(thread); }

  // How many threads of this number have ended before, made one number with the thread's own.
  std::uint64_t incarnation_of(std::uint32_t thread) const {
    const auto found = ends_.find(thread);
    return (found == ends_.end() ? 0 : found->second << 32) | thread;
  }

  bool has_ended(const Object& object) const { return object.incarnation != incarnation_of(object.thread); }

  void end_thread(std::uint32_t thread) {
    ++ends_[thread];
    seen_.erase(thread);
    last_seen_ = kNoThread;
  }

  void see(std::uint32_t thread) {
    if (thread == last_seen_) return;
    seen_.insert(thread);
    last_seen_ = thread;
  }

  Object& born(const CutRows& rows, std::size_t i) {
    if (rows.slot[i] >= objects_.size()) objects_.resize(std::size_t{rows.slot[i]} + 1);
    Object& object = objects_[rows.slot[i]];
    object = {.ordinal = ordinal_++,
              .incarnation = ends_.empty() ? rows.thread[i] : incarnation_of(rows.thread[i]),
              .thread = rows.thread[i],
              .op = static_cast<Op>(rows.op[i]),
              .noscan = rows.noscan[i] != 0,
              .is_kept = is_chosen(rows.thread[i])};
    resize(rows, i);
    return object;
  }

  void resize(const CutRows& rows, std::size_t i) {
    Object& object = objects_[rows.slot[i]];
    object.size = rows.size[i];
    object.alignment = rows.alignment[i];
    if (!rows.site.empty()) object.site = rows.site[i];
  }

  static void append(AliveRows& out, Op op, const Object& object) {
    out.op.push_back(static_cast<std::uint8_t>(op));
    out.thread.push_back(object.thread);
    out.object.push_back(object.new_slot);
    out.size.push_back(object.size);
    out.alignment.push_back(object.alignment);
    out.noscan.push_back(object.noscan);
    out.site.push_back(object.site);
  }

  std::uint32_t take_slot() {
    if (free_slots_.empty()) return slots_++;
    const std::uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }

  static constexpr std::uint64_t kNoThread = UINT64_MAX;

  std::unordered_set<std::uint32_t> chosen_;
  std::unordered_set<std::uint32_t> seen_;                 // Threads with an event in the part, not ended.
  std::unordered_map<std::uint32_t, std::uint64_t> ends_;  // thread_end events so far, by thread.
  std::vector<Object> objects_;                            // By the checker's slot.
  std::vector<std::uint32_t> free_slots_;                  // Of the part.
  std::uint32_t slots_ = 0;
  std::uint64_t ordinal_ = 0;
  std::uint64_t last_seen_ = kNoThread;
};

}  // namespace harness
