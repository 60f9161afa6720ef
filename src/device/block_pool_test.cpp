#include "device/block_pool.h"

#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "device/host/host_device.h"

namespace millrace {
namespace {

constexpr std::size_t kKiB = 1024;

HostDevice make_device(std::size_t limit_bytes = 0) {
  return HostDevice(0, {.memory_limit_bytes = limit_bytes, .slowness = 1});
}

TEST(BlockPool, RoundsToPowersOfTwoAndHalvesBetween) {
  EXPECT_EQ(BlockPool::rounded_bytes(0), 0u);
  EXPECT_EQ(BlockPool::rounded_bytes(1), 256u);
  EXPECT_EQ(BlockPool::rounded_bytes(256), 256u);
  EXPECT_EQ(BlockPool::rounded_bytes(257), 384u);
  EXPECT_EQ(BlockPool::rounded_bytes(385), 512u);
  EXPECT_EQ(BlockPool::rounded_bytes(513), 768u);
  EXPECT_EQ(BlockPool::rounded_bytes(100'000), 128 * kKiB);
  EXPECT_EQ(BlockPool::rounded_bytes(90'000), 96 * kKiB);
  EXPECT_EQ(BlockPool::rounded_bytes(std::size_t{1} << 46), std::size_t{1} << 46);
  EXPECT_EQ(BlockPool::rounded_bytes((std::size_t{1} << 46) + 1), 0u);
  EXPECT_EQ(BlockPool::rounded_bytes(SIZE_MAX), 0u);
  for (std::size_t bytes = 257; bytes < 100'000; bytes += 37) {
    const std::size_t rounded = BlockPool::rounded_bytes(bytes);
    EXPECT_GE(rounded, bytes);
    EXPECT_LE((rounded - bytes) * 3, rounded);
  }
}

TEST(BlockPool, HandsTheSameMemoryOutAgainOnceTheLastLeaseIsGone) {
  HostDevice device = make_device();
  BlockPool pool(device, MemoryKind::device);
  Block first = pool.take(1000).value();
  EXPECT_EQ(first.bytes, 1000u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first.data) % 256, 0u);
  void* data = first.data;
  Lease copy = first.lease;
  first = Block();
  Block second = pool.take(1000).value();
  EXPECT_NE(second.data, data);  // the copy still holds it
  copy.reset();
  Block third = pool.take(800).value();  // of the same size class
  EXPECT_EQ(third.data, data);
  const BlockPoolStatistics statistics = pool.statistics();
  EXPECT_EQ(statistics.taken, 3u);
  EXPECT_EQ(statistics.allocated, 2u);
  EXPECT_EQ(statistics.held_bytes, 2 * kKiB);
  EXPECT_EQ(statistics.idle_bytes, 0u);
  EXPECT_EQ(device.memory().used_bytes, 2 * kKiB);
}

TEST(BlockPool, TakesAnIdleBlockOfUpToFourTimesTheSizeBeforeANewOne) {
  HostDevice device = make_device();
  BlockPool pool(device, MemoryKind::device);
  Block block = pool.take(kKiB).value();
  const void* const data = block.data;
  for (const std::size_t bytes : {std::size_t{600}, std::size_t{256}, kKiB}) {
    block.lease.reset();
    block = pool.take(bytes).value();
    EXPECT_EQ(block.data, data) << bytes;
    EXPECT_EQ(block.bytes, bytes);
    EXPECT_EQ(pool.statistics().held_bytes, kKiB);
  }
  block.lease.reset();
  const Block other = pool.take(kKiB + 1).value();  // too little
  EXPECT_NE(other.data, data);
  block = pool.take(4 * kKiB).value();
  block.lease.reset();
  const Block small = pool.take(256).value();
  EXPECT_EQ(small.data, data);
  const Block next = pool.take(256).value();  // all that is idle is more than four times as large
  EXPECT_EQ(pool.statistics().allocated, 4u);
  EXPECT_EQ(pool.statistics().idle_bytes, 4 * kKiB);
}

TEST(BlockPool, ZeroBytesNeedNoMemory) {
  HostDevice device = make_device();
  BlockPool pool(device, MemoryKind::pinned);
  const Block block = pool.take(0).value();
  EXPECT_EQ(block.data, nullptr);
  EXPECT_FALSE(block.lease);
  EXPECT_EQ(pool.statistics().taken, 0u);
}

TEST(BlockPool, FreesWhatIsLongestUnusedBeyondItsLimit) {
  HostDevice device = make_device();
  BlockPool pool(device, MemoryKind::device, 4 * kKiB);
  for (std::size_t bytes : {1 * kKiB, 2 * kKiB}) {
    std::vector<Block> blocks;
    for (std::size_t i = 0; i < 4; ++i) blocks.push_back(pool.take(bytes).value());
  }
  // 2 KiB came last: two of them fit, and they pushed the smaller ones out.
  EXPECT_EQ(pool.statistics().idle_bytes, 4 * kKiB);
  EXPECT_EQ(device.memory().used_bytes, 4 * kKiB);
  const auto allocated = pool.statistics().allocated;
  {
    Block a = pool.take(2 * kKiB).value();
    Block b = pool.take(2 * kKiB).value();
    EXPECT_EQ(pool.statistics().allocated, allocated);
  }
  { Block large = pool.take(5 * kKiB).value(); }  // never kept: over the limit by itself
  EXPECT_EQ(pool.statistics().idle_bytes, 4 * kKiB);
  EXPECT_EQ(pool.trim(), 4 * kKiB);
  EXPECT_EQ(pool.statistics().held_bytes, 0u);
  EXPECT_EQ(device.memory().used_bytes, 0u);
}

TEST(BlockPool, GivesIdleMemoryUpBeforeItRefuses) {
  HostDevice device = make_device(8 * kKiB);
  BlockPool pool(device, MemoryKind::device);
  { Block idle = pool.take(6 * kKiB).value(); }
  EXPECT_EQ(device.memory().used_bytes, 6 * kKiB);
  Block held = pool.take(7 * kKiB).value();
  EXPECT_EQ(device.memory().used_bytes, 8 * kKiB);
  const auto refused = pool.take(5 * kKiB);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::out_of_memory);
  EXPECT_EQ(pool.take(SIZE_MAX).error().code, ErrorCode::out_of_memory);
  held.lease.reset();
  EXPECT_TRUE(pool.take(4 * kKiB).ok());
}

TEST(BlockPool, LeasesOutliveThePoolAndTheHostDevice) {
  auto device = std::make_unique<HostDevice>(0, HostDeviceOptions());
  const auto kept = device->memory_source();
  const HostMemory& memory = device->host_memory();  // as long as it is kept
  auto pool = std::make_unique<BlockPool>(*device, MemoryKind::device);
  Block a = pool->take(1000).value();
  Block b = pool->take(1000).value();
  { Block idle = pool->take(1000).value(); }
  pool.reset();
  EXPECT_EQ(memory.info().used_bytes, 2 * kKiB);  // the idle one went with the pool
  std::memset(a.data, 1, a.bytes);
  a = Block();
  EXPECT_EQ(memory.info().used_bytes, 1 * kKiB);  // not kept idle for nobody
  device.reset();
  std::memset(b.data, 2, b.bytes);
  b = Block();
  EXPECT_EQ(memory.info().used_bytes, 0u);
}

TEST(BlockPool, GivesNoBlockToTwoOfManyThreads) {
  HostDevice device = make_device();
  BlockPool pool(device, MemoryKind::device, 16 * kKiB);
  std::vector<std::thread> threads;
  threads.reserve(6);
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&pool, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<Block> held;
      for (int i = 0; i < 3000; ++i) {
        Block block = pool.take(random() % 4000 + 1).value();
        std::memset(block.data, t, block.bytes);
        held.push_back(std::move(block));
        if (held.size() < 4) continue;
        std::swap(held[random() % held.size()], held.back());
        const Block& last = held.back();
        const auto* bytes = static_cast<const unsigned char*>(last.data);
        for (std::size_t k = 0; k < last.bytes; k += 97) ASSERT_EQ(bytes[k], t);
        held.pop_back();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_LE(pool.statistics().idle_bytes, 16 * kKiB);
  EXPECT_EQ(pool.statistics().held_bytes, pool.statistics().idle_bytes);
  EXPECT_EQ(device.memory().used_bytes, pool.statistics().held_bytes);
}

// The copies of a lease may be dropped by any thread, and the last one recycles the block.
TEST(BlockPool, LeasesMayBeDroppedByOtherThreads) {
  HostDevice device = make_device();
  BlockPool pool(device, MemoryKind::device);
  Stream stream = device.new_stream({}).value();
  for (int i = 0; i < 2000; ++i) {
    Block block = pool.take(512).value();
    std::memset(block.data, i & 0xff, block.bytes);
    ASSERT_TRUE(stream.ref()
                    .run([lease = block.lease, data = block.data, i] {
                      ASSERT_EQ(*static_cast<unsigned char*>(data), i & 0xff);
                    })
                    .ok());
  }
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(pool.statistics().idle_bytes, pool.statistics().held_bytes);
}

}  // namespace
}  // namespace millrace
