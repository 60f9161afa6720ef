#include "engine/device_state.h"

#include <pthread.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/host/host_device.h"

namespace millrace {
namespace {

/// A device without streams that notes which threads ask to be near it.
class PlacedDevice final : public Device {
 public:
  PlacedDevice() { info_.id = DeviceId::cuda(3); }
  const DeviceInfo& info() const noexcept override { return info_; }
  MemoryInfo memory() const override { return host_.memory(); }
  Result<Stream> new_stream(const StreamOptions&) override { return none(); }
  Result<Event> new_event(EventTiming) override { return none(); }
  Result<Buffer> allocate(std::size_t, MemoryKind) override { return none(); }
  Result<void> wake_after(EventRef, Waker&) override { return none(); }
  bool separate_memory() const noexcept override { return false; }
  bool pinned(const void*, std::size_t) const noexcept override { return false; }
  bool owns(const void*, std::size_t) const noexcept override { return false; }
  bool reaches(DeviceId) const noexcept override { return false; }
  Result<Stream> borrow_stream(void*) override { return none(); }
  std::shared_ptr<MemorySource> memory_source() override { return host_.memory_source(); }
  void place_this_thread() const noexcept override {
    char name[16] = {};
    pthread_getname_np(pthread_self(), name, sizeof name);
    const std::lock_guard lock(mutex_);
    threads_.emplace_back(name);
  }
  [[nodiscard]] std::vector<std::string> threads() const {
    const std::lock_guard lock(mutex_);
    return threads_;
  }

 protected:
  void free(void*, std::size_t, MemoryKind) noexcept override {}

 private:
  static Error none() { return {ErrorCode::unsupported, "this device does no work"}; }

  DeviceInfo info_;
  HostDevice host_{0, {}};
  mutable std::mutex mutex_;
  mutable std::vector<std::string> threads_;  // guarded by mutex_
};

TEST(DeviceState, ItsThreadsRunNearTheDevice) {
  PlacedDevice device;
  Executor executor(1);
  TimelineRing timelines(0);
  FaultBoard faults;
  const EngineOptions options;
  DeviceState state(&device, options, faults, executor, timelines);
  EXPECT_FALSE(state.stop());
  EXPECT_THAT(device.threads(), testing::UnorderedElementsAre("mr-driver-3", "mr-loader-3"));
}

}  // namespace
}  // namespace millrace
