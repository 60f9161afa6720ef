#include "engine/batching.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

const TimePoint kNow = TimePoint(std::chrono::hours(1));
constexpr TimePoint kNever = TimePoint::max();

TimePoint ago(Duration time) { return kNow - time; }
TimePoint ahead(Duration time) { return kNow + time; }

// ------------------------------------------------------------------------------------------------
// a table of cases

struct Waiting {
  std::int64_t items = 1;
  Duration age = microseconds(10);
  Duration deadline_in = Duration::max();  // max: none
};

struct Case {
  std::string name;
  // The queue.
  std::vector<Waiting> waiting = {};
  bool more_behind = false;
  bool nothing_will_come = false;
  Duration lane_idle_in{};
  Duration lead{};
  Duration batch_time{};
  // The policy.
  std::int64_t max_items = 8;
  std::vector<std::int64_t> preferred = {};
  Duration max_delay{};
  // What must come of it.
  std::size_t take = 0;
  std::int64_t items = 0;
  TimePoint wait_until = kNever;
};

BatchDecision decide(const Case& given) {
  std::vector<WaitingRequest> waiting;
  waiting.reserve(given.waiting.size());
  for (const Waiting& request : given.waiting) {
    waiting.push_back(
        {request.items, ago(request.age),
         request.deadline_in == Duration::max() ? kNever : ahead(request.deadline_in)});
  }
  QueueSnapshot queue;
  queue.waiting = waiting;
  queue.more_behind = given.more_behind;
  queue.nothing_will_come = given.nothing_will_come;
  queue.lane_idle_from = ahead(given.lane_idle_in);
  queue.lead = given.lead;
  queue.batch_time = given.batch_time;
  BatchPolicy policy;
  policy.max_items = given.max_items;
  policy.preferred_items = given.preferred;
  policy.max_delay = given.max_delay;
  return next_batch(queue, kNow, policy);
}

class NextBatch : public testing::TestWithParam<Case> {};

TEST_P(NextBatch, Decides) {
  const Case& expected = GetParam();
  const BatchDecision decision = decide(expected);
  EXPECT_EQ(decision.take, expected.take);
  EXPECT_EQ(decision.items, expected.items);
  EXPECT_EQ(decision.wait_until, expected.wait_until);
}

std::vector<Waiting> ones(std::size_t count) { return std::vector<Waiting>(count); }

