#include "cli/load_generator.h"

#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include <millrace/engine.h>

#include "cli/bench_measure.h"

namespace millrace::cli {
namespace {

using std::chrono::milliseconds;

class LoadGeneratorTest : public ::testing::Test {
 protected:
  void load(const std::string& path, std::int64_t max_items = 8, std::size_t max_requests = 65536) {
    EngineOptions options;
    options.devices.devices = {"host:0"};
    Result<Engine> engine = Engine::create(options);
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    engine_.emplace(std::move(*engine));
    ModelConfig config;
    config.path = path;
    config.batching.max_items = max_items;
    config.limits.max_requests = max_requests;
    Result<Model> model = engine_->load(config);
    ASSERT_TRUE(model.ok()) << model.error().message;
    model_ = *model;
  }

  std::unique_ptr<LoadGenerator> generator(const LoadOptions& options) {
    Result<BenchInputs> inputs = BenchInputs::open(model_.info(), {}, {}, options.seed);
    EXPECT_TRUE(inputs.ok()) << inputs.error().message;
    Result<std::unique_ptr<LoadGenerator>> made = LoadGenerator::make(model_, *inputs, options);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return std::move(*made);
  }

  // Runs until something has been counted, and then to the end.
  Tally run(LoadGenerator& load) {
    Tally all;
    load.start();
    for (int i = 0; i < 3000 && all.requests + all.errors < 200; ++i) {
      std::this_thread::sleep_for(milliseconds(10));
      all.merge(load.take());
    }
    EXPECT_TRUE(load.stop().ok());
    all.merge(load.take());
    return all;
  }

