// Lanes that never finish: their requests are answered, what they may touch is held, everybody else
// goes on.
#include "backends/reference/test_hooks.h"
#include "engine/sign_of_life.h"
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Far longer than a batch takes, on a busy machine too.
constexpr Duration kHangTimeout = milliseconds(400);

ModelConfig hanging(const std::string& options = "", int lanes = 1) {
  ModelConfig config = named("stuck", "reference:hang?at=1" + options);
  config.lanes = lanes;
  config.batching.max_items = 1;
  config.hang_timeout = kHangTimeout;
  return config;
}

// Ends what hangs, whatever happens.
class Hangs : public ::testing::TestWithParam<const char*> {
 protected:
  ~Hangs() override { release_all(); }
  static void release_all() {
    EXPECT_TRUE(eventually([] {
      release_hung_reference_batches();
      return hung_reference_batches() == 0;
    }));
  }
  static void wait_for_hang() {
    ASSERT_TRUE(eventually([] { return hung_reference_batches() == 1; }));
  }

  const Log log_;
  // Never freed: a lane that hung may read it when its engine and its test are gone.
  static inline const Numbers& numbers = *new Numbers;
};

TEST_P(Hangs, AreReportedAndTheRestGoesOn) {
  Engine engine = make_engine();
  const Model stuck = must(engine.load(hanging(GetParam())));
  const Model other = must(engine.load(named("other", "reference:identity")));
  LeaseCount running_leases, queued_leases;
  std::vector<float> target(16, -1.0F);
  Request request = numbers.request();
  request.inputs[0].lease = running_leases.lease();
  request.outputs.push_back(
      into("output", TensorView::of(target.data(), {1, 16}), running_leases.lease()));
  Future running = stuck.submit(std::move(request));
  Future behind = stuck.submit(numbers.request());  // in the second slot
  request = numbers.request();
  request.inputs[0].lease = queued_leases.lease();
  Future queued = stuck.submit(std::move(request));
  wait_for_hang();
  expect_echo(other.infer(numbers.request()), numbers);

  expect_error(get(running), ErrorCode::unavailable,
               {"\"stuck\"", "host:0", "lane 0", "hang_timeout", "quarantined"});
  expect_error(get(behind), ErrorCode::unavailable, {"\"stuck\""});
  expect_error(get(queued), ErrorCode::unavailable, {"\"stuck\""});
  expect_error(stuck.infer(numbers.request()), ErrorCode::unavailable, {"\"stuck\"", "lane 0"});
  EXPECT_TRUE(log_.has("did not finish a batch"));
  EXPECT_EQ(queued_leases.released(), 1) << "nothing touches it";
  EXPECT_EQ(running_leases.released(), 0) << "the lane still may";
  EXPECT_EQ(target[0], -1.0F);
  expect_echo(other.infer(numbers.request()), numbers);
  EXPECT_EQ(stuck.statistics().failed, 3u);
  EXPECT_EQ(stuck.statistics().running_batches, 0u);

  // It passes after all: what was held is let go, and the lane comes back.
  release_all();
  EXPECT_TRUE(eventually([&] { return running_leases.released() == 2; }));
  EXPECT_TRUE(eventually([&] { return stuck.infer(numbers.request()).ok(); }));
  expect_echo(stuck.infer(numbers.request()), numbers);
  EXPECT_TRUE(log_.has("back in use"));
  EXPECT_EQ(stuck.statistics().failed + stuck.statistics().succeeded, stuck.statistics().requests);
  must(engine.unload("stuck"));
}

TEST_P(Hangs, OtherLanesOfTheModelGoOn) {
  Engine engine = make_engine();
  const Model stuck = must(engine.load(hanging(GetParam(), 2)));
  Future running = stuck.submit(numbers.request());
  wait_for_hang();
  std::vector<Future> futures;
  futures.reserve(20);
  for (int i = 0; i < 20; ++i) futures.push_back(stuck.submit(numbers.request()));
  const Result<Response> hung = get(running);
  expect_error(hung, ErrorCode::unavailable);
  int answered = 0;
  for (Future& future : futures) {
    const Result<Response> response = get(future);
    if (response.ok()) {
      ++answered;
      expect_echo(response, numbers);
    } else {  // one may have been put behind the batch that hangs
      expect_error(response, ErrorCode::unavailable);
    }
  }
  EXPECT_GE(answered, 19);
  for (int i = 0; i < 20; ++i) expect_echo(stuck.infer(numbers.request()), numbers);
}

