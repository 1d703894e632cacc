// The collector: begins a cycle at the trigger, marks, ends it, and sees to it that all is swept.
//
// Above every other tier but go.hpp, which tells it of refills and large objects, after which a cycle may be
// due, and of each allocation while it marks. The path of a cycle (mgc.go: gcStart to gcMarkTermination):
//   1. start(): what is left of the last sweep, then the marks: all that lives now (marker.hpp).
//   2. While it marks, what is allocated is marked too, and what dies stays. The program assists() in
//      proportion to what it allocates; workers on idle Ps, or on a slice of the program's, do the rest.
//   3. terminate(): the pacer sets the next goal, every P's caches are flushed, sweeping begins.
//   4. sweep_in_background() and scavenge_in_background(), as the clock allows.
// The comparable modes are parts of it: stopped and lazy mark all at once, the world stopped.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "clock.hpp"
#include "marker.hpp"
#include "mheap.hpp"
#include "p.hpp"
#include "pacer.hpp"
#include "sweeper.hpp"

namespace go {

// Concurrent: as every Go program runs. Lazy: marked with the world stopped, swept by allocation alone
// (GODEBUG=gcstoptheworld=1, and no background sweeper). Stopped: marked and swept with the world stopped,
// before the pacer sets the next goal (GODEBUG=gcstoptheworld=2).
enum class CollectorMode : std::uint8_t { kConcurrent, kLazy, kStopped };

struct CollectorOptions {
  CollectorMode mode = CollectorMode::kConcurrent;
  std::uint32_t procs = 8;     // GOMAXPROCS.
  bool clock_of_trace = true;  // Time is the trace's, where it has any.
  bool scavenge_in_background = true;
};

struct CollectorCounters {
  std::int64_t cycles = 0;
  std::int64_t forced = 0;
  std::int64_t mark_bytes_scan = 0;
  std::int64_t mark_bytes_noscan = 0;
  std::int64_t assists = 0;
  std::int64_t assist_bytes = 0;  // Scanned by assists.
  std::int64_t flushes = 0;       // Spans that Ps gave up at the end of a cycle.
};

class Collector {
 public:
  using Ps = std::vector<std::unique_ptr<P>>;

  // paths: what the program has done, which go.hpp counts.
  Collector(const CollectorOptions& options, Mheap& heap, Pacer& pacer, Sweeper& sweeper, const Ps& ps,
            const Paths& paths)
      : options_(options),
        heap_(heap),
        pacer_(pacer),
        sweeper_(sweeper),
        ps_(ps),
        paths_(paths),
        clock_(options.clock_of_trace, options.clock_of_trace && options.mode == CollectorMode::kConcurrent) {
  }
  Collector(const Collector&) = delete;
  Collector& operator=(const Collector&) = delete;

  const CollectorCounters& counters() const { return counters_; }
  bool marking() const { return marking_; }
  // Whether a cycle may start, or end and another start, before the heap has grown by so many bytes.
  bool may_start(std::uint64_t bytes) const {
    return marking_ || pacer_.limited() || pacer_.heap_live + bytes >= trigger_;
  }

  // What a start brings: a real process's work buffers, and what its own objects add to each cycle.
  void restore(std::uint64_t finalizer_bytes, std::uint64_t root_work) {
    finalizer_bytes_ = finalizer_bytes;
    startup_root_work_ = root_work;
  }
  void restore_work_buffer(Span& span) { work_buffers_.push_back(&span); }

  // Without a memory limit the trigger only changes when the pacer commits.
  void renew_trigger() {
    trigger_ = pacer_.limited() ? kNoGoal : pacer_.trigger(heap_.memory());
    if (pacer_.gogc() < 0 && !pacer_.limited()) trigger_ = kNoGoal;
  }

  // After a refill or a large object. running: the P that allocated; threads: how many there are.
  void allocated_span(P& running, std::size_t threads) {
    if (options_.mode == CollectorMode::kConcurrent) work_meanwhile(running, threads);
    if (marking_) {
      pacer_.revise(heap_.memory());
      return;
    }
    if (follows_recording_ || !due()) return;
    start(running);
    if (options_.mode != CollectorMode::kConcurrent) terminate(running);
  }

