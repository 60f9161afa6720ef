// Which requests run together.
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// A model of one lane with one slot, and a request that holds it shut: what is submitted meanwhile
// gathers.
class Batches : public ::testing::Test {
 protected:
  void load(const std::string& path, const BatchPolicy& batching) {
    ModelConfig config = one_at_a_time(path);
    config.batching = batching;
    load(config);
  }
  void load(const ModelConfig& config) {
    model_ = must(engine_.load(config));
    requests_ = std::make_unique<Requests>(model_);
  }
  void hold() {
    held_ = model_.submit(first_.request(gate_.event()));
    ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  }
  void open() {
    gate_.open();
    expect_echo(held_, first_);
  }
  [[nodiscard]] std::uint64_t batches() const { return model_.statistics().batches; }

  Engine engine_ = make_engine();
  Gate gate_{engine_.devices()[0]};
  const Numbers first_{1, -1};
  Model model_;
  Future held_;
  std::unique_ptr<Requests> requests_;
};

TEST_F(Batches, RequestsGatherWhileTheLaneIsBusy) {
  load("reference:identity", {});
  hold();
  for (int i = 0; i < 5; ++i) requests_->submit();
  EXPECT_EQ(model_.statistics().queued_requests, 5u);
  open();
  EXPECT_THAT(requests_->batches(), ElementsAre(5, 5, 5, 5, 5));
  const ModelStatistics statistics = model_.statistics();
  EXPECT_EQ(statistics.batches, 2u);
  EXPECT_EQ(statistics.items, 6u);
  EXPECT_EQ(statistics.batch_items.count(), 2u);
  EXPECT_EQ(statistics.batch_items.max(), 5u);
}

TEST_F(Batches, HoldAtMostTheMaximum) {
  load("reference:identity", batching(4));
  hold();
  for (int i = 0; i < 10; ++i) requests_->submit();
  open();
  EXPECT_THAT(requests_->batches(), ElementsAre(4, 4, 4, 4, 4, 4, 4, 4, 2, 2));
  EXPECT_EQ(batches(), 4u);
}

TEST_F(Batches, TheModelsOwnMaximumCountsWhereNoneIsAskedFor) {
  load("reference:identity?max_items=3", {});
  EXPECT_EQ(model_.info().max_items, 3);
  hold();
  for (int i = 0; i < 4; ++i) requests_->submit();
  open();
  EXPECT_THAT(requests_->batches(), ElementsAre(3, 3, 3, 1));
}

TEST_F(Batches, RequestsOfSeveralItemsStayWhole) {
  load("reference:identity", batching(5));
  hold();
  for (const std::int64_t items : {3, 2, 4, 1, 5, 2}) requests_->submit(items);
  open();
  EXPECT_THAT(requests_->batches(), ElementsAre(5, 5, 5, 5, 5, 2));
}

TEST_F(Batches, AMaximumOfOneTurnsCombiningOff) {
  load("reference:identity", batching(1));
  hold();
  for (int i = 0; i < 4; ++i) requests_->submit();
  open();
  EXPECT_THAT(requests_->batches(), Each(1));
  EXPECT_EQ(batches(), 5u);
}

TEST_F(Batches, AFullBatchTakesTheSecondSlotOfABusyLane) {
  ModelConfig config = one_at_a_time("reference:identity");
  config.slots = 2;
  config.batching.max_items = 2;
  load(config);
  hold();
  requests_->submit();
  requests_->submit();
  EXPECT_TRUE(eventually([&] { return model_.statistics().running_batches == 2; }));
  requests_->submit();
  requests_->submit();
  EXPECT_EQ(model_.statistics().queued_requests, 2u) << "no third slot";
  open();
  EXPECT_THAT(requests_->batches(), Each(2));
}

TEST_F(Batches, EveryLaneTakesWork) {
  ModelConfig config = one_at_a_time("reference:identity");
  config.lanes = 3;
  config.batching.max_items = 1;
  load(config);
  hold();
  Future& second = requests_->submit(1, gate_.event());
  Future& third = requests_->submit(1, gate_.event());
  EXPECT_TRUE(eventually([&] { return model_.statistics().running_batches == 3; }));
  gate_.open();
  const std::vector<int> lanes = {must(get(held_)).lane, must(get(second)).lane,
                                  must(get(third)).lane};
  EXPECT_THAT(lanes, ::testing::UnorderedElementsAre(0, 1, 2));
}

// ----------------------------------------------------------------------------------------------------
// waiting for more

TEST_F(Batches, ADelayHoldsRequestsBackUntilTheBatchIsFull) {
  load("reference:identity", batching(3, kAges));
  Future& first = requests_->submit();
  requests_->submit();
  EXPECT_FALSE(first.wait_until(Clock::now() + milliseconds(20)));
  EXPECT_EQ(model_.statistics().queued_requests, 2u);
  requests_->submit();
  EXPECT_THAT(requests_->batches(), ElementsAre(3, 3, 3));
}

