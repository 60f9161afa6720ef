#include "engine/share.h"

#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

using std::chrono::milliseconds;

const TimePoint kNow = TimePoint(std::chrono::hours(1));

TEST(NextPlan, NothingReadyNothingChosen) { EXPECT_FALSE(next_plan({}, {}).plan); }

TEST(NextPlan, TheHigherClassGoesFirst) {
  const std::vector<PlanLoad> ready = {{0, kNow, 0}, {2, TimePoint::max(), 99}, {1, kNow, 0}};
  EXPECT_EQ(next_plan(ready, {}).plan, 1u);
}

TEST(NextPlan, WithinAClassTheEarliestDeadline) {
  const std::vector<PlanLoad> ready = {
      {1, TimePoint::max(), 0}, {1, kNow + milliseconds(2), 0}, {1, kNow + milliseconds(1), 99}};
  EXPECT_EQ(next_plan(ready, {}).plan, 2u);
}

TEST(NextPlan, ThenTheLeastVirtualTime) {
  const std::vector<PlanLoad> ready = {{1, kNow, 3}, {1, kNow, 2}, {1, kNow, 4}};
  EXPECT_EQ(next_plan(ready, {}).plan, 1u);
}

TEST(NextPlan, EqualsGoInTheirOrder) {
  const std::vector<PlanLoad> ready(3);
  EXPECT_EQ(next_plan(ready, {}).plan, 0u);
}

TEST(NextPlan, NothingGoesOverTheCap) {
  const std::vector<PlanLoad> ready(1);
  EXPECT_EQ(next_plan(ready, {1, 2}).plan, 0u);
  EXPECT_FALSE(next_plan(ready, {2, 2}).plan);
  EXPECT_FALSE(next_plan(ready, {3, 2}).plan);
  EXPECT_EQ(next_plan(ready, {1000, 0}).plan, 0u) << "0 is no cap";
}

// A device that runs one batch at a time, always choosing by next_plan, as a driver does: virtual
// time is device time over weight.
struct Simulated {
  double weight;
  double batch_seconds;
  double jitter;  // share of batch_seconds
  double device_seconds = 0;
  double virtual_time = 0;
};

void run(std::vector<Simulated>& models, int batches, unsigned seed) {
  std::mt19937 random(seed);
  for (int i = 0; i < batches; ++i) {
    std::vector<PlanLoad> ready;
    ready.reserve(models.size());
    for (const Simulated& model : models)
      ready.push_back({0, TimePoint::max(), model.virtual_time});
    Simulated& chosen = models[*next_plan(ready, {}).plan];
    std::uniform_real_distribution<double> factor(1 - chosen.jitter, 1 + chosen.jitter);
    const double took = chosen.batch_seconds * factor(random);
    chosen.device_seconds += took;
    chosen.virtual_time += took / chosen.weight;
  }
}

TEST(NextPlan, SaturatedPlansShareDeviceTimeByTheirWeights) {
  const std::vector<std::vector<Simulated>> cases = {
      {{3, 1e-3, 0}, {1, 1e-3, 0}},
      {{3, 1e-3, 0}, {1, 17e-3, 0}},  // long batches against short ones
      {{3, 17e-3, 0}, {1, 1e-3, 0}},
      {{3, 2e-3, 0.9}, {1, 5e-3, 0.9}},  // times that vary
      {{1, 4e-3, 0.5}, {2, 1e-3, 0.5}, {5, 2e-3, 0.5}},
  };
  for (std::vector<Simulated> models : cases) {
    run(models, 20000, 5);
    double total = 0;
    double weights = 0;
    for (const Simulated& model : models) {
      total += model.device_seconds;
      weights += model.weight;
    }
    for (const Simulated& model : models) {
      const double due = model.weight / weights;
      EXPECT_NEAR(model.device_seconds / total, due, 0.01 * due);
    }
  }
}

}  // namespace
}  // namespace millrace
