// Which device takes requests whose data already lies on one.
#pragma once

#include <span>

#include <millrace/device.h>

namespace millrace {

/// The cost of moving data between two devices.
struct MoveCost {
  Duration latency = std::chrono::microseconds(20);
  double bytes_per_second = 40e9;

  [[nodiscard]] Duration of(std::size_t bytes) const {
    return latency + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(
                         static_cast<double>(bytes) / bytes_per_second));
  }
};

/// What is known of a device that runs the model.
struct DeviceLoad {
  DeviceId device;
  /// It can take work: not failed, not all of its lanes quarantined.
  bool usable = true;
  /// How long a request at the front of its own queue would wait there for a lane; zero when one is
  /// free.
  Duration expected_wait{};
  /// Of data from there to the device that asks.
  MoveCost move{};
  /// It failed for good, and its memory with it.
  bool lost = false;
};

struct PullDecision {
  bool pull = false;
  /// When to ask again if it may not be pulled yet; `TimePoint::max()`: when the data's device
  /// changes.
  TimePoint ask_again = TimePoint::max();
};

/// Whether `puller` may take a request of `bytes` bytes whose inputs lie on `data_device`. Data in
/// ordinary host memory may go anywhere; data on a device goes to that device, unless it does not
/// run the model, is unusable, or waiting for it costs more than moving; data on a GPU goes to no
/// host device, and data on a device that is lost nowhere. Decides, never acts.
[[nodiscard]] PullDecision choose_pull(DeviceId data_device, std::size_t bytes, DeviceId puller,
                                       std::span<const DeviceLoad> loads, TimePoint now);

}  // namespace millrace