  std::optional<Engine> engine_;
  Model model_;
};

TEST_F(LoadGeneratorTest, AClosedLoopCountsEveryRequestOnce) {
  load("reference:identity");
  LoadOptions options;
  options.concurrency = 16;
  options.request_items = 2;
  options.check_every = 4;
  const auto load = generator(options);
  const std::uint64_t before = model_.statistics().succeeded;
  const Tally tally = run(*load);
  EXPECT_GE(tally.requests, 200U);
  EXPECT_EQ(tally.requests, model_.statistics().succeeded - before);
  EXPECT_EQ(tally.items, 2 * tally.requests);
  EXPECT_EQ(tally.latency.count(), tally.requests);
  EXPECT_EQ(tally.errors, 0U) << load->first_error();
  EXPECT_NEAR(static_cast<double>(tally.checked), static_cast<double>(tally.requests) / 4, 16);
  EXPECT_EQ(load->in_flight(), 0);
}

TEST_F(LoadGeneratorTest, AClosedLoopKeepsItsNumberInFlight) {
  load("reference:busy?batch_us=2000&mode=sleep", 1);
  LoadOptions options;
  options.concurrency = 5;
  const auto load = generator(options);
  load->start();
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(milliseconds(3));
    EXPECT_EQ(load->in_flight(), 5);
  }
  EXPECT_TRUE(load->stop().ok());
}

TEST_F(LoadGeneratorTest, OneCallerWaitsForEachAnswer) {
  load("reference:identity");
  LoadOptions options;
  options.arrival = Arrival::blocking;
  const auto load = generator(options);
  const Tally tally = run(*load);
  EXPECT_GE(tally.requests, 200U);
  EXPECT_EQ(model_.statistics().batch_items.max(), 1U) << "two requests were in flight at once";
}

TEST_F(LoadGeneratorTest, ItCanRunAgain) {
  load("reference:identity");
  for (const Arrival arrival : {Arrival::callbacks, Arrival::blocking, Arrival::poisson}) {
    LoadOptions options;
    options.arrival = arrival;
    options.rate = 5000;
    const auto load = generator(options);
    EXPECT_GE(run(*load).requests, 200U);
    EXPECT_EQ(load->take().requests, 0U);
    EXPECT_GE(run(*load).requests, 200U);
  }
}

TEST_F(LoadGeneratorTest, AnOpenLoopCountsFromTheTimeMeant) {
  // 20 ms a request, one after another, 200 a second: a queue builds up, and latency with it.
  load("reference:busy?batch_us=20000&mode=sleep", 1);
  LoadOptions options;
  options.arrival = Arrival::poisson;
  options.rate = 200;
  const auto load = generator(options);
  load->start();
  std::this_thread::sleep_for(milliseconds(600));
  EXPECT_TRUE(load->stop().ok());
  const Tally tally = load->take();
  ASSERT_GT(tally.requests, 10U);
  EXPECT_GT(tally.latency.max(), 200'000'000U) << "waiting in the queue was left out";
  EXPECT_EQ(tally.latency.count(), tally.requests);
  EXPECT_EQ(tally.lateness.count(), tally.requests);
}

TEST_F(LoadGeneratorTest, ALateSenderHidesNothing) {
  // Meant to be sent 10 ns apart, which no thread can do: it falls behind, while the short queue is
  // never waited in.
  load("reference:identity", 8, 4);
  LoadOptions options;
  options.arrival = Arrival::poisson;
  options.rate = 1e8;
  const auto load = generator(options);
  load->start();
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_TRUE(load->stop().ok());
  const Tally tally = load->take();
  ASSERT_GT(tally.requests, 0U);
  EXPECT_GT(tally.latency.max(), 150'000'000U) << "the sender's lateness was left out";
  EXPECT_GT(tally.lateness.max(), 150'000'000U);
}

TEST_F(LoadGeneratorTest, AFullQueueIsAnErrorOfAnOpenLoop) {
  load("reference:busy?batch_us=100000&mode=sleep", 1, 4);
  LoadOptions options;
  options.arrival = Arrival::poisson;
  options.rate = 2000;
  const auto load = generator(options);
  load->start();
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_TRUE(load->stop().ok());
  const Tally tally = load->take();
  EXPECT_GT(tally.errors, 50U);
  EXPECT_NE(load->first_error().find("queue_full"), std::string::npos) << load->first_error();
}

TEST_F(LoadGeneratorTest, AClosedLoopSendsAgainWhatTheQueueRefused) {
  load("reference:busy?batch_us=1000&mode=sleep", 1, 4);
  LoadOptions options;
  options.concurrency = 32;
  const auto load = generator(options);
  load->start();
  Tally tally;
  for (int i = 0; i < 3000 && (tally.requests < 50 || tally.errors <= 64); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    tally.merge(load->take());
  }
  EXPECT_GE(tally.requests, 50U);
  EXPECT_GT(tally.errors, 64U)
      << "more than once around: they were refused, sent again and refused again";
  EXPECT_TRUE(load->stop().ok());
}

TEST_F(LoadGeneratorTest, AnAnswerThatFailsIsCountedAndTold) {
  load("reference:fail?every=100&at=1000000");
  LoadOptions options;
  options.concurrency = 4;
  const auto load = generator(options);
  const Tally tally = run(*load);
  EXPECT_GT(tally.requests, 0U);
  load->start();
  Tally more;
  for (int i = 0; i < 3000 && more.errors == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    more.merge(load->take());
  }
  EXPECT_TRUE(load->stop().ok());
  EXPECT_GT(more.errors, 0U);
  EXPECT_FALSE(load->first_error().empty());
}

// Another model, of the same inputs, than the one that gave the references: it stands for one that
// has gone wrong.
TEST_F(LoadGeneratorTest, AWrongAnswerIsAnError) {
  load("reference:identity");
  const Result<BenchInputs> inputs = BenchInputs::open(model_.info(), {}, {}, 1);
  ASSERT_TRUE(inputs.ok());
  const std::vector<NamedTensor> right = inputs->make(0, 2).value();
  EXPECT_EQ(difference_of(right, right), "");
  std::vector<NamedTensor> wrong = copy_of(right).value();
  wrong[0].view.as<float>()[17] += 0.5F;
  EXPECT_NE(difference_of(wrong, right).find("element 17"), std::string::npos)
      << difference_of(wrong, right);
  wrong = copy_of(right).value();
  wrong[0].view.as<float>()[17] *= 1.00001F;
  EXPECT_EQ(difference_of(wrong, right), "") << "within the tolerance";
  wrong[0].view.shape = {1, 16};
  EXPECT_NE(difference_of(wrong, right), "");
  wrong[0].view.shape = right[0].view.shape;
  wrong[0].name = "other";
  EXPECT_NE(difference_of(wrong, right), "");
  EXPECT_NE(difference_of({}, right), "");
}

TEST_F(LoadGeneratorTest, ContentsDifferAndComeAgainTheSame) {
  load("reference:identity?type=fp32");
  const Result<BenchInputs> inputs = BenchInputs::open(model_.info(), {}, {}, 7);
  ASSERT_TRUE(inputs.ok());
  const auto a = inputs->make(3, 2).value();
  const auto b = inputs->make(3, 2).value();
  const auto c = inputs->make(4, 2).value();
  const std::size_t bytes = bytes_of(a);
  EXPECT_EQ(bytes, 2U * 16U * 4U);
  EXPECT_NE(a[0].view.data, b[0].view.data);
  EXPECT_EQ(std::memcmp(a[0].view.data, b[0].view.data, bytes), 0);
  EXPECT_NE(std::memcmp(a[0].view.data, c[0].view.data, bytes), 0);
}

class RandomInputs : public ::testing::TestWithParam<DataType> {};

TEST_P(RandomInputs, OfEveryTypePassTheModelUnchanged) {
  Result<Engine> engine = Engine::create();
  ASSERT_TRUE(engine.ok());
  ModelConfig config;
  config.path = "reference:identity?type=" + std::string(to_string(GetParam()));
  Result<Model> model = engine->load(config);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const Result<BenchInputs> inputs = BenchInputs::open(model->info(), {}, {}, 1);
  ASSERT_TRUE(inputs.ok());
  LoadOptions options;
  options.concurrency = 4;
  options.check_every = 1;
  Result<std::unique_ptr<LoadGenerator>> load = LoadGenerator::make(*model, *inputs, options);
  ASSERT_TRUE(load.ok()) << load.error().message;
  (*load)->start();
  Tally tally;
  for (int i = 0; i < 3000 && tally.checked + tally.errors < 20; ++i) {
    std::this_thread::sleep_for(milliseconds(5));
    tally.merge((*load)->take());
  }
  EXPECT_TRUE((*load)->stop().ok());
  EXPECT_EQ(tally.errors, 0U) << (*load)->first_error();
  EXPECT_EQ(tally.checked, tally.requests);
}

INSTANTIATE_TEST_SUITE_P(Types, RandomInputs,
                         ::testing::ValuesIn(all_data_types().begin(), all_data_types().end()),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST_F(LoadGeneratorTest, SizesThatTheModelLeavesOpenNeedRealData) {
  load("reference:identity?shape=-1");
  const Result<BenchInputs> inputs = BenchInputs::open(model_.info(), {}, {}, 1);
  ASSERT_FALSE(inputs.ok());
  EXPECT_NE(inputs.error().message.find("--input"), std::string::npos) << inputs.error().message;
}

TEST_F(LoadGeneratorTest, AMeasurementCountsTheWindowsThatItMarks) {
  load("reference:busy?batch_us=1000&mode=sleep", 1);
  LoadOptions options;
  options.concurrency = 4;
  const auto load = generator(options);
  std::size_t windows = 0;
  const Result<Measurement> measured = measure(*load, plan_windows(milliseconds(600)), true,
                                               [&](const WindowSample&) { ++windows; });
  ASSERT_TRUE(measured.ok()) << measured.error().message;
  EXPECT_EQ(measured->samples.size(), windows);
  double seconds = 0;
  double items = 0;
  for (const WindowSample& sample : measured->samples) {
    if (!sample.counted) continue;
    seconds += sample.seconds;
    items += sample.items_per_s * sample.seconds;
  }
  EXPECT_FALSE(measured->samples.front().counted) << "the warm-up was counted";
  EXPECT_TRUE(measured->samples.back().counted);
  EXPECT_NEAR(measured->seconds, seconds, 1e-6);
  EXPECT_NEAR(static_cast<double>(measured->tally.items), items, 0.5);
  EXPECT_GT(measured->statistics.batches, 0U);
  EXPECT_EQ(measured->errors, 0U);
}

}  // namespace
}  // namespace millrace::cli
