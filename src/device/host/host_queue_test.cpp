// Who does the work of a queue: its thread, or one that would have to wake it. What streams make of
// queues is in host_stream_test.cpp.
#include "device/host/host_queue.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr Duration kShort = microseconds(1);
constexpr Duration kLong = milliseconds(1);

/// A point of another device, reached when the test says so.
struct Point final : StreamPoint {
  std::atomic<bool> reached{false};
  Result<void> synchronize() const override {
    reached.wait(false);
    return {};
  }
  void reach() {
    reached = true;
    reached.notify_all();
  }
};

class HelpingHandTest : public testing::Test {
 protected:
  ~HelpingHandTest() override {
    if (queue_) queue_->finish();
  }
  /// Enqueues `tasks` as a driver does, with one wake for all.
  void enqueue(Duration takes, std::vector<std::function<void()>> tasks) {
    const HeldWakes held(takes);
    for (auto& task : tasks) queue_->push(HostQueue::Run{std::move(task)});
  }
  void let_it_sleep() {
    const TimePoint until = Clock::now() + std::chrono::seconds(60);
    while (!queue_->asleep()) {
      ASSERT_LT(Clock::now(), until) << "its thread does not sleep";
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  void await_all() { queue_->await(queue_->last()); }
  [[nodiscard]] std::function<void()> note(std::thread::id& who) const {
    return [&who] { who = std::this_thread::get_id(); };
  }

  const std::thread::id here_ = std::this_thread::get_id();
  std::thread::id first_, second_, third_;
  std::shared_ptr<HostFault> fault_ = std::make_shared<HostFault>();
  std::shared_ptr<HostQueue> queue_ = HostQueue::start("helped", fault_).value();
};

TEST_F(HelpingHandTest, DoesShortWorkOnItsThread) {
  let_it_sleep();
  HelpingHand hand;
  enqueue(kShort, {note(first_), note(second_)});
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_FALSE(queue_->reached(1)) << "nobody was woken";
  hand.help();
  EXPECT_TRUE(queue_->reached(2));
  EXPECT_EQ(first_, here_);
  EXPECT_EQ(second_, here_);
  // The queue's thread takes the next.
  EXPECT_TRUE(queue_->asleep());
  enqueue(kLong, {note(third_)});
  await_all();
  EXPECT_NE(third_, here_);
}

TEST_F(HelpingHandTest, HelpsAtItsEnd) {
  let_it_sleep();
  {
    HelpingHand hand;
    enqueue(kShort, {note(first_)});
  }
  EXPECT_EQ(first_, here_);
}

TEST_F(HelpingHandTest, TheInnermostCounts) {
  let_it_sleep();
  HelpingHand outer;
  {
    HelpingHand inner;
    enqueue(kShort, {note(first_)});
    outer.help();
    EXPECT_FALSE(queue_->reached(1));
  }
  EXPECT_EQ(first_, here_);
  enqueue(kShort, {note(second_)});
  outer.help();
  EXPECT_EQ(second_, here_);
}

TEST_F(HelpingHandTest, LeavesLongWorkToTheQueue) {
  let_it_sleep();
  HelpingHand hand;
  enqueue(kLong, {note(first_)});
  hand.help();
  await_all();
  EXPECT_NE(first_, here_);
}

TEST_F(HelpingHandTest, LeavesLongWorkToTheQueueWithWhatCameBeforeIt) {
  let_it_sleep();
  HelpingHand hand;
  enqueue(kShort, {note(first_)});
  enqueue(kLong, {note(second_)});
  hand.help();
  await_all();
  EXPECT_NE(first_, here_);
  EXPECT_NE(second_, here_);
  // Short work is helped with again.
  let_it_sleep();
  enqueue(kShort, {note(third_)});
  hand.help();
  EXPECT_EQ(third_, here_);
}

TEST_F(HelpingHandTest, SaysItselfWhatIsShort) {
  let_it_sleep();
  {
    HelpingHand hand(milliseconds(1));
    enqueue(kLong, {note(first_)});
  }
  EXPECT_EQ(first_, here_);
  {
    HelpingHand hand(Duration(999));
    enqueue(kShort, {note(second_)});
  }
  await_all();
  EXPECT_NE(second_, here_);
}

TEST_F(HelpingHandTest, WhoIsGoingToWaitDoesItsOwnWorkHoweverLong) {
  let_it_sleep();
  bool helper = true;
  {
    HelpingHand hand{HelpingHand::Own()};
    {
      const HeldWakes held(Duration::max(), true);
      queue_->push(HostQueue::Run{[&] {
        note(first_)();
        helper = HostQueue::on_helper();
        enqueue(kShort, {note(second_)});
      }});
    }
  }
  await_all();
  EXPECT_EQ(first_, here_);
  EXPECT_FALSE(helper) << "it may wait: its thread would";
  EXPECT_NE(second_, here_) << "that is not its own";
}

TEST_F(HelpingHandTest, WhoIsGoingToWaitLeavesOthersWorkToTheQueue) {
  let_it_sleep();
  HelpingHand hand{HelpingHand::Own()};
  enqueue(kShort, {note(first_)});
  hand.help();
  await_all();
  EXPECT_NE(first_, here_);
}

TEST_F(HelpingHandTest, LeavesTasksThatNobodySaidToBeShortToTheQueue) {
  let_it_sleep();
  HelpingHand hand;
  queue_->push(HostQueue::Run{note(first_)});
  hand.help();
  await_all();
  EXPECT_NE(first_, here_);
}

TEST_F(HelpingHandTest, LeavesABusyQueueAlone) {
  std::atomic<bool> open{false};
  queue_->push(HostQueue::Run{[&] { open.wait(false); }});
  HelpingHand hand;
  enqueue(kShort, {note(first_)});
  hand.help();
  EXPECT_FALSE(queue_->reached(1));
  open = true;
  open.notify_all();
  await_all();
  EXPECT_NE(first_, here_);
}

TEST_F(HelpingHandTest, LeavesTasksThatWaitForOthersToTheQueue) {
  const auto point = std::make_shared<Point>();
  let_it_sleep();
  HelpingHand hand;
  {
    const HeldWakes held(kShort);
    queue_->push(HostQueue::Run{note(first_)});
    queue_->push(HostQueue::WaitForPoint{point});
    queue_->push(HostQueue::Run{note(second_)});
  }
  hand.help();  // returns
  point->reach();
  await_all();
  EXPECT_NE(first_, here_);
  EXPECT_NE(second_, here_);
}

TEST_F(HelpingHandTest, DoesTheShortWorkThatItsWorkBrings) {
  // Unless this thread is held up for long between the two, which may happen now and then.
  for (int attempt = 0; attempt < 100 && second_ != here_; ++attempt) {
    let_it_sleep();
    HelpingHand hand;
    enqueue(kShort, {[this] {
              note(first_)();
              enqueue(kShort, {note(second_)});
            }});
    hand.help();
    await_all();
    ASSERT_EQ(first_, here_);
  }
  EXPECT_EQ(second_, here_);
}

TEST_F(HelpingHandTest, LeavesOtherWorkThatItsWorkBringsToTheQueue) {
  let_it_sleep();
  HelpingHand hand;
  enqueue(kShort, {[this] {
            note(first_)();
            enqueue(kLong, {note(second_)});
          }});
  hand.help();
  await_all();
  EXPECT_EQ(first_, here_);
  EXPECT_NE(second_, here_);
}

TEST_F(HelpingHandTest, LeavesTheRestToTheQueueAfterAWhile) {
  let_it_sleep();
  HelpingHand hand;
  enqueue(kShort, {[this] {
            note(first_)();
            std::this_thread::sleep_for(milliseconds(5));
            enqueue(kShort, {note(second_)});
          }});
  hand.help();
  await_all();
  EXPECT_EQ(first_, here_);
  EXPECT_NE(second_, here_);
}

TEST_F(HelpingHandTest, HasOneQueueAtATime) {
  const std::shared_ptr<HostQueue> other = HostQueue::start("other").value();
  let_it_sleep();
  HelpingHand hand;
  {
    const HeldWakes held(kShort);
    queue_->push(HostQueue::Run{note(first_)});
    other->push(HostQueue::Run{note(second_)});
  }
  hand.help();
  await_all();
  other->await(1);
  EXPECT_NE(first_ == here_, second_ == here_);
  other->finish();
}

TEST_F(HelpingHandTest, PassesItOnWhenItCannotHelpSoon) {
  let_it_sleep();
  HelpingHand hand;
  enqueue(kShort, {note(first_)});
  HelpingHand::pass_on();
  await_all();
  EXPECT_NE(first_, here_);
  hand.help();  // nothing is left
}

TEST_F(HelpingHandTest, WhoWaitsForTheQueuePassesItOn) {
  let_it_sleep();
  HelpingHand hand;
  enqueue(kShort, {note(first_)});
  await_all();  // returns
  EXPECT_NE(first_, here_);
}

TEST_F(HelpingHandTest, ItsWorkKnowsWhereItRuns) {
  bool own = false;
  bool helper = false;
  let_it_sleep();
  HelpingHand hand;
  enqueue(kShort, {[&] {
            own = queue_->on_own_thread();
            helper = HostQueue::on_helper();
          }});
  hand.help();
  EXPECT_TRUE(own);
  EXPECT_TRUE(helper);
  EXPECT_FALSE(HostQueue::on_helper());
  EXPECT_FALSE(queue_->on_own_thread());
  enqueue(kLong, {[&] { helper = HostQueue::on_helper(); }});
  await_all();
  EXPECT_FALSE(helper);
}

TEST_F(HelpingHandTest, ATaskMayFinishItsQueue) {
  bool ran = false;
  let_it_sleep();
  HelpingHand hand;
  enqueue(kShort, {[this] { std::exchange(queue_, nullptr)->finish(); }, [&] { ran = true; }});
  hand.help();
  EXPECT_TRUE(ran);
}

TEST_F(HelpingHandTest, AQueueThatFinishesWaitsForWhoHelps) {
  std::atomic<bool> inside{false};
  std::atomic<bool> done{false};
  let_it_sleep();
  std::thread finishes([&] {
    inside.wait(false);
    queue_->finish();
    EXPECT_TRUE(done);
  });
  {
    HelpingHand hand;
    enqueue(kShort, {[&] {
              inside = true;
              inside.notify_all();
              std::this_thread::sleep_for(milliseconds(20));
              done = true;
            }});
  }
  finishes.join();
}

TEST_F(HelpingHandTest, AFaultOfTheDeviceEndsItsWorkToo) {
  std::atomic<std::uint64_t> word{0};
  bool ran = false;
  let_it_sleep();
  HelpingHand hand;
  {
    const HeldWakes held(kShort);
    queue_->push(HostQueue::Run{[&] { ran = true; }});
    queue_->push(HostQueue::Signal{&word, 1, nullptr});
  }
  fault_->set({ErrorCode::gpu_fault, "pulled out"});
  hand.help();
  EXPECT_FALSE(ran);
  EXPECT_EQ(word, 0u);
}

TEST_F(HelpingHandTest, ManyWhoHelpKeepTheOrder) {
  constexpr int kThreads = 4;
  constexpr int kEach = 2000;
  std::mutex mutex;  // an order of enqueueing
  int enqueued = 0;
  int next = 0;  // the queue's alone
  bool kept = true;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        HelpingHand hand;
        const std::lock_guard lock(mutex);
        enqueue((i + t) % 3 != 0 ? kShort : kLong, {[&, number = enqueued++] {
                  kept = kept && number == next;
                  ++next;
                }});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  await_all();
  EXPECT_EQ(next, kThreads * kEach);
  EXPECT_TRUE(kept);
}

}  // namespace
}  // namespace millrace
