// SPDX-License-Identifier: Apache-2.0
// Memory for tapes, packed weights and scratch: 64-byte aligned blocks that go back to a process-wide list when they
// are released and are handed out again, so that a steady state allocates nothing and takes no page faults. The list
// only grows until release() empties it. Blocks are not cleared.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <map>
#include <mutex>
#include <new>
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

#include "core/vec.h"

namespace bptt {

/// a * b for sizes; an impossible size is std::bad_alloc (MemoryError in Python), never a wrapped number.
inline Index checked_mul(Index a, Index b) {
  if (a < 0 || b < 0 || (a != 0 && b > std::numeric_limits<Index>::max() / 64 / a)) throw std::bad_alloc();
  return a * b;
}

class Arena {
 public:
  static Arena& instance() {
    static Arena* arena = create();  // never destroyed: buffers may be released at interpreter exit
    return *arena;
  }

  /// A block of at least `bytes`; `bytes` becomes its true size. Not inlined, as give: there are hundreds of buffers.
  BPTT_NOINLINE void* take(std::size_t& bytes) {
    bytes = size_class(bytes);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      auto& free = free_[bytes];
      if (!free.empty()) {
        void* block = free.back();
        free.pop_back();
        count(bytes);
        return block;
      }
    }
    void* block = allocate(bytes);
    std::lock_guard<std::mutex> lock(mutex_);
    count(bytes);
    return block;
  }

  BPTT_NOINLINE void give(void* block, std::size_t bytes) noexcept {
    std::lock_guard<std::mutex> lock(mutex_);
    in_use_ -= bytes;
    try {
      free_[bytes].push_back(block);
    } catch (...) {
      deallocate(block);
    }
  }

  /// Bytes in blocks that are not free, and their most since the last question.
  std::pair<std::size_t, std::size_t> in_use() {
    std::lock_guard<std::mutex> lock(mutex_);
    return {in_use_, std::exchange(peak_, in_use_)};
  }

  /// Returns every free block to the system; the number of bytes.
  std::size_t release() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::size_t total = 0;
    for (auto& [bytes, blocks] : free_) {
      for (void* block : blocks) deallocate(block), total += bytes;
    }
    free_.clear();
    return total;
  }

 private:
  /// A fork waits until no thread is inside, so that the child's lock is free.
  static Arena* create() {
    Arena* arena = new Arena;
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
#endif
    return arena;
  }

  void count(std::size_t bytes) {
    in_use_ += bytes;
    peak_ = std::max(peak_, in_use_);
  }

  static constexpr std::size_t kAlign = 64, kHugePage = std::size_t(2) << 20;

 public:
  /// Eighths of a power of two, so that sequences of nearly equal length share blocks; at most 12.5 % is unused.
  static std::size_t size_class(std::size_t bytes) {
    std::size_t step = kAlign;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step + (bytes == 0 ? kAlign : 0);
  }

 private:
  static void* allocate(std::size_t bytes) {
#if defined(_MSC_VER)
    void* block = _aligned_malloc(bytes, kAlign);
#else
    const std::size_t align = bytes >= kHugePage ? kHugePage : kAlign;
    void* block = std::aligned_alloc(align, (bytes + align - 1) / align * align);
#endif
    if (!block) throw std::bad_alloc();
#if defined(__linux__)
    if (bytes >= kHugePage) madvise(block, bytes, MADV_HUGEPAGE);
#endif
    return block;
  }

  static void deallocate(void* block) {
#if defined(_MSC_VER)
    _aligned_free(block);
#else
    std::free(block);
#endif
  }

  std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;
  std::size_t in_use_ = 0, peak_ = 0;
};

/// `size` values of type T from the arena, released with the object.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Index size) : bytes_(std::size_t(checked_mul(size, sizeof(T)))), size_(size) {
    data_ = static_cast<T*>(Arena::instance().take(bytes_));
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (data_) Arena::instance().give(data_, bytes_);
  }

  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(size_, other.size_);
  }
  void clear() {
    if (size_ > 0) std::memset(static_cast<void*>(data_), 0, std::size_t(size_) * sizeof(T));
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](Index i) { return data_[i]; }
  const T& operator[](Index i) const { return data_[i]; }
  Index size() const { return size_; }

 private:
  T* data_ = nullptr;
  std::size_t bytes_ = 0;
  Index size_ = 0;
};

}  // namespace bptt