INSTANTIATE_TEST_SUITE_P(
    Batcher, NextBatch,
    testing::Values(
        Case{.name = "NothingOfNothing"},
        Case{.name = "NothingOfNothingEvenWhenFull",
             .nothing_will_come = true,
             .max_delay = milliseconds(1)},

        // With an idle lane and no delay allowed, whatever is there goes.
        Case{.name = "OneGoesAtOnceToAnIdleLane", .waiting = ones(1), .take = 1, .items = 1},
        Case{.name = "AllThatFitGoAtOnce", .waiting = {{3}, {4}}, .take = 2, .items = 7},
        Case{.name = "ALaneThatIdledLongAgoIsIdle",
             .waiting = ones(1),
             .lane_idle_in = -milliseconds(5),
             .take = 1,
             .items = 1},

        // Full batches.
        Case{.name = "AFullBatchNeverSits",
             .waiting = ones(8),
             .lane_idle_in = milliseconds(9),
             .max_delay = milliseconds(9),
             .take = 8,
             .items = 8},
        Case{.name = "OneRequestMayFillABatch",
             .waiting = {{8}},
             .lane_idle_in = milliseconds(9),
             .max_delay = milliseconds(9),
             .take = 1,
             .items = 8},
        Case{.name = "ABatchThatTheNextDoesNotFitIntoGoes",
             .waiting = {{5}, {4}},
             .lane_idle_in = milliseconds(9),
             .max_delay = milliseconds(9),
             .take = 1,
             .items = 5},
        Case{.name = "TheSameWhenTheNextIsOutOfSight",
             .waiting = {{5}},
             .more_behind = true,
             .lane_idle_in = milliseconds(9),
             .max_delay = milliseconds(9),
             .take = 1,
             .items = 5},
        Case{.name = "TheOrderIsKeptThoughALaterOneWouldFit",
             .waiting = {{5}, {4}, {3}},
             .max_delay = milliseconds(9),
             .take = 1,
             .items = 5},
        Case{.name = "NothingOverTheMaximum", .waiting = ones(20), .take = 8, .items = 8},
        Case{.name = "AMaximumOfOneCombinesNothing",
             .waiting = ones(3),
             .lane_idle_in = milliseconds(9),
             .max_items = 1,
             .max_delay = milliseconds(9),
             .take = 1,
             .items = 1},
        Case{.name = "AMaximumOfZeroIsReadAsOne",
             .waiting = ones(3),
             .max_items = 0,
             .take = 1,
             .items = 1},

        // Waiting for more.
        Case{.name = "WaitsForTheDelayOfTheOldest",
             .waiting = {{1, microseconds(300)}, {1, microseconds(100)}},
             .max_delay = milliseconds(1),
             .wait_until = ahead(microseconds(700))},
        Case{.name = "TheOldestNeedNotBeInFront",  // a high priority overtook it
             .waiting = {{1, microseconds(100)}, {1, microseconds(900)}},
             .max_delay = milliseconds(1),
             .wait_until = ahead(microseconds(100))},
        Case{.name = "GoesWhenTheDelayIsOver",
             .waiting = {{1, milliseconds(1)}},
             .max_delay = milliseconds(1),
             .take = 1,
             .items = 1},
        Case{.name = "WaitsWhileTheLaneIsBusyAnyway",
             .waiting = ones(1),
             .lane_idle_in = microseconds(400),
             .wait_until = ahead(microseconds(400))},
        Case{.name = "WaitsForABusyLaneThoughTheDelayIsOver",
             .waiting = {{1, milliseconds(5)}},
             .lane_idle_in = microseconds(400),
             .max_delay = milliseconds(1),
             .wait_until = ahead(microseconds(400))},
        Case{.name = "IsEarlyByTheLead",
             .waiting = ones(1),
             .lane_idle_in = microseconds(400),
             .lead = microseconds(50),
             .wait_until = ahead(microseconds(350))},
        Case{.name = "GoesOnceTheLeadIsReached",
             .waiting = ones(1),
             .lane_idle_in = microseconds(50),
             .lead = microseconds(50),
             .take = 1,
             .items = 1},
        Case{.name = "ALaneWhoseEndIsUnknownIsWaitedFor",
             .waiting = ones(1),
             .lane_idle_in = kNever - kNow,
             .wait_until = kNever},
        Case{.name = "GoesWhenNothingWillCome",
             .waiting = ones(2),
             .nothing_will_come = true,
             .lane_idle_in = milliseconds(9),
             .max_delay = milliseconds(9),
             .take = 2,
             .items = 2},

        // Preferred sizes.
        Case{.name = "APreferredSizeGoesAtOnce",
             .waiting = ones(4),
             .lane_idle_in = milliseconds(9),
             .preferred = {4},
             .max_delay = milliseconds(9),
             .take = 4,
             .items = 4},
        Case{.name = "TheLargestPreferredSizeGoes",
             .waiting = ones(7),
             .max_items = 16,
             .preferred = {2, 4, 8},
             .max_delay = milliseconds(9),
             .take = 4,
             .items = 4},
        Case{.name = "APreferredSizeMustBeMetExactly",
             .waiting = {{3}, {3}},
             .preferred = {4},
             .max_delay = milliseconds(1),
             .wait_until = ahead(microseconds(990))},
        Case{.name = "TheRestGoesWhenTheDelayIsOver",
             .waiting = {{1, milliseconds(2)}, {1}},
             .preferred = {4},
             .max_delay = milliseconds(1),
             .take = 2,
             .items = 2},
        Case{.name = "AFullBatchBeforeAPreferredOne",
             .waiting = ones(9),
             .preferred = {4},
             .take = 8,
             .items = 8},

        // Deadlines.
        Case{.name = "ANearDeadlineCutsTheDelay",
             .waiting = {{1, Duration(), milliseconds(3)}},
             .batch_time = milliseconds(1),
             .max_delay = milliseconds(10),
             .wait_until = ahead(microseconds(750))},
        Case{.name = "TheLeadCountsToo",
             .waiting = {{1, Duration(), milliseconds(3)}},
             .lead = microseconds(50),
             .batch_time = milliseconds(1),
             .max_delay = milliseconds(10),
             .wait_until = ahead(microseconds(700))},
        Case{.name = "ADeadlineThatCannotWaitGoesAtOnce",
             .waiting = {{1, Duration(), milliseconds(1)}, {1}},
             .batch_time = milliseconds(1),
             .max_delay = milliseconds(10),
             .take = 2,
             .items = 2},
        Case{.name = "TheEarliestDeadlineCounts",
             .waiting = {{1, Duration()},
                         {1, Duration(), milliseconds(4)},
                         {1, Duration(), milliseconds(2)}},
             .max_delay = milliseconds(10),
             .wait_until = ahead(milliseconds(1))},
        Case{.name = "AFarDeadlineChangesNothing",
             .waiting = {{1, Duration(), std::chrono::hours(1)}},
             .batch_time = milliseconds(1),
             .max_delay = milliseconds(10),
             .wait_until = ahead(milliseconds(10))},
        Case{.name = "ADeadlineBoundsTheWaitForABusyLane",
             .waiting = {{1, Duration(), milliseconds(2)}},
             .lane_idle_in = milliseconds(50),
             .wait_until = ahead(milliseconds(1))},
        Case{.name = "ADeadlineOfOneThatDoesNotFitDoesNotCount",
             .waiting = {{8, Duration()}, {1, Duration(), microseconds(1)}},
             .take = 1,
             .items = 8}),
    [](const auto& test) { return test.param.name; });

