// What happens to requests that wait: order, deadlines, cancellation, limits.
#include <random>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class Queueing : public ::testing::Test {
 protected:
  void load(ModelConfig config) { model_ = must(engine_.load(std::move(config))); }
  void hold() {
    held_ = model_.submit(numbers_.request(gate_.event()));
    ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  }
  void open() {
    gate_.open();
    expect_echo(held_, numbers_);
  }
  static ModelConfig single() {
    ModelConfig config = one_at_a_time("reference:identity");
    config.batching.max_items = 1;
    return config;
  }
  Request with_priority(int priority) {
    Request request = numbers_.request();
    request.priority = priority;
    return request;
  }

  const Numbers numbers_;
  Engine engine_ = make_engine();
  Gate gate_{engine_.devices()[0]};
  Answers answers_;
  Model model_;
  Future held_;
};

// -------------------------------------------------------------------------------------------------------------
// order

TEST_F(Queueing, HigherPrioritiesGoFirstAndEqualOnesInOrder) {
  load(single());
  hold();
  const int priorities[] = {0, 1, -5, 7, 1, 0, 7};
  for (int i = 0; i < 7; ++i)
    must(model_.submit(with_priority(priorities[i]), answers_.callback(i)));
  open();
  ASSERT_TRUE(answers_.wait_for(7));
  EXPECT_THAT(answers_.order(), ElementsAre(3, 6, 1, 4, 0, 5, 2));
}

TEST_F(Queueing, OneThatFinishesEarlyWaitsForItsTurnWhereTheOrderIsPreserved) {
  ModelConfig config = single();
  config.lanes = 2;
  config.batching.preserve_order = true;
  load(config);
  hold();
  Future second = model_.submit(numbers_.request());
  Future third = model_.submit(numbers_.request());
  ASSERT_TRUE(eventually([&] { return model_.statistics().batches == 2; }))
      << "both ran on the other lane";
  EXPECT_FALSE(second.wait_until(Clock::now() + milliseconds(10)));
  EXPECT_FALSE(third.ready());
  open();
  expect_echo(second, numbers_);
  expect_echo(third, numbers_);
}

TEST_F(Queueing, WithoutThatItIsAnsweredAtOnce) {
  ModelConfig config = single();
  config.lanes = 2;
  load(config);
  hold();
  expect_echo(model_.infer(numbers_.request()), numbers_);
  open();
}

TEST_F(Queueing, TheOrderIsPreservedOverLanesBatchesAndFailures) {
  EngineOptions options = host_devices();
  options.callback_threads = 3;
  Engine engine = make_engine(options);
  // Batches take the longer the more items they have.
  ModelConfig config = from("reference:fail?item_us=100&every=7&when=enqueue");
  config.lanes = 4;
  config.batching.max_items = 6;
  config.batching.preserve_order = true;
  const Model model = must(engine.load(config));
  constexpr int kRequests = 400;
  std::mt19937 random(11);
  std::vector<Numbers> numbers;
  numbers.reserve(kRequests);
  for (int i = 0; i < kRequests; ++i)
    numbers.emplace_back(1 + static_cast<int>(random() % 6), static_cast<float>(i));
  Answers answers;
  std::vector<Ticket> tickets;
  int cancelled = 0;
  for (int i = 0; i < kRequests; ++i) {
    Request request = numbers[static_cast<std::size_t>(i)].request();
    request.priority =
        static_cast<int>(random() % 2);  // changes what runs when, not the order of the answers
    tickets.push_back(must(model.submit(std::move(request), answers.callback(i))));
    if (random() % 8 == 0 && tickets.back().cancel()) ++cancelled;
  }
  ASSERT_TRUE(answers.wait_for(kRequests));
  std::vector<int> expected(kRequests);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(answers.order(), expected);
  int failed = 0;
  for (std::size_t i = 0; i < kRequests; ++i) {
    const Result<Response>& response = answers.results()[i];
    if (response.ok()) {
      expect_echo(response, numbers[i]);
    } else {
      ++failed;
    }
  }
  EXPECT_GT(failed, cancelled) << "some batches were to fail";
}