TEST_P(Hangs, UnloadingAnswersWithAnError) {
  Engine engine = make_engine();
  const auto used = [&] { return engine.device_reports()[0].memory.used_bytes; };
  const auto held = [&] { return engine.device_reports()[0].held.size(); };
  const std::string options = std::string(GetParam()) + "&weights_bytes=1MiB";
  const Model stuck = must(engine.load(hanging(options)));
  LeaseCount leases;
  Request request = numbers.request();
  request.inputs[0].lease = leases.lease();
  Future running = stuck.submit(std::move(request));
  wait_for_hang();
  expect_error(engine.unload("stuck", kGuard), ErrorCode::unavailable,
               {"\"stuck\"", "is gone", "hangs"});
  expect_error(get(running), ErrorCode::unavailable);
  EXPECT_THAT(engine.model_names(), IsEmpty());
  EXPECT_GE(used(), std::size_t{1} << 20) << "held for its lane";
  EXPECT_EQ(leases.released(), 0);
  EXPECT_EQ(stuck.statistics().failed, 1u);
  // The name is free, and so is the device.
  const Model again = must(engine.load(named("stuck", "reference:identity")));
  expect_echo(again.infer(numbers.request()), numbers);
  must(engine.unload("stuck"));
  release_all();
  EXPECT_TRUE(eventually([&] { return leases.released() == 1; }));
  EXPECT_TRUE(eventually([&] { return held() == 0 && used() < std::size_t{1} << 20; }))
      << "all is given back";
}

TEST_P(Hangs, AnEngineGoesWithALaneThatHangs) {
  for (const bool noticed : {false, true}) {
    SCOPED_TRACE(noticed);
    LeaseCount leases;
    Future running, queued;
    Answers answers;
    {
      EngineOptions options = host_devices(2);
      options.shutdown_timeout = milliseconds(50);
      Engine engine = make_engine(options);
      ModelConfig config = hanging(GetParam());
      config.devices = {DeviceId::host(1)};
      config.hang_timeout = noticed ? kHangTimeout : Duration::zero();
      const Model stuck = must(engine.load(config));
      Request request = numbers.request();
      request.inputs[0].lease = leases.lease();
      running = stuck.submit(std::move(request));
      must(stuck.submit(numbers.request(), answers.callback(1)));
      queued = stuck.submit(numbers.request());
      wait_for_hang();
      if (noticed) running.wait();
    }
    expect_error(get(running), ErrorCode::unavailable);
    EXPECT_FALSE(get(queued).ok());
    EXPECT_THAT(answers.order(), ElementsAre(1));
    EXPECT_FALSE(answers.results()[0].ok());
    EXPECT_EQ(leases.released(), 0) << "the lane may still read it";
    release_all();  // and now it does
  }
}

TEST_P(Hangs, OneDeviceOfTwoStrandsNothing) {
  Engine engine = make_engine(host_devices(2));
  ModelConfig config = named_one("stuck", std::string("reference:hang?at=30") + GetParam());
  config.batching.max_items = 1;
  config.hang_timeout = kHangTimeout;
  const Model stuck = must(engine.load(config));
  const auto on_second = [&] {
    Request request = numbers.request();
    request.inputs[0].view.device = DeviceId::host(1);
    return request;
  };
  for (int i = 0; i < 29; ++i) {  // calls count on each device
    EXPECT_EQ(must(stuck.infer(on_second())).device, DeviceId::host(1));
  }
  Future running = stuck.submit(on_second());
  wait_for_hang();
  const auto go_on = [&](int count) {
    std::vector<Future> futures;
    futures.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i)
      futures.push_back(stuck.submit(i % 2 ? on_second() : numbers.request()));
    for (Future& future : futures) {
      const Result<Response> response = get(future);
      expect_echo(response, numbers);
      EXPECT_EQ(response->device, DeviceId::host(0));
    }
  };
  go_on(10);
  expect_error(get(running), ErrorCode::unavailable, {"host:1"});
  go_on(10);
}

std::string name_of(const ::testing::TestParamInfo<const char*>& lane) {
  constexpr const char* kNames[] = {"Plain", "Blocking", "OwnStream"};
  return kNames[lane.index];
}

INSTANTIATE_TEST_SUITE_P(EveryKindOfLane, Hangs,
                         ::testing::Values("", "&blocking=1", "&own_stream=1"), name_of);

// ------------------------------------------------------------------------------------------------------------
// others

class HangsToo : public Hangs {};

TEST_F(HangsToo, ALaneThatCanBeEndedIsEndedAndGoesOn) {
  for (const char* options :
       {"&terminable=1", "&terminable=1&blocking=1", "&terminable=1&own_stream=1"}) {
    SCOPED_TRACE(options);
    Engine engine = make_engine();
    const Model stuck = must(engine.load(hanging(options)));
    LeaseCount leases;
    Request request = numbers.request();
    request.inputs[0].lease = leases.lease();
    Future running = stuck.submit(std::move(request));
    Future behind = stuck.submit(numbers.request());
    expect_error(get(running), ErrorCode::unavailable, {"\"stuck\"", "ended after"});
    expect_echo(behind, numbers);
    EXPECT_EQ(leases.released(), 1);
    EXPECT_EQ(hung_reference_batches(), 0u);
    EXPECT_TRUE(log_.has("ending it"));
    EXPECT_FALSE(log_.has("quarantined"));
    expect_echo(stuck.infer(numbers.request()), numbers);
    must(engine.unload("stuck"));
  }
}

