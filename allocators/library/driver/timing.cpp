// Times a real malloc: carries out the records of a file once, each thread of the trace on a thread of its
// own.
//
//   timing ANSWERS RECORDS free|ordered EVERY malloc|nothing
//
// ANSWERS and RECORDS are descriptors. Threads run freely and wait only for an object that another one has
// had (free), or for every event that another one did before (ordered). One call in EVERY is timed by itself,
// none with 0. With `nothing` the functions that are called do nothing: what remains is this program's own
// cost.
//
// The waits are found before the clock runs, and stand as steps of their own. Objects get numbers anew: a
// number is used again only by the thread that freed its object, so that nobody waits for a number.
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <x86intrin.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string_view>

#include "memory.hpp"
#include "protocol.hpp"

namespace driver {

namespace {

constexpr std::size_t kThreads = std::size_t{1} << 16;
constexpr std::size_t kStackBytes = std::size_t{256} << 10;
constexpr std::uint8_t kWait = 0;  // A step that is no event: until thread `size` has done `slot` steps.

struct Step {
  std::uint8_t op;
  std::uint8_t alignment_log2;
  bool is_awaited;  // By another thread.
  std::uint8_t unused;
  std::uint32_t slot;
  std::uint64_t size;
};
static_assert(sizeof(Step) == 16);

struct Functions {
  void* (*allocate)(std::size_t);
  void* (*allocate_zeroed)(std::size_t, std::size_t);
  void* (*reallocate)(void*, std::size_t);
  int (*allocate_aligned)(void**, std::size_t, std::size_t);
  void (*release)(void*);
};

char nowhere[16];
void* nothing_allocate(std::size_t) { return nowhere; }
void* nothing_allocate_zeroed(std::size_t, std::size_t) { return nowhere; }
void* nothing_reallocate(void* block, std::size_t) { return block; }
int nothing_allocate_aligned(void** block, std::size_t, std::size_t) {
  *block = nowhere;
  return 0;
}
void nothing_release(void*) {}

struct Sample {
  std::uint32_t op;
  std::uint32_t ticks;
};

struct alignas(64) Progress {
  std::atomic<std::uint32_t> done = 0;  // Steps, as far as others ask.
};

struct Thread {
  std::size_t first, stop;  // Of `steps`.
  std::size_t next;
};

struct Answer {
  std::uint64_t ns;  // Of processor time, all threads together, without waiting for each other's objects.
  std::uint64_t elapsed_ns, elapsed_ticks, clock_ticks, samples;
};

Functions functions{malloc, calloc, realloc, posix_memalign, free};
Array<Step> steps;
Array<void*> blocks;
Array<Sample> samples;
Thread threads[kThreads];
constinit Progress progress[kThreads] = {};
std::size_t thread_count = 0;
std::uint32_t sample_every = 0;
std::atomic<bool> has_begun = false;
std::atomic<std::size_t> running = 0;
std::atomic<std::uint64_t> processor_ns = 0;
std::atomic<std::size_t> sample_count = 0;

// What is known of an object number while the waits are found.
struct Object {
  std::uint32_t thread, done;  // Who had it last, and how many steps that thread had done then.
  std::uint32_t slot;
  std::uint32_t next_spare;  // Of new numbers, one more than it.
};

// Calls use(thread, step) for each step, and await(thread, done) for a step that another thread waits for.
template <typename Use, typename Await>
void plan(const Record* records, std::size_t count, bool is_ordered, Use use, Await await) {
  static Array<Object> objects;
  static Array<std::uint32_t> spare;  // By thread: its last spare number, one more than it.
  static Array<std::uint32_t> done;
  spare.grow(kThreads);
  done.grow(kThreads);
  std::fill_n(spare.data(), kThreads, 0);
  std::fill_n(done.data(), kThreads, 0);
  std::uint32_t slots = 0;
  std::uint32_t last_thread = records[0].thread;
  for (std::size_t i = 0; i < count; ++i) {
    const Record& record = records[i];
    const std::uint32_t self = record.thread;
    const bool has_object = record.op <= Op::kFree;
    const bool is_new = record.op == Op::kAlloc || record.op == Op::kCalloc;
    objects.grow(std::max(std::size_t{record.slot}, std::size_t{slots}) + 1);
    Object& object = objects[record.slot];
    const auto wait_for = [&](std::uint32_t other, std::uint32_t steps_done) {
      await(other, steps_done);
      use(self, Step{kWait, 0, false, 0, steps_done, other});
      ++done[self];
    };
    if (is_ordered && last_thread != self) {
      wait_for(last_thread, done[last_thread]);
    } else if (!is_ordered && has_object && !is_new && object.thread != self) {
      wait_for(object.thread, object.done);
    }
    if (is_new) {
      if (spare[self] == 0) {
        object.slot = slots++;
      } else {
        object.slot = spare[self] - 1;
        spare[self] = objects[object.slot].next_spare;
      }
    }
    use(self, Step{static_cast<std::uint8_t>(record.op), record.alignment_log2, false, 0,
                   has_object ? object.slot : 0, record.size});
    ++done[self];
    if (has_object) {
      object.thread = self;
      object.done = done[self];
    }
    if (record.op == Op::kFree) {
      objects[object.slot].next_spare = spare[self];
      spare[self] = object.slot + 1;
    }
    last_thread = self;
  }
  blocks.grow(slots);
}

void prepare(const Record* records, std::size_t count, bool is_ordered) {
  plan(
      records, count, is_ordered, [](std::uint32_t thread, const Step&) { ++threads[thread].stop; },
      [](std::uint32_t, std::uint32_t) {});
  std::size_t all = 0;
  for (std::size_t number = 0; number < kThreads; ++number) {
    Thread& thread = threads[number];
    if (thread.stop > 0) thread_count = number + 1;
    thread.first = thread.next = all;
    all += thread.stop;
    thread.stop = all;
  }
  steps.grow(all);
  plan(
      records, count, is_ordered,
      [](std::uint32_t thread, const Step& step) { steps[threads[thread].next++] = step; },
      [](std::uint32_t thread, std::uint32_t done) {
        if (done > 0) steps[threads[thread].first + done - 1].is_awaited = true;
      });
  for (std::size_t number = 0; number < thread_count; ++number) threads[number].next = threads[number].first;
  // Pages that are there already cost nothing later.
  for (std::size_t i = 0; i < blocks.capacity(); ++i) blocks[i] = nullptr;
  if (sample_every > 0) samples.grow(count / sample_every + thread_count);
}

std::uint64_t ticks_now() {
  unsigned int core;
  _mm_lfence();
  const std::uint64_t ticks = __rdtscp(&core);
  _mm_lfence();
  return ticks;
}

std::uint64_t ns_of(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// What two readings of the clock, one after the other, are apart: the middle one of many.
std::uint64_t clock_ticks() {
  static std::uint64_t apart[1001];
  for (auto& one : apart) {
    const std::uint64_t before = ticks_now();
    one = ticks_now() - before;
  }
  std::sort(std::begin(apart), std::end(apart));
  return apart[std::size(apart) / 2];
}

void carry_out(const Step& step) {
  switch (Op{step.op}) {
    case Op::kAlloc:
    case Op::kCalloc: {
      void* block = nullptr;
      if (step.alignment_log2 > 3) {
        const std::size_t alignment = std::size_t{1} << step.alignment_log2;
        if (functions.allocate_aligned(&block, alignment, step.size) != 0) block = nullptr;
      } else if (Op{step.op} == Op::kCalloc) {
        block = functions.allocate_zeroed(1, step.size);
      } else {
        block = functions.allocate(step.size);
      }
      blocks[step.slot] = block;
      return;
    }
    case Op::kRealloc: {
      void* const block = functions.reallocate(blocks[step.slot], step.size == 0 ? 1 : step.size);
      if (block != nullptr) blocks[step.slot] = block;  // Otherwise the old block stands.
      return;
    }
    case Op::kFree:
      functions.release(blocks[step.slot]);
      return;
    case Op::kGc:
    case Op::kThreadEnd:
      return;
  }
}

// Returns how much processor time the wait has taken.
std::uint64_t wait_until(const std::atomic<std::uint32_t>& done, std::uint32_t wanted) {
  if (done.load(std::memory_order_acquire) >= wanted) return 0;
  const std::uint64_t before = ns_of(CLOCK_THREAD_CPUTIME_ID);
  for (int spins = 0; done.load(std::memory_order_acquire) < wanted; ++spins) {
    if (spins < 200) {
      __builtin_ia32_pause();
    } else {
      sched_yield();
    }
  }
  return ns_of(CLOCK_THREAD_CPUTIME_ID) - before;
}

// The steps of one thread up to its end; false where the thread is to end and a later one goes on.
template <bool kSamples>
bool run(std::size_t self, std::uint64_t& waited_ns) {
  Thread& thread = threads[self];
  std::uint32_t until_sample = sample_every;
  while (thread.next < thread.stop) {
    const Step& step = steps[thread.next++];
    if (step.op == kWait) {
      waited_ns += wait_until(progress[step.size].done, step.slot);
    } else if (kSamples && --until_sample == 0) {
      until_sample = sample_every;
      const std::uint64_t before = ticks_now();
      carry_out(step);
      const std::uint64_t ticks = std::min<std::uint64_t>(ticks_now() - before, UINT32_MAX);
      samples[sample_count++] = {step.op, static_cast<std::uint32_t>(ticks)};
    } else {
      carry_out(step);
    }
    if (step.is_awaited) {
      progress[self].done.store(static_cast<std::uint32_t>(thread.next - thread.first),
                                std::memory_order_release);
    }
    if (step.op == static_cast<std::uint8_t>(Op::kThreadEnd) && self != 0 && thread.next < thread.stop) {
      return false;
    }
  }
  return true;
}

bool run_timed(std::size_t self) {
  std::uint64_t waited_ns = 0;
  const std::uint64_t before = ns_of(CLOCK_THREAD_CPUTIME_ID);
  const bool is_done = sample_every > 0 ? run<true>(self, waited_ns) : run<false>(self, waited_ns);
  processor_ns += ns_of(CLOCK_THREAD_CPUTIME_ID) - before - waited_ns;
  return is_done;
}

void start(std::size_t number);

void* thread_main(void* argument) {
  const auto self = static_cast<std::size_t>(reinterpret_cast<std::uintptr_t>(argument));
  while (!has_begun.load(std::memory_order_acquire)) sched_yield();
  if (run_timed(self)) {
    --running;
  } else {
    start(self);  // Another thread that has this one's number.
  }
  return nullptr;
}

void start(std::size_t number) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t handle;
  if (pthread_create(&handle, &attributes, thread_main, reinterpret_cast<void*>(number)) != 0) {
    die("the operating system refused to start another thread");
  }
  pthread_attr_destroy(&attributes);
}

const Record* records_of(int file, std::size_t& count) {
  struct stat about;
  if (fstat(file, &about) != 0) die("the file of records cannot be read");
  const auto bytes = static_cast<std::size_t>(about.st_size);
  count = bytes / sizeof(Record);
  if (count == 0) die("there are no records");
  void* const memory = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  if (memory == MAP_FAILED) die("the file of records cannot be mapped");
  return static_cast<const Record*>(memory);
}

}  // namespace

}  // namespace driver

