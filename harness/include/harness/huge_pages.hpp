// Memory for arrays that are read at random: asks the system for huge pages where an array fills some.
//
// A table of ten million objects spans forty thousand ordinary pages, more than the processor remembers the
// places of, and each costs a fault when it is first touched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace harness {

template <typename T>
class HugePageAllocator {
 public:
  using value_type = T;

  HugePageAllocator() = default;
  template <typename Other>
  explicit HugePageAllocator(const HugePageAllocator<Other>&) {}

  T* allocate(std::size_t count) {
    const std::size_t bytes = mapped_bytes(count);
    if (bytes < kMappedBytes) return std::allocator<T>().allocate(count);
    // Straight from the system, so that an array that was outgrown goes back to it: malloc keeps what a
    // thread has freed.
    if (bytes < kHugePageBytes) return static_cast<T*>(map(bytes));
    // From a huge page's start on, so that the array has as many as it can fill.
    auto* const memory = static_cast<std::byte*>(map(bytes + kHugePageBytes));
    const std::size_t before = -reinterpret_cast<std::uintptr_t>(memory) % kHugePageBytes;
    if (before > 0) ::munmap(memory, before);
    ::munmap(memory + before + bytes, kHugePageBytes - before);
#ifdef MADV_HUGEPAGE
    // Where the system has none, ordinary pages do as well.
    ::madvise(memory + before, bytes, MADV_HUGEPAGE);
#endif
    return reinterpret_cast<T*>(memory + before);
  }

  void deallocate(T* memory, std::size_t count) {
    const std::size_t bytes = mapped_bytes(count);
    if (bytes < kMappedBytes) {
      std::allocator<T>().deallocate(memory, count);
    } else {
      ::munmap(memory, bytes);
    }
  }

  bool operator==(const HugePageAllocator&) const = default;

 private:
  static constexpr std::size_t kMappedBytes = std::size_t{1} << 18;
  static constexpr std::size_t kHugePageBytes = std::size_t{1} << 21;
  static constexpr std::size_t kPageBytes = std::size_t{1} << 16;  // The largest of any Linux.

  static std::size_t mapped_bytes(std::size_t count) {
    return (count * sizeof(T) + kPageBytes - 1) / kPageBytes * kPageBytes;
  }
  static void* map(std::size_t bytes) {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return memory;
  }
};

template <typename T>
using HugePageVector = std::vector<T, HugePageAllocator<T>>;

}  // namespace harness
