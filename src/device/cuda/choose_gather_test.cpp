#include <gtest/gtest.h>

#include "device/cuda/gather.h"

namespace millrace {
namespace {

constexpr std::size_t kKiB = 1024;

GatherShape pieces(std::size_t count, std::size_t bytes_each) {
  GatherShape shape;
  shape.pieces = count;
  shape.bytes = count * bytes_each;
  return shape;
}

TEST(ChooseGather, OnePieceIsOneCopy) {
  EXPECT_EQ(choose_gather(pieces(1, 16)), GatherMethod::each);
  EXPECT_EQ(choose_gather(pieces(1, 16 << 20)), GatherMethod::each);
  EXPECT_EQ(choose_gather({}), GatherMethod::each);
}

TEST(ChooseGather, PinnedPiecesGoByTheCopyEngineUnlessTheyAreSmall) {
  EXPECT_EQ(choose_gather(pieces(64, 4 * kKiB)), GatherMethod::kernel);
  EXPECT_EQ(choose_gather(pieces(64, 150528)), GatherMethod::batch);
  EXPECT_EQ(choose_gather(pieces(2, 4096 * kKiB)), GatherMethod::batch);
}

TEST(ChooseGather, TheDeviceMovesItsOwnMemory) {
  GatherShape shape = pieces(2, 4096 * kKiB);
  shape.on_device = true;
  EXPECT_EQ(choose_gather(shape), GatherMethod::kernel);
}

TEST(ChooseGather, RowsWithGapsAreReadByAKernelEvenAlone) {
  GatherShape shape = pieces(1, 150528);
  shape.pitched = true;
  EXPECT_EQ(choose_gather(shape), GatherMethod::kernel);
}

TEST(ChooseGather, WhatNoKernelReachesIsCopiedOneByOne) {
  GatherShape shape = pieces(64, 4 * kKiB);
  shape.reachable = false;
  EXPECT_EQ(choose_gather(shape), GatherMethod::each);
  shape.pitched = true;
  EXPECT_EQ(choose_gather(shape), GatherMethod::each);
}

}  // namespace
}  // namespace millrace
