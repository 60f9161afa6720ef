#include "engine/model_queue.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const TimePoint kNow = TimePoint(std::chrono::hours(1));
constexpr DeviceId kFirst = DeviceId::host(0);
constexpr DeviceId kSecond = DeviceId::host(1);
constexpr MoveCost kMove{microseconds(100), 1e9};

struct Asked {
  std::int64_t items = 1;
  std::size_t bytes = 100;
  int priority = 0;
  std::uint64_t shape = 0;
  std::size_t location = 0;
  TimePoint deadline = TimePoint::max();
  TimePoint submitted = kNow;
};

class ModelQueueTest : public testing::Test {
 protected:
  void SetUp() override {
    batching_.max_items = 8;
    make_queue();
  }
  void TearDown() override {
    std::vector<RequestState*> rest;
    queue_->take_all(rest);
  }
  // After a change of limits_ or batching_.
  void make_queue() {
    queue_ = std::make_unique<ModelQueue>("m", limits_, batching_,
                                          std::vector<DeviceId>{kFirst, kSecond});
  }
  RequestState* request(const Asked& asked = {}) {
    RequestState* state = RequestState::make();
    leases_.push_back(Lease::adopt(state));
    state->items = asked.items;
    state->bytes = asked.bytes;
    state->request.priority = asked.priority;
    state->shape_key = asked.shape;
    state->location = asked.location;
    state->deadline = asked.deadline;
    state->submitted = asked.submitted;
    return state;
  }
  RequestState* push(const Asked& asked = {}) {
    RequestState* state = request(asked);
    const Result<void> pushed = queue_->push(*state, [] {});
    EXPECT_TRUE(pushed.ok()) << pushed.error().message;
    return state;
  }
  // What the first device's driver asks with an idle lane.
  PullQuery query(DeviceId puller = kFirst) {
    PullQuery query;
    query.puller = puller;
    query.loads = loads_;
    query.now = kNow;
    query.lane_idle_from = kNow;
    return query;
  }
  std::vector<RequestState*> take(DeviceId puller = kFirst) {
    std::vector<RequestState*> batch;
    queue_->take(query(puller), batch);
    return batch;
  }

  QueueLimits limits_;
  BatchPolicy batching_;
  std::vector<DeviceLoad> loads_ = {{kFirst, true, {}, kMove}, {kSecond, true, {}, kMove}};
  std::unique_ptr<ModelQueue> queue_;
  std::vector<Lease> leases_;
};

// -------------------------------------------------------------------------------------------------
// order and batches

TEST_F(ModelQueueTest, GivesRequestsInTheOrderOfArrival) {
  RequestState* const a = push();
  RequestState* const b = push();
  RequestState* const c = push();
  EXPECT_THAT(take(), ElementsAre(a, b, c));
  EXPECT_THAT(take(), IsEmpty());
}

TEST_F(ModelQueueTest, HigherPrioritiesOvertakeAndKeepTheirOwnOrder) {
  RequestState* const a = push({.priority = 0});
  RequestState* const b = push({.priority = 5});
  RequestState* const c = push({.priority = -3});
  RequestState* const d = push({.priority = 5});
  RequestState* const e = push({.priority = 0});
  EXPECT_THAT(take(), ElementsAre(b, d, a, e, c));
}

// -------------------------------------------------------------------------------------------------
// requests that suit a lane

/// Requests that make a batch alone, on the first device; the lane suits those in `context`.
class SuitingRequests : public ModelQueueTest {
 protected:
  void SetUp() override {
    batching_.max_items = 1;
    make_queue();
  }
  RequestState* push_here(TimePoint deadline = TimePoint::max()) {
    return push({.location = 1, .deadline = deadline});
  }
  PullAnswer take_for(const std::vector<RequestState*>& suiting) {
    PullQuery asked = query();
    asked.suits_context = &suiting;
    asked.suits_lane = [](const void* context, const RequestState& request) {
      const auto& all = *static_cast<const std::vector<RequestState*>*>(context);
      return std::find(all.begin(), all.end(), &request) != all.end();
    };
    taken_.clear();
    return queue_->take(asked, taken_);
  }
  std::vector<RequestState*> taken_;
};

TEST_F(SuitingRequests, GoBeforeOlderOnes) {
  RequestState* const a = push_here();
  RequestState* const b = push_here();
  RequestState* const c = push_here();
  EXPECT_TRUE(take_for({c}).suited);
  EXPECT_THAT(taken_, ElementsAre(c));
  EXPECT_TRUE(take_for({a, b}).suited) << "of several the oldest";
  EXPECT_THAT(taken_, ElementsAre(a));
  EXPECT_FALSE(take_for({}).suited);
  EXPECT_THAT(taken_, ElementsAre(b)) << "where none suits, the oldest";
}

