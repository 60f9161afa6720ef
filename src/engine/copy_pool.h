// Copies of large pieces of host memory by several threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <vector>

#include "base/thread.h"

namespace millrace {

/// A few threads that help callers with large copies. A caller takes part in its own copy, so that
/// it gets on when all helpers are busy, and waits for nothing but the portions of its own copy
/// that a helper has begun. Thread-safe.
class CopyPool {
 public:
  /// Smaller copies are done by the caller alone: waking a helper takes as long as copying some
  /// hundred kB.
  static constexpr std::size_t kLeastBytes = std::size_t{1} << 20;

  /// How many helpers are worth having on so many processors: none on few, which callers, drivers
  /// and lanes need themselves; never more than four, which is where memory becomes the limit.
  [[nodiscard]] static int helpers_for(int processors) noexcept;

  explicit CopyPool(int helpers);
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;
  /// No copy may be running.
  ~CopyPool();

  /// As memcpy.
  void copy(void* target, const void* source, std::size_t bytes) noexcept;

  /// Portions copied by helpers so far.
  [[nodiscard]] std::size_t helped() const noexcept {
    return helped_.load(std::memory_order_relaxed);
  }

 private:
  struct Job {
    std::byte* target;
    const std::byte* source;
    std::size_t bytes;
    std::atomic<std::size_t> next{0};  // byte at which the next portion begins
    int helpers = 0;                   // guarded by mutex_: at work on it
  };

  /// Copies portions until none is left; returns how many.
  static std::size_t work_on(Job& job) noexcept;
  void help();

  std::mutex mutex_;
  std::condition_variable wanted_;  // by helpers
  std::condition_variable left_;    // a helper has left a job
  std::deque<Job*> jobs_;           // guarded by mutex_
  bool stop_ = false;               // guarded by mutex_
  std::atomic<std::size_t> helped_{0};
  std::vector<Thread> helpers_;
};

}  // namespace millrace
