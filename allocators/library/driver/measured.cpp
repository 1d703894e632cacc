// What rows of a table need of any library: which it is, its own statistics, and the kernel's count of the
// process's memory, without what the driver holds. backend.py makes a footprint of these numbers.
//
// glibc asks calloc for a vector of every new thread, which a recorded trace holds already: here that vector
// lies beside the thread's stack, and calloc and free, which the dynamic linker finds here before any
// library's, hand all else on.
#include <dlfcn.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <malloc.h>

#include <charconv>
#include <cstdlib>

#include "statistics.hpp"

#pragma weak tc_version
#pragma weak tc_nallocx
#pragma weak MallocExtension_GetNumericProperty
#pragma weak MallocExtension_GetStats
#pragma weak MallocExtension_MarkThreadIdle
#pragma weak mallctl
#pragma weak mi_version
#pragma weak mi_process_info
extern "C" {
extern char __bss_start, _end;  // The driver's own variables, from the linker.

const char* tc_version(int* major, int* minor, const char** patch);
std::size_t tc_nallocx(std::size_t size, int flags);
int MallocExtension_GetNumericProperty(const char* name, std::size_t* value);
void MallocExtension_GetStats(char* text, int length);
void MallocExtension_MarkThreadIdle(void);
int mallctl(const char* name, void* old_value, std::size_t* old_length, void* new_value,
            std::size_t new_length);
int mi_version(void);
void mi_process_info(std::size_t* elapsed_ms, std::size_t* user_ms, std::size_t* system_ms,
                     std::size_t* current_rss, std::size_t* peak_rss, std::size_t* current_commit,
                     std::size_t* peak_commit, std::size_t* page_faults);
}