TEST_F(SuitingRequests, DoNotPassOverTheOldestForEver) {
  RequestState* const oldest = push_here();
  int passed = 0;
  for (; passed < 1000; ++passed) {
    RequestState* const other = push_here();
    const bool suited = take_for({other}).suited;
    EXPECT_EQ(taken_.size(), 1u);
    if (taken_.front() == oldest) {
      EXPECT_FALSE(suited);
      break;
    }
  }
  EXPECT_GT(passed, 0);
  EXPECT_LT(passed, 100);
}

TEST_F(SuitingRequests, DoNotPassOverOneWithADeadline) {
  RequestState* const oldest = push_here(kNow + std::chrono::seconds(1));
  RequestState* const other = push_here();
  EXPECT_FALSE(take_for({other}).suited);
  EXPECT_THAT(taken_, ElementsAre(oldest));
}

TEST_F(SuitingRequests, AreOfTheSameShapeAndNotWithdrawn) {
  RequestState* const oldest = push({.shape = 1, .location = 1});
  RequestState* const other = push({.shape = 2, .location = 1});
  RequestState* const withdrawn = push({.shape = 1, .location = 1});
  ASSERT_TRUE(withdrawn->claim(RequestState::Stage::withdrawn));
  EXPECT_FALSE(take_for({other, withdrawn}).suited);
  EXPECT_THAT(taken_, ElementsAre(oldest));
}

TEST_F(ModelQueueTest, PrioritiesComeAndGo) {
  batching_.max_items = 1;
  make_queue();
  std::mt19937 random(3);
  std::vector<std::pair<int, RequestState*>> expected;
  for (int i = 0; i < 200; ++i) {
    const int priority = std::uniform_int_distribution(-4, 4)(random);
    expected.emplace_back(priority, push({.priority = priority}));
    if (i % 3 == 0) {  // takes the first of the highest priority
      const auto best = std::ranges::max_element(expected, std::ranges::less(),
                                                 [](const auto& entry) { return entry.first; });
      EXPECT_THAT(take(), ElementsAre(best->second));
      expected.erase(best);
    }
  }
  EXPECT_EQ(queue_->requests(), expected.size());
}

TEST_F(ModelQueueTest, ABatchHoldsAtMostTheMaximumOfItems) {
  RequestState* const a = push({.items = 5});
  RequestState* const b = push({.items = 4});
  RequestState* const c = push({.items = 4});
  EXPECT_THAT(take(), ElementsAre(a));
  EXPECT_THAT(take(), ElementsAre(b, c));
}

TEST_F(ModelQueueTest, TakenRequestsAreRunning) {
  RequestState* const a = push();
  EXPECT_EQ(a->stage, RequestState::Stage::queued);
  take();
  EXPECT_EQ(a->stage, RequestState::Stage::running);
}

TEST_F(ModelQueueTest, PeekTakesNothingAndSaysWhatWouldGo) {
  push({.items = 2, .deadline = kNow + milliseconds(7)});
  RequestState* const soon = push({.items = 3, .deadline = kNow + milliseconds(5)});
  const PullAnswer answer = queue_->peek(query());
  EXPECT_EQ(answer.requests, 2u);
  EXPECT_EQ(answer.items, 5);
  EXPECT_EQ(answer.earliest_deadline, kNow + milliseconds(5));
  EXPECT_EQ(queue_->requests(), 2u);
  EXPECT_EQ(soon->stage, RequestState::Stage::queued);
}

TEST_F(ModelQueueTest, HoldsBackWhatMayWait) {
  batching_.max_delay = milliseconds(2);
  make_queue();
  push({.items = 3, .submitted = kNow - milliseconds(1)});
  std::vector<RequestState*> batch;
  const PullAnswer answer = queue_->take(query(), batch);
  EXPECT_THAT(batch, IsEmpty());
  EXPECT_EQ(answer.requests, 0u);
  EXPECT_EQ(answer.wait_until, kNow + milliseconds(1));
  EXPECT_EQ(answer.seen_items, 3) << "of the queue when it was decided";
}

TEST_F(ModelQueueTest, AFullQueueAndAClosedOneHoldNothingBack) {
  batching_.max_delay = milliseconds(2);
  limits_.max_requests = 2;
  make_queue();
  RequestState* const a = push();
  EXPECT_THAT(take(), IsEmpty());
  RequestState* const b = push();
  EXPECT_THAT(take(), ElementsAre(a, b));
  RequestState* const c = push();
  EXPECT_THAT(take(), IsEmpty());
  queue_->close({ErrorCode::unavailable, "closed"});
  EXPECT_THAT(take(), ElementsAre(c));
}

