#include "engine/pull.h"

#include <algorithm>

namespace millrace {
namespace {

/// Looking again more often than this would keep a processor busy with looking.
constexpr Duration kShortestWait = std::chrono::microseconds(50);

}  // namespace

PullDecision choose_pull(DeviceId data_device, std::size_t bytes, DeviceId puller,
                         std::span<const DeviceLoad> loads, TimePoint now) {
  if (data_device.is_host_memory() || data_device == puller) return {true};
  // What computes in the host's memory does not reach a GPU's.
  if (data_device.kind == DeviceKind::cuda && puller.kind == DeviceKind::host) return {false};
  for (const DeviceLoad& load : loads) {
    if (load.device != data_device) continue;
    if (load.lost) return {false};
    if (!load.usable) return {true};
    const Duration move = load.move.of(bytes);
    if (load.expected_wait > move) return {true};
    // Look again when the estimate could have turned out wrong by as much.
    return {false, now + load.expected_wait + std::max<Duration>(move, kShortestWait)};
  }
  return {true};
}

}  // namespace millrace
