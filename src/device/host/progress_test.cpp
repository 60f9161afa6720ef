#include "device/host/progress.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

TEST(Progress, KnowsWhatIsReached) {
  Progress progress;
  EXPECT_TRUE(progress.reached(0));
  EXPECT_FALSE(progress.reached(1));
  progress.advance(3);
  EXPECT_TRUE(progress.reached(3));
  EXPECT_FALSE(progress.reached(4));
  progress.await(2);
}

// Waiters for different counts, some woken for counts that are not theirs: none may be left behind.
TEST(Progress, LeavesNoWaiterBehind) {
  constexpr std::uint64_t kLast = 20'000;
  constexpr std::uint64_t kWaiters = 4;
  Progress progress;
  std::vector<std::uint64_t> written(kLast + 1,
                                     0);  // not atomic: the progress alone orders its uses
  std::vector<std::thread> waiters;
  for (std::uint64_t step = 1; step <= kWaiters; ++step) {
    waiters.emplace_back([&, step] {
      for (std::uint64_t count = step; count <= kLast; count += step) {
        progress.await(count);
        ASSERT_EQ(written[count], count);
      }
    });
  }
  for (std::uint64_t count = 1; count <= kLast; ++count) {
    written[count] = count;
    progress.advance(count);
    if (count % 64 == 0) std::this_thread::yield();
  }
  for (auto& waiter : waiters) waiter.join();
}

}  // namespace
}  // namespace millrace