// ------------------------------------------------------------------------------------------------------------
// shapes

TEST_F(ModelQueueTest, ShapesDoNotMix) {
  RequestState* const a = push({.shape = 1});
  RequestState* const b = push({.shape = 2});
  RequestState* const c = push({.shape = 1});
  RequestState* const d = push({.shape = 2});
  EXPECT_THAT(take(), ElementsAre(a, c));
  EXPECT_THAT(take(), ElementsAre(b, d));
}

TEST_F(ModelQueueTest, TheFirstRequestSaysWhichShapeGoes) {
  push({.shape = 1});
  RequestState* const urgent = push({.priority = 1, .shape = 2});
  EXPECT_THAT(take(), ElementsAre(urgent));
}

TEST_F(ModelQueueTest, AFullBatchOfAnotherShapeDoesNotSitBehindOneThatWaits) {
  batching_.max_items = 2;
  batching_.max_delay = milliseconds(2);
  make_queue();
  RequestState* const alone = push({.shape = 1});
  push({.shape = 3, .submitted = kNow + microseconds(1)});
  RequestState* const a = push({.shape = 2});
  RequestState* const b = push({.shape = 2});
  EXPECT_EQ(queue_->peek(query()).requests, 2u);
  EXPECT_THAT(take(), ElementsAre(a, b));
  std::vector<RequestState*> batch;
  EXPECT_EQ(queue_->take(query(), batch).wait_until, kNow + milliseconds(2))
      << "that of the oldest";
  EXPECT_THAT(batch, IsEmpty());
  EXPECT_EQ(alone->stage, RequestState::Stage::queued);
}

// ------------------------------------------------------------------------------------------------------------
// limits

TEST_F(ModelQueueTest, IsBoundedByRequests) {
  limits_.max_requests = 2;
  make_queue();
  push();
  push();
  bool called = false;
  const Result<void> third = queue_->push(*request(), [&called] { called = true; });
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().code, ErrorCode::queue_full);
  EXPECT_THAT(third.error().message, HasSubstr("model \"m\" holds 2 requests"));
  EXPECT_FALSE(called);
  EXPECT_EQ(queue_->requests(), 2u);
  take();
  push();
}

TEST_F(ModelQueueTest, IsBoundedByBytes) {
  limits_.max_bytes = 1000;
  make_queue();
  push({.bytes = 600});
  push({.bytes = 400});
  const Result<void> third = queue_->push(*request({.bytes = 1}), [] {});
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().code, ErrorCode::queue_full);
  EXPECT_THAT(third.error().message, HasSubstr("holds 1000 of at most 1000 bytes"));
  EXPECT_EQ(queue_->bytes(), 1000u);
  take();
  EXPECT_EQ(queue_->bytes(), 0u);
  push({.bytes = 1000});
}

TEST_F(ModelQueueTest, ARequestLargerThanTheWholeLimitIsLetInAlone) {
  limits_.max_bytes = 1000;
  make_queue();
  push({.bytes = 5000});
  EXPECT_FALSE(queue_->push(*request({.bytes = 1}), [] {}).ok());
  take();
  push({.bytes = 1});
  EXPECT_FALSE(queue_->push(*request({.bytes = 5000}), [] {}).ok());
}

TEST_F(ModelQueueTest, CountsWhatWaits) {
  push({.items = 2, .bytes = 10});
  RequestState* const b = push({.items = 3, .bytes = 20, .priority = 1});
  EXPECT_EQ(queue_->requests(), 2u);
  EXPECT_EQ(queue_->items(), 5);
  EXPECT_EQ(queue_->bytes(), 30u);
  ASSERT_TRUE(b->claim(RequestState::Stage::withdrawn));
  queue_->remove(*b);
  EXPECT_EQ(queue_->requests(), 1u);
  EXPECT_EQ(queue_->items(), 2);
  EXPECT_EQ(queue_->bytes(), 10u);
  take();
  EXPECT_EQ(queue_->requests(), 0u);
  EXPECT_EQ(queue_->items(), 0);
  EXPECT_EQ(queue_->bytes(), 0u);
}

