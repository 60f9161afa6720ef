// Statistics and timelines: every figure can be explained.
#include <algorithm>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Statistics, CountEveryRequestOnce) {
  Engine engine = make_engine();
  ModelConfig config = named_one("m", "reference:fail?at=3");
  config.batching.max_items = 2;
  config.limits.max_requests = 3;
  const Model model = must(engine.load(config));
  Gate gate(engine.devices()[0]);
  const Numbers one(1), two(2);
  Future running = model.submit(one.request(gate.event()));
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 1; }));
  ModelStatistics statistics = model.statistics();
  EXPECT_EQ(statistics.queued_requests, 0u);
  EXPECT_EQ(statistics.requests, 0u) << "not answered yet";
  Future cancelled = model.submit(one.request());
  Future succeeds = model.submit(two.request());
  Future fails = model.submit(two.request());
  EXPECT_EQ(model.statistics().queued_requests, 3u);
  EXPECT_EQ(model.statistics().queued_bytes, 5u * 64);
  Future rejected = model.submit(one.request());
  EXPECT_TRUE(cancelled.cancel());
  Request late = one.request();
  late.deadline = Clock::now() - milliseconds(1);
  Future expired = model.submit(std::move(late));
  Request wrong;
  expect_error(get(model.submit(std::move(wrong))),
               ErrorCode::invalid_argument);  // never a request of this model
  gate.open();
  expect_echo(running, one);
  expect_echo(succeeds, two);
  expect_error(get(fails), ErrorCode::internal);
  expect_error(get(rejected), ErrorCode::queue_full);
  expect_error(get(expired), ErrorCode::deadline_exceeded);
  must(engine.drain(kGuard));
  statistics = model.statistics();
  EXPECT_EQ(statistics.requests, 6u);
  EXPECT_EQ(statistics.succeeded, 2u);
  EXPECT_EQ(statistics.failed, 1u);
  EXPECT_EQ(statistics.rejected, 1u);
  EXPECT_EQ(statistics.expired, 1u);
  EXPECT_EQ(statistics.cancelled, 1u);
  EXPECT_EQ(statistics.items, 3u);
  EXPECT_EQ(statistics.batches, 3u);
  EXPECT_EQ(statistics.running_batches, 0u);
  EXPECT_EQ(statistics.queued_requests, 0u);
  EXPECT_EQ(statistics.queued_bytes, 0u);
  EXPECT_GT(statistics.device_time, Duration::zero());
}

TEST(Statistics, ThePhasesAddUpToTheTotal) {
  Engine engine = make_engine(host_devices(2));
  ModelConfig config = from("reference:busy?batch_us=300&item_us=50");
  config.lanes = 2;
  config.batching.max_items = 4;
  const Model model = must(engine.load(config));
  Requests requests(model);
  for (int i = 0; i < 200; ++i) requests.submit(1 + i % 3);
  requests.batches();
  must(engine.drain(kGuard));
  const ModelStatistics statistics = model.statistics();
  double sum = 0;
  for (const Phase phase : {Phase::queue, Phase::stage, Phase::copy_in, Phase::compute,
                            Phase::copy_out, Phase::complete}) {
    SCOPED_TRACE(to_string(phase));
    EXPECT_EQ(statistics.phase(phase).count(), 200u);
    sum += statistics.phase(phase).mean();
  }
  const double total = statistics.phase(Phase::total).mean();
  EXPECT_EQ(statistics.phase(Phase::total).count(), 200u);
  EXPECT_NEAR(sum, total, 0.001 * total);
  EXPECT_GE(statistics.phase(Phase::compute).quantile(0.01), 300'000u)
      << "as long as a batch takes at least";
  EXPECT_GE(statistics.phase(Phase::total).quantile(1), statistics.phase(Phase::queue).quantile(0));
}

TEST(Statistics, BatchItemsAreThoseOfTheBatches) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity")));
  for (const std::int64_t items : {1, 2, 2, 7}) {
    const Numbers numbers(items);
    expect_echo(model.infer(numbers.request()), numbers);
  }
  const Histogram histogram = model.statistics().batch_items;
  EXPECT_EQ(histogram.count(), 4u);
  EXPECT_EQ(histogram.counts()[1], 1u);
  EXPECT_EQ(histogram.counts()[2], 2u);
  EXPECT_EQ(histogram.counts()[7], 1u);
  EXPECT_DOUBLE_EQ(histogram.mean(), 3.0);
}

TEST(Statistics, CanBeReadWhileWorkGoesOnAndSubtracted) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity")));
  std::atomic<bool> over{false};
  std::jthread worker([&] {
    const Numbers numbers;
    while (!over) expect_echo(model.infer(numbers.request()), numbers);
  });
  ModelStatistics before = model.statistics();
  for (int i = 0; i < 300; ++i) {
    ModelStatistics now = model.statistics();
    ASSERT_GE(now.requests, before.requests);
    ASSERT_GE(now.batches, before.batches);
    for (std::size_t phase = 0; phase < kPhases; ++phase) {
      ASSERT_GE(now.phases[phase].count(), before.phases[phase].count());
    }
    Histogram window = now.phase(Phase::total);
    window.subtract(before.phase(Phase::total));
    ASSERT_EQ(window.count(), now.phase(Phase::total).count() - before.phase(Phase::total).count());
    before = std::move(now);
  }
  over = true;
}

