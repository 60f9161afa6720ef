#include "cli/bench_windows.h"

#include <algorithm>
#include <cmath>

namespace millrace::cli {
namespace {

// The next state and value of Vigna's SplitMix64.
std::uint64_t next_random(std::uint64_t& state) noexcept {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15U);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

// How many of the smallest of `n` values lie below a 95% interval for the median: the largest k
// with P(Binomial(n, 1/2) < k) <= 2.5%.
std::size_t values_below_interval(std::size_t n) {
  double probability = std::pow(0.5, static_cast<double>(n));  // of exactly k
  double below = 0;
  std::size_t k = 0;
  while (k < n / 2 && below + probability <= 0.025) {
    below += probability;
    probability *= static_cast<double>(n - k) / static_cast<double>(k + 1);
    ++k;
  }
  return k == 0 ? 0 : k - 1;
}

}  // namespace

WindowPlan plan_windows(Duration duration) noexcept {
  using std::chrono::milliseconds;
  const Duration window = std::clamp<Duration>(duration / 12, milliseconds(20), milliseconds(1000));
  return {window, 2 * window, std::max<Duration>(duration, 3 * window)};
}

bool is_stable(std::span<const double> rates) noexcept {
  if (rates.size() < kStableWindows) return false;
  const auto last = rates.last(kStableWindows);
  double mean = 0;
  for (const double rate : last) mean += rate / static_cast<double>(kStableWindows);
  return mean > 0 && std::all_of(last.begin(), last.end(), [&](double rate) {
           return std::abs(rate - mean) <= kStableSpread * mean;
         });
}

double median_of(std::span<const double> values) {
  if (values.empty()) return 0;
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

Spread spread_of(std::span<const double> values) {
  if (values.empty()) return {};
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const std::size_t below = values_below_interval(sorted.size());
  return {median_of(sorted), sorted[below], sorted[sorted.size() - 1 - below], sorted.front(),
          sorted.back()};
}

PoissonArrivals::PoissonArrivals(double rate, std::uint64_t seed) noexcept
    : mean_ns_(1e9 / rate), state_(seed) {}

Duration PoissonArrivals::next() noexcept {
  // 1 - u lies in (0, 1], so the logarithm is finite.
  const double u = static_cast<double>(next_random(state_) >> 11) * 0x1p-53;
  const double gap_ns = -std::log(1.0 - u) * mean_ns_ + carry_ns_;
  const double whole = std::floor(gap_ns);
  carry_ns_ = gap_ns - whole;
  return std::chrono::nanoseconds(static_cast<std::int64_t>(whole));
}

}  // namespace millrace::cli
