// SPDX-License-Identifier: Apache-2.0
// Memory for tapes, packed weights and scratch: 64-byte aligned blocks. A released block stays in a process-wide list
// and is handed out again, so that a steady state allocates nothing and takes no page faults. Blocks are not cleared.
// The arena holds at most 5/4 of the peak in use plus 16 MiB. Beyond that, and where the system has no more memory, it
// returns the free blocks that have waited longest.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(_MSC_VER)
#include <malloc.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "core/inline.h"
#include "core/memory/dry_run.h"
#include "core/memory/sizes.h"

namespace bptt {

class Arena {
 public:
  /// The bytes requested, rounded to a size class, and those of the block: up to 5/4 of them. In a dry run it has no
  /// data.
  struct Block {
    void* data = nullptr;
    std::size_t asked = 0, bytes = 0;
  };

  static Arena& instance() {
    static Arena* arena = create();  // never destroyed: buffers may be released at interpreter exit
    return *arena;
  }

  /// `zeros`: whether they are the system's own pages, not touched yet. Not inlined, as give: there are hundreds of
  /// buffers.
  BPTT_NOINLINE Block take(std::size_t bytes, bool& zeros) {
    Block block;
    block.asked = size_class(bytes);
    if (DryRun* run = DryRun::current()) {
      run->take(Index(block.asked));
      zeros = true;
      return block;
    }
    std::vector<Free> returned;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      auto fit = std::lower_bound(free_.begin(), free_.end(), block.asked, Smaller());
      if (fit != free_.end() && fit->bytes <= block.asked + block.asked / 4) {
        fit = std::upper_bound(fit, free_.end(), fit->bytes, Smaller()) - 1;  // the last one given is in the cache
        block.bytes = fit->bytes;
        block.data = fit->data;
        free_.erase(fit);
      } else {
        make_room(block.asked, returned);
        block.bytes = block.asked;
        held_ += block.bytes;
      }
      in_use_ += block.asked;
      most_ = std::max(most_, in_use_);
      peak_ = std::max(peak_, in_use_);
    }
    zeros = !block.data && gives_pages(block.bytes);
    if (!block.data) allocate(block, returned);
    assert(reinterpret_cast<std::uintptr_t>(block.data) % kAlign == 0 && block.bytes >= bytes);
    poison(block.data, block.bytes);
    unpoison(block.data, bytes);
    return block;
  }

  BPTT_NOINLINE void give(const Block& block) noexcept {
    if (!block.data) return DryRun::current()->give(Index(block.asked));
    poison(block.data, block.bytes);
    std::lock_guard<std::mutex> lock(mutex_);
    in_use_ -= block.asked;
    try {
      const auto place = std::upper_bound(free_.begin(), free_.end(), block.bytes, Smaller());
      free_.insert(place, Free{block.data, block.bytes, ++clock_});
    } catch (...) {
      deallocate(block.data, block.bytes);
      held_ -= block.bytes;
    }
  }

  /// Bytes in use, and the peak since the last call.
  std::pair<std::size_t, std::size_t> in_use() {
    std::lock_guard<std::mutex> lock(mutex_);
    return {in_use_, std::exchange(peak_, in_use_)};
  }

  /// Bytes obtained from the system, in use or free.
  std::size_t held() {
    std::lock_guard<std::mutex> lock(mutex_);
    return held_;
  }

