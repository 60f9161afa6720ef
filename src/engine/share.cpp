#include "engine/share.h"

#include <tuple>

namespace millrace {

PlanChoice next_plan(std::span<const PlanLoad> ready, const SharePolicy& policy) {
  if (policy.max_in_flight > 0 && policy.in_flight >= policy.max_in_flight) return {};
  const auto rank = [](const PlanLoad& load) {
    return std::tuple(-load.priority_class, load.earliest_deadline, load.virtual_time);
  };
  PlanChoice choice;
  for (std::size_t i = 0; i < ready.size(); ++i) {
    if (!choice.plan || rank(ready[i]) < rank(ready[*choice.plan])) choice.plan = i;
  }
  return choice;
}

}  // namespace millrace