TEST_F(ModelQueueTest, AClosedQueueSaysWhy) {
  queue_->close({ErrorCode::unavailable, "the reason"});
  const Result<void> refused = queue_->push(*request(), [] {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error(), (Error{ErrorCode::unavailable, "the reason"}));
  queue_->reopen();
  push();
}

TEST_F(ModelQueueTest, CallsBackInTheOrderOfArrival) {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kEach = 500;
  limits_.max_requests = kThreads * kEach;
  make_queue();
  std::vector<RequestState*> arrived;  // written under the queue's own lock
  std::vector<RequestState*> states;
  states.reserve(kThreads * kEach);
  for (std::size_t i = 0; i < kThreads * kEach; ++i) states.push_back(request());
  {
    std::vector<std::jthread> threads;
    threads.reserve(kThreads);
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < kEach; ++i) {
          RequestState* state = states[t * kEach + i];
          EXPECT_TRUE(queue_->push(*state, [&] { arrived.push_back(state); }).ok());
        }
      });
    }
  }
  std::vector<RequestState*> taken;
  while (queue_->requests() > 0) queue_->take(query(), taken);
  EXPECT_EQ(taken, arrived);
}

// ---------------------------------------------------------------------------------------------------------
// deadlines

TEST_F(ModelQueueTest, ExpiresThoseWhoseDeadlineHasPassed) {
  RequestState* const late = push({.deadline = kNow});
  RequestState* const later = push({.priority = 3, .deadline = kNow - milliseconds(1)});
  RequestState* const soon = push({.deadline = kNow + milliseconds(1)});
  RequestState* const never = push();
  EXPECT_EQ(queue_->next_deadline(), kNow - milliseconds(1));
  std::vector<RequestState*> expired;
  queue_->take_expired(kNow, expired);
  EXPECT_THAT(expired, ElementsAre(later, late));
  EXPECT_EQ(late->stage, RequestState::Stage::withdrawn);
  EXPECT_EQ(queue_->next_deadline(), kNow + milliseconds(1));
  EXPECT_THAT(take(), ElementsAre(soon, never));
  EXPECT_EQ(queue_->next_deadline(), TimePoint::max());
}

TEST_F(ModelQueueTest, TakingAndRemovingForgetTheDeadline) {
  push({.deadline = kNow + milliseconds(1)});
  RequestState* const b = push({.shape = 1, .deadline = kNow + milliseconds(2)});
  take();
  EXPECT_EQ(queue_->next_deadline(), kNow + milliseconds(2));
  ASSERT_TRUE(b->claim(RequestState::Stage::withdrawn));
  queue_->remove(*b);
  EXPECT_EQ(queue_->next_deadline(), TimePoint::max());
  std::vector<RequestState*> expired;
  queue_->take_expired(kNow + milliseconds(9), expired);
  EXPECT_THAT(expired, IsEmpty());
}

TEST_F(ModelQueueTest, OneThatIsBeingCancelledDoesNotExpire) {
  RequestState* const a = push({.deadline = kNow});
  ASSERT_TRUE(a->claim(RequestState::Stage::withdrawn));  // its canceller is about to remove it
  std::vector<RequestState*> expired;
  queue_->take_expired(kNow, expired);
  EXPECT_THAT(expired, IsEmpty());
  EXPECT_EQ(queue_->requests(), 1u);
  queue_->remove(*a);
  EXPECT_EQ(queue_->requests(), 0u);
}

// ----------------------------------------------------------------------------------------------
// removal, cancellation

TEST_F(ModelQueueTest, OneThatIsBeingCancelledIsPassedOver) {
  RequestState* const a = push();
  RequestState* const b = push();
  ASSERT_TRUE(a->claim(RequestState::Stage::withdrawn));
  EXPECT_THAT(take(), ElementsAre(b));
  queue_->remove(*a);
  queue_->remove(*a);  // harmless
  EXPECT_EQ(queue_->requests(), 0u);
}

TEST_F(ModelQueueTest, TakesAllButThoseThatAreBeingCancelled) {
  RequestState* const a = push({.priority = 1});
  RequestState* const b = push({.location = 2, .deadline = kNow + milliseconds(1)});
  RequestState* const c = push();
  ASSERT_TRUE(c->claim(RequestState::Stage::withdrawn));
  std::vector<RequestState*> all;
  queue_->take_all(all);
  EXPECT_THAT(all, testing::UnorderedElementsAre(a, b));
  EXPECT_EQ(a->stage, RequestState::Stage::withdrawn);
  queue_->remove(*c);
  EXPECT_EQ(queue_->requests(), 0u);
  EXPECT_EQ(queue_->next_deadline(), TimePoint::max());
}

