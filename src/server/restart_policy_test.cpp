#include "server/restart_policy.h"

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr RestartPolicy kPolicy{milliseconds(100), milliseconds(500), seconds(60), 3};

TEST(Backoff, DoublesUpToItsLimit) {
  Backoff backoff(kPolicy);
  EXPECT_EQ(backoff.next(Duration::zero()), milliseconds(100));
  EXPECT_EQ(backoff.next(Duration::zero()), milliseconds(200));
  EXPECT_EQ(backoff.next(seconds(59)), milliseconds(400));  // not healthy yet
  EXPECT_EQ(backoff.next(Duration::zero()), milliseconds(500));
  EXPECT_EQ(backoff.next(Duration::zero()), milliseconds(500));
}

TEST(Backoff, ForgetsWhatFailedBeforeAHealthyWorker) {
  Backoff backoff(kPolicy);
  for (int i = 0; i < 10; ++i) (void)backoff.next(Duration::zero());
  EXPECT_EQ(backoff.next(seconds(60)), milliseconds(100));
  EXPECT_EQ(backoff.next(Duration::zero()), milliseconds(200));
}

TEST(Backoff, HasNoHopeAfterSoManyFailedStartsInARow) {
  Backoff backoff(kPolicy);
  for (const int served_ms : {0, 0, 1, 0, 0}) {
    (void)backoff.next(milliseconds(served_ms));
    EXPECT_FALSE(backoff.hopeless());
  }
  (void)backoff.next(Duration::zero());
  EXPECT_TRUE(backoff.hopeless());
  EXPECT_EQ(backoff.failed_starts(), 3);
}

TEST(Backoff, HopesForEverWithoutALimit) {
  RestartPolicy policy = kPolicy;
  policy.most_failed_starts = 0;
  Backoff backoff(policy);
  for (int i = 0; i < 1000; ++i) (void)backoff.next(Duration::zero());
  EXPECT_FALSE(backoff.hopeless());
}

}  // namespace
}  // namespace millrace::server
