// When a worker that ended is started again.
#pragma once

#include <millrace/device.h>

namespace millrace::server {

struct RestartPolicy {
  Duration first_delay = std::chrono::milliseconds(100);
  Duration longest_delay = std::chrono::seconds(30);
  /// A worker that served for so long is healthy: what failed before it is forgotten.
  Duration healthy_after = std::chrono::seconds(60);
  /// So many starts in a row that none of the workers served after, whatever ended them, and no
  /// more are tried. 0: no limit.
  int most_failed_starts = 20;
};

/// Decides, never acts. Each failure in a row doubles the delay.
class Backoff {
 public:
  explicit Backoff(const RestartPolicy& policy) noexcept : policy_(policy) {}

  /// How long to wait, now that a worker ended which had served for `served` (zero: never did).
  [[nodiscard]] Duration next(Duration served) noexcept;
  /// Whether the latest was one failed start too many.
  [[nodiscard]] bool hopeless() const noexcept {
    return policy_.most_failed_starts > 0 && failed_starts_ >= policy_.most_failed_starts;
  }
  [[nodiscard]] int failed_starts() const noexcept { return failed_starts_; }

 private:
  RestartPolicy policy_;
  Duration delay_{};  // before the latest start; zero: none failed since the latest healthy one
  int failed_starts_ = 0;  // in a row
};

}  // namespace millrace::server
