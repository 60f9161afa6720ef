// The host standing in as a GPU: streams are threads, memory has a limit.
#pragma once

#include <memory>
#include <string>

#include <millrace/device.h>

#include "device/host/host_fault.h"
#include "device/host/host_memory.h"

namespace millrace {

/// An asynchronous device made of threads. Its streams, events and memory are safe even when they
/// outlive it, except `Buffer`, which frees through it.
class HostDevice final : public Device {
 public:
  HostDevice(std::int32_t index, const HostDeviceOptions& options);

  [[nodiscard]] const DeviceInfo& info() const noexcept override { return info_; }
  [[nodiscard]] MemoryInfo memory() const override { return memory_->info(); }
  [[nodiscard]] Result<Stream> new_stream(const StreamOptions& options) override;
  [[nodiscard]] Result<Event> new_event(EventTiming timing) override;
  [[nodiscard]] Result<Buffer> allocate(std::size_t bytes, MemoryKind kind) override;
  /// Does nothing: `StreamRef::signal` wakes by itself.
  Result<void> wake_after(EventRef event, Waker& waker) override;
  [[nodiscard]] bool separate_memory() const noexcept override { return options_.separate_memory; }
  [[nodiscard]] bool pinned(const void* data, std::size_t bytes) const noexcept override {
    return memory_->holds(data, bytes, MemoryKind::pinned) ||
           memory_->holds(data, bytes, MemoryKind::managed);
  }
  /// Devices that imitate no memory of their own use all of the host's.
  [[nodiscard]] bool owns(const void* data, std::size_t bytes) const noexcept override {
    return !options_.separate_memory || bytes == 0 ||
           memory_->holds(data, bytes, MemoryKind::device) ||
           memory_->holds(data, bytes, MemoryKind::managed);
  }
  [[nodiscard]] bool reaches(DeviceId other) const noexcept override {
    return other.kind == DeviceKind::host;
  }
  [[nodiscard]] Result<Stream> borrow_stream(void* native_handle) override;

  /// Imitates a fault that makes a GPU useless: no stream does any more work, nothing new can be
  /// made, and every question is answered with an error of Scope::process that gives the reason.
  void break_down(const std::string& reason);
  [[nodiscard]] bool broken() const noexcept { return fault_->broken(); }

  /// How many times longer imitated work takes here.
  [[nodiscard]] double slowness() const noexcept { return options_.slowness; }
  [[nodiscard]] std::shared_ptr<MemorySource> memory_source() override { return memory_; }
  [[nodiscard]] const HostMemory& host_memory() const noexcept { return *memory_; }

 protected:
  void free(void* data, std::size_t bytes, MemoryKind kind) noexcept override;

 private:
  const HostDeviceOptions options_;
  const DeviceInfo info_;
  const std::shared_ptr<HostFault> fault_ = std::make_shared<HostFault>();
  const std::shared_ptr<HostMemory> memory_;
  std::atomic<int> streams_made_{0};
};

/// Null when `device` is null or no host device.
[[nodiscard]] HostDevice* as_host(DeviceRef device) noexcept;

}  // namespace millrace
