// Times the malloc that this process was started with: a trace's events as fast as they can be carried out,
// on one thread, and no byte of any object is touched.
//
//   timer FILE     records of protocol.hpp. Prints nanoseconds of processor time: the loop's own, in which
//                  allocating does nothing, and the loop's with the real malloc.
//
// Processor time, because what others do on the same machine is no cost of the library's. The loop alone runs
// first, so that the real run finds the file and its own tables in memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <span>

#include "../driver/protocol.hpp"

namespace {

using driver::Op;
using driver::Record;

struct Real {
  static void* allocate(std::size_t bytes) { return std::malloc(bytes); }
  static void* allocate_zeroed(std::size_t bytes) { return std::calloc(1, bytes); }
  static void* allocate_aligned(std::size_t alignment, std::size_t bytes) {
    void* block = nullptr;
    return posix_memalign(&block, alignment, bytes) == 0 ? block : nullptr;
  }
  static void* reallocate(void* block, std::size_t bytes) { return std::realloc(block, bytes); }
  static void release(void* block) { std::free(block); }
};

// An allocator that does nothing, but is called, as a library is.
struct Nothing {
  [[gnu::noipa]] static void* allocate(std::size_t bytes) { return reinterpret_cast<void*>(bytes | 1); }
  [[gnu::noipa]] static void* allocate_zeroed(std::size_t bytes) {
    return reinterpret_cast<void*>(bytes | 1);
  }
  [[gnu::noipa]] static void* allocate_aligned(std::size_t, std::size_t bytes) {
    return reinterpret_cast<void*>(bytes | 1);
  }
  [[gnu::noipa]] static void* reallocate(void* block, std::size_t) { return block; }
  [[gnu::noipa]] static void release(void*) {}
};

std::int64_t processor_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

template <typename Malloc>
std::int64_t carry_out(std::span<const Record> records, void** blocks) {
  const std::int64_t begin = processor_ns();
  for (const Record& record : records) {
    void*& block = blocks[record.slot];
    switch (record.op) {
      case Op::kAlloc:
        block = record.alignment_log2 > 3
                    ? Malloc::allocate_aligned(std::size_t{1} << record.alignment_log2, record.size)
                    : Malloc::allocate(record.size);
        break;
      case Op::kCalloc:
        block = Malloc::allocate_zeroed(record.size);
        break;
      case Op::kRealloc:
        block = Malloc::reallocate(block, record.size == 0 ? 1 : record.size);  // Never a free.
        break;
      case Op::kFree:
        Malloc::release(block);
        break;
      case Op::kGc:
      case Op::kThreadEnd:
        break;
    }
  }
  return processor_ns() - begin;
}

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  _exit(3);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "expected a file of records\n");
    return 3;
  }
  const int file = open(arguments[1], O_RDONLY | O_CLOEXEC);
  struct stat status{};
  if (file < 0 || fstat(file, &status) != 0 || status.st_size == 0) fail(arguments[1]);
  const auto bytes = static_cast<std::size_t>(status.st_size);
  void* const mapped = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  if (mapped == MAP_FAILED) fail(arguments[1]);
  const std::span records(static_cast<const Record*>(mapped), bytes / sizeof(Record));
  std::size_t slots = 1;
  for (const Record& record : records) slots = record.slot >= slots ? std::size_t{record.slot} + 1 : slots;
  void* const table = mmap(nullptr, slots * sizeof(void*), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (table == MAP_FAILED) fail("the table of blocks");
  auto** const blocks = static_cast<void**>(table);
  const std::int64_t loop_ns = carry_out<Nothing>(records, blocks);
  for (std::size_t slot = 0; slot < slots; ++slot) blocks[slot] = nullptr;
  const std::int64_t with_malloc_ns = carry_out<Real>(records, blocks);
  std::printf("%lld %lld\n", static_cast<long long>(loop_ns), static_cast<long long>(with_malloc_ns));
}
