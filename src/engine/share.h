// Which model of a device gets the next free lane.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include <millrace/device.h>

namespace millrace {

/// A plan that has a batch ready and a lane for it.
struct PlanLoad {
  int priority_class = 0;
  TimePoint earliest_deadline = TimePoint::max();
  /// Device time received so far divided by the weight (see `SharePolicy`), in seconds.
  double virtual_time = 0;
};

struct SharePolicy {
  int in_flight = 0;
  int max_in_flight = 0;  // 0: no cap
};

struct PlanChoice {
  /// Index of the plan to run; none: the cap is reached or nothing is ready.
  std::optional<std::size_t> plan;
};

/// Higher class first; within a class the earliest deadline; then the least virtual time, which is
/// start-time fair queueing (Goyal, Vin, Cheng 1996) over measured device time: plans that always
/// have work receive device time in proportion to their weights. Decides, never acts.
[[nodiscard]] PlanChoice next_plan(std::span<const PlanLoad> ready, const SharePolicy& policy);

}  // namespace millrace