  // malloc.go: deductAssistCredit, before each allocation while marking.
  void deduct_assist_credit(P& running, std::uint64_t bytes) {
    running.assist_bytes -= static_cast<std::int64_t>(bytes);
    if (running.assist_bytes < 0 && !follows_recording_) assist(running);
  }

  // What is allocated while marking is marked (gcmarknewobject). Slots of cached spans are, when these are
  // settled.
  void allocated_large(const Span& span) {
    if (marking_) mark_slot(heap_.spans().bits(), span, slot_bit(span, 0), work_);
  }

  // Brings the counts of all cached spans up to date.
  void settle() {
    for (const auto& p : ps_) p->mcache.settle(heap_, marking_);
  }

  // runtime.GC: ends the running cycle, then a cycle and all of its sweep.
  void collect(P& running) {
    if (marking_) terminate(running);
    ++counters_.forced;
    start(running);
    terminate(running);
    sweeper_.finish();
    if (options_.mode == CollectorMode::kConcurrent) free_work_buffers();
    renew_trigger();
  }

  // Of a real process somebody may know when its cycles began and ended to mark. From the first call on no
  // other begins or ends, and nobody assists; what is swept, and when, remains the model's to say.
  void begin_recorded_cycle(P& running) {
    follows_recording_ = true;
    if (marking_) terminate(running);
    start(running);
  }
  // sweeps: whether the cycle is runtime.GC's, which returns when all is swept.
  void end_recorded_cycle(P& running, bool sweeps) {
    if (!marking_) return;
    terminate(running);
    if (!sweeps) return;
    sweeper_.finish();
    free_work_buffers();
  }

  harness::Ticker ticker() const { return clock_.ticker(); }
  void set_last_tick(std::int64_t time_ns) { clock_.set_last_tick(time_ns); }

  // When to be told the time: for the collection that comes two minutes after the last (proc.go: sysmon).
  // After a cycle, the first time that is told says when that is.
  std::int64_t next_deadline_ns() const { return force_gc_ns_; }

  void advance(std::int64_t time_ns, P& running) {
    if (force_gc_ns_ == kAtOnce) {
      clock_.set_trace_time(time_ns);
      force_gc_ns_ = std::min(time_ns, kNever - kForceGcPeriodNs) + kForceGcPeriodNs;
    } else if (clock_.knows(time_ns)) {
      clock_.set_trace_time(time_ns);
      force_gc(time_ns, running);
    }
  }

  // Every cycle since the last call, or since recording began: live bytes at its start, marked bytes, spans
  // of work buffers.
  void record_cycles(bool on) { recording_cycles_ = on; }
  std::vector<std::array<std::uint64_t, 3>> take_cycles() { return std::exchange(cycle_history_, {}); }

  // The stacks of a real process that each coming cycle is to reckon with, one value a cycle; the last one
  // stays.
  void set_stack_scans(std::vector<std::uint64_t> bytes) { stack_scans_ = std::move(bytes); }

 private:
  static constexpr std::int64_t kAtOnce = std::numeric_limits<std::int64_t>::min();
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

  void force_gc(std::int64_t time_ns, P& running) {
    // A pause of days would collect the same heap again and again: the last day of it is enough.
    constexpr std::int64_t kDayNs = 86'400'000'000'000;
    std::int64_t at = force_gc_ns_ - kForceGcPeriodNs;
    if (static_cast<std::uint64_t>(time_ns) - static_cast<std::uint64_t>(at) >
        static_cast<std::uint64_t>(kDayNs)) {
      at = time_ns - kDayNs;
    }
    while (time_ns - at >= kForceGcPeriodNs) {
      at += kForceGcPeriodNs;
      if (marking_) terminate(running);
      ++counters_.forced;
      start(running);
      terminate(running);
    }
    force_gc_ns_ = std::min(at, kNever - kForceGcPeriodNs) + kForceGcPeriodNs;
  }

  // 2 minutes; sysmon waits for more than that, not for as much.
  static constexpr std::int64_t kForceGcPeriodNs = 120'000'000'001;
  static constexpr double kOverAssistWork = 64 << 10;        // mgcpacer.go: gcOverAssistWork
  static constexpr std::int64_t kSweepBatch = 10;            // mgcsweep.go: sweepBatchSize
  static constexpr double kScavengeShare = 0.01;             // mgcscavenge.go: scavengePercent
  static constexpr std::uint64_t kScavengeQuantumPages = 8;  // mgcscavenge.go: scavengeQuantum, 64 KiB

