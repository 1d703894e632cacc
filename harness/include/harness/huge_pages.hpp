// Memory for arrays that are read at random: asks the system for huge pages where an array fills some.
//
// A table of ten million objects spans forty thousand ordinary pages, more than the processor remembers the
// places of, and each costs a fault when it is first touched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
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
    if (bytes < kLeastBytes) return std::allocator<T>().allocate(count);
    void* const memory = std::aligned_alloc(kPageBytes, (bytes + kPageBytes - 1) / kPageBytes * kPageBytes);
    if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    ::madvise(memory, bytes, MADV_HUGEPAGE);  // Where the system has none, ordinary pages do as well.
#endif
    return static_cast<T*>(memory);
  }

  void deallocate(T* memory, std::size_t count) {
    if (count * sizeof(T) < kLeastBytes) {
      std::allocator<T>().deallocate(memory, count);
    } else {
      std::free(memory);
    }
  }

  bool operator==(const HugePageAllocator&) const = default;

 private:
  static constexpr std::size_t kPageBytes = std::size_t{1} << 21;
  static constexpr std::size_t kLeastBytes = 4 * kPageBytes;  // So that a rounded end is a small part.
};

template <typename T>
using HugePageVector = std::vector<T, HugePageAllocator<T>>;

}  // namespace harness
