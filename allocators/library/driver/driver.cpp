// Replays a trace into the malloc that this process was started with, in lock step: one event at a time, in
// trace order, each on a thread of its own number.
//
// The parent (process.py) sends the events in batches and gets an answer for each. The threads pass a turn to
// each other; consecutive events of a thread need no hand-over, and a thread that ends is joined before the
// next event. Number 0 is the main thread. Nothing here allocates, but for what starting a thread needs.
//
//   driver ANSWERS none|first|pages|whole [resident]
//
// ANSWERS is the descriptor that answers go to, then what the program touches of its blocks, and whether
// pages are counted.
#include <fcntl.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <charconv>
#include <climits>
#include <csignal>
#include <cstdlib>

#include "memory.hpp"
#include "protocol.hpp"
#include "statistics.hpp"

namespace driver {

void append(Text& text, std::uint64_t number) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  append(text, std::string_view(digits, static_cast<std::size_t>(end - digits)));
}

namespace {

enum class Touch { kNone, kFirst, kPages, kWhole };

// Whose turn it is: a thread waits for its own, and gives another one its.
class Turn {
 public:
  void give() {
    word_.store(1, std::memory_order_release);
    syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }

  void wait() {
    // A hand-over on another core takes less than going to sleep; a longer wait takes that core away from
    // whose turn it is.
    for (int spins = 0; word_.load(std::memory_order_acquire) == 0; ++spins) {
      if (spins < kSpins) {
        __builtin_ia32_pause();
      } else {
        syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
      }
    }
    word_.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr int kSpins = 20;

  std::atomic<std::uint32_t> word_ = 0;
};

struct Thread {
  pthread_t handle;
  Turn turn;
  bool alive;
  bool ended;  // Its function has returned; it is to be joined.
};

struct Call {
  std::string_view name, first, second;
  bool accepted;
};

// Everything below belongs to the thread whose turn it is.
constinit Thread threads[1 << 16] = {};
Array<Record> records;
Array<std::uint64_t> answers;
Array<void*> blocks;  // By slot.
std::size_t record_count = 0;
std::size_t cursor = 0;
Call* pending_call = nullptr;
Touch touch = Touch::kNone;
std::uint64_t live_bytes = 0;
std::uint64_t failures = 0;

constexpr std::uint64_t kPageBytes = 4096;

void* allocate(const Record& record) {
  if (record.alignment_log2 > 3) {
    void* block = nullptr;
    return posix_memalign(&block, std::size_t{1} << record.alignment_log2, record.size) == 0 ? block
                                                                                             : nullptr;
  }
  return record.op == Op::kCalloc ? calloc(1, record.size) : malloc(record.size);
}

std::uint64_t address_of(const void* block) { return reinterpret_cast<std::uint64_t>(block); }

void touch_block(void* block, std::uint64_t size) {
  if (block == nullptr || size == 0) return;
  if (touch == Touch::kWhole) {
    std::memset(block, 1, size);
  } else if (touch != Touch::kNone) {
    auto* const bytes = static_cast<volatile char*>(block);
    bytes[0] = 1;
    if (touch == Touch::kFirst) return;
    const std::uint64_t into_page = address_of(block) % kPageBytes;
    for (std::uint64_t at = kPageBytes - into_page; at < size; at += kPageBytes) bytes[at] = 1;
  }
}

std::uint64_t carry_out(const Record& record) {
  switch (record.op) {
    case Op::kAlloc:
    case Op::kCalloc: {
      void* const block = allocate(record);
      blocks[record.slot] = block;
      failures += block == nullptr;
      live_bytes += held_bytes(block);
      touch_block(block, record.size);
      return address_of(block);
    }
    case Op::kRealloc: {
      const std::uint64_t before = address_of(blocks[record.slot]);
      const std::uint64_t held_before = held_bytes(blocks[record.slot]);
      // A trace's realloc is never a free.
      void* const block = realloc(blocks[record.slot], record.size == 0 ? 1 : record.size);
      failures += block == nullptr;
      if (block == nullptr) return 0;  // The old block stands.
      blocks[record.slot] = block;
      live_bytes += held_bytes(block) - held_before;
      touch_block(block, record.size);
      return address_of(block) == before ? kUnmoved : address_of(block);
    }
    case Op::kFree:
      live_bytes -= held_bytes(blocks[record.slot]);
      free(blocks[record.slot]);
      blocks[record.slot] = nullptr;
      return 0;
    case Op::kThreadEnd:
      end_main_thread();  // Other threads end themselves.
      return 0;
    case Op::kGc:
      return 0;
  }
  die("a record has an unknown op");
}

// The events of one thread from here on, up to another one's. Whether the thread ends with them.
bool run(std::uint16_t self) {
  while (cursor < record_count && records[cursor].thread == self) {
    const Record& record = records[cursor];
    const bool ends = record.op == Op::kThreadEnd && self != 0;
    answers[cursor] = ends ? 0 : carry_out(record);
    ++cursor;
    if (ends) return true;
  }
  return false;
}

void* thread_main(void* argument) {
  const auto self = static_cast<std::uint16_t>(reinterpret_cast<std::uintptr_t>(argument));
  for (;;) {
    threads[self].turn.wait();
    std::uint16_t next = 0;
    if (pending_call != nullptr) {
      pending_call->accepted = call(pending_call->name, pending_call->first, pending_call->second);
      pending_call = nullptr;
    } else if (run(self)) {
      threads[self].ended = true;
      threads[0].turn.give();
      return nullptr;
    } else if (cursor < record_count && threads[records[cursor].thread].alive) {
      next = records[cursor].thread;  // Another thread than the main one need not be asked for its turn.
    }
    threads[next].turn.give();
  }
}

void start_thread(std::uint16_t number) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  before_thread(number, attributes);
  void* const argument = reinterpret_cast<void*>(std::uintptr_t{number});
  if (pthread_create(&threads[number].handle, &attributes, thread_main, argument) != 0) {
    die("the operating system refused to start another thread");
  }
  after_thread();
  pthread_attr_destroy(&attributes);
  threads[number].alive = true;
}

// Gives a thread its turn, and has it back when the threads after it are done too.
void give_turn(std::uint16_t number) {
  threads[number].turn.give();
  threads[0].turn.wait();
}

void join_ended(std::uint16_t number) {
  if (!threads[number].ended) return;
  pthread_join(threads[number].handle, nullptr);
  threads[number].alive = threads[number].ended = false;
}

void replay(const Frame& frame) {
  record_count = frame.count;
  records.grow(record_count);
  answers.grow(record_count);
  blocks.grow(frame.argument);
  if (!read_all(records.data(), record_count * sizeof(Record))) _exit(0);
  cursor = 0;
  while (cursor < record_count) {
    const std::uint16_t thread = records[cursor].thread;
    if (thread == 0) {
      run(0);
      continue;
    }
    if (!threads[thread].alive) start_thread(thread);
    give_turn(thread);
    // Whoever gave the turn back, only the thread of the last event can have ended.
    if (cursor > 0) join_ended(records[cursor - 1].thread);
  }
}

void replay_and_answer(const Frame& frame) {
  replay(frame);
  write_all(answers.data(), record_count * sizeof(std::uint64_t));
}

void feed(const Frame& frame) {
  failures = 0;
  replay(frame);
  write_all(&failures, sizeof failures);
}

void carry_out_call(const Frame& frame) {
  static Text text;
  text.grow(frame.argument + 1);
  if (!read_all(text.data(), frame.argument)) _exit(0);
  std::string_view rest(text.data(), frame.argument);
  const auto next_word = [&rest] {
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(word.size() < rest.size() ? word.size() + 1 : word.size());
    return word;
  };
  Call call{.name = next_word(), .first = next_word(), .second = next_word(), .accepted = false};
  if (frame.count == 0) {
    call.accepted = driver::call(call.name, call.first, call.second);
  } else if (frame.count < std::size(threads) && threads[frame.count].alive) {
    pending_call = &call;
    give_turn(static_cast<std::uint16_t>(frame.count));
  }
  const std::uint64_t answer = call.accepted;
  write_all(&answer, sizeof answer);
}

// Pages of the ranges that hold memory of this process's own: present and not shared, or swapped out. Reading
// a page that was never written maps the zero page, which many share.
std::uint64_t resident_bytes(const Array<Range>& ranges) {
  constexpr std::uint64_t kPresent = 1ULL << 63, kSwapped = 1ULL << 62, kExclusive = 1ULL << 56;
  constexpr std::size_t kEntries = 8192;
  static std::uint64_t entries[kEntries];
  static const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) die("/proc/self/pagemap cannot be read");
  const auto page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  std::uint64_t pages = 0;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges.data()[i];
    const std::uint64_t end = (range.address + range.length) / page_bytes;
    for (std::uint64_t page = range.address / page_bytes; page < end;) {
      const std::size_t wanted = end - page < kEntries ? end - page : kEntries;
      const ssize_t got = pread(pagemap, entries, wanted * sizeof(std::uint64_t),
                                static_cast<off_t>(page * sizeof(std::uint64_t)));
      if (got <= 0) die("/proc/self/pagemap cannot be read");
      const std::size_t count = static_cast<std::size_t>(got) / sizeof(std::uint64_t);
      for (std::size_t k = 0; k < count; ++k) {
        const std::uint64_t entry = entries[k];
        pages += ((entry & kPresent) && (entry & kExclusive)) || (entry & kSwapped);
      }
      page += count;
    }
  }
  return pages * page_bytes;
}