  double now(std::size_t running) const { return clock_.now(paths_, heap_.counters().fresh_bytes, running); }

  bool due() const {
    if (!pacer_.limited()) return pacer_.heap_live >= trigger_;
    // A heap at its limit would be collected at every refill. In Go the GC CPU limiter sees to it that the
    // program runs on meanwhile: here by a sixteenth of the marked heap, 64 KiB at least.
    constexpr std::uint64_t kMinRunway = std::uint64_t{64} << 10;
    const std::uint64_t runway = std::max(pacer_.heap_marked / 16, kMinRunway);
    return pacer_.heap_live >= std::max(pacer_.trigger(heap_.memory()), pacer_.heap_marked + runway);
  }

  void start(P& running) {
    sweeper_.finish();
    ++counters_.cycles;
    if (pacer_.gogc() >= 0 && !follows_recording_) force_gc_ns_ = kAtOnce;
    pacer_.start_cycle();
    settle();
    work_ = mark(heap_);
    for (int i = 2; i < kSpanClasses; ++i) {
      taken_at_start_[static_cast<std::size_t>(i)] = heap_.occupancy().taken_bytes(static_cast<SpanClass>(i));
    }
    for (const auto& p : ps_) {
      if (p->tiny.has_block()) {
        const SlotBit slot = SlotBits::slot_of_holders(p->tiny.block());
        mark_slot(heap_.spans().bits(), heap_.spans().of_word(slot.word), slot, work_);
      }
      p->assist_bytes = 0;
    }
    take_work_buffers(work_buffer_spans(work_.queued_objects + startup_root_work_), running);
    heap_scan_ = work_.scan_bytes;
    if (options_.mode != CollectorMode::kConcurrent) return;

    marking_ = true;
    clock_.stall(kCosts.cycle);
    work_left_ = static_cast<double>(heap_scan_ + pacer_.root_scan());
    credit_ = 0;
    assist_ns_ = worker_ns_ = idle_ns_ = 0;
    mark_start_ns_ = worked_until_ns_ = now(1);
    pacer_.revise(heap_.memory());
  }

  void terminate(P& running) {
    settle();
    for (int i = 2; i < kSpanClasses; ++i) {
      const auto span_class = static_cast<SpanClass>(i);
      (is_noscan(span_class) ? work_.noscan_bytes : work_.scan_bytes) +=
          heap_.occupancy().taken_bytes(span_class) - taken_at_start_[span_class];
    }
    if (marking_) {
      pacer_.scanned(work_left_);
      end_concurrent_marking();
    } else {
      pacer_.end_cycle(heap_.memory(), 0, 0);
    }
    counters_.mark_bytes_scan += static_cast<std::int64_t>(work_.scan_bytes);
    counters_.mark_bytes_noscan += static_cast<std::int64_t>(work_.noscan_bytes);
    const std::uint64_t triggered = pacer_.triggered();
    pacer_.reset_live(work_.scan_bytes + work_.noscan_bytes + finalizer_bytes_, heap_scan_);
    if (!stack_scans_.empty()) {
      pacer_.last_stack_scan = stack_scans_.front();
      stack_scans_.erase(stack_scans_.begin());
    }
    if (recording_cycles_) cycle_history_.push_back({triggered, pacer_.heap_marked, work_buffers_.size()});
    sweeper_.begin();
    if (options_.mode == CollectorMode::kStopped) {
      for (const auto& p : ps_) flush_mcache(*p);
      sweeper_.finish();
      free_work_buffers();
    }
    pacer_.commit(!sweeper_.sweeping());
    sweeper_.pace(pacer_.trigger(heap_.memory()));
    heap_.scavenger().pace(pacer_.goal(heap_.memory()), pacer_.last_heap_goal, heap_.in_use_bytes(),
                           heap_.retained_bytes());
    heap_.scavenger().next_generation();
    for (const auto& p : ps_) {
      if (options_.mode != CollectorMode::kStopped) flush_mcache(*p);
      // Only the P that collects runs; idle ones give their pages back (mgc.go: gcMarkTermination, forEachP).
      if (p.get() != &running) heap_.flush_page_cache(p->page_cache);
    }
    renew_trigger();
  }

