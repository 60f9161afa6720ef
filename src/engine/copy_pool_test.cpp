#include "engine/copy_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

namespace millrace {
namespace {

std::vector<std::uint8_t> random_bytes(std::size_t size, unsigned seed) {
  std::vector<std::uint8_t> bytes(size);
  std::mt19937 random(seed);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

TEST(CopyPool, HasNoHelpersWhereProcessorsAreFew) {
  EXPECT_EQ(CopyPool::helpers_for(1), 0);
  EXPECT_EQ(CopyPool::helpers_for(7), 0);
  EXPECT_EQ(CopyPool::helpers_for(8), 2);
  EXPECT_EQ(CopyPool::helpers_for(16), 4);
  EXPECT_EQ(CopyPool::helpers_for(192), 4);
}

TEST(CopyPool, CopiesEverySizeWithAndWithoutHelpers) {
  for (const int helpers : {0, 1, 3}) {
    CopyPool pool(helpers);
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, CopyPool::kLeastBytes - 1, CopyPool::kLeastBytes,
          CopyPool::kLeastBytes + 1, 3 * CopyPool::kLeastBytes + 12345}) {
      const std::vector<std::uint8_t> source = random_bytes(size, static_cast<unsigned>(size));
      std::vector<std::uint8_t> target(size + 1, 0xee);
      pool.copy(target.data(), source.data(), size);
      EXPECT_TRUE(std::equal(source.begin(), source.end(), target.begin())) << size;
      EXPECT_EQ(target.back(), 0xee) << "wrote behind the end";
    }
  }
}

TEST(CopyPool, HelpersTakePartInLargeCopiesOnly) {
  CopyPool pool(2);
  const std::vector<std::uint8_t> source = random_bytes(std::size_t{16} << 20, 1);
  std::vector<std::uint8_t> target(source.size());
  for (int i = 0; i < 100; ++i) pool.copy(target.data(), source.data(), CopyPool::kLeastBytes - 1);
  EXPECT_EQ(pool.helped(), 0u);
  for (int i = 0; i < 10000 && pool.helped() == 0; ++i) {
    pool.copy(target.data(), source.data(), source.size());
  }
  EXPECT_GT(pool.helped(), 0u);
}

TEST(CopyPool, ServesSeveralCallersAtOnce) {
  CopyPool pool(2);
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&pool, caller] {
      for (unsigned i = 0; i < 10; ++i) {
        const auto source =
            random_bytes(CopyPool::kLeastBytes + std::size_t{1000} * i, 100 * caller + i);
        std::vector<std::uint8_t> target(source.size());
        pool.copy(target.data(), source.data(), source.size());
        ASSERT_EQ(target, source);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

}  // namespace
}  // namespace millrace