// -----------------------------------------------------------------------------------------------------
// properties

struct Drawn {
  std::vector<WaitingRequest> waiting;
  QueueSnapshot queue;
  BatchPolicy policy;
};

// Any queue that a driver may see.
void draw(std::mt19937& random, Drawn& drawn) {
  const auto upto = [&random](std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(0, most)(random);
  };
  const auto often = [&](int percent) { return upto(99) < percent; };
  drawn = Drawn();
  drawn.policy.max_items = 1 + upto(15);
  for (std::int64_t size = 1; size < drawn.policy.max_items; ++size) {
    if (often(20)) drawn.policy.preferred_items.push_back(size);
  }
  drawn.policy.max_delay = often(50) ? Duration() : Duration(microseconds(upto(1000)));
  const std::int64_t count = upto(often(50) ? 2 : 12);
  for (std::int64_t i = 0; i < count; ++i) {
    drawn.waiting.push_back({1 + upto(drawn.policy.max_items - 1), ago(microseconds(upto(1500))),
                             often(70) ? kNever : ahead(microseconds(upto(2000)))});
  }
  drawn.queue.waiting = drawn.waiting;
  drawn.queue.more_behind = often(15);
  drawn.queue.nothing_will_come = often(10);
  drawn.queue.lane_idle_from = often(10) ? kNever : ahead(microseconds(upto(1000) - 500));
  drawn.queue.lead = microseconds(upto(50));
  drawn.queue.batch_time = microseconds(upto(500));
}

TEST(Batcher, HoldsItsPromisesForAnyQueue) {
  std::mt19937 random(20240229);
  Drawn drawn;
  int waits = 0;
  int partial = 0;
  for (int round = 0; round < 200000; ++round) {
    SCOPED_TRACE(round);
    draw(random, drawn);
    const auto& [waiting, queue, policy] = drawn;
    const BatchDecision decision = next_batch(queue, kNow, policy);

    // It takes a prefix, says how many items that has, and never more than the maximum.
    ASSERT_LE(decision.take, waiting.size());
    std::int64_t items = 0;
    for (std::size_t i = 0; i < decision.take; ++i) items += waiting[i].items;
    ASSERT_EQ(decision.items, items);
    ASSERT_LE(items, policy.max_items);
    if (waiting.empty()) {
      ASSERT_EQ(decision.take, 0u);
      ASSERT_EQ(decision.wait_until, kNever);
      continue;
    }

    std::int64_t all = 0;
    for (const WaitingRequest& request : waiting) all += request.items;
    if (decision.take == 0) {
      ++waits;
      // A full batch, or one that cannot grow, never sits.
      ASSERT_LT(all, policy.max_items);
      ASSERT_FALSE(queue.more_behind);
      ASSERT_FALSE(queue.nothing_will_come);
      // It waits for a reason that is still to come, and not past the delay of the oldest, unless
      // the lane is busy until then; nor past a deadline.
      ASSERT_GT(decision.wait_until, kNow);
      TimePoint oldest = kNever;
      for (const WaitingRequest& request : waiting) {
        oldest = std::min(oldest, request.enqueued);
        ASSERT_LE(decision.wait_until, request.deadline);
      }
      ASSERT_LE(decision.wait_until, std::max(oldest + policy.max_delay, queue.lane_idle_from));
      // No preferred size was there to be had.
      std::int64_t prefix = 0;
      for (const WaitingRequest& request : waiting) {
        prefix += request.items;
        ASSERT_EQ(std::ranges::count(policy.preferred_items, prefix), 0);
      }
    } else if (decision.take < waiting.size()) {
      ++partial;
      // What is left behind did not fit, or the batch has a preferred size.
      const bool did_not_fit = items + waiting[decision.take].items > policy.max_items;
      ASSERT_TRUE(did_not_fit || std::ranges::count(policy.preferred_items, items) == 1);
    }

    // Once it is time, asking again gives a batch.
    if (decision.take == 0 && decision.wait_until != kNever) {
      const BatchDecision later = next_batch(queue, decision.wait_until, policy);
      ASSERT_EQ(later.take, waiting.size());
    }
  }
  EXPECT_GT(waits, 10000);  // the drawing reaches all branches
  EXPECT_GT(partial, 10000);
}

