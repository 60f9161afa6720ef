#include "engine/plan_state.h"

#include <gtest/gtest.h>

#include "device/host/host_device.h"

namespace millrace {
namespace {

using std::chrono::microseconds;

TEST(BatchTimes, KnowsTheSizesThatItHasSeen) {
  BatchTimes times;
  EXPECT_FALSE(times.knows(1));
  EXPECT_EQ(times.estimate(1), Duration::zero());
  times.learn(5, microseconds(10));
  EXPECT_TRUE(times.knows(5));
  EXPECT_TRUE(times.knows(4)) << "as many powers of two";
  EXPECT_FALSE(times.knows(3));
  EXPECT_FALSE(times.knows(8));
  EXPECT_EQ(times.estimate(64), microseconds(10)) << "the nearest that it knows";
}

// A batch that was expected to take longer must be seen soon after its end all the same.
TEST(BatchSlot, AsksItsEventSeldomAtFirstAndOftenTowardsTheExpectedEnd) {
  HostDevice device(0, {});
  const Stream stream = device.new_stream({}).value();
  BatchSlot slot;
  slot.done = device.new_event(EventTiming::untimed).value();
  std::atomic<bool> open{false};
  ASSERT_TRUE(stream.ref().run([&open] { open.wait(false); }).ok());
  ASSERT_TRUE(stream.ref().record(slot.done).ok());
  const TimePoint start = Clock::now();
  slot.asks_event = true;
  slot.ask_every = microseconds(5);
  slot.ask_again = start;
  slot.soon_over = start + microseconds(1000);
  EXPECT_FALSE(slot.finished(start));
  open.store(true);
  open.notify_all();
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_FALSE(slot.finished(start + microseconds(49))) << "not asked again yet";
  EXPECT_TRUE(slot.finished(start + microseconds(50)));
  EXPECT_FALSE(slot.finished(start + microseconds(99)));
  EXPECT_TRUE(slot.finished(start + microseconds(1000)));
  EXPECT_FALSE(slot.finished(start + microseconds(1004)));
  EXPECT_TRUE(slot.finished(start + microseconds(1005)));
  slot.ask_every = Duration::zero();
  slot.ask_again = start;
  EXPECT_TRUE(slot.finished(start));
  EXPECT_TRUE(slot.finished(start)) << "whenever it is woken";
}

}  // namespace
}  // namespace millrace