  void end_concurrent_marking() {
    marking_ = false;
    clock_.stall(kCosts.cycle);
    worked_until_ns_ += kCosts.cycle;
    mark_end_ns_ = worked_until_ns_;
    const double lasted = (worked_until_ns_ - mark_start_ns_) * static_cast<double>(options_.procs);
    const bool some = lasted > 0;
    pacer_.end_cycle(heap_.memory(), kGoalUtilization + (some ? assist_ns_ / lasted : 0),
                     some ? idle_ns_ / lasted : 0);
  }

  void flush_mcache(P& p) {
    p.mcache.release_all(heap_, pacer_, [this](Span& span) {
      sweeper_.sweep(span);
      ++counters_.flushes;
    });
    p.tiny.clear();
  }

  // mgcmark.go: gcAssistAlloc. Takes what workers have scanned ahead, and scans the rest itself.
  void assist(P& running) {
    const double work_per_byte = pacer_.assist_work_per_byte();
    const double bytes_per_work = pacer_.assist_bytes_per_work();
    const double debt = work_per_byte * static_cast<double>(-running.assist_bytes);
    const double work = std::max(debt, kOverAssistWork);
    const double stolen = std::clamp(credit_, 0.0, work);
    credit_ -= stolen;
    const double own = std::min(work - stolen, work_left_);
    if (own > 0) {
      ++counters_.assists;
      counters_.assist_bytes += static_cast<std::int64_t>(own);
      clock_.stall(own * kCosts.marked_byte);
      assist_ns_ += own * kCosts.marked_byte;
      scan(own);
    }
    running.assist_bytes += 1 + static_cast<std::int64_t>(bytes_per_work * (stolen + own));
    if (work_left_ <= 0) {
      worked_until_ns_ = std::max(worked_until_ns_, now(1));
      terminate(running);
    }
  }

  void scan(double bytes) {
    work_left_ -= bytes;
    pacer_.scanned(bytes);
  }

  // What others have done since this was last asked.
  void work_meanwhile(P& running, std::size_t threads) {
    const std::size_t busy = std::clamp<std::size_t>(threads, 1, options_.procs);
    const std::size_t idle = options_.procs - busy;
    const double now = this->now(busy);
    if (marking_) {
      if (!follows_recording_) mark_in_background(now, idle);
    } else if (sweeper_.sweeping() || !work_buffers_.empty()) {
      sweep_in_background(now, idle);
    }
    worked_until_ns_ = std::max(worked_until_ns_, now);
    if (marking_ && work_left_ <= 0 && !follows_recording_) terminate(running);
    if (options_.scavenge_in_background) scavenge_in_background(now);
    if (idle == 0 && now - slice_start_ns_ >= kTimeSliceNs) slice_start_ns_ = this->now(busy);
  }

  // Dedicated workers have a P each, whoever else wants it; where a quarter of the Ps is no round number,
  // every P gives a fractional one a quarter of its time (startCycle). Idle Ps work besides.
  void mark_in_background(double now, std::size_t idle) {
    const double passed = now - mark_start_ns_;
    const std::size_t dedicated = dedicated_workers(options_.procs);
    const std::size_t workers = std::max(idle, dedicated);
    // A fractional worker stops when it has had a fifth more than its share.
    const double share = 1.2 * kGoalUtilization;
    double time = 0;
    double due = 0;
    if (workers > 0) {
      const double from = std::max(worked_until_ns_, mark_start_ns_ + kCosts.wake);
      time = std::max(now - from, 0.0) * static_cast<double>(workers);
      due = passed * (dedicated > 0 ? static_cast<double>(dedicated) : share * static_cast<double>(workers));
    } else if (now - slice_start_ns_ >= kTimeSliceNs) {
      // The program's slice of time is over.
      time = std::max((share * passed - worker_ns_) / (1 - share), 0.0);
      due = worker_ns_ + time;
      clock_.stall(std::min(time, work_left_ * kCosts.marked_byte));
    }
    const double work = std::min(time / kCosts.marked_byte, work_left_);
    time = work * kCosts.marked_byte;
    scan(work);
    credit_ += work;
    const double own = std::clamp(due - worker_ns_, 0.0, time);
    worker_ns_ += own;
    idle_ns_ += time - own;
  }

