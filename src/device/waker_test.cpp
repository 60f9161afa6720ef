#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <millrace/device.h>

namespace millrace {
namespace {

using namespace std::chrono_literals;

constexpr auto kHangGuard = 60s;

TEST(Waker, KeepsAWakeThatComesBeforeTheWait) {
  Waker waker;
  waker.wake();
  waker.wake();  // collapses into the first
  EXPECT_TRUE(waker.wait_until(Clock::now() + kHangGuard));
  EXPECT_FALSE(waker.wait_until(Clock::now()));
}

TEST(Waker, ReturnsFalseAtTheEndOfTheTime) {
  Waker waker;
  const TimePoint until = Clock::now() + 5ms;
  EXPECT_FALSE(waker.wait_until(until));
  EXPECT_GE(Clock::now(), until);
  EXPECT_FALSE(waker.wait_until(TimePoint()));  // long past
  EXPECT_FALSE(waker.wait_until(TimePoint::min()));
  waker.wake();
  EXPECT_TRUE(waker.wait_until(TimePoint()));  // a kept wake counts even then
}

TEST(Waker, WakesASleeper) {
  Waker waker;
  std::atomic<bool> woken{false};
  std::thread waiter([&] {
    EXPECT_TRUE(waker.wait_until(TimePoint::max()));
    woken = true;
  });
  EXPECT_FALSE(woken);
  waker.wake();
  waiter.join();
  EXPECT_TRUE(woken);
}

// Every round needs its own wake; a single lost one would leave both sides waiting.
TEST(Waker, LosesNoWakeBetweenTwoThreads) {
  constexpr int kRounds = 20'000;
  Waker ping;
  Waker pong;
  int value = 0;  // not atomic: the wakers alone order its uses
  std::thread other([&] {
    for (int i = 0; i < kRounds; ++i) {
      ASSERT_TRUE(ping.wait_until(Clock::now() + kHangGuard));
      ++value;
      pong.wake();
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    ++value;
    ping.wake();
    ASSERT_TRUE(pong.wait_until(Clock::now() + kHangGuard));
    ASSERT_EQ(value, 2 * (i + 1));
  }
  other.join();
}

TEST(Waker, WhatWasWrittenBeforeAnyOfManyWakesIsSeen) {
  constexpr std::uint64_t kEach = 5000;
  constexpr int kThreads = 4;
  Waker waker;
  std::atomic<std::uint64_t> count{0};
  std::vector<std::thread> wakers;
  wakers.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    wakers.emplace_back([&] {
      for (std::uint64_t i = 0; i < kEach; ++i) {
        count.fetch_add(1, std::memory_order_relaxed);  // published by the wake
        waker.wake();
      }
    });
  }
  while (count.load(std::memory_order_relaxed) < kEach * kThreads) {
    ASSERT_TRUE(waker.wait_until(Clock::now() + kHangGuard));
  }
  for (auto& thread : wakers) thread.join();
}

TEST(Waker, CallsWhatItIsRedirectedToOnTheWakingThread) {
  struct Seen {
    int wakes = 0;
    std::thread::id thread;
  } seen;
  Waker waker;
  waker.redirect(
      [](void* context) noexcept {
        auto& record = *static_cast<Seen*>(context);
        ++record.wakes;
        record.thread = std::this_thread::get_id();
      },
      &seen);
  waker.wake();
  EXPECT_EQ(seen.wakes, 1);
  EXPECT_EQ(seen.thread, std::this_thread::get_id());
  std::thread other([&] { waker.wake(); });
  const auto id = other.get_id();
  other.join();
  EXPECT_EQ(seen.wakes, 2);
  EXPECT_EQ(seen.thread, id);
}

}  // namespace
}  // namespace millrace
