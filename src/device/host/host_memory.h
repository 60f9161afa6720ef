// Memory of a host device, counted against its limit.
#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "device/host/host_fault.h"
#include "device/impl.h"

namespace millrace {

/// Ordinary memory, aligned to 256 bytes. Memory of kind `device` counts against the limit, as a
/// GPU's own memory would; pinned memory is the host's and does not. Thread-safe.
///
/// Fresh memory is filled with 0xff (a NaN in every float type) in builds with assertions, so that
/// what was never written shows.
class HostMemory final : public MemorySource {
 public:
  /// `fault`: of the device; may be null. Once it is there, nothing is allocated.
  HostMemory(DeviceId device, std::size_t limit_bytes,
             std::shared_ptr<const HostFault> fault = nullptr)
      : device_(device), limit_bytes_(limit_bytes), fault_(std::move(fault)) {}

  [[nodiscard]] Result<void*> allocate(std::size_t bytes, MemoryKind kind) override;
  void free(void* data, std::size_t bytes, MemoryKind kind) noexcept override;
  [[nodiscard]] bool host_addressable(MemoryKind) const noexcept override { return true; }

  [[nodiscard]] MemoryInfo info() const noexcept;
  /// Whether all of [data, data + bytes) was allocated here as pinned memory, or as the device's.
  [[nodiscard]] bool holds(const void* data, std::size_t bytes, MemoryKind kind) const noexcept;

 private:
  [[nodiscard]] bool charge(std::size_t bytes) noexcept;
  struct Range {
    std::size_t bytes = 0;
    MemoryKind kind = MemoryKind::device;
  };

  const DeviceId device_;
  const std::size_t limit_bytes_;
  const std::shared_ptr<const HostFault> fault_;
  std::atomic<std::size_t> used_bytes_{0};
  mutable std::mutex mutex_;
  std::map<const std::byte*, Range> ranges_;  // by first byte; guarded by mutex_
};

}  // namespace millrace
