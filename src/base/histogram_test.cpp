#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <millrace/statistics.h>

#include "base/live_histogram.h"

namespace millrace {
namespace {

double relative_error(std::uint64_t reported, std::uint64_t exact) {
  const auto difference = std::abs(static_cast<double>(reported) - static_cast<double>(exact));
  return exact == 0 ? difference : difference / static_cast<double>(exact);
}

// The smallest value that at least a share `q` of the sorted values do not exceed.
std::uint64_t exact_quantile(const std::vector<std::uint64_t>& sorted, int thousandths) {
  const std::size_t n = sorted.size();
  const std::size_t rank = (n * static_cast<std::size_t>(thousandths) + 999) / 1000;
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

TEST(Histogram, BucketsCoverEveryValueInOrder) {
  EXPECT_EQ(Histogram::bucket_of(0), 0u);
  EXPECT_EQ(Histogram::bucket_of(127), 127u);
  EXPECT_EQ(Histogram::bucket_of((std::uint64_t{1} << 42) - 1), Histogram::kBuckets - 1);
  EXPECT_EQ(Histogram::bucket_of(~std::uint64_t{0}), Histogram::kBuckets - 1);
  for (std::size_t bucket = 0; bucket < Histogram::kBuckets; ++bucket) {
    ASSERT_EQ(Histogram::bucket_of(Histogram::value_of(bucket)), bucket);
  }
  // At every power of two, where one block of buckets ends and the next begins.
  for (int bit = 1; bit < Histogram::kMaxBits; ++bit) {
    const std::uint64_t edge = std::uint64_t{1} << bit;
    ASSERT_EQ(Histogram::bucket_of(edge), Histogram::bucket_of(edge - 1) + 1) << edge;
  }
}

TEST(Histogram, ReportsEveryValueWithinHalfABucket) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200000; ++i) {
    const std::uint64_t value = random() >> (22 + random() % 42);  // evenly over the magnitudes
    const std::uint64_t reported = Histogram::value_of(Histogram::bucket_of(value));
    ASSERT_LE(relative_error(reported, value), 0.004) << value;  // half a bucket
    if (value < 256) {
      ASSERT_EQ(reported, value);
    }
  }
}

TEST(Histogram, QuantilesAreWithinOnePercentOfTheExactOnes) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 60; ++round) {
    std::lognormal_distribution<double> spread(static_cast<double>(random() % 20),
                                               0.1 + static_cast<double>(random() % 30) / 10);
    Histogram histogram;
    std::vector<std::uint64_t> values(1 + random() % 3000);
    double sum = 0;
    for (std::uint64_t& value : values) {
      value = static_cast<std::uint64_t>(std::min(spread(random), 4e12));
      histogram.record(value);
      sum += static_cast<double>(value);
    }
    std::sort(values.begin(), values.end());
    for (const int thousandths : {0, 1, 10, 250, 500, 900, 990, 999, 1000}) {
      const std::uint64_t exact = exact_quantile(values, thousandths);
      ASSERT_LE(relative_error(histogram.quantile(thousandths / 1000.0), exact), 0.01)
          << "q " << thousandths << " of " << values.size();
    }
    ASSERT_LE(relative_error(histogram.max(), values.back()), 0.01);
    ASSERT_EQ(histogram.count(), values.size());
    ASSERT_NEAR(histogram.mean(), sum / static_cast<double>(values.size()), sum * 1e-9);
  }
}

TEST(Histogram, QuantilesOfFewValuesAreExact) {
  Histogram histogram;
  EXPECT_EQ(histogram.quantile(0.5), 0u);
  EXPECT_EQ(histogram.max(), 0u);
  EXPECT_EQ(histogram.mean(), 0);
  for (std::uint64_t value = 1; value <= 100; ++value) histogram.record(value);
  for (std::uint64_t percent = 1; percent <= 100; ++percent) {
    EXPECT_EQ(histogram.quantile(static_cast<double>(percent) / 100), percent);
  }
  EXPECT_EQ(histogram.quantile(-1), 1u);
  EXPECT_EQ(histogram.quantile(2), 100u);
}

TEST(Histogram, MergesAndSubtracts) {
  Histogram total;
  for (std::uint64_t value = 1; value <= 50; ++value) total.record(value, 2);
  const Histogram earlier = total;
  Histogram window;
  for (std::uint64_t value = 1000; value <= 1010; ++value) {
    total.record(value);
    window.record(value);
  }
  Histogram merged = earlier;
  merged.merge(window);
  EXPECT_EQ(merged.counts(), total.counts());
  total.subtract(earlier);
  EXPECT_EQ(total.counts(), window.counts());
  EXPECT_EQ(total.count(), 11u);
  EXPECT_NEAR(total.mean(), 1005, 1e-6);
  EXPECT_EQ(total.quantile(0), window.quantile(0));

  Histogram empty;
  empty.subtract(window);
  EXPECT_EQ(empty.count(), 0u);
  empty.merge({});
  EXPECT_EQ(empty.count(), 0u);
}

TEST(LiveHistogram, AgreesWithThePlainOne) {
  const auto live = std::make_unique<LiveHistogram>();
  EXPECT_EQ(live->snapshot().count(), 0u);
  Histogram plain;
  std::mt19937_64 random(3);
  for (int i = 0; i < 10000; ++i) {
    const std::uint64_t value = random() >> (22 + random() % 42);
    plain.record(value, 3);
    live->record(value, 2);
    live->record_alone(value);
  }
  const Histogram snapshot = live->snapshot();
  EXPECT_EQ(snapshot.counts(), plain.counts());
  EXPECT_EQ(snapshot.count(), plain.count());
  EXPECT_NEAR(snapshot.mean() / plain.mean(), 1, 1e-9);
}

TEST(LiveHistogram, IsReadWhileItIsWritten) {
  constexpr int kWriters = 3;
  constexpr std::uint64_t kValues = 300000;
  const auto live = std::make_unique<LiveHistogram>();
  const auto alone = std::make_unique<LiveHistogram>();
  std::vector<std::thread> writers;
  writers.reserve(kWriters);
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (std::uint64_t i = 0; i < kValues; ++i) {
        live->record(i % 4);  // few buckets, so that the writers meet
        if (w == 0) alone->record_alone(i);
      }
    });
  }
  Histogram before;
  while (before.count() < kWriters * kValues) {
    const Histogram now = live->snapshot();
    ASSERT_GE(now.count(), before.count());
    Histogram window = now;
    window.subtract(before);
    ASSERT_EQ(window.count(), now.count() - before.count());  // no bucket ever went down
    before = now;
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(live->snapshot().count(), kWriters * kValues);
  EXPECT_EQ(alone->snapshot().count(), kValues);
  EXPECT_NEAR(alone->snapshot().mean(), (kValues - 1) / 2.0, 1e-6);
}

}  // namespace
}  // namespace millrace