TEST_F(Batches, ADelayEnds) {
  load("reference:identity", batching(0, milliseconds(10)));
  requests_->submit();
  EXPECT_THAT(requests_->batches(), ElementsAre(1));
}

TEST_F(Batches, ADelayEndsWhenTheNextDoesNotFit) {
  load("reference:identity", batching(4, kAges));
  Future& small = requests_->submit(2);
  Future& large = requests_->submit(3);
  EXPECT_EQ(must(get(small)).batch_items, 2);
  EXPECT_FALSE(large.wait_until(Clock::now() + milliseconds(5)));
  requests_->submit(1);
  EXPECT_EQ(must(get(large)).batch_items, 4);
}

TEST_F(Batches, APreferredSizeGoesWithoutDelay) {
  load("reference:identity", batching(8, kAges, {4, 2}));
  requests_->submit();
  requests_->submit();
  EXPECT_THAT(requests_->batches(), ElementsAre(2, 2));
}

TEST_F(Batches, TheLargestPreferredSizeGoesFirst) {
  load("reference:identity", batching(8, Duration(), {2, 4}));
  hold();
  for (int i = 0; i < 7; ++i) requests_->submit();
  open();
  EXPECT_THAT(requests_->batches(), ElementsAre(4, 4, 4, 4, 2, 2, 1));
}

TEST_F(Batches, AFullQueueHoldsNothingBack) {
  ModelConfig config = one_at_a_time("reference:identity");
  config.batching = batching(8, kAges);
  config.limits.max_requests = 2;
  load(config);
  requests_->submit();
  requests_->submit();
  EXPECT_THAT(requests_->batches(), ElementsAre(2, 2));
}

TEST_F(Batches, ANearDeadlineEndsTheDelay) {
  // Batches that take their time, so that the wait must end well before the deadline.
  load("reference:busy?batch_us=30000", batching(8, kAges));
  const Numbers full(8);
  expect_echo(model_.infer(full.request()), full);
  Request request = first_.request();
  request.deadline = Clock::now() + milliseconds(300);
  const Result<Response> response = get(model_.submit(std::move(request)));
  expect_echo(response, first_);
}

TEST_F(Batches, UnloadingEndsTheDelay) {
  load("reference:identity", batching(8, kAges));
  requests_->submit();
  requests_->submit();
  must(engine_.unload("identity", kGuard));
  EXPECT_THAT(requests_->batches(), ElementsAre(2, 2));
}

// -------------------------------------------------------------------------------------------------------------
// shapes

Request of_size(const std::vector<float>& values, std::int64_t size, EventRef ready = {}) {
  Request request;
  TensorView view = TensorView::of(values.data(), {1, size});
  view.ready = ready;
  request.inputs.push_back({"input", view, {}});
  return request;
}

TEST_F(Batches, ShapesDoNotMix) {
  load("reference:identity?shape=-1", {});
  const std::vector<float> values(8, 1.5F);
  held_ = model_.submit(of_size(values, 1, gate_.event()));
  for (const std::int64_t size : {3, 5, 3, 5, 3}) requests_->submit(of_size(values, size));
  gate_.open();
  const std::int64_t sizes[] = {3, 5, 3, 5, 3};
  const std::int64_t batch_items[] = {3, 2, 3, 2, 3};
  for (std::size_t i = 0; i < 5; ++i) {
    const Response response = must(get((*requests_)[i]));
    EXPECT_EQ(response.outputs[0].view.shape, (Shape{1, sizes[i]}));
    EXPECT_EQ(response.batch_items, batch_items[i]);
  }
  EXPECT_EQ(batches(), 3u);
}

TEST_F(Batches, AFullBatchIsNotHeldUpByAnotherShapeThatWaits) {
  load("reference:identity?shape=-1", batching(2, kAges));
  const std::vector<float> values(8, 1.5F);
  Future& alone = requests_->submit(of_size(values, 3));
  Future& one = requests_->submit(of_size(values, 5));
  Future& two = requests_->submit(of_size(values, 5));
  EXPECT_EQ(must(get(one)).batch_items, 2);
  EXPECT_EQ(must(get(two)).batch_items, 2);
  EXPECT_FALSE(alone.ready());
  requests_->submit(of_size(values, 3));
  EXPECT_EQ(must(get(alone)).batch_items, 2);
}

TEST_F(Batches, ManyShapesAreAllServed) {
  load("reference:identity?shape=-1", batching(4));
  const std::vector<float> values(512, 1.5F);
  held_ = model_.submit(of_size(values, 1, gate_.event()));
  for (std::int64_t size = 1; size <= 400; ++size) requests_->submit(of_size(values, size));
  gate_.open();
  for (std::size_t i = 0; i < 400; ++i) {
    EXPECT_EQ(must(get((*requests_)[i])).outputs[0].view.shape,
              (Shape{1, static_cast<std::int64_t>(i) + 1}));
  }
}

}  // namespace
}  // namespace millrace::testing
