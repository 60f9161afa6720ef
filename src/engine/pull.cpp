#include "engine/pull.h"

namespace millrace {

PullDecision choose_pull(DeviceId data_device, std::size_t bytes, DeviceId puller,
                         std::span<const DeviceLoad> loads, const MoveCost& cost, TimePoint now) {
  if (data_device.is_host_memory() || data_device == puller) return {true};
  for (const DeviceLoad& load : loads) {
    if (load.device != data_device) continue;
    if (!load.usable) return {true};
    const Duration move = cost.of(bytes);
    if (load.expected_wait > move) return {true};
    // The estimate only changes as time goes by there: look again when it could have come true wrong.
    return {false, now + move};
  }
  return {true};
}

}  // namespace millrace
