// A GPU that is not there, for tests of what happens before one is touched. Tests only.
#pragma once

#include <millrace/device.h>

#include "device/impl.h"

namespace millrace::testing {

class NoGpu final : public Device {
 public:
  NoGpu() {
    info_.id = DeviceId::cuda(0);
    info_.name = "no GPU";
    info_.memory_bytes = std::size_t{1} << 30;
  }
  [[nodiscard]] const DeviceInfo& info() const noexcept override { return info_; }
  [[nodiscard]] MemoryInfo memory() const override {
    return {0, info_.memory_bytes, info_.memory_bytes};
  }
  [[nodiscard]] Result<Stream> new_stream(const StreamOptions&) override { return nothing(); }
  [[nodiscard]] Result<Event> new_event(EventTiming) override { return nothing(); }
  [[nodiscard]] Result<Buffer> allocate(std::size_t, MemoryKind) override { return nothing(); }
  Result<void> wake_after(EventRef, Waker&) override { return nothing(); }
  [[nodiscard]] bool separate_memory() const noexcept override { return true; }
  [[nodiscard]] bool pinned(const void*, std::size_t) const noexcept override { return false; }
  [[nodiscard]] bool owns(const void*, std::size_t) const noexcept override { return false; }
  [[nodiscard]] bool reaches(DeviceId) const noexcept override { return false; }
  [[nodiscard]] Result<Stream> borrow_stream(void*) override { return nothing(); }
  [[nodiscard]] std::shared_ptr<MemorySource> memory_source() override { return nullptr; }

 protected:
  void free(void*, std::size_t, MemoryKind) noexcept override {}

 private:
  static Error nothing() { return {ErrorCode::unsupported, "there is no such GPU"}; }
  DeviceInfo info_;
};

}  // namespace millrace::testing
