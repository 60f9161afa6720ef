#include "backends/onnxruntime/gate.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace millrace::onnxruntime {
namespace {

const std::atomic<bool> kNever{false};

TEST(Gate, LetsInAsManyAsItHoldsAndNoMore) {
  Gate gate(3);
  std::atomic<int> inside{0};
  std::atomic<int> most{0};
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      Gate::Pass pass;
      for (int i = 0; i < 500; ++i) {
        ASSERT_TRUE(gate.enter(pass, kNever));
        const int now = ++inside;
        int seen = most.load();
        while (now > seen && !most.compare_exchange_weak(seen, now)) {
        }
        std::this_thread::yield();
        --inside;
        gate.leave(pass);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most.load(), 3);
  EXPECT_GE(most.load(), 2);
  EXPECT_EQ(gate.inside(), 0);
}

TEST(Gate, LetsInByOrderOfArrival) {
  Gate gate(1);
  Gate::Pass first;
  ASSERT_TRUE(gate.enter(first, kNever));
  std::vector<int> order;  // written by who is inside
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Gate::Pass pass;
      ASSERT_TRUE(gate.enter(pass, kNever));
      order.push_back(t);
      gate.leave(pass);
    });
    while (gate.waiting() != t + 1) std::this_thread::yield();
  }
  gate.leave(first);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order, (std::vector{0, 1, 2, 3}));
}

TEST(Gate, WhoLeavesCannotOvertakeWhoWaits) {
  Gate gate(1);
  Gate::Pass mine;
  ASSERT_TRUE(gate.enter(mine, kNever));
  std::atomic<bool> entered{false};
  std::thread other([&] {
    Gate::Pass pass;
    ASSERT_TRUE(gate.enter(pass, kNever));
    entered = true;
    gate.leave(pass);
  });
  while (gate.waiting() != 1) std::this_thread::yield();
  gate.leave(mine);
  ASSERT_TRUE(gate.enter(mine, kNever));
  EXPECT_TRUE(entered.load());
  gate.leave(mine);
  other.join();
}

TEST(Gate, AnEndedWaiterGoesAwayWithoutAPass) {
  Gate gate(1);
  Gate::Pass inside;
  ASSERT_TRUE(gate.enter(inside, kNever));
  Gate::Pass waiting;
  std::atomic<bool> ended{false};
  std::thread other([&] { EXPECT_FALSE(gate.enter(waiting, ended)); });
  while (gate.waiting() != 1) std::this_thread::yield();
  ended = true;
  gate.wake(waiting);
  other.join();
  gate.leave(waiting);  // nothing
  EXPECT_EQ(gate.inside(), 1);
  gate.leave(inside);
  gate.leave(inside);  // nothing more
  EXPECT_EQ(gate.inside(), 0);
}

// Whoever waits may be let in and made to leave before it wakes: it is in no queue then.
TEST(Gate, LeavingBeforeTheWaiterWakesLeavesNobodyBehind) {
  for (int i = 0; i < 2000; ++i) {
    Gate gate(1);
    Gate::Pass a, b;
    ASSERT_TRUE(gate.enter(a, kNever));
    std::atomic<bool> ended{false};
    std::thread other([&] { (void)gate.enter(b, ended); });
    while (gate.waiting() != 1) std::this_thread::yield();
    gate.leave(a);
    ended = true;
    gate.wake(b);
    gate.leave(b);
    other.join();
    gate.leave(b);
    ASSERT_EQ(gate.waiting(), 0);
    ASSERT_EQ(gate.inside(), 0);
  }
}

TEST(Gate, WhoMustNotBlockSqueezesIn) {
  Gate gate(1);
  Gate::Pass first, second, waiting;
  ASSERT_TRUE(gate.enter(first, kNever));
  gate.squeeze_in(second);
  EXPECT_EQ(gate.inside(), 2);
  std::atomic<bool> in{false};
  std::jthread waiter([&] {
    EXPECT_TRUE(gate.enter(waiting, kNever));
    in = true;
  });
  while (gate.waiting() == 0) std::this_thread::yield();
  gate.leave(first);
  EXPECT_EQ(gate.waiting(), 1) << "there is still one too many";
  EXPECT_FALSE(in);
  gate.leave(second);
  waiter.join();
  EXPECT_EQ(gate.inside(), 1);
}

TEST(Gate, CapacityCanChange) {
  Gate gate(1);
  Gate::Pass a, b;
  ASSERT_TRUE(gate.enter(a, kNever));
  std::thread other([&] { ASSERT_TRUE(gate.enter(b, kNever)); });
  while (gate.waiting() != 1) std::this_thread::yield();
  gate.set_capacity(2);
  other.join();
  EXPECT_EQ(gate.inside(), 2);
  gate.set_capacity(1);
  gate.leave(a);
  EXPECT_EQ(gate.inside(), 1);
  std::atomic<bool> ended{false};
  std::thread third([&] { EXPECT_FALSE(gate.enter(a, ended)); });
  while (gate.waiting() != 1) std::this_thread::yield();
  ended = true;
  gate.wake(a);
  third.join();
  gate.leave(b);
  EXPECT_EQ(gate.inside(), 0);
  EXPECT_EQ(gate.capacity(), 1);
}

}  // namespace
}  // namespace millrace::onnxruntime