TEST_F(Queueing, OneThatIsCancelledOrExpiresKeepsTheOrderToo) {
  ModelConfig config = single();
  config.batching.preserve_order = true;
  load(config);
  hold();
  Ticket cancelled = must(model_.submit(numbers_.request(), answers_.callback(0)));
  Request expiring = numbers_.request();
  expiring.deadline = Clock::now() + milliseconds(100);
  must(model_.submit(std::move(expiring), answers_.callback(1)));
  must(model_.submit(numbers_.request(), answers_.callback(2)));
  ASSERT_TRUE(eventually([&] { return model_.statistics().expired == 1; }));
  EXPECT_TRUE(cancelled.cancel());
  EXPECT_THAT(answers_.order(), IsEmpty()) << "the first is not answered yet";
  open();
  ASSERT_TRUE(answers_.wait_for(3));
  EXPECT_THAT(answers_.order(), ElementsAre(0, 1, 2));
  expect_error(answers_.results()[0], ErrorCode::cancelled);
  expect_error(answers_.results()[1], ErrorCode::deadline_exceeded);
  expect_echo(answers_.results()[2], numbers_);
}

// ---------------------------------------------------------------------------------------------------------
// deadlines

TEST_F(Queueing, ADeadlineThatHasPassedIsRefused) {
  load(single());
  Request request = numbers_.request();
  request.deadline = Clock::now() - milliseconds(1);
  expect_error(get(model_.submit(request)), ErrorCode::deadline_exceeded,
               {"\"identity\"", "before it was submitted"});
  bool called = false;
  expect_error(model_.submit(std::move(request),
                             [&called](const Result<Response>&, bool) { called = true; }),
               ErrorCode::deadline_exceeded);
  must(engine_.drain(kGuard));
  EXPECT_FALSE(called);
  EXPECT_EQ(model_.statistics().expired, 2u);
}

TEST_F(Queueing, ADeadlineThatPassesInTheQueueIsAnsweredThen) {
  load(single());
  hold();
  Request request = numbers_.request();
  request.deadline = Clock::now() + milliseconds(20);
  Future future = model_.submit(std::move(request));
  expect_error(get(future), ErrorCode::deadline_exceeded, {"in the queue"});
  EXPECT_EQ(model_.statistics().queued_requests, 0u);
  EXPECT_EQ(model_.statistics().expired, 1u);
  open();
}

TEST_F(Queueing, TheEarliestDeadlineIsKeptThoughItCameLast) {
  load(single());
  hold();
  Request late = numbers_.request();
  late.deadline = Clock::now() + kAges;
  Future patient = model_.submit(std::move(late));
  Request soon = numbers_.request();
  soon.deadline = Clock::now() + milliseconds(20);
  Future hasty = model_.submit(std::move(soon));
  expect_error(get(hasty), ErrorCode::deadline_exceeded);
  open();
  expect_echo(patient, numbers_);
}

TEST_F(Queueing, ADeadlineDoesNotStopWhatHasStarted) {
  load(single());
  Request request = numbers_.request(gate_.event());
  const TimePoint deadline = Clock::now() + milliseconds(200);
  request.deadline = deadline;
  Future future = model_.submit(std::move(request));
  EXPECT_FALSE(future.wait_until(deadline + milliseconds(20)));
  gate_.open();
  expect_echo(future, numbers_);
}

TEST_F(Queueing, ADefaultTimeoutHoldsForRequestsWithoutADeadline) {
  ModelConfig config = single();
  config.limits.default_timeout = milliseconds(150);
  load(config);
  hold();
  Request patient = numbers_.request();
  patient.deadline = Clock::now() + kAges;
  Future other = model_.submit(std::move(patient));
  expect_error(get(model_.submit(numbers_.request())), ErrorCode::deadline_exceeded);
  open();
  expect_echo(other, numbers_);
}

// ------------------------------------------------------------------------------------------------------
// cancellation

TEST_F(Queueing, WhatHasNotStartedCanBeTakenBack) {
  load(single());
  hold();
  Future second = model_.submit(numbers_.request());
  Future third = model_.submit(numbers_.request());
  EXPECT_TRUE(second.cancel());
  expect_error(get(second), ErrorCode::cancelled, {"\"identity\""});
  EXPECT_EQ(model_.statistics().queued_requests, 1u);
  EXPECT_EQ(model_.statistics().cancelled, 1u);
  open();
  expect_echo(third, numbers_);
  EXPECT_EQ(model_.statistics().batches, 2u);
}

