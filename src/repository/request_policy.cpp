#include "repository/request_policy.h"

namespace millrace {

RequestPolicy::Terms RequestPolicy::terms(std::uint64_t level, Duration timeout) const {
  Terms out;
  if (level == 0 || level > priority_levels) level = default_level;
  if (priority_levels > 0) out.priority = -static_cast<int>(level);
  const auto at = levels.find(level);
  const Level& found = at == levels.end() ? by_default : at->second;
  Duration wanted = found.timeout;
  const bool shorter = wanted == Duration::zero() || timeout < wanted;
  if (found.may_be_overridden && timeout > Duration::zero() && shorter) wanted = timeout;
  if (wanted > Duration::zero()) out.timeout = wanted;
  return out;
}

}  // namespace millrace
