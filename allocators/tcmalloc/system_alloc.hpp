// Memory from the operating system: the program break, and the allocator's own metadata cut from it.
//
// Stands below the page heap. Of metadata only the amount matters, and that its chunks of 8 MiB interrupt the
// heap: an object of it has no address here (gperftools, src/system-alloc.cc, internal_logging and common.cc:
// MetaDataAlloc, page_heap_allocator.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "harness/allocator.hpp"

namespace tcmalloc {

// sbrk, which is what a release build on Linux uses as long as it succeeds.
class SystemAllocator {
 public:
  explicit SystemAllocator(std::uint64_t break_address) : break_(break_address) {}

  // Returns the address. Every request is a multiple of 8 KiB and so was the first break, so that nothing is
  // lost to alignment. Beyond the address space of a process the break does not move.
  std::optional<std::uint64_t> allocate(std::uint64_t bytes) {
    if (bytes > kAddressSpaceBytes - break_) return std::nullopt;
    const std::uint64_t address = break_;
    break_ += bytes;
    taken_bytes_ += bytes;
    ++calls_;
    return address;
  }

  // TCMalloc_SystemTaken: heap and metadata chunks.
  std::uint64_t taken_bytes() const { return taken_bytes_; }
  std::uint64_t calls() const { return calls_; }

 private:
  static constexpr std::uint64_t kAddressSpaceBytes = std::uint64_t{1} << 47;

  std::uint64_t break_;
  std::uint64_t taken_bytes_ = 0;
  std::uint64_t calls_ = 0;
};

// MetaDataAlloc: a bump allocator over chunks; a request that does not fit drops the rest of its chunk.
class Metadata {
 public:
  explicit Metadata(SystemAllocator& system) : system_(system) {}

  void allocate(std::uint64_t bytes) {
    std::uint64_t padding = (kAlignment - used_bytes_ % kAlignment) % kAlignment;
    if (used_bytes_ + padding + bytes > chunk_bytes_) {
      if (!system_.allocate(kChunkBytes)) {
        throw harness::InvariantError("no address space for a metadata chunk after " +
                                      std::to_string(system_.taken_bytes()) + " bytes");
      }
      chunk_bytes_ = kChunkBytes;
      used_bytes_ = 0;
      padding = 0;
    }
    used_bytes_ += padding + bytes;
    bytes_ += padding + bytes;
  }

  // "Bytes in malloc metadata": what was asked for and its padding, not the chunks.
  std::uint64_t bytes() const { return bytes_; }

  // common.cc: kMetadataAllocChunkSize.
  static constexpr std::uint64_t kChunkBytes = 8 << 20;

 private:
  static constexpr std::uint64_t kAlignment = 64;  // common.cc: kMetadataAllignment.

  SystemAllocator& system_;
  std::uint64_t chunk_bytes_ = 0;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t bytes_ = 0;
};

// PageHeapAllocator<T>: objects of one size, recycled. How much metadata it takes depends on the most that
// were in use at once. Takes its first chunk when it is made.
class PageHeapAllocator {
 public:
  PageHeapAllocator(Metadata& metadata, std::uint64_t object_bytes)
      : metadata_(metadata), object_bytes_(object_bytes) {
    allocate();
    release();
  }

  void allocate() {
    ++objects_in_use_;
    if (free_objects_ > 0) {
      --free_objects_;
      return;
    }
    if (available_bytes_ < object_bytes_) {
      metadata_.allocate(kIncrementBytes);
      available_bytes_ = kIncrementBytes;
    }
    available_bytes_ -= object_bytes_;
  }

  void release() {
    ++free_objects_;
    --objects_in_use_;
  }

  std::uint64_t objects_in_use() const { return objects_in_use_; }

 private:
  static constexpr std::uint64_t kIncrementBytes = 128 << 10;  // page_heap_allocator.h: kAllocIncrement.

  Metadata& metadata_;
  std::uint64_t object_bytes_;
  std::uint64_t available_bytes_ = 0;
  std::uint64_t free_objects_ = 0;
  std::uint64_t objects_in_use_ = 0;
};

}  // namespace tcmalloc
