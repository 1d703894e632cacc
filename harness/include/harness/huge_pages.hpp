// Memory for arrays that are read at random: asks the system for huge pages where an array fills some.
//
// A table of ten million objects spans forty thousand ordinary pages, more than the processor remembers the
// places of, and each costs a fault when it is first touched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
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
    const std::size_t bytes = count * sizeof(T);
    if (bytes < kMappedBytes) return std::allocator<T>().allocate(count);
    // Straight from the system, so that an array that was outgrown goes back to it: malloc keeps what a
    // thread has freed.
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    // Where the system has none, ordinary pages do as well.
    if (bytes >= kHugeBytes) ::madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return static_cast<T*>(memory);
  }

  void deallocate(T* memory, std::size_t count) {
    const std::size_t bytes = count * sizeof(T);
    if (bytes < kMappedBytes) {
      std::allocator<T>().deallocate(memory, count);
    } else {
      ::munmap(memory, bytes);
    }
  }

  bool operator==(const HugePageAllocator&) const = default;

 private:
  static constexpr std::size_t kMappedBytes = std::size_t{1} << 18;
  static constexpr std::size_t kHugeBytes = std::size_t{1} << 23;  // Four huge pages.
};

template <typename T>
using HugePageVector = std::vector<T, HugePageAllocator<T>>;

}  // namespace harness