TEST_F(HangsToo, WithoutATimeoutNothingIsGivenUp) {
  Engine engine = make_engine();
  ModelConfig config = hanging();
  config.hang_timeout = Duration::zero();
  const Model stuck = must(engine.load(config));
  Future running = stuck.submit(numbers.request());
  wait_for_hang();
  expect_error(engine.unload("stuck", milliseconds(100)), ErrorCode::deadline_exceeded,
               {"call again"});
  EXPECT_FALSE(running.ready());
  release_all();
  expect_echo(running, numbers);
  must(engine.unload("stuck", kGuard));
}

TEST_F(HangsToo, ASlowBatchIsNotAHang) {
  Engine engine = make_engine();
  ModelConfig config = named_one("slow", "reference:busy?batch_us=40000");
  config.batching.max_items = 1;
  config.slots = 4;
  config.hang_timeout = milliseconds(1200);
  const Model slow = must(engine.load(config));
  Requests requests(slow);  // together they take far longer than one may
  for (int i = 0; i < 40; ++i) requests.submit();
  requests.batches();
  EXPECT_EQ(slow.statistics().failed, 0u);
}

TEST_F(HangsToo, AnswersKeepTheirOrder) {
  Engine engine = make_engine();
  ModelConfig config = hanging("", 2);
  config.slots = 1;
  config.batching.preserve_order = true;
  const Model stuck = must(engine.load(config));
  Answers answers;
  must(stuck.submit(numbers.request(), answers.callback(0)));
  wait_for_hang();
  for (int i = 1; i < 5; ++i) must(stuck.submit(numbers.request(), answers.callback(i)));
  ASSERT_TRUE(answers.wait_for(5));
  EXPECT_THAT(answers.order(), ElementsAre(0, 1, 2, 3, 4));
  expect_error(answers.results()[0], ErrorCode::unavailable);
  for (std::size_t i = 1; i < 5; ++i) expect_echo(answers.results()[i], numbers);
}

TEST_F(HangsToo, AnEnsembleAnswersWithTheErrorOfTheStepThatHangs) {
  Engine engine = make_engine();
  must(engine.load(hanging()));
  must(engine.load(named("copy", "reference:identity")));
  ModelConfig config;
  config.name = "whole";
  config.ensemble = {{"copy", {{"input", "x"}}, {{"output", "y"}}},
                     {"stuck", {{"input", "y"}}, {{"output", "z"}}}};
  config.ensemble_outputs = {"z"};
  const Model whole = must(engine.load(config));
  Request request;
  request.inputs.push_back({"x", numbers.view(), {}});
  expect_error(get(whole.submit(std::move(request))), ErrorCode::unavailable,
               {"\"whole\"", "\"stuck\"", "lane 0"});
  must(engine.unload("whole", kGuard));
  expect_error(engine.unload("stuck", kGuard), ErrorCode::unavailable, {"hangs"});
}

TEST_F(HangsToo, ALaneComesBackForItsQueueOnly) {
  // While it is quarantined its model is closed; unloaded meanwhile, it stays closed when the lane
  // comes back.
  Engine engine = make_engine();
  const Model stuck = must(engine.load(hanging()));
  Future running = stuck.submit(numbers.request());
  expect_error(get(running), ErrorCode::unavailable);
  expect_error(engine.unload("stuck", kGuard), ErrorCode::unavailable);
  release_all();
  for (int i = 0; i < 20; ++i) {
    expect_error(stuck.infer(numbers.request()), ErrorCode::unavailable);
    std::this_thread::sleep_for(milliseconds(1));
  }
}

/// On a host device the stream that ends the first batch enqueues the second, and is stuck in that.
TEST(HungDriver, GivesNoSignOfLife) {
  const Numbers numbers;
  Engine engine = make_engine();
  EXPECT_TRUE(eventually([&] { return drivers_respond(engine); }));
  EXPECT_TRUE(eventually([&] { return drivers_respond(engine); }));
  ModelConfig config = named("stuck", "reference:hang?at=2&when=enqueue&batch_us=100000");
  config.lanes = config.slots = 1;
  config.batching.max_items = 1;
  const Model stuck = must(engine.load(config));
  Future first = stuck.submit(numbers.request());
  Future second = stuck.submit(numbers.request());
  ASSERT_TRUE(eventually([] { return hung_reference_batches() == 1; }));
  (void)drivers_respond(engine);
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(drivers_respond(engine));
    std::this_thread::sleep_for(milliseconds(5));
  }
  release_hung_reference_batches();
  EXPECT_TRUE(eventually([&] { return drivers_respond(engine); }));
  EXPECT_TRUE(get(first).ok());
  EXPECT_TRUE(get(second).ok());
}

}  // namespace
}  // namespace millrace::testing