// ---------------------------------------------------------------------------------------------------------
// timelines

EngineOptions traced(std::size_t capacity, int devices = 1) {
  EngineOptions options = host_devices(devices);
  options.trace_capacity = capacity;
  return options;
}

TEST(Timelines, AreKeptOnlyWhereAskedFor) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity")));
  const Numbers numbers;
  expect_echo(model.infer(numbers.request()), numbers);
  EXPECT_THAT(engine.timelines(), IsEmpty());
}

TEST(Timelines, TellEveryBatchesWay) {
  Engine engine = make_engine(traced(100));
  ModelConfig config = named_one("m", "reference:fail?at=3&batch_us=100");
  config.batching.max_items = 4;
  const Model model = must(engine.load(config));
  Gate gate(engine.devices()[0]);
  Requests requests(model);
  requests.submit(1, gate.event());
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 1; }));
  requests.submit(1);
  requests.submit(2);
  gate.open();
  requests.batches();
  const Numbers numbers;
  expect_error(model.infer(numbers.request()), ErrorCode::internal);
  must(engine.drain(kGuard));
  ASSERT_TRUE(
      eventually([&] { return engine.timelines().size() == 3; }));  // noted after the answers
  const std::vector<BatchTimeline> timelines = engine.timelines();
  const int counts[] = {1, 2, 1};
  const std::int64_t items[] = {1, 3, 1};
  for (std::size_t i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    const BatchTimeline& timeline = timelines[i];
    EXPECT_EQ(timeline.model, "m");
    EXPECT_EQ(timeline.device, DeviceId::host(0));
    EXPECT_EQ(timeline.lane, 0);
    EXPECT_EQ(timeline.slot, 0);
    EXPECT_EQ(timeline.requests, counts[i]);
    EXPECT_EQ(timeline.items, items[i]);
    EXPECT_EQ(timeline.failed, i == 2);
    EXPECT_LE(timeline.submitted, timeline.picked);
    EXPECT_LE(timeline.picked, timeline.staged);
    EXPECT_LE(timeline.staged, timeline.completed);
    if (i == 2) continue;
    ASSERT_TRUE(timeline.started && timeline.copied_in && timeline.computed && timeline.copied_out);
    EXPECT_LE(timeline.picked, *timeline.started);
    EXPECT_LE(*timeline.started, *timeline.copied_in);
    EXPECT_LE(*timeline.copied_in, *timeline.computed);
    EXPECT_LE(*timeline.computed, *timeline.copied_out);
    EXPECT_LE(*timeline.copied_out, timeline.completed);
    EXPECT_GE(*timeline.computed - *timeline.copied_in, microseconds(100));
  }
}

TEST(Timelines, BatchesAreNumberedOverTheWholeEngine) {
  Engine engine = make_engine(traced(100, 2));
  ModelConfig config = one_at_a_time("reference:identity");
  config.batching.max_items = 1;
  const Model model = must(engine.load(config));
  Gate gate(engine.devices()[0]);
  Requests requests(model);
  for (int i = 0; i < 2; ++i) requests.submit(1, gate.event());
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 2; }));
  gate.open();
  requests.batches();
  ASSERT_TRUE(eventually([&] { return engine.timelines().size() == 2; }));
  const std::vector<BatchTimeline> timelines = engine.timelines();
  EXPECT_NE(timelines[0].device, timelines[1].device);
  EXPECT_NE(timelines[0].batch, timelines[1].batch);
}

TEST(Timelines, TheOldestMakeRoom) {
  Engine engine = make_engine(traced(4));
  const Model model = must(engine.load(from("reference:identity")));
  for (std::int64_t items = 1; items <= 10; ++items) {
    const Numbers numbers(items);
    expect_echo(model.infer(numbers.request()), numbers);
  }
  const auto items = [&] {
    std::vector<std::int64_t> kept;
    for (const BatchTimeline& timeline : engine.timelines()) kept.push_back(timeline.items);
    return kept;
  };
  ASSERT_TRUE(eventually([&] { return items().back() == 10; }));
  EXPECT_THAT(items(), ElementsAre(7, 8, 9, 10));
}

TEST(Timelines, CanBeReadWhileWorkGoesOn) {
  Engine engine = make_engine(traced(8));
  const Model model = must(engine.load(from("reference:identity")));
  std::atomic<bool> over{false};
  std::jthread worker([&] {
    const Numbers numbers;
    while (!over) expect_echo(model.infer(numbers.request()), numbers);
  });
  for (int i = 0; i < 200; ++i) EXPECT_LE(engine.timelines().size(), 8u);
  EXPECT_TRUE(eventually([&] { return engine.timelines().size() == 8; }));
  over = true;
}

}  // namespace
}  // namespace millrace::testing
