// What windows of a measurement say: when they are steady, and how two things measured in turn
// compare.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <millrace/device.h>

namespace millrace::cli {

/// How long a measurement lasts and how it is cut into windows.
struct WindowPlan {
  Duration window{};
  Duration warm_up{};  // at first, not counted
  Duration most{};     // in all, the warm-up included
};

/// Windows of a twelfth of `duration`, at least 20 ms and at most 1 s; two of them warm up.
[[nodiscard]] WindowPlan plan_windows(Duration duration) noexcept;

inline constexpr std::size_t kStableWindows = 3;
inline constexpr double kStableSpread = 0.03;

/// The stable rule: each of the last `kStableWindows` rates lies within `kStableSpread` of their
/// mean, which is above zero. False with fewer windows.
[[nodiscard]] bool is_stable(std::span<const double> rates) noexcept;

/// The middle value, or the mean of the two middle ones; 0 for none.
[[nodiscard]] double median_of(std::span<const double> values);

/// Ratios of paired windows. The interval holds the true median with at least 95% probability: it
/// is bounded by the order statistics that the sign test leaves (the extremes for fewer than nine
/// pairs).
struct Spread {
  double median = 0;
  double low = 0;
  double high = 0;
  double min = 0;
  double max = 0;
};
[[nodiscard]] Spread spread_of(std::span<const double> values);

/// Arrivals of a Poisson process: the times between them are independent and exponential. The same
/// seed gives the same arrivals.
class PoissonArrivals {
 public:
  /// `rate`: arrivals per second on average; above 0.
  PoissonArrivals(double rate, std::uint64_t seed) noexcept;
  /// From one arrival to the next.
  [[nodiscard]] Duration next() noexcept;

 private:
  double mean_ns_;
  std::uint64_t state_;
  double carry_ns_ = 0;  // what rounding to whole nanoseconds left over
};

}  // namespace millrace::cli
