#include <algorithm>
#include <bit>
#include <cmath>

#include <millrace/statistics.h>

#include "base/live_histogram.h"

namespace millrace {
namespace {

constexpr std::uint64_t kSubBuckets = std::uint64_t{1} << Histogram::kSubBucketBits;
constexpr std::uint64_t kLargest = (std::uint64_t{1} << Histogram::kMaxBits) - 1;

}  // namespace

// Values below 128 have a bucket each. Above, the seven bits behind the leading one choose a bucket
// of the value's power of two.
std::size_t Histogram::bucket_of(std::uint64_t value) noexcept {
  if (value < kSubBuckets) return value;
  value = std::min(value, kLargest);
  const int shift = static_cast<int>(std::bit_width(value)) - 1 - kSubBucketBits;
  return (static_cast<std::size_t>(shift) << kSubBucketBits) + (value >> shift);
}

std::uint64_t Histogram::value_of(std::size_t bucket) noexcept {
  if (bucket < 2 * kSubBuckets) return bucket;
  const std::size_t shift = (bucket >> kSubBucketBits) - 1;
  const std::uint64_t lowest = (kSubBuckets + bucket % kSubBuckets) << shift;
  return lowest + (std::uint64_t{1} << shift) / 2;
}

void Histogram::record(std::uint64_t value, std::uint64_t times) noexcept {
  add_to_bucket(bucket_of(value), times, 0);
  sum_ += static_cast<double>(value) * static_cast<double>(times);
}

void Histogram::add_to_bucket(std::size_t bucket, std::uint64_t times, std::uint64_t sum) noexcept {
  if (counts_.empty()) counts_.resize(kBuckets);
  counts_[bucket] += times;
  count_ += times;
  sum_ += static_cast<double>(sum);
}

void Histogram::merge(const Histogram& other) {
  if (other.counts_.empty()) return;
  if (counts_.empty()) counts_.resize(kBuckets);
  for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  sum_ += other.sum_;
}

void Histogram::subtract(const Histogram& earlier) {
  if (earlier.counts_.empty() || counts_.empty()) return;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    const std::uint64_t taken = std::min(counts_[i], earlier.counts_[i]);
    counts_[i] -= taken;
    count_ -= taken;
  }
  sum_ = count_ == 0 ? 0 : std::max(0.0, sum_ - earlier.sum_);
}

double Histogram::mean() const noexcept {
  return count_ == 0 ? 0 : sum_ / static_cast<double>(count_);
}

std::uint64_t Histogram::quantile(double q) const noexcept {
  if (count_ == 0) return 0;
  // Slightly less than q * count, so that rounding in the product does not ask for one value too
  // many.
  const double wanted =
      std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count_) * (1 - 1e-12));
  std::uint64_t left = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(wanted));
  for (std::size_t i = 0; i < kBuckets; ++i) {
    if (counts_[i] >= left) return value_of(i);
    left -= counts_[i];
  }
  return max();
}

std::uint64_t Histogram::max() const noexcept {
  for (std::size_t i = counts_.size(); i-- > 0;) {
    if (counts_[i] != 0) return value_of(i);
  }
  return 0;
}

Histogram LiveHistogram::snapshot() const {
  Histogram histogram;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    const std::uint64_t times = counts_[i].load(std::memory_order_relaxed);
    if (times != 0) histogram.add_to_bucket(i, times, 0);
  }
  const std::uint64_t sum = sum_.load(std::memory_order_relaxed);
  if (histogram.count() != 0) histogram.add_to_bucket(0, 0, sum);
  return histogram;
}

}  // namespace millrace
