// A host device that failed for good.
#pragma once

#include <atomic>
#include <mutex>
#include <utility>

#include <millrace/error.h>

namespace millrace {

/// How a host device imitates a fault that makes a GPU useless: from then on its streams do none of
/// their work, and say why. Shared by the device, its memory and its streams. Thread-safe.
class HostFault {
 public:
  /// The first counts.
  void set(Error error) {
    const std::lock_guard lock(mutex_);
    if (broken()) return;
    error_ = std::move(error);
    broken_.store(true, std::memory_order_release);
  }
  [[nodiscard]] bool broken() const noexcept { return broken_.load(std::memory_order_acquire); }
  /// The error, once broken.
  [[nodiscard]] Result<void> check() const {
    if (!broken()) return {};
    return error_;
  }

 private:
  std::mutex mutex_;
  Error error_;  // written once, before broken_
  std::atomic<bool> broken_{false};
};

}  // namespace millrace