int main(int argument_count, char** arguments) {
  using namespace driver;
  // A library that hangs would outlive a parent that was killed.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argument_count != 6) die("usage: timing ANSWERS RECORDS free|ordered EVERY malloc|nothing");
  answer_pipe = std::atoi(arguments[1]);
  std::size_t count = 0;
  const Record* const records = records_of(std::atoi(arguments[2]), count);
  sample_every = static_cast<std::uint32_t>(std::atoi(arguments[4]));
  if (std::string_view(arguments[5]) == "nothing") {
    functions = {nothing_allocate, nothing_allocate_zeroed, nothing_reallocate, nothing_allocate_aligned,
                 nothing_release};
  }
  prepare(records, count, std::string_view(arguments[3]) == "ordered");
  Answer answer{};
  answer.clock_ticks = clock_ticks();
  // A process of one thread starts no other: a library may then do without locks.
  for (std::size_t number = 1; number < thread_count; ++number) {
    if (threads[number].first == threads[number].stop) continue;
    ++running;
    start(number);
  }
  const std::uint64_t ns = ns_of(CLOCK_MONOTONIC), ticks = ticks_now();
  has_begun.store(true, std::memory_order_release);
  while (!run_timed(0)) {
  }
  while (running.load(std::memory_order_acquire) > 0) sched_yield();
  answer.elapsed_ticks = ticks_now() - ticks;
  answer.elapsed_ns = ns_of(CLOCK_MONOTONIC) - ns;
  answer.ns = processor_ns;
  answer.samples = sample_count;
  write_all(&answer, sizeof answer);
  write_all(samples.data(), answer.samples * sizeof(Sample));
  _exit(0);
}
