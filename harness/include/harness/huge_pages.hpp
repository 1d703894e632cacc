// An array that grows, for tables that are read at random: in huge pages where it fills some, and never
// copied once it is large.
//
// A table of ten million objects spans forty thousand ordinary pages, more than the processor remembers the
// places of, and each costs a fault when it is first touched. To copy it as it grows, and to write zeroes
// where the system has put some, would cost each event of a growing heap as much as half of its own work.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace harness {

// As far as it goes, std::vector, with its names: elements that resize() makes are default ones.
template <typename T>
class HugePageVector {
  static_assert(std::is_trivially_copyable_v<T>, "elements are moved as bytes");

 public:
  HugePageVector() = default;
  explicit HugePageVector(std::size_t count) { resize(count); }
  HugePageVector(HugePageVector&& other) noexcept { swap(other); }
  HugePageVector& operator=(HugePageVector&& other) noexcept {
    swap(other);
    return *this;
  }
  ~HugePageVector() { give_back(data_, bytes_); }

  void swap(HugePageVector& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(used_, other.used_);
    std::swap(bytes_, other.bytes_);
  }
  friend void swap(HugePageVector& one, HugePageVector& other) noexcept { one.swap(other); }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  T& back() { return data_[size_ - 1]; }

  void resize(std::size_t count) {
    if (count > capacity()) grow(std::max(count, 2 * capacity()));
    // What no element has used yet is zero, as the system gave it.
    if (const std::size_t last = is_zero_by_default() ? std::min(count, used_) : count; last > size_)
      std::fill(data_ + size_, data_ + last, T{});
    size_ = count;
    used_ = std::max(used_, count);
  }
  T& emplace_back() {
    resize(size_ + 1);
    return back();
  }
  void reserve(std::size_t count) {
    if (count > capacity()) grow(count);
  }

 private:
  static constexpr std::size_t kHugePageBytes = std::size_t{1} << 21;
  // From this size on an array has huge pages, from their first byte on; it is likely to fill one. They come
  // straight from the system, so that they go back to it: malloc keeps what a thread has freed.
  static constexpr std::size_t kMappedBytes = kHugePageBytes / 4;

  std::size_t capacity() const { return bytes_ / sizeof(T); }

  // Whether a default element is made of zeroes alone. One with padding is taken for none.
  static bool is_zero_by_default() {
    if constexpr (std::has_unique_object_representations_v<T>) {
      static const bool is_zero = [] {
        const T element{};
        static constexpr std::byte kZeroes[sizeof(T)] = {};
        return std::memcmp(&element, kZeroes, sizeof(T)) == 0;
      }();
      return is_zero;
    }
    return false;
  }

  void grow(std::size_t count) {
    if (count > SIZE_MAX / 2 / sizeof(T)) throw std::bad_alloc();
    const std::size_t bytes = rounded(count * sizeof(T));
    data_ = static_cast<T*>(larger(data_, bytes_, bytes));
    bytes_ = bytes;
  }

  static std::size_t rounded(std::size_t bytes) {
    return bytes < kMappedBytes ? bytes : (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  }

  // The same bytes in more room, zeroes behind them.
  static void* larger(void* memory, std::size_t bytes, std::size_t more_bytes) {
    if (more_bytes < kMappedBytes) {
      void* const grown = std::calloc(1, more_bytes);
      if (grown == nullptr) throw std::bad_alloc();
      if (memory != nullptr) std::memcpy(grown, memory, bytes);
      give_back(memory, bytes);
      return grown;
    }
    void* const grown = map(more_bytes);
#ifdef MREMAP_FIXED
    // The pages themselves move.
    if (bytes >= kMappedBytes) {
      if (::mremap(memory, bytes, more_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, grown) == MAP_FAILED) {
        ::munmap(grown, more_bytes);
        throw std::bad_alloc();
      }
      advise(grown, more_bytes);
      return grown;
    }
#endif
    if (memory != nullptr) std::memcpy(grown, memory, bytes);
    give_back(memory, bytes);
    return grown;
  }

  static void* map(std::size_t bytes) {
    void* const found =
        ::mmap(nullptr, bytes + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    auto* const memory = static_cast<std::byte*>(found);
    const std::size_t before = -reinterpret_cast<std::uintptr_t>(memory) % kHugePageBytes;
    if (before > 0) ::munmap(memory, before);
    ::munmap(memory + before + bytes, kHugePageBytes - before);
    advise(memory + before, bytes);
    return memory + before;
  }

  // Where the system has no huge pages, ordinary ones do as well.
  static void advise([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#ifdef MADV_HUGEPAGE
    ::madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  }

  static void give_back(void* memory, std::size_t bytes) {
    if (bytes >= kMappedBytes) {
      ::munmap(memory, bytes);
    } else {
      std::free(memory);
    }
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t used_ = 0;   // The most elements that there have ever been.
  std::size_t bytes_ = 0;  // Of all the room there is.
};

}  // namespace harness
