// Memory, input and output without malloc: the driver must add no allocation to those of the trace. What it
// holds itself is on a list, so that it can be left out where a process's memory is counted.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace driver {

// Ends the process; the parent puts the text into its message.
[[noreturn]] inline void die(const char* text) {
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text));
  _exit(3);
}

struct OwnRegion {
  char* data;
  std::size_t bytes;
};

// Everything that Array holds, in no order.
inline OwnRegion own_regions[64];
inline std::size_t own_region_count = 0;

// An array of zeroes that can grow, straight from the operating system. It never shrinks.
template <typename T>
class Array {
 public:
  void grow(std::size_t count) {
    if (count <= capacity_) return;
    std::size_t bytes = count * sizeof(T);
    if (bytes < 2 * capacity_ * sizeof(T)) bytes = 2 * capacity_ * sizeof(T);
    bytes = (bytes + kChunkBytes - 1) / kChunkBytes * kChunkBytes;
    const bool is_new = data_ == nullptr;
    void* const memory = is_new ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                                : mremap(data_, capacity_ * sizeof(T), bytes, MREMAP_MAYMOVE);
    if (memory == MAP_FAILED) die("no memory left for the driver's own tables");
    if (is_new) {
      if (own_region_count == sizeof own_regions / sizeof own_regions[0]) die("too many tables");
      region_ = &own_regions[own_region_count++];
    }
    data_ = static_cast<T*>(memory);
    capacity_ = bytes / sizeof(T);
    *region_ = {static_cast<char*>(memory), bytes};
  }

  // Only of types whose size divides a chunk's, so that the capacity is exact.
  static_assert((std::size_t{64} << 10) % sizeof(T) == 0);

  void append(const T& value) {
    grow(size_ + 1);
    data_[size_++] = value;
  }
  void clear() { size_ = 0; }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }
  std::size_t capacity() const { return capacity_; }
  T& operator[](std::size_t index) { return data_[index]; }

 private:
  static constexpr std::size_t kChunkBytes = std::size_t{64} << 10;

  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  OwnRegion* region_ = nullptr;
};

// False at the end of the input.
inline bool read_all(void* data, std::size_t bytes) {
  auto* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = read(STDIN_FILENO, at, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

// Where the parent reads: a pipe of its own, since a library may print to its standard output.
inline int answer_pipe = -1;

inline void write_all(const void* data, std::size_t bytes) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = write(answer_pipe, at, bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) _exit(4);  // The parent has gone; there is nobody to tell.
    at += put;
    bytes -= static_cast<std::size_t>(put);
  }
}

}  // namespace driver
