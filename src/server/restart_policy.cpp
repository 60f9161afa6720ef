#include "server/restart_policy.h"

#include <algorithm>

namespace millrace::server {

Duration Backoff::next(Duration served) noexcept {
  failed_starts_ = served > Duration::zero() ? 0 : failed_starts_ + 1;
  if (served >= policy_.healthy_after) delay_ = Duration::zero();
  delay_ = delay_ == Duration::zero() ? policy_.first_delay : 2 * delay_;
  delay_ = std::min(delay_, policy_.longest_delay);
  return delay_;
}

}  // namespace millrace::server