namespace driver {

namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kStackBytes = std::size_t{256} << 10;
constexpr std::size_t kThreads = std::size_t{1} << 16;

// A place for each thread's stack, the vector in its first page; address space alone until it is used.
char* stacks = nullptr;
std::size_t stacks_used = 0;
thread_local char* vector_place = nullptr;  // While the thread starts another one.

bool is_own(const void* block) {
  const auto* const at = static_cast<const char*>(block);
  return stacks != nullptr && at >= stacks && at < stacks + kThreads * kStackBytes;
}

template <typename Function>
Function* next(Function*& known, const char* name) {
  if (known == nullptr) known = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
  return known;
}

void* (*next_calloc)(std::size_t, std::size_t) = nullptr;
void (*next_free)(void*) = nullptr;
std::size_t (*next_usable)(void*) = nullptr;

enum class Library { kUnknown, kGlibc, kTcmalloc, kJemalloc, kMimalloc };
Library library = Library::kUnknown;
std::uint64_t header_bytes = 0;  // Of a block, beyond what malloc_usable_size tells.

const char* file_of(const void* function) {
  Dl_info info;
  return dladdr(function, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

void* found(const char* name) { return dlsym(RTLD_NEXT, name); }

void line(Text& text, std::string_view name, std::uint64_t value) {
  append(text, name);
  append(text, " ");
  append(text, value);
  append(text, "\n");
}

// The whole of a file below /proc, read anew into memory that is kept.
std::string_view contents(const char* path) {
  static Array<char> text;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) die("the kernel's files on this process cannot be read");
  std::size_t length = 0;
  for (;;) {
    text.grow(length + (std::size_t{64} << 10));
    const ssize_t got = read(file, text.data() + length, std::size_t{64} << 10);
    if (got <= 0) break;
    length += static_cast<std::size_t>(got);
  }
  close(file);
  return {text.data(), length};
}

std::uint64_t number_in(std::string_view text, int base) {
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number, base);
  return number;
}

// Of a line like "Anonymous:      1234 kB".
std::uint64_t bytes_of(std::string_view text, std::string_view name) {
  const auto at = text.find(name);
  if (at == std::string_view::npos) return 0;
  text.remove_prefix(at + name.size());
  text.remove_prefix(text.find_first_not_of(' '));
  return number_in(text, 10) << 10;
}

std::uint64_t resident_of(char* data, std::size_t bytes) {
  constexpr std::size_t kPages = 1 << 14;
  static unsigned char pages[kPages];
  std::uint64_t resident = 0;
  for (std::size_t done = 0; done < bytes; done += kPages * kPageBytes) {
    const std::size_t part = bytes - done < kPages * kPageBytes ? bytes - done : kPages * kPageBytes;
    if (mincore(data + done, part, pages) != 0) return resident;
    for (std::size_t page = 0; page < part / kPageBytes; ++page) resident += pages[page] & 1;
  }
  return resident * kPageBytes;
}

// Memory of the process's own, in the kernel's eyes: anonymous pages in memory or swapped out.
std::uint64_t resident_bytes() {
  const std::string_view text = contents("/proc/self/smaps_rollup");
  const std::uint64_t all = bytes_of(text, "\nAnonymous:") + bytes_of(text, "\nSwap:");
  std::uint64_t own = resident_of(stacks, stacks_used * kStackBytes);
  for (std::size_t i = 0; i < own_region_count; ++i) {
    own += resident_of(own_regions[i].data, own_regions[i].bytes);
  }
  return all > own ? all - own : 0;
}

// Address space without a file behind it that can be written: what is only set aside is none yet.
std::uint64_t mapped_bytes() {
  std::uint64_t all = 0;
  std::string_view text = contents("/proc/self/maps");
  while (!text.empty()) {
    const std::string_view one = text.substr(0, text.find('\n'));
    text.remove_prefix(one.size() < text.size() ? one.size() + 1 : one.size());
    const auto space = one.find(' ');
    const auto dash = one.find('-');
    // first-last rwxp offset device inode name
    std::string_view rest = one;
    for (int field = 0; field < 4; ++field) rest.remove_prefix(rest.find(' ') + 1);
    const bool has_file = rest.substr(0, rest.find(' ')) != "0";
    const bool is_kernels = one.ends_with("[stack]") || one.ends_with("[vvar]") || one.ends_with("[vdso]") ||
                            one.ends_with("[vsyscall]");
    if (has_file || is_kernels || one[space + 2] != 'w') continue;
    all += number_in(one.substr(dash + 1), 16) - number_in(one, 16);
  }
  std::uint64_t own = stacks_used * kStackBytes + static_cast<std::uint64_t>(&_end - &__bss_start);
  for (std::size_t i = 0; i < own_region_count; ++i) own += own_regions[i].bytes;
  return all > own ? all - own : 0;
}

void read_glibc(Text& numbers) {
  const struct mallinfo2 info = mallinfo2();
  line(numbers, "arena", info.arena);
  line(numbers, "hblkhd", info.hblkhd);
  line(numbers, "uordblks", info.uordblks);
  line(numbers, "fordblks", info.fordblks);
  line(numbers, "keepcost", info.keepcost);
}

void read_tcmalloc(Text& numbers, Text& text) {
  static constexpr const char* kProperties[] = {
      "generic.heap_size",
      "tcmalloc.central_cache_free_bytes",
      "tcmalloc.transfer_cache_free_bytes",
      "tcmalloc.thread_cache_free_bytes",
      "tcmalloc.pageheap_free_bytes",
      "tcmalloc.pageheap_unmapped_bytes",
  };
  for (const char* name : kProperties) {
    std::size_t value = 0;
    if (MallocExtension_GetNumericProperty(name, &value) != 0) line(numbers, name, value);
  }
  static char written[1 << 20];
  MallocExtension_GetStats(written, sizeof written);
  append(text, written);
}

void read_jemalloc(Text& numbers) {
  std::uint64_t epoch = 1;
  mallctl("epoch", nullptr, nullptr, &epoch, sizeof epoch);
  // 4096 stands for all arenas together (MALLCTL_ARENAS_ALL).
  static constexpr const char* kNames[] = {
      "stats.allocated",
      "stats.active",
      "stats.metadata",
      "stats.resident",
      "stats.mapped",
      "stats.retained",
      "stats.arenas.4096.pdirty",
      "stats.arenas.4096.pmuzzy",
      "arenas.page",
      "stats.arenas.4096.tcache_bytes",
  };
  for (const char* name : kNames) {
    std::size_t value = 0, length = sizeof value;
    if (mallctl(name, &value, &length, nullptr, 0) == 0) line(numbers, name, value);
  }
}

void read_mimalloc(Text& numbers) {
  std::size_t ignored = 0, commit = 0;
  mi_process_info(&ignored, &ignored, &ignored, &ignored, &ignored, &commit, &ignored, &ignored);
  line(numbers, "current_commit", commit);
}

void append_version(Text& text) {
  switch (library) {
    case Library::kTcmalloc: {
      int major = 0, minor = 0;
      const char* patch = nullptr;
      append(text, tc_version(&major, &minor, &patch));
      break;
    }
    case Library::kJemalloc: {
      const char* version = "";
      std::size_t length = sizeof version;
      mallctl("version", &version, &length, nullptr, 0);
      append(text, "jemalloc ");
      append(text, std::string_view(version).substr(0, std::string_view(version).find('-')));
      break;
    }
    case Library::kMimalloc: {
      const auto version = static_cast<std::uint64_t>(mi_version());
      append(text, "mimalloc ");
      append(text, version / 100);
      append(text, ".");
      append(text, version / 10 % 10);
      append(text, ".");
      append(text, version % 10);
      break;
    }
    case Library::kGlibc:
      append(text, "glibc ");
      append(text, gnu_get_libc_version());
      break;
    case Library::kUnknown:
      append(text, "-");
  }
}

}  // namespace

