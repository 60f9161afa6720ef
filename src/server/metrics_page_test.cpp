#include "server/metrics_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace::server {
namespace {

using ::testing::HasSubstr;

TEST(MetricsPageTest, LabelsAreEscaped) {
  MetricsPage page;
  page.family("a_total", "counter", "Help");
  page.sample({{"name", "a\"b\\c\nd"}, {"other", ""}}, 7);
  page.sample({}, std::uint64_t{18446744073709551615U});
  EXPECT_EQ(page.take(),
            "# HELP a_total Help\n# TYPE a_total counter\n"
            "a_total{name=\"a\\\"b\\\\c\\nd\",other=\"\"} 7\na_total 18446744073709551615\n");
}

TEST(MetricsPageTest, NumbersKeepAllTheirDigits) {
  MetricsPage page;
  page.family("a_seconds_total", "counter", "Help");
  page.sample({}, 123456789.123456);
  EXPECT_THAT(page.take(), HasSubstr("a_seconds_total 123456789.123456\n"));
}

TEST(MetricsPageTest, BucketsCountWhatIsBelow) {
  Histogram histogram;
  histogram.record(1);
  histogram.record(2, 2);
  histogram.record(3);
  histogram.record(1000);
  MetricsPage page;
  page.family("items", "histogram", "Help");
  page.numbers({{"model", "m"}}, histogram);
  const std::string text = page.take();
  EXPECT_THAT(text, HasSubstr("items_bucket{model=\"m\",le=\"1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("items_bucket{model=\"m\",le=\"2\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("items_bucket{model=\"m\",le=\"4\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("items_bucket{model=\"m\",le=\"512\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("items_bucket{model=\"m\",le=\"+Inf\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("items_sum{model=\"m\"} 1008\n"));
  EXPECT_THAT(text, HasSubstr("items_count{model=\"m\"} 5\n"));
}

TEST(MetricsPageTest, TimesAreInSeconds) {
  Histogram histogram;
  histogram.record(20'000);
  MetricsPage page;
  page.family("took_seconds", "histogram", "Help");
  page.times({}, histogram);
  const std::string text = page.take();
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{le=\"1e-05\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{le=\"2.5e-05\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{le=\"10\"} 1\n"));
}

}  // namespace
}  // namespace millrace::server
