// When a worker that ended is started again.
#pragma once

#include <millrace/device.h>

namespace millrace::server {

struct RestartPolicy {
  Duration first_delay = std::chrono::milliseconds(100);
  Duration longest_delay = std::chrono::seconds(30);
  /// A worker that served for so long is healthy: what failed before it is forgotten.
  Duration healthy_after = std::chrono::seconds(60);
};

/// Decides, never acts. Each failure in a row doubles the delay.
class Backoff {
 public:
  explicit Backoff(const RestartPolicy& policy) noexcept : policy_(policy) {}

  /// How long to wait, now that a worker ended which had served for `served` (zero: never did).
  [[nodiscard]] Duration next(Duration served) noexcept;

 private:
  RestartPolicy policy_;
  Duration delay_{};  // before the latest start; zero: none failed since the latest healthy one
};

}  // namespace millrace::server
