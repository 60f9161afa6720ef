#include "base/pool.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

struct Counts {
  std::atomic<int> alive{0};
  std::atomic<int> made{0};
};

struct Thing {
  explicit Thing(Counts& c) : counts(c) {
    ++counts.alive;
    ++counts.made;
  }
  ~Thing() { --counts.alive; }
  Counts& counts;
  std::vector<int> memory;
  std::atomic<int> holders{0};
};

TEST(Pool, UsesObjectsAgainAsTheyWereLeft) {
  Counts counts;
  Pool<Thing> pool(2);
  auto thing = pool.take(counts);
  const auto address = reinterpret_cast<std::uintptr_t>(thing.get());
  thing->memory.reserve(100);
  thing.reset();
  EXPECT_EQ(pool.idle(), 1u);
  auto again = pool.take(counts);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(again.get()), address);
  EXPECT_GE(again->memory.capacity(), 100u);
  EXPECT_EQ(counts.made, 1);
}

TEST(Pool, KeepsNoMoreThanItWasToldTo) {
  Counts counts;
  {
    Pool<Thing> pool(2);
    std::vector<Pool<Thing>::Pointer> taken;
    taken.reserve(5);
    for (int i = 0; i < 5; ++i) taken.push_back(pool.take(counts));
    EXPECT_EQ(pool.taken(), 5u);
    taken.clear();
    EXPECT_EQ(pool.idle(), 2u);
    EXPECT_EQ(pool.taken(), 0u);
    EXPECT_EQ(counts.alive, 2);
  }
  EXPECT_EQ(counts.alive, 0);
}

TEST(Pool, ObjectsMayOutliveIt) {
  Counts counts;
  Pool<Thing>::Pointer first, second;
  {
    Pool<Thing> pool(4);
    first = pool.take(counts);
    second = pool.take(counts);
    pool.take(counts).reset();
    EXPECT_EQ(counts.alive, 3);
  }
  EXPECT_EQ(counts.alive, 2);
  first.reset();
  second.reset();
  EXPECT_EQ(counts.alive, 0);
}

TEST(Pool, ReleasedPointersCanBePutBack) {
  Counts counts;
  Pool<Thing> pool(1);
  Thing* thing = pool.take(counts).release();
  EXPECT_EQ(pool.taken(), 1u);
  pool.put(thing);
  EXPECT_EQ(pool.idle(), 1u);
}

struct Refuses {
  Refuses() { throw std::runtime_error("no"); }
};

TEST(Pool, AConstructorThatThrowsLeavesNothingTaken) {
  Pool<Refuses> pool(1);
  EXPECT_THROW(static_cast<void>(pool.take()), std::runtime_error);
  EXPECT_EQ(pool.taken(), 0u);
}

TEST(Pool, HandsEachObjectToOneHolderAtATime) {
  Counts counts;
  std::atomic<bool> shared{false};
  {
    Pool<Thing> pool(3);
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 5000; ++i) {
          const auto thing = pool.take(counts);
          if (thing->holders.fetch_add(1) != 0) shared = true;
          thing->memory.assign(1, i);  // a race if two hold it
          thing->holders.fetch_sub(1);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_LE(pool.idle(), 3u);
  }
  EXPECT_FALSE(shared);
  EXPECT_EQ(counts.alive, 0);
}

TEST(Pool, IsClosedWhileOthersReturn) {
  for (int round = 0; round < 200; ++round) {
    Counts counts;
    auto pool = std::make_unique<Pool<Thing>>(2);
    std::vector<std::thread> threads;
    threads.reserve(3);
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([thing = pool->take(counts)]() mutable { thing.reset(); });
    }
    pool.reset();
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(counts.alive, 0);
  }
}

}  // namespace
}  // namespace millrace