// Driving by the decisions alone, every request goes, in order, and none later than it may.
TEST(Batcher, EmptiesAnyQueueInOrder) {
  std::mt19937 random(7);
  Drawn drawn;
  for (int round = 0; round < 5000; ++round) {
    SCOPED_TRACE(round);
    draw(random, drawn);
    std::size_t first = 0;
    TimePoint now = kNow;
    drawn.queue.more_behind = false;
    drawn.queue.lane_idle_from = kNow;
    int decisions = 0;
    while (first < drawn.waiting.size()) {
      ASSERT_LT(++decisions, 100);
      drawn.queue.waiting = std::span(drawn.waiting).subspan(first);
      const BatchDecision decision = next_batch(drawn.queue, now, drawn.policy);
      if (decision.take == 0) {
        ASSERT_NE(decision.wait_until, kNever);
        now = decision.wait_until;
      }
      first += decision.take;
    }
    TimePoint youngest = TimePoint::min();
    for (const WaitingRequest& request : drawn.waiting)
      youngest = std::max(youngest, request.enqueued);
    if (drawn.waiting.empty()) continue;
    EXPECT_LE(now, std::max(kNow, youngest + drawn.policy.max_delay));
  }
}

// ---------------------------------------------------------------------------------------------------
// choose_run_size

std::vector<RunCost> costs_of(std::initializer_list<std::tuple<int, int, int>> rows) {
  std::vector<RunCost> costs;
  for (const auto& [items, prepared, eager] : rows) {
    costs.push_back({items, microseconds(prepared), microseconds(eager)});
  }
  return costs;
}

TEST(ChooseRunSize, RunsEagerlyWhenNothingIsPrepared) { EXPECT_EQ(choose_run_size(3, {}), 0); }

TEST(ChooseRunSize, TakesThePreparedSizeThatFitsExactly) {
  const auto costs =
      costs_of({{1, 10, 1}, {4, 900, 1}});  // though eager is cheaper: that is what was prepared
  EXPECT_EQ(choose_run_size(1, costs), 1);
  EXPECT_EQ(choose_run_size(4, costs), 4);
}

TEST(ChooseRunSize, PadsWhereThatIsCheaperThanRunningEagerly) {
  // Eager costs between 4 and 8 items are read off the line between the two.
  const auto costs = costs_of({{4, 20, 40}, {8, 60, 80}});
  EXPECT_EQ(choose_run_size(5, costs), 0);  // eager: 50
  EXPECT_EQ(choose_run_size(6, costs), 8);  // eager: 60, a draw
  EXPECT_EQ(choose_run_size(7, costs), 8);  // eager: 70
}

TEST(ChooseRunSize, BelowTheSmallestPreparedSizeEagerCostsAreThatSizes) {
  EXPECT_EQ(choose_run_size(1, costs_of({{4, 30, 40}})), 4);
  EXPECT_EQ(choose_run_size(1, costs_of({{4, 50, 40}})), 0);
}

TEST(ChooseRunSize, PadsAlwaysWhereTheLaneCannotRunEagerly) {
  const auto costs = costs_of({{2, 10, 0}, {8, 10000, 0}});
  EXPECT_EQ(choose_run_size(1, costs), 2);
  EXPECT_EQ(choose_run_size(3, costs), 8);
}

TEST(ChooseRunSize, RunsEagerlyWhatIsLargerThanAllThatIsPrepared) {
  EXPECT_EQ(choose_run_size(9, costs_of({{4, 10, 20}, {8, 10, 20}})), 0);
}

}  // namespace
}  // namespace millrace
