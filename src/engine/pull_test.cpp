#include "engine/pull.h"

#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

const TimePoint kNow = TimePoint(std::chrono::hours(1));
constexpr DeviceId kFirst = DeviceId::host(0);
constexpr DeviceId kSecond = DeviceId::host(1);
// 100 us, and 1 us for each kilobyte.
constexpr MoveCost kMove{microseconds(100), 1e9};

PullDecision ask(DeviceId data, DeviceId puller, DeviceLoad second, std::size_t bytes = 1000) {
  second.move = kMove;
  const std::vector<DeviceLoad> loads = {{kFirst}, second};
  return choose_pull(data, bytes, puller, loads, kNow);
}

TEST(ChoosePull, OrdinaryHostMemoryGoesAnywhere) {
  EXPECT_TRUE(ask(DeviceId::host_memory(), kFirst, {kSecond}).pull);
  EXPECT_TRUE(ask(DeviceId::host_memory(), kSecond, {kSecond}).pull);
}

TEST(ChoosePull, TheDeviceWithTheDataAlwaysTakesIt) {
  EXPECT_TRUE(ask(kSecond, kSecond, {kSecond}).pull);
  EXPECT_TRUE(ask(kSecond, kSecond, {kSecond, true, milliseconds(10)}).pull);
}

TEST(ChoosePull, OthersLeaveItToADeviceWithAFreeLane) {
  const PullDecision decision = ask(kSecond, kFirst, {kSecond, true, {}});
  EXPECT_FALSE(decision.pull);
  EXPECT_GT(decision.ask_again, kNow);
}

TEST(ChoosePull, OthersTakeItOnceWaitingCostsMoreThanMoving) {
  // Moving a kilobyte: 101 us.
  EXPECT_FALSE(ask(kSecond, kFirst, {kSecond, true, microseconds(100)}).pull);
  EXPECT_FALSE(ask(kSecond, kFirst, {kSecond, true, microseconds(101)}).pull);
  EXPECT_TRUE(ask(kSecond, kFirst, {kSecond, true, microseconds(102)}).pull);
  // Moving a megabyte: 1100 us.
  EXPECT_FALSE(ask(kSecond, kFirst, {kSecond, true, microseconds(1100)}, 1'000'000).pull);
  EXPECT_TRUE(ask(kSecond, kFirst, {kSecond, true, microseconds(1101)}, 1'000'000).pull);
}

TEST(ChoosePull, AsksAgainWhenTheEstimateCouldHaveTurnedOutWrong) {
  const PullDecision decision = ask(kSecond, kFirst, {kSecond, true, microseconds(30)});
  EXPECT_EQ(decision.ask_again, kNow + microseconds(30) + kMove.of(1000));
}

TEST(ChoosePull, DoesNotAskWithoutPauseWhereMovingCostsNothing) {
  const std::vector<DeviceLoad> loads = {{kFirst}, {kSecond, true, {}, {Duration(), 1e12}}};
  const PullDecision decision = choose_pull(kSecond, 0, kFirst, loads, kNow);
  EXPECT_FALSE(decision.pull);
  EXPECT_GE(decision.ask_again, kNow + microseconds(50));
}

TEST(ChoosePull, AnybodyTakesItFromADeviceThatCannot) {
  EXPECT_TRUE(ask(kSecond, kFirst, {kSecond, false, {}}).pull);
}

TEST(ChoosePull, NobodyTakesWhatLiesOnADeviceThatIsLost) {
  const PullDecision decision = ask(kSecond, kFirst, {kSecond, false, {}, {}, true});
  EXPECT_FALSE(decision.pull);
  EXPECT_EQ(decision.ask_again, TimePoint::max());
}

TEST(ChoosePull, WhatComputesInHostMemoryTakesNothingFromAGpu) {
  const std::vector<DeviceLoad> loads = {
      {kFirst}, {DeviceId::cuda(0), true, std::chrono::seconds(10), kMove}};
  EXPECT_FALSE(choose_pull(DeviceId::cuda(0), 1000, kFirst, loads, kNow).pull);
  EXPECT_TRUE(choose_pull(DeviceId::cuda(0), 1000, DeviceId::cuda(1), loads, kNow).pull);
}

TEST(ChoosePull, TheCostIsThatOfTheDeviceWithTheData) {
  const DeviceLoad near{kFirst, true, milliseconds(1), {microseconds(10), 1e12}};
  const DeviceLoad far{kSecond, true, milliseconds(1), {milliseconds(10), 1e9}};
  const std::vector<DeviceLoad> loads = {near, far};
  EXPECT_TRUE(choose_pull(kFirst, 1000, DeviceId::host(2), loads, kNow).pull);
  EXPECT_FALSE(choose_pull(kSecond, 1000, DeviceId::host(2), loads, kNow).pull);
}

TEST(ChoosePull, AnybodyTakesItFromADeviceThatDoesNotRunTheModel) {
  EXPECT_TRUE(ask(DeviceId::host(7), kFirst, {kSecond}).pull);
  EXPECT_TRUE(choose_pull(kSecond, 1, kFirst, {}, kNow).pull);
}

}  // namespace
}  // namespace millrace
