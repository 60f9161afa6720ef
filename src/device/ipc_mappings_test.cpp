#include "device/ipc_mappings.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace millrace {
namespace {

std::atomic<int> opened{0}, closed{0};
std::array<char, 256> places;  // what is mapped where
std::atomic<bool> refuse{false};

Result<void*> open_one(const IpcMappings::Key& key) {
  if (refuse) return Error{ErrorCode::unavailable, "the owner is gone"};
  ++opened;
  return static_cast<void*>(&places[static_cast<std::size_t>(key.handle[0])]);
}
void close_one(const IpcMappings::Key&, void*) noexcept { ++closed; }

IpcMappings::Key key(int number, std::int32_t device = 0) {
  IpcMappings::Key key;
  key.device = device;
  key.handle[0] = static_cast<std::byte>(number);
  return key;
}

class IpcMappingsTest : public testing::Test {
 protected:
  void SetUp() override {
    opened = 0;
    closed = 0;
    refuse = false;
  }
  [[nodiscard]] bool comes_to(std::size_t count) const {
    for (int i = 0; i < 60000 && mappings_.count() != count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return mappings_.count() == count;
  }
  IpcMappings mappings_{{&open_one, &close_one}};
};

TEST_F(IpcMappingsTest, OpensEachOnceWhileItIsUsed) {
  auto first = mappings_.take(key(1)).value();
  auto again = mappings_.take(key(1)).value();
  auto other = mappings_.take(key(2)).value();
  auto on_another_gpu = mappings_.take(key(1, 1)).value();
  EXPECT_EQ(first.base, again.base);
  EXPECT_NE(first.base, other.base);
  EXPECT_EQ(opened, 3);
  first.lease.reset();
  other.lease.reset();
  EXPECT_TRUE(comes_to(2));
  EXPECT_EQ(closed, 1);
  const Lease copy = again.lease;
  again.lease.reset();
  on_another_gpu.lease.reset();
  EXPECT_TRUE(comes_to(1)) << "a copy of the lease is still there";
}

TEST_F(IpcMappingsTest, OpensAgainWhatWasClosed) {
  for (int i = 0; i < 3; ++i) {
    (void)mappings_.take(key(1)).value();  // and dropped
    ASSERT_TRUE(comes_to(0));
  }
  EXPECT_EQ(opened, 3);
  EXPECT_EQ(closed, 3);
}

TEST_F(IpcMappingsTest, WhatCannotBeOpenedLeavesNothing) {
  refuse = true;
  const auto mapping = mappings_.take(key(1));
  ASSERT_FALSE(mapping.ok());
  EXPECT_EQ(mapping.error().code, ErrorCode::unavailable);
  EXPECT_EQ(mappings_.count(), 0u);
  refuse = false;
  EXPECT_TRUE(mappings_.take(key(1)).ok());
}

TEST_F(IpcMappingsTest, ManyThreadsTakeAndDrop) {
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 500; ++i) {
        const auto mapping = mappings_.take(key((t + i) % 3));
        ASSERT_TRUE(mapping.ok());
        EXPECT_EQ(mapping->base, &places[static_cast<std::size_t>((t + i) % 3)]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(comes_to(0));
  EXPECT_EQ(opened, closed);
}

TEST(IpcMappingsEnd, ClosesWhatIsLeft) {
  opened = 0;
  closed = 0;
  {
    IpcMappings mappings({&open_one, &close_one});
    for (int i = 0; i < 5; ++i) (void)mappings.take(key(i)).value();
  }
  EXPECT_EQ(opened, 5);
  EXPECT_EQ(closed, 5);
}

}  // namespace
}  // namespace millrace