  // mgcpacer.go: startCycle.
  static std::size_t dedicated_workers(std::uint32_t procs) {
    const double wanted = kGoalUtilization * procs;
    const auto rounded = static_cast<std::size_t>(wanted + 0.5);
    constexpr double kMaxUtilError = 0.3;
    const double error = static_cast<double>(rounded) / wanted - 1;
    return std::abs(error) > kMaxUtilError && static_cast<double>(rounded) > wanted ? rounded - 1 : rounded;
  }

  void sweep_in_background(double now, std::size_t idle) {
    std::int64_t spans = 0;
    if (idle > 0) {
      const double from = std::max(worked_until_ns_, mark_end_ns_ + kCosts.wake);
      spans = static_cast<std::int64_t>(std::max(now - from, 0.0) / kCosts.swept_span);
    } else if (now - slice_start_ns_ >= kTimeSliceNs) {
      spans = kSweepBatch;
    }
    if (spans > 0 && sweeper_.sweep_next(spans) < spans) free_work_buffers();
  }

  // mgcscavenge.go: bgscavenge has a hundredth of a CPU while the heap keeps more than its goal.
  void scavenge_in_background(double now) {
    const double passed = std::max(now - scavenged_until_ns_.value_or(now), 0.0);
    scavenged_until_ns_ = std::max(scavenged_until_ns_.value_or(now), now);
    const std::uint64_t goal = heap_.scavenger().gc_percent_goal();
    if (!heap_.scavenger().on() || goal == kNoGoal || heap_.retained_bytes() <= goal) {
      scavenge_ns_ = 0;
      return;
    }
    scavenge_ns_ += passed * kScavengeShare;
    const auto pages = static_cast<std::uint64_t>(scavenge_ns_ / kCosts.scavenged_page);
    if (pages < kScavengeQuantumPages) return;
    scavenge_ns_ = 0;
    heap_.scavenge(std::min(pages * kPageBytes, heap_.retained_bytes() - goal), false);
  }

  // Spans of work buffers, from the page cache of the P that collects. Where no background sweeper runs to
  // free them, they wait for the next cycle.
  void take_work_buffers(std::uint64_t spans, P& running) {
    while (work_buffers_.size() < spans) {
      Span* span = heap_.alloc_manual(kWorkBufferSpanPages, running.page_cache);
      if (span == nullptr) return;
      work_buffers_.push_back(span);
    }
  }
  void free_work_buffers() {
    for (Span* span : work_buffers_) heap_.free_span(*span);
    work_buffers_.clear();
  }

  CollectorOptions options_;
  Mheap& heap_;
  Pacer& pacer_;
  Sweeper& sweeper_;
  const Ps& ps_;
  const Paths& paths_;
  Clock clock_;
  CollectorCounters counters_;

  std::uint64_t trigger_ = kNoGoal;
  std::uint64_t finalizer_bytes_ = 0;
  std::uint64_t startup_root_work_ = 0;
  std::vector<Span*> work_buffers_;
  std::vector<std::uint64_t> stack_scans_;
  std::int64_t force_gc_ns_ = kNever;  // kAtOnce: to be learnt from the next event.
  bool recording_cycles_ = false;
  bool follows_recording_ = false;
  std::vector<std::array<std::uint64_t, 3>> cycle_history_;

  // Of the running cycle.
  bool marking_ = false;
  MarkWork work_;
  std::array<std::uint64_t, kSpanClasses>
      taken_at_start_{};  // Bytes by class; large objects mark themselves.
  std::uint64_t heap_scan_ = 0;
  double work_left_ = 0;  // Bytes to scan: heap, globals, stacks.
  double credit_ = 0;     // Scanned by workers, and not yet claimed by an assist (bgScanCredit).
  double mark_start_ns_ = 0;
  double mark_end_ns_ = 0;  // Of the last cycle.
  double worked_until_ns_ = 0;
  double assist_ns_ = 0;
  double worker_ns_ = 0;
  double idle_ns_ = 0;
  double slice_start_ns_ = 0;

  std::optional<double> scavenged_until_ns_;  // None before the first look: a trace may begin at any time.
  double scavenge_ns_ = 0;                    // Due to the background scavenger, and not spent.
};

}  // namespace go
