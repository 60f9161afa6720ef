#include <algorithm>
#include <bit>
#include <cmath>

#include "direct/direct.h"

namespace direct {
namespace {

// Exact below 64, 64 buckets per power of two above.
std::size_t bucket_of(std::uint64_t ns, std::size_t buckets) noexcept {
  if (ns < 64) return static_cast<std::size_t>(ns);
  const auto shift = static_cast<std::size_t>(std::bit_width(ns)) - 7;
  return std::min(((shift + 1) << 6) + static_cast<std::size_t>((ns >> shift) & 63), buckets - 1);
}

double middle_of(std::size_t bucket) noexcept {
  if (bucket < 64) return static_cast<double>(bucket);
  const auto shift = static_cast<int>(bucket >> 6) - 1;
  return std::ldexp(static_cast<double>(64 + (bucket & 63)) + (shift > 0 ? 0.5 : 0.0), shift);
}

}  // namespace

void Latencies::record(std::uint64_t ns) noexcept {
  ++counts_[bucket_of(ns, counts_.size())];
  ++count_;
  sum_ns_ += static_cast<double>(ns);
}

void Latencies::merge(const Latencies& other) noexcept {
  for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  sum_ns_ += other.sum_ns_;
}

void Latencies::clear() noexcept {
  std::fill(counts_.begin(), counts_.end(), 0U);
  count_ = 0;
  sum_ns_ = 0;
}

double Latencies::quantile_us(double q) const noexcept {
  if (count_ == 0) return 0;
  const auto rank = static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(count_)));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen >= std::max<std::uint64_t>(rank, 1)) return middle_of(i) / 1000;
  }
  return middle_of(counts_.size() - 1) / 1000;
}

double Latencies::mean_us() const noexcept {
  return count_ == 0 ? 0 : sum_ns_ / static_cast<double>(count_) / 1000;
}

}  // namespace direct
