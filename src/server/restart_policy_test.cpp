#include "server/restart_policy.h"

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr RestartPolicy kPolicy{milliseconds(100), milliseconds(500), seconds(60)};

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

}  // namespace
}  // namespace millrace::server
