#include "cli/bench_windows.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace millrace::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

TEST(WindowPlan, CutsTheDurationIntoWindowsOfBoundedLength) {
  EXPECT_EQ(plan_windows(seconds(6)).window, milliseconds(500));
  EXPECT_EQ(plan_windows(seconds(6)).warm_up, milliseconds(1000));
  EXPECT_EQ(plan_windows(seconds(6)).most, seconds(6));
  EXPECT_EQ(plan_windows(seconds(3600)).window, seconds(1));
  EXPECT_EQ(plan_windows(milliseconds(1)).window, milliseconds(20));
  EXPECT_EQ(plan_windows(milliseconds(1)).most, milliseconds(60))
      << "room for a window after the warm-up";
}

TEST(StableRule, NeedsThreeWindows) {
  EXPECT_FALSE(is_stable({}));
  EXPECT_FALSE(is_stable(std::vector<double>{100, 100}));
  EXPECT_TRUE(is_stable(std::vector<double>{100, 100, 100}));
}

TEST(StableRule, LooksAtTheLastThreeOnly) {
  EXPECT_TRUE(is_stable(std::vector<double>{5, 1000, 100, 101, 99}));
  EXPECT_FALSE(is_stable(std::vector<double>{100, 100, 100, 100, 120}));
}

TEST(StableRule, AllowsThreePercentFromTheMean) {
  EXPECT_TRUE(is_stable(std::vector<double>{97.1, 100, 102.9}));
  EXPECT_FALSE(is_stable(std::vector<double>{96.5, 100, 103.5}));
}

TEST(StableRule, NothingIsNotStable) { EXPECT_FALSE(is_stable(std::vector<double>{0, 0, 0})); }

TEST(Median, OfOddEvenAndNoValues) {
  EXPECT_EQ(median_of({}), 0);
  EXPECT_EQ(median_of(std::vector<double>{3, 1, 2}), 2);
  EXPECT_EQ(median_of(std::vector<double>{4, 1, 2, 3}), 2.5);
}

TEST(Spread, OfFewPairsIsTheirRange) {
  const Spread spread = spread_of(std::vector<double>{0.9, 1.1, 1.0, 0.95, 1.05, 1.2, 0.8});
  EXPECT_EQ(spread.median, 1.0);
  EXPECT_EQ(spread.low, 0.8);
  EXPECT_EQ(spread.high, 1.2);
}

TEST(Spread, OfManyPairsLeavesTheTailsOut) {
  // Of 9 values the second and the eighth bound the interval: P(at most 1 of 9 below) = 10/512
  // < 2.5%.
  const Spread nine = spread_of(std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(nine.low, 2);
  EXPECT_EQ(nine.high, 8);
  EXPECT_EQ(nine.min, 1);
  EXPECT_EQ(nine.max, 9);
  // Of 20 the sixth and the fifteenth, as tables of the sign test say.
  std::vector<double> twenty;
  for (int i = 1; i <= 20; ++i) twenty.push_back(i);
  EXPECT_EQ(spread_of(twenty).low, 6);
  EXPECT_EQ(spread_of(twenty).high, 15);
}

TEST(PoissonArrivals, TheSameSeedGivesTheSameArrivals) {
  PoissonArrivals a(1000, 7);
  PoissonArrivals b(1000, 7);
  PoissonArrivals c(1000, 8);
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const Duration gap = a.next();
    EXPECT_EQ(gap, b.next());
    differs = differs || gap != c.next();
  }
  EXPECT_TRUE(differs);
}

TEST(PoissonArrivals, GapsAreExponential) {
  constexpr int kGaps = 200000;
  constexpr double kRate = 12345;
  PoissonArrivals arrivals(kRate, 1);
  double sum = 0;
  double squares = 0;
  int above_mean = 0;
  for (int i = 0; i < kGaps; ++i) {
    const double gap = std::chrono::duration<double>(arrivals.next()).count() * kRate;  // in means
    sum += gap;
    squares += gap * gap;
    above_mean += gap > 1 ? 1 : 0;
  }
  const double mean = sum / kGaps;
  EXPECT_NEAR(mean, 1, 0.01);
  EXPECT_NEAR(squares / kGaps - mean * mean, 1,
              0.03);  // the variance of an exponential is its mean squared
  EXPECT_NEAR(static_cast<double>(above_mean) / kGaps, std::exp(-1), 0.005);
}

TEST(PoissonArrivals, CountsInFixedIntervalsHaveMeanAndVarianceAlike) {
  PoissonArrivals arrivals(1000, 3);
  std::vector<double> counts(2000, 0);
  Duration at{};
  while ((at += arrivals.next()) < milliseconds(10) * counts.size()) {
    counts[static_cast<std::size_t>(at / milliseconds(10))] += 1;
  }
  double mean = 0;
  for (const double count : counts) mean += count / static_cast<double>(counts.size());
  double variance = 0;
  for (const double count : counts)
    variance += (count - mean) * (count - mean) / static_cast<double>(counts.size());
  EXPECT_NEAR(mean, 10, 0.3);
  EXPECT_NEAR(variance / mean, 1, 0.1);
}

TEST(PoissonArrivals, RoundingDoesNotChangeTheRate) {
  PoissonArrivals arrivals(3e8, 5);  // 3.3 ns on average
  Duration sum{};
  for (int i = 0; i < 300000; ++i) sum += arrivals.next();
  EXPECT_NEAR(std::chrono::duration<double>(sum).count(), 1e-3, 2e-5);
}

}  // namespace
}  // namespace millrace::cli
