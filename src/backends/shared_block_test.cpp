#include "backends/shared_block.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <vector>

#include "backends/test_harness.h"

namespace millrace {
namespace {

using testing::Host;

constexpr std::size_t kBytes = 4096;

/// A stream that fills the block in its turn and then looks whether anyone else has touched it.
class User {
 public:
  User(DeviceRef device, SharedBlock& block, std::byte mark)
      : stream_(device->new_stream({}).value()), block_(block), mark_(mark) {}

  void use() {
    const Result<void> enqueued = block_.take_turn(stream_, [this]() -> Result<void> {
      return stream_.ref().run([this] {
        auto* const bytes = static_cast<std::byte*>(block_.data());
        for (std::size_t i = 0; i < kBytes; ++i) bytes[i] = mark_;
        std::this_thread::yield();
        if (std::any_of(bytes, bytes + kBytes, [this](std::byte b) { return b != mark_; })) ++torn_;
        ++used_;
      });
    });
    EXPECT_TRUE(enqueued.ok());
  }
  [[nodiscard]] StreamRef stream() const { return stream_; }
  int torn_ = 0;
  int used_ = 0;

 private:
  Stream stream_;
  SharedBlock& block_;
  const std::byte mark_;
};

TEST(SharedBlock, TurnsOfManyStreamsNeverOverlap) {
  Host host;
  const auto block = SharedBlock::make(host.device(), kBytes).value();
  EXPECT_EQ(block->bytes(), kBytes);
  std::vector<std::unique_ptr<User>> users;
  for (int i = 1; i <= 4; ++i) {
    users.push_back(std::make_unique<User>(host.device(), *block, static_cast<std::byte>(i)));
  }
  for (int round = 0; round < 200; ++round) {
    for (const auto& user : users) user->use();
  }
  for (const auto& user : users) {
    ASSERT_TRUE(user->stream().synchronize().ok());
    EXPECT_EQ(user->torn_, 0);
    EXPECT_EQ(user->used_, 200);
  }
}

TEST(SharedBlock, ATurnWaitsOnTheDeviceAndNotOnTheHost) {
  Host host;
  const auto block = SharedBlock::make(host.device(), kBytes).value();
  const Stream first = host.device()->new_stream({}).value();
  const Stream second = host.device()->new_stream({}).value();
  std::atomic<bool> open{false};
  std::atomic<bool> reached{false};
  ASSERT_TRUE(block
                  ->take_turn(first,
                              [&] {
                                return first.ref().run([&] {
                                  while (!open.load()) std::this_thread::yield();
                                });
                              })
                  .ok());
  ASSERT_TRUE(
      block->take_turn(second, [&] { return second.ref().run([&] { reached.store(true); }); })
          .ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(second.ref().query().value());
  EXPECT_FALSE(reached.load());
  open.store(true);
  ASSERT_TRUE(second.ref().synchronize().ok());
  EXPECT_TRUE(reached.load());
  ASSERT_TRUE(first.ref().synchronize().ok());
}

TEST(SharedBlock, WhatFailsInItsTurnStillEndsIt) {
  Host host;
  const auto block = SharedBlock::make(host.device(), kBytes).value();
  const Stream first = host.device()->new_stream({}).value();
  const Stream second = host.device()->new_stream({}).value();
  std::atomic<bool> open{false};
  const Result<void> failed = block->take_turn(first, [&]() -> Result<void> {
    (void)first.ref().run([&] {
      while (!open.load()) std::this_thread::yield();
    });
    return Error{ErrorCode::internal, "as asked"};
  });
  MILLRACE_EXPECT_ERROR(failed, ErrorCode::internal, "as asked");
  ASSERT_TRUE(block->take_turn(second, [] { return Result<void>(); }).ok());
  EXPECT_FALSE(second.ref().query().value()) << "a part of the failed turn still runs";
  open.store(true);
  ASSERT_TRUE(second.ref().synchronize().ok());
  ASSERT_TRUE(first.ref().synchronize().ok());
}

}  // namespace
}  // namespace millrace