TEST_F(ModelQueueTest, EveryRequestLeavesOnceHoweverManyWantIt) {
  constexpr int kRequests = 4000;
  limits_.max_requests = kRequests;
  make_queue();
  std::vector<RequestState*> states;
  for (int i = 0; i < kRequests; ++i) {
    const auto n = static_cast<std::uint64_t>(i);
    states.push_back(request({.items = 1 + i % 3,
                              .priority = i % 2,
                              .shape = n % 2,
                              .location = n % 3,
                              .deadline = i % 4 == 0 ? kNow : TimePoint::max()}));
  }
  std::atomic<int> pushed{0};
  std::atomic<bool> over{false};
  std::vector<RequestState*> taken[2], expired, cancelled;
  {
    std::vector<std::jthread> threads;
    threads.emplace_back([&] {
      for (RequestState* state : states) {
        ASSERT_TRUE(queue_->push(*state, [] {}).ok());
        pushed.fetch_add(1, std::memory_order_release);
      }
    });
    for (int t = 0; t < 2; ++t) {  // drivers
      threads.emplace_back([&, t] {
        while (!over) queue_->take(query(t == 0 ? kFirst : kSecond), taken[t]);
      });
    }
    threads.emplace_back([&] {
      while (!over) queue_->take_expired(kNow, expired);
    });
    threads.emplace_back([&] {  // a caller who takes requests back as soon as they are in
      std::mt19937 random(1);
      for (int i = 0; i < kRequests; ++i) {
        while (pushed.load(std::memory_order_acquire) <= i) std::this_thread::yield();
        RequestState* state = states[static_cast<std::size_t>(i)];
        if (random() % 2 == 0 && state->claim(RequestState::Stage::withdrawn)) {
          queue_->remove(*state);
          cancelled.push_back(state);
        }
      }
      while (queue_->requests() > 0) std::this_thread::yield();
      over = true;
    });
  }
  std::vector<RequestState*> left;
  for (const auto* some : {&taken[0], &taken[1], &expired, &cancelled}) {
    left.insert(left.end(), some->begin(), some->end());
  }
  std::ranges::sort(left);
  std::ranges::sort(states);
  EXPECT_EQ(left, states);
  EXPECT_EQ(queue_->items(), 0);
  EXPECT_EQ(queue_->bytes(), 0u);
}

// ---------------------------------------------------------------------------------------------------------
// locations

TEST_F(ModelQueueTest, KnowsTheLocationsOfItsDevices) {
  EXPECT_EQ(queue_->location_of(DeviceId::host_memory()), 0u);
  EXPECT_EQ(queue_->location_of(kFirst), 1u);
  EXPECT_EQ(queue_->location_of(kSecond), 2u);
  EXPECT_EQ(queue_->location_of(DeviceId::host(9)), 0u);
  EXPECT_EQ(queue_->location_of(DeviceId::cuda(0)), 0u);
}

TEST_F(ModelQueueTest, DataOnADeviceIsLeftToThatDevice) {
  RequestState* const here = push({.location = 1});
  RequestState* const there = push({.location = 2});
  RequestState* const anywhere = push({.location = 0});
  EXPECT_THAT(take(kFirst), ElementsAre(here, anywhere));
  EXPECT_THAT(take(kFirst), IsEmpty());
  EXPECT_THAT(take(kSecond), ElementsAre(there));
}

TEST_F(ModelQueueTest, LocationsKeepTheOrderOfArrivalAmongThemselves) {
  RequestState* const a = push({.location = 0});
  RequestState* const b = push({.location = 1});
  RequestState* const c = push({.location = 0});
  RequestState* const d = push({.location = 1});
  EXPECT_THAT(take(kFirst), ElementsAre(a, b, c, d));
}

TEST_F(ModelQueueTest, OthersTakeItOnceWaitingCostsMore) {
  RequestState* const there = push({.location = 2});
  loads_[1].expected_wait = milliseconds(50);
  EXPECT_THAT(take(kFirst), ElementsAre(there));
}

TEST_F(ModelQueueTest, SaysWhenToAskAgainForWhatLiesElsewhere) {
  push({.location = 2});
  std::vector<RequestState*> batch;
  const PullAnswer answer = queue_->take(query(kFirst), batch);
  EXPECT_THAT(batch, IsEmpty());
  EXPECT_GT(answer.wait_until, kNow);
  EXPECT_LT(answer.wait_until, kNow + milliseconds(1));
  EXPECT_EQ(answer.seen_items, 1);
}

TEST_F(ModelQueueTest, OneThatMayNotBeTakenDoesNotHoldUpLowerPriorities) {
  push({.priority = 5, .location = 2});
  RequestState* const low = push({.priority = 0});
  EXPECT_THAT(take(kFirst), ElementsAre(low));
}

}  // namespace
}  // namespace millrace