void send_state(bool counts_resident) {
  static Text numbers, text;
  static Array<Range> ranges;
  numbers.clear();
  text.clear();
  ranges.clear();
  read_state(live_bytes, numbers, ranges, text);
  const std::uint64_t resident = counts_resident ? resident_bytes(ranges) : 0;
  const std::uint64_t lengths[] = {numbers.bytes(), ranges.bytes(), text.bytes(), sizeof resident};
  write_all(lengths, sizeof lengths);
  write_all(numbers.data(), numbers.bytes());
  write_all(ranges.data(), ranges.bytes());
  write_all(text.data(), text.bytes());
  write_all(&resident, sizeof resident);
}

int note_tls_module(dl_phdr_info* info, std::size_t, void* highest) {
  auto& known = *static_cast<std::size_t*>(highest);
  if (info->dlpi_tls_modid > known) known = info->dlpi_tls_modid;
  return 0;
}

// What pthread_create callocs for a thread with a new stack (glibc, dl-tls.c: allocate_dtv): a vector of 16
// bytes for each TLS module, 14 to spare and 2 of its own.
std::uint64_t thread_vector_bytes() {
  std::size_t modules = 0;
  dl_iterate_phdr(note_tls_module, &modules);
  return (modules + 16) * 16;
}

// Starts the process anew without address randomisation, where that is allowed.
void fix_addresses(char** arguments) {
  constexpr unsigned long kAsk = 0xffffffff;
  const int now = personality(kAsk);
  if (now < 0 || (now & ADDR_NO_RANDOMIZE)) return;
  if (personality(static_cast<unsigned long>(now) | ADDR_NO_RANDOMIZE) < 0) return;
  if (personality(kAsk) & ADDR_NO_RANDOMIZE) execv("/proc/self/exe", arguments);
}

}  // namespace

}  // namespace driver

