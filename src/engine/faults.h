// The devices of an engine that failed for good.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <vector>

#include <millrace/engine.h>

namespace millrace {

/// Thread-safe.
class FaultBoard {
 public:
  /// Once for each device.
  void add(DeviceFault fault) {
    const std::lock_guard lock(mutex_);
    faults_.push_back(std::move(fault));
    any_.store(true, std::memory_order_seq_cst);
  }
  [[nodiscard]] bool any() const noexcept { return any_.load(std::memory_order_seq_cst); }
  [[nodiscard]] std::optional<Error> of(DeviceId device) const {
    if (!any()) return std::nullopt;
    const std::lock_guard lock(mutex_);
    for (const DeviceFault& fault : faults_) {
      if (fault.device == device) return fault.error;
    }
    return std::nullopt;
  }
  [[nodiscard]] std::vector<DeviceFault> all() const {
    const std::lock_guard lock(mutex_);
    return faults_;
  }

 private:
  std::atomic<bool> any_{false};
  mutable std::mutex mutex_;
  std::vector<DeviceFault> faults_;  // guarded by mutex_
};

}  // namespace millrace
