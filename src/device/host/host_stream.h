// Streams and events of host devices.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "device/host/host_queue.h"
#include "device/impl.h"

namespace millrace {

/// A place in a host stream's work.
struct HostPoint {
  std::shared_ptr<HostQueue> queue;  // null: nowhere, always reached
  std::uint64_t count = 0;

  [[nodiscard]] bool reached() const noexcept { return !queue || queue->reached(count); }
  [[nodiscard]] Result<bool> query() const;
  Result<void> synchronize() const;
};

/// An event is nothing but a point; recording it costs the stream no task unless it is timed.
class HostEvent final : public EventImpl {
 public:
  HostEvent(DeviceId device, EventTiming timing);

  [[nodiscard]] DeviceId device() const noexcept override { return device_; }
  [[nodiscard]] Result<bool> query() const override { return host_point().query(); }
  Result<void> synchronize() const override { return host_point().synchronize(); }
  [[nodiscard]] Result<TimePoint> time() const override;
  [[nodiscard]] Result<std::shared_ptr<const StreamPoint>> point() const override;

  [[nodiscard]] HostPoint host_point() const;
  void record(const std::shared_ptr<HostQueue>& queue);

 private:
  const DeviceId device_;
  const std::shared_ptr<EventTime> time_;  // null: untimed
  mutable std::mutex mutex_;
  HostPoint point_;  // under mutex_
};

class HostStream final : public StreamImpl {
 public:
  HostStream(DeviceId device, std::shared_ptr<HostQueue> queue)
      : device_(device), queue_(std::move(queue)) {}
  HostStream(const HostStream&) = delete;
  HostStream& operator=(const HostStream&) = delete;
  ~HostStream() override;

  [[nodiscard]] DeviceId device() const noexcept override { return device_; }
  Result<void> copy(void* target, const void* source, std::size_t bytes) override;
  Result<void> gather(std::span<const CopyPiece> pieces) override;
  Result<void> fill(void* target, std::uint8_t value, std::size_t bytes) override;
  Result<void> run(std::function<void()> task) override;
  Result<void> record(EventImpl& event) override;
  Result<void> wait(const EventImpl& event) override;
  Result<void> signal(std::atomic<std::uint64_t>& word, std::uint64_t value, Waker* waker) override;
  [[nodiscard]] Result<bool> query() const override;
  Result<void> synchronize() override;
  [[nodiscard]] void* native_handle() const noexcept override { return nullptr; }
  void abandon() noexcept override;

 private:
  [[nodiscard]] Result<void> check_device() const { return queue_->check_device(); }

  const DeviceId device_;
  std::shared_ptr<HostQueue> queue_;  // null once abandoned
};

}  // namespace millrace