// The file that malloc comes from, the functions that come from another one, the library, its version, page
// size and alignment, as far as they are known.
void describe(Text& text) {
  const char* const file = file_of(found("malloc"));
  append(text, file);
  append(text, "\n");
  for (const char* name : {"calloc", "realloc", "free", "posix_memalign", "malloc_usable_size"}) {
    if (std::string_view(file_of(found(name))) == file) continue;
    append(text, name);
    append(text, " ");
  }
  append(text, "\n");
  if (std::string_view(file_of(found("malloc_usable_size"))) == file) {
    next(next_usable, "malloc_usable_size");
  }
  const auto is_from = [file](auto* function) {
    return function != nullptr && std::string_view(file_of(reinterpret_cast<void*>(function))) == file;
  };
  std::string_view name = "unknown";
  if (is_from(tc_version) && is_from(MallocExtension_GetNumericProperty)) {
    library = Library::kTcmalloc;
    name = "tcmalloc";
  } else if (is_from(mallctl)) {
    library = Library::kJemalloc;
    name = "jemalloc";
  } else if (is_from(mi_version)) {
    library = Library::kMimalloc;
    name = "mimalloc";
  } else if (is_from(gnu_get_libc_version)) {
    library = Library::kGlibc;
    name = "glibc";
    header_bytes = sizeof(std::size_t);
  }
  append(text, name);
  append(text, "\n");
  append_version(text);
  append(text, "\n");
  // A size just above the classes gets whole pages; 24 bytes have a class of their own if 8 suffice.
  constexpr std::size_t kMaxSizeBytes = 256 << 10;
  const bool is_tcmalloc = library == Library::kTcmalloc;
  append(text, is_tcmalloc ? tc_nallocx(kMaxSizeBytes + 1, 0) - kMaxSizeBytes : 0);
  append(text, "\n");
  append(text, !is_tcmalloc ? 0 : tc_nallocx(24, 0) == 24 ? 8 : 16);
  append(text, "\n");
}

std::uint64_t held_bytes(void* block) {
  return block == nullptr || next_usable == nullptr ? 0 : next_usable(block) + header_bytes;
}

void before_thread(std::uint16_t number, pthread_attr_t& attributes) {
  if (stacks == nullptr) {
    void* const memory =
        mmap(nullptr, kThreads * kStackBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) die("no address space left for the threads' stacks");
    stacks = static_cast<char*>(memory);
  }
  if (number >= stacks_used) {
    const std::size_t first = stacks_used * kStackBytes;
    stacks_used = std::size_t{number} + 1;
    if (mprotect(stacks + first, stacks_used * kStackBytes - first, PROT_READ | PROT_WRITE) != 0) {
      die("no memory left for the threads' stacks");
    }
  }
  char* const place = stacks + number * kStackBytes;
  pthread_attr_setstack(&attributes, place + kPageBytes, kStackBytes - kPageBytes);
  vector_place = place;
}

void after_thread() { vector_place = nullptr; }

bool call(std::string_view, std::string_view, std::string_view) { return false; }

void end_main_thread() {
  if (library == Library::kTcmalloc && MallocExtension_MarkThreadIdle != nullptr) {
    MallocExtension_MarkThreadIdle();
  }
}

void read_state(std::uint64_t live_bytes, Text& numbers, Array<Range>&, Text& text) {
  if (next_usable != nullptr) line(numbers, "live", live_bytes);
  line(numbers, "resident", resident_bytes());
  line(numbers, "mapped", mapped_bytes());
  switch (library) {
    case Library::kGlibc:
      return read_glibc(numbers);
    case Library::kTcmalloc:
      return read_tcmalloc(numbers, text);
    case Library::kJemalloc:
      return read_jemalloc(numbers);
    case Library::kMimalloc:
      return read_mimalloc(numbers);
    case Library::kUnknown:
      return;
  }
}

}  // namespace driver

extern "C" {

void* calloc(std::size_t count, std::size_t size) noexcept {
  using namespace driver;
  if (vector_place == nullptr) return next(next_calloc, "calloc")(count, size);
  if (count * size > kPageBytes) die("a thread's vector is longer than a page");
  return std::memset(vector_place, 0, count * size);
}

void free(void* block) noexcept {
  using namespace driver;
  if (!is_own(block)) next(next_free, "free")(block);
}
}