  /// Returns every free block to the system; the number of bytes.
  std::size_t release() {
    std::vector<Free> returned;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      returned.swap(free_);
      for (const Free& each : returned) held_ -= each.bytes;
      most_ = in_use_;
    }
    return deallocate(returned);
  }

  /// Eighths of a power of two, so that sequences of nearly equal length share blocks; at most 12.5 % is unused.
  static std::size_t size_class(std::size_t bytes) {
    std::size_t step = kAlign;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step + (bytes == 0 ? kAlign : 0);
  }

 private:
  struct Free {
    void* data;
    std::size_t bytes;
    std::uint64_t since;
  };
  struct Smaller {
    bool operator()(const Free& a, std::size_t bytes) const { return a.bytes < bytes; }
    bool operator()(std::size_t bytes, const Free& b) const { return bytes < b.bytes; }
  };

  static constexpr std::size_t kAlign = 64, kHugePage = std::size_t(2) << 20, kSlack = std::size_t(16) << 20;

  /// A fork waits until no thread is inside, so that the child's lock is free.
  static Arena* create() {
    Arena* arena = new Arena;
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
#endif
    return arena;
  }

  /// Takes the free blocks that have waited longest off the list until another block of `bytes` fits the bound.
  void make_room(std::size_t bytes, std::vector<Free>& returned) {
    const std::size_t most = std::max(most_, in_use_ + bytes);
    while (!free_.empty() && held_ + bytes > most + most / 4 + kSlack) {
      const auto oldest =
          std::min_element(free_.begin(), free_.end(), [](const Free& a, const Free& b) { return a.since < b.since; });
      held_ -= oldest->bytes;
      returned.push_back(*oldest);
      free_.erase(oldest);
    }
  }

  /// New memory for a block that is already counted; without the lock, since the system may be slow.
  void allocate(Block& block, std::vector<Free>& returned) {
    deallocate(returned);
    block.data = allocate(block.bytes);
    if (!block.data && release() > 0) block.data = allocate(block.bytes);
    if (block.data) return;
    std::lock_guard<std::mutex> lock(mutex_);
    held_ -= block.bytes;
    in_use_ -= block.asked;
    throw OutOfMemory(block.asked);
  }

  /// The number of bytes.
  static std::size_t deallocate(const std::vector<Free>& blocks) {
    std::size_t total = 0;
    for (const Free& each : blocks) {
      deallocate(each.data, each.bytes);
      total += each.bytes;
    }
    return total;
  }

  /// Whether a block comes from the system itself, as large ones do on Linux: malloc would keep them.
  static bool gives_pages([[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
    return bytes >= kHugePage;
#else
    return false;
#endif
  }

  /// Null where the system has no more.
  static void* allocate(std::size_t bytes) {
#if defined(_MSC_VER)
    return _aligned_malloc(bytes, kAlign);
#else
#if defined(__linux__)
    if (gives_pages(bytes)) return allocate_pages(bytes);
#endif
    return std::aligned_alloc(kAlign, bytes);
#endif
  }

  static void deallocate(void* block, [[maybe_unused]] std::size_t bytes) {
    unpoison(block, bytes);
#if defined(_MSC_VER)
    _aligned_free(block);
#else
#if defined(__linux__)
    if (gives_pages(bytes)) {
      munmap(block, bytes);
      return;
    }
#endif
    std::free(block);
#endif
  }

#if defined(__linux__)
  /// Aligned to a huge page: more is mapped, and what is beyond the block returned.
  static void* allocate_pages(std::size_t bytes) {
    const std::size_t mapped = bytes + kHugePage;
    void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    const auto start = reinterpret_cast<std::uintptr_t>(memory);
    const std::uintptr_t block = (start + kHugePage - 1) / kHugePage * kHugePage;
    if (block > start) munmap(memory, block - start);
    if (start + mapped > block + bytes) munmap(reinterpret_cast<void*>(block + bytes), start + mapped - block - bytes);
    madvise(reinterpret_cast<void*>(block), bytes, MADV_HUGEPAGE);
    return reinterpret_cast<void*>(block);
  }
#endif

  // Under AddressSanitizer free blocks, and the end of a block beyond the requested bytes, must not be touched.
  static void poison([[maybe_unused]] void* block, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(block, bytes);
#endif
  }
  static void unpoison([[maybe_unused]] void* block, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(block, bytes);
#endif
  }

  std::mutex mutex_;
  std::vector<Free> free_;  // by size, and of one size in the order in which they were given
  std::uint64_t clock_ = 0;
  std::size_t held_ = 0, in_use_ = 0, most_ = 0, peak_ = 0;
};

/// `size` values of type T from the arena, released with the object.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Index size) : Buffer(size, bool()) {}
  /// Zeros. New pages of the system are not touched: a long memset of them could not be interrupted.
  static Buffer zeros(Index size) {
    bool zeros;
    Buffer buffer(size, zeros);
    if (!zeros) buffer.clear();
    return buffer;
  }
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, {})), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    reset();
    block_ = std::exchange(other.block_, {});
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  ~Buffer() { reset(); }

  /// Gives the memory back. A call resets some fifty buffers, most of them empty.
  void reset() noexcept {
    if (block_.asked == 0) return;
    Arena::instance().give(block_);
    block_ = {};
    size_ = 0;
  }

  void swap(Buffer& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(size_, other.size_);
  }
  void clear() {
    if (size_ > 0 && block_.data) std::memset(block_.data, 0, std::size_t(size_) * sizeof(T));
  }

  T* data() { return static_cast<T*>(block_.data); }
  const T* data() const { return static_cast<const T*>(block_.data); }
  T& operator[](Index i) {
    assert(0 <= i && i < size_);
    return data()[i];
  }
  const T& operator[](Index i) const {
    assert(0 <= i && i < size_);
    return data()[i];
  }
  Index size() const { return size_; }

 private:
  Buffer(Index size, bool&& zeros) : Buffer(size, zeros) {}
  Buffer(Index size, bool& zeros)
      : block_(Arena::instance().take(std::size_t(checked_mul(size, sizeof(T))), zeros)), size_(size) {}

  Arena::Block block_;
  Index size_ = 0;
};

}  // namespace bptt