int main(int count, char** arguments) {
  using namespace driver;
  fix_addresses(arguments);
  // A library that hangs would outlive a parent that was killed.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  if (count < 3) die("usage: driver ANSWERS TOUCH [resident]");
  answer_pipe = std::atoi(arguments[1]);
  const std::string_view policy = arguments[2];
  if (policy == "first") touch = Touch::kFirst;
  if (policy == "pages") touch = Touch::kPages;
  if (policy == "whole") touch = Touch::kWhole;
  const bool counts_resident = count > 3;
  static Text about;
  describe(about);
  append(about, thread_vector_bytes());
  append(about, "\n");
  const std::uint64_t length = about.bytes();
  write_all(&length, sizeof length);
  write_all(about.data(), length);
  for (Frame frame; read_all(&frame, sizeof frame);) {
    switch (frame.kind) {
      case Frame::Kind::kReplay:
        replay_and_answer(frame);
        break;
      case Frame::Kind::kFeed:
        feed(frame);
        break;
      case Frame::Kind::kStartThread: {
        start_thread(static_cast<std::uint16_t>(frame.count));
        const std::uint64_t done = 1;
        write_all(&done, sizeof done);
        break;
      }
      case Frame::Kind::kCall:
        carry_out_call(frame);
        break;
      case Frame::Kind::kState:
        send_state(counts_resident);
        break;
      default:
        die("a frame has an unknown kind");
    }
  }
  _exit(0);  // Threads that wait for a turn need not end.
}
