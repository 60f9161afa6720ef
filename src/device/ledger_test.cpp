#include "device/ledger.h"

#include <atomic>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/host/host_device.h"

namespace millrace {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kGiB = 1024 * kMiB;

TEST(MemoryLedger, GrantsUpToItsLimitAndTakesBack) {
  MemoryLedger ledger(DeviceId::host(0), 100);
  EXPECT_EQ(ledger.limit_bytes(), 100u);
  {
    Reservation a = ledger.reserve("a", 60).value();
    Reservation b = ledger.reserve("b", 40).value();
    EXPECT_EQ(a.bytes(), 60u);
    EXPECT_EQ(ledger.free_bytes(), 0u);
    EXPECT_FALSE(ledger.reserve("c", 1).ok());
    EXPECT_TRUE(ledger.reserve("c", 0).ok());
  }
  EXPECT_EQ(ledger.reserved_bytes(), 0u);
  EXPECT_TRUE(ledger.held().empty());
}

TEST(MemoryLedger, SaysWhoHoldsWhatWhenItRefuses) {
  MemoryLedger ledger(DeviceId::host(0), kGiB);
  Reservation b = ledger.reserve("model \"b\"", 124 * kMiB).value();
  Reservation a1 = ledger.reserve("model \"a\"", 300 * kMiB).value();
  Reservation a2 = ledger.reserve("model \"a\"", 200 * kMiB).value();
  const auto refused = ledger.reserve("model \"c\"", 600 * kMiB);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::out_of_memory);
  EXPECT_EQ(refused.error().message,
            "needed 600 MiB, free 400 MiB of 1 GiB on host:0; held: model \"a\" 500 MiB, "
            "model \"b\" 124 MiB");
  EXPECT_EQ(ledger.reserved_bytes(), 624 * kMiB);  // the refusal changed nothing

  const auto held = ledger.held();
  ASSERT_EQ(held.size(), 2u);
  EXPECT_EQ(held[0].holder, "model \"a\"");
  EXPECT_EQ(held[0].bytes, 500 * kMiB);
  EXPECT_EQ(held[1].bytes, 124 * kMiB);
}

TEST(MemoryLedger, KeepsTheRefusalShort) {
  MemoryLedger ledger(DeviceId::cuda(1), 100);
  EXPECT_THAT(ledger.reserve("x", 101).error().message, HasSubstr("nothing is held"));
  std::vector<Reservation> many;
  many.reserve(20);
  for (int i = 0; i < 20; ++i) many.push_back(ledger.reserve("m" + std::to_string(i), 5).value());
  const std::string message = ledger.reserve("x", 1).error().message;
  EXPECT_THAT(message, HasSubstr("12 others 60 B"));
  EXPECT_THAT(message, HasSubstr("m7 5 B"));
  EXPECT_THAT(message, Not(HasSubstr("m8 ")));
}

TEST(Reservation, GrowsAndShrinks) {
  MemoryLedger ledger(DeviceId::host(0), 100);
  Reservation a = ledger.reserve("a", 10).value();
  EXPECT_TRUE(a.grow(80).ok());
  EXPECT_EQ(a.bytes(), 90u);
  const auto refused = a.grow(11);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::out_of_memory);
  EXPECT_THAT(refused.error().message, HasSubstr("a 90 B"));
  EXPECT_FALSE(a.grow(SIZE_MAX).ok());
  EXPECT_EQ(a.bytes(), 90u);
  a.shrink(40);
  EXPECT_EQ(a.bytes(), 50u);
  EXPECT_EQ(ledger.free_bytes(), 50u);
  a.shrink(1000);
  EXPECT_EQ(a.bytes(), 0u);
  EXPECT_EQ(ledger.free_bytes(), 100u);
}

TEST(Reservation, Moves) {
  MemoryLedger ledger(DeviceId::host(0), 100);
  Reservation a = ledger.reserve("a", 30).value();
  Reservation b = std::move(a);
  EXPECT_FALSE(a);           // NOLINT(bugprone-use-after-move): on purpose
  EXPECT_EQ(a.bytes(), 0u);  // NOLINT(clang-analyzer-cplusplus.Move): on purpose
  EXPECT_EQ(a.grow(1).error().code, ErrorCode::invalid_argument);
  a.shrink(1);
  Reservation c = ledger.reserve("c", 50).value();
  c = std::move(b);
  EXPECT_EQ(ledger.reserved_bytes(), 30u);
  auto& same = c;
  c = std::move(same);
  EXPECT_EQ(c.bytes(), 30u);
  c = Reservation();
  EXPECT_EQ(ledger.reserved_bytes(), 0u);
}

TEST(Reservation, OutlivesItsLedger) {
  std::optional<MemoryLedger> ledger(std::in_place, DeviceId::host(0), 100);
  Reservation a = ledger->reserve("a", 30).value();
  ledger.reset();
  EXPECT_EQ(a.bytes(), 30u);
  EXPECT_TRUE(a.grow(70).ok());
}

TEST(MemoryLedger, TakesTheLimitOfItsDevice) {
  HostDevice device(3, {.memory_limit_bytes = 5000, .slowness = 1});
  MemoryLedger ledger(device);
  EXPECT_EQ(ledger.device(), DeviceId::host(3));
  EXPECT_EQ(ledger.limit_bytes(), 5000u);
}

TEST(MemoryLedger, GrantsNoByteTwiceToManyThreads) {
  MemoryLedger ledger(DeviceId::host(0), 1000);
  std::atomic<int> granted{0};
  std::atomic<std::size_t> in_use{0};
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        auto reservation = ledger.reserve("t", 300);
        if (!reservation) continue;
        ++granted;
        EXPECT_LE(in_use += 300, 1000u);
        in_use -= 300;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_GT(granted, 0);
  EXPECT_EQ(ledger.reserved_bytes(), 0u);
}

}  // namespace
}  // namespace millrace