TEST_F(Queueing, WhatRunsOrIsAnsweredCannot) {
  load(single());
  hold();
  EXPECT_FALSE(held_.cancel());
  gate_.open();
  held_.wait();
  EXPECT_FALSE(held_.cancel());
  expect_echo(held_, numbers_);
  EXPECT_FALSE(held_.cancel()) << "nor what was read";
  Request invalid;
  Future refused = model_.submit(std::move(invalid));
  EXPECT_FALSE(refused.cancel());
  EXPECT_FALSE(Ticket().cancel());
}

TEST_F(Queueing, OneIsTakenBackOnce) {
  load(single());
  hold();
  Ticket ticket = must(model_.submit(numbers_.request(), answers_.callback(0)));
  Ticket copy = ticket;
  EXPECT_TRUE(ticket.cancel());
  EXPECT_FALSE(copy.cancel());
  EXPECT_FALSE(ticket.cancel());
  ASSERT_TRUE(answers_.wait_for(1));
  expect_error(answers_.results()[0], ErrorCode::cancelled);
  open();
}

TEST_F(Queueing, ATicketMayOutliveTheEngine) {
  Ticket ticket;
  {
    Engine engine = make_engine();
    const Model model = must(engine.load(single()));
    ticket = must(model.submit(numbers_.request(), answers_.callback(0)));
    must(engine.drain(kGuard));
  }
  EXPECT_FALSE(ticket.cancel());
}

// A driver that looks at the queue while a request is being taken back must not count on it
// afterwards.
TEST_F(Queueing, TakingRequestsBackNeverStrandsOthers) {
  ModelConfig config = single();
  config.batching.max_items = 4;
  load(config);
  std::jthread canceller;
  for (int round = 0; round < 3000; ++round) {
    Future first = model_.submit(numbers_.request());
    Future second = model_.submit(numbers_.request());
    canceller = std::jthread([&] { second.cancel(); });
    Future third = model_.submit(numbers_.request());
    expect_echo(first, numbers_);
    expect_echo(third, numbers_);
    canceller.join();
    const Result<Response> answer = get(second);
    if (!answer.ok()) expect_error(answer, ErrorCode::cancelled);
  }
}

// ------------------------------------------------------------------------------------------------------------
// limits

TEST_F(Queueing, AFullQueueAnswersAtOnce) {
  ModelConfig config = single();
  config.limits.max_requests = 2;
  load(config);
  hold();
  Future second = model_.submit(numbers_.request());
  Future third = model_.submit(numbers_.request());
  Future fourth = model_.submit(numbers_.request());
  EXPECT_TRUE(fourth.ready());
  expect_error(get(fourth), ErrorCode::queue_full, {"\"identity\"", "2 requests", "try again"});
  bool called = false;
  expect_error(model_.submit(numbers_.request(),
                             [&called](const Result<Response>&, bool) { called = true; }),
               ErrorCode::queue_full);
  EXPECT_TRUE(second.cancel());
  Future fifth = model_.submit(numbers_.request());
  open();
  expect_echo(third, numbers_);
  expect_echo(fifth, numbers_);
  must(engine_.drain(kGuard));
  EXPECT_FALSE(called);
  EXPECT_EQ(model_.statistics().rejected, 2u);
}

TEST_F(Queueing, SoDoesOneThatIsFullByBytes) {
  ModelConfig config = single();
  config.batching.max_items = 4;
  config.limits.max_bytes = std::size_t{5} * 64;
  load(config);
  hold();
  const Numbers two(2), three(3), four(4);
  Future second = model_.submit(three.request());
  Future third = model_.submit(two.request());
  EXPECT_EQ(model_.statistics().queued_bytes, 5u * 64);
  expect_error(get(model_.submit(numbers_.request())), ErrorCode::queue_full,
               {"320 of at most 320 bytes"});
  open();
  expect_echo(second, three);
  expect_echo(third, two);
  expect_echo(model_.infer(four.request()), four);
  EXPECT_EQ(model_.statistics().queued_bytes, 0u);
}

}  // namespace
}  // namespace millrace::testing
