// gperftools' TCMalloc: what it says of itself, and what a program can ask of it (malloc_extension.h).
//
// The library is the one that was preloaded, whatever it was called; the driver is linked with none.
#include <gperftools/malloc_extension.h>
#include <gperftools/nallocx.h>
#include <gperftools/tcmalloc.h>

#include <charconv>
#include <cstdlib>
#include <new>
#include <vector>

#include "statistics.hpp"

#pragma weak tc_version
#pragma weak tc_nallocx
extern "C" MallocExtension* extension() __asm__("_ZN15MallocExtension8instanceEv") __attribute__((weak));

namespace driver {

namespace {

constexpr std::size_t kMaxSizeBytes = 256 << 10;  // The largest size with a class.
constexpr int kStatisticsBytes = 1 << 20;         // A level 2 text has at most some 300 lines.
constexpr std::size_t kFreeLists = 4096;          // Three for each class, two for each length of spans.

// MallocExtension's numeric properties that every release has, and those that some have.
constexpr const char* kProperties[] = {
    "generic.current_allocated_bytes",       "generic.heap_size",
    "generic.total_physical_bytes",          "tcmalloc.central_cache_free_bytes",
    "tcmalloc.transfer_cache_free_bytes",    "tcmalloc.thread_cache_free_bytes",
    "tcmalloc.pageheap_free_bytes",          "tcmalloc.pageheap_unmapped_bytes",
    "tcmalloc.pageheap_committed_bytes",     "tcmalloc.pageheap_scavenge_count",
    "tcmalloc.pageheap_commit_count",        "tcmalloc.pageheap_total_commit_bytes",
    "tcmalloc.pageheap_decommit_count",      "tcmalloc.pageheap_total_decommit_bytes",
    "tcmalloc.pageheap_reserve_count",       "tcmalloc.pageheap_total_reserve_bytes",
    "tcmalloc.max_total_thread_cache_bytes", "tcmalloc.current_total_thread_cache_bytes",
    "tcmalloc.aggressive_memory_decommit",   "tcmalloc.slack_bytes"};

std::uint64_t number_of(std::string_view text) {
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

bool set_property(std::string_view name, std::uint64_t value) {
  char whole[128] = "tcmalloc.";
  const std::size_t prefix = name.starts_with("tcmalloc.") ? 0 : std::strlen(whole);
  if (prefix + name.size() >= sizeof whole) return false;
  std::memcpy(whole + prefix, name.data(), name.size());
  whole[prefix + name.size()] = '\0';
  return extension()->SetNumericProperty(whole, value);
}

void append_range(void* ranges, const base::MallocRange* range) {
  static_cast<Array<Range>*>(ranges)->append({.address = range->address,
                                              .length = range->length,
                                              .type = static_cast<std::uint32_t>(range->type),
                                              .unused = 0,
                                              .fraction = range->fraction});
}

using FreeList = MallocExtension::FreeListInfo;

// A std::vector over memory of ours, large enough never to grow: the library fills it by push_back. Its
// three words are what GNU's and LLVM's standard libraries take a vector to be.
struct FreeLists {
  FreeList* begin;
  FreeList* end;
  FreeList* capacity;
};
static_assert(sizeof(FreeLists) == sizeof(std::vector<FreeList>));

void append_free_lists(Text& numbers) {
  alignas(FreeList) static char memory[kFreeLists * sizeof(FreeList)];
  auto* const first = reinterpret_cast<FreeList*>(memory);
  FreeLists lists{first, first, first + kFreeLists};
  extension()->GetFreeListSizes(reinterpret_cast<std::vector<FreeList>*>(&lists));
  for (const FreeList* list = lists.begin; list != lists.end; ++list) {
    if (list->total_bytes_free == 0) continue;
    append(numbers, list->type);
    append(numbers, " ");
    append(numbers, list->max_object_size);
    append(numbers, " ");
    append(numbers, list->total_bytes_free);
    append(numbers, "\n");
  }
}

}  // namespace

// Version, page size and alignment. Dies where the loaded malloc is not this library's.
void describe(Text& text) {
  if (extension == nullptr || tc_version == nullptr || tc_nallocx == nullptr) {
    die("the preloaded library is not gperftools' TCMalloc");
  }
  int major = 0, minor = 0;
  const char* patch = nullptr;
  append(text, tc_version(&major, &minor, &patch));
  append(text, "\n");
  // A size just above the classes gets whole pages; 24 bytes have a class of their own if 8 suffice.
  append(text, tc_nallocx(kMaxSizeBytes + 1, 0) - kMaxSizeBytes);
  append(text, "\n");
  append(text, tc_nallocx(24, 0) == 24 ? 8 : 16);
  append(text, "\n");
}

bool call(std::string_view name, std::string_view first_argument, std::string_view second_argument) {
  MallocExtension* const library = extension();
  if (name == "release_free_memory") {
    library->ReleaseFreeMemory();
  } else if (name == "release_to_system") {
    library->ReleaseToSystem(number_of(first_argument));
  } else if (name == "set_release_rate") {
    double rate = 0;
    std::from_chars(first_argument.data(), first_argument.data() + first_argument.size(), rate);
    library->SetMemoryReleaseRate(rate);
  } else if (name == "set") {
    return set_property(first_argument, number_of(second_argument));
  } else if (name == "mark_thread_idle") {
    library->MarkThreadIdle();
  } else if (name == "mark_thread_temporarily_idle") {
    library->MarkThreadTemporarilyIdle();
  } else {
    return false;
  }
  return true;
}

void end_main_thread() { extension()->MarkThreadIdle(); }

std::uint64_t held_bytes(void*) { return 0; }

// Enough for a memset and the library's own frames. glibc keeps the stacks of ended threads, and with each
// the vector of its TLS modules, up to 40 MiB of stacks.
void before_thread(std::uint16_t, pthread_attr_t& attributes) {
  pthread_attr_setstacksize(&attributes, std::size_t{64} << 10);
}

void after_thread() {}

void read_state(std::uint64_t, Text& numbers, Array<Range>& ranges, Text& text) {
  for (const char* name : kProperties) {
    std::size_t value = 0;
    if (!extension()->GetNumericProperty(name, &value)) continue;
    append(numbers, name);
    append(numbers, " ");
    append(numbers, value);
    append(numbers, "\n");
  }
  append_free_lists(numbers);
  extension()->Ranges(&ranges, append_range);
  static char written[kStatisticsBytes];
  extension()->GetStats(written, kStatisticsBytes);
  append(text, written);
}

}  // namespace driver
