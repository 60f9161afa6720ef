// Batches that fail, callbacks that throw, memory that runs out: the request dies, nothing else.
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

class Failures : public ::testing::TestWithParam<const char*> {
 protected:
  const Log log_;
  const Numbers numbers_;
};

TEST_P(Failures, OnlyTheRequestsOfTheBatchFail) {
  Engine engine = make_engine();
  ModelConfig config = named_one("flaky", std::string("reference:fail?at=2") + GetParam());
  config.batching.max_items = 3;
  const Model flaky = must(engine.load(config));
  const Model other = must(engine.load(named("other", "reference:identity")));
  Gate gate(engine.devices()[0]);
  Future first = flaky.submit(numbers_.request(gate.event()));
  ASSERT_TRUE(eventually([&] { return flaky.statistics().running_batches == 1; }));
  LeaseCount leases;
  std::vector<Future> second, third;
  for (int i = 0; i < 3; ++i) {
    Request request = numbers_.request();
    request.inputs[0].lease = leases.lease();
    second.push_back(flaky.submit(std::move(request)));
  }
  for (int i = 0; i < 3; ++i) third.push_back(flaky.submit(numbers_.request()));
  gate.open();
  expect_echo(first, numbers_);
  for (Future& future : second) {
    expect_error(get(future), ErrorCode::internal,
                 {"\"flaky\"", "host:0", "call 2 fails, as asked"});
  }
  EXPECT_EQ(leases.released(), 3);
  for (Future& future : third) expect_echo(future, numbers_);
  expect_echo(other.infer(numbers_.request()), numbers_);
  const ModelStatistics statistics = flaky.statistics();
  EXPECT_EQ(statistics.failed, 3u);
  EXPECT_EQ(statistics.succeeded, 4u);
  EXPECT_EQ(statistics.batches, 3u);
  must(engine.unload("flaky"));
}

TEST_P(Failures, AModelThatAlwaysFailsAnswersAlways) {
  Engine engine = make_engine(host_devices(2));
  ModelConfig config = named("bad", std::string("reference:fail?every=1") + GetParam());
  config.lanes = 2;
  const Model bad = must(engine.load(config));
  std::vector<Future> futures;
  futures.reserve(200);
  for (int i = 0; i < 200; ++i) futures.push_back(bad.submit(numbers_.request()));
  for (Future& future : futures) expect_error(get(future), ErrorCode::internal, {"as asked"});
  EXPECT_EQ(bad.statistics().failed, 200u);
}

TEST_P(Failures, ATargetOfAFailedRequestIsLeftAlone) {
  Engine engine = make_engine();
  const Model bad =
      must(engine.load(named_one("bad", std::string("reference:fail?every=1") + GetParam())));
  std::vector<float> target(16, -1.0F);
  LeaseCount leases;
  Request request = numbers_.request();
  request.outputs.push_back(into("output", TensorView::of(target.data(), {1, 16}), leases.lease()));
  expect_error(get(bad.submit(std::move(request))), ErrorCode::internal);
  EXPECT_EQ(leases.released(), 1);
  EXPECT_EQ(target, std::vector<float>(16, -1.0F));
}

std::string name_of(const ::testing::TestParamInfo<const char*>& way) {
  constexpr const char* kNames[] = {"Run",       "Enqueue",  "BlockingRun", "BlockingEnqueue",
                                    "OwnStream", "SizedLate"};
  return kNames[way.index];
}

INSTANTIATE_TEST_SUITE_P(EveryWayToFail, Failures,
                         ::testing::Values("&when=run", "&when=enqueue", "&when=run&blocking=1",
                                           "&when=enqueue&blocking=1", "&when=run&own_stream=1",
                                           "&when=run&output_sized_late=1"),
                         name_of);

class FailuresToo : public Failures {};

TEST_F(FailuresToo, KeepTheirCodeAndScope) {
  Engine engine = make_engine();
  for (const auto& [code, scope] : {std::pair(ErrorCode::gpu_fault, Scope::process),
                                    std::pair(ErrorCode::out_of_memory, Scope::request),
                                    std::pair(ErrorCode::unavailable, Scope::model)}) {
    const std::string name(to_string(code));
    const Model model = must(engine.load(
        named(name, "reference:fail?code=" + name + "&scope=" + std::string(to_string(scope)))));
    const Result<Response> response = model.infer(numbers_.request());
    expect_error(response, code, {name});
    ASSERT_FALSE(response.ok());
    EXPECT_EQ(response.error().scope, scope);
  }
  EXPECT_TRUE(log_.has("should be restarted"));
}

TEST_F(FailuresToo, AFailureInOneLaneIsNoneInAnother) {
  Engine engine = make_engine();
  ModelConfig config = one_at_a_time("reference:fail?at=2");
  config.lanes = 2;
  config.batching.max_items = 1;
  const Model model = must(engine.load(config));
  Gate gate(engine.devices()[0]);
  Future first = model.submit(numbers_.request(gate.event()));
  Future second = model.submit(numbers_.request(gate.event()));
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 2; }));
  gate.open();
  EXPECT_NE(get(first).ok(), get(second).ok());
}

// ---------------------------------------------------------------------------------------------------------
// callbacks

TEST_F(FailuresToo, ACallbackThatThrowsIsLoggedAndOthersAreCalled) {
  Engine engine = make_engine();
  const Model model = must(engine.load(named("m", "reference:identity")));
  Answers answers;
  must(model.submit(numbers_.request(),
                    [](const Result<Response>&, bool) { throw std::runtime_error("the reason"); }));
  must(model.submit(numbers_.request(), [](const Result<Response>&, bool) { throw 3; }));
  must(model.submit(numbers_.request(), answers.callback(1)));
  ASSERT_TRUE(answers.wait_for(1));
  EXPECT_TRUE(eventually([&] { return log_.has("model \"m\": a callback threw: the reason"); }));
  must(engine.unload("m", kGuard));  // nothing is outstanding
}

TEST_F(FailuresToo, ALeaseWhoseReleaseThrowsIsLogged) {
  Engine engine = make_engine();
  const Model model = must(engine.load(named("m", "reference:identity")));
  Request request = numbers_.request();
  request.inputs[0].lease =
      Lease::on_release([] { throw std::runtime_error("the lease's reason"); });
  expect_echo(model.infer(std::move(request)), numbers_);
  EXPECT_TRUE(log_.has("the lease's reason"));
  expect_echo(model.infer(numbers_.request()), numbers_);
}

TEST_F(FailuresToo, ACallbackThatBlocksHoldsUpNoDevice) {
  Engine engine = make_engine();
  const Model model = must(engine.load(named("m", "reference:identity")));
  std::atomic<bool> open{false};
  must(model.submit(numbers_.request(), [&](const Result<Response>&, bool) { open.wait(false); }));
  for (int i = 0; i < 50; ++i) expect_echo(model.infer(numbers_.request()), numbers_);
  expect_error(engine.unload("m", milliseconds(20)), ErrorCode::deadline_exceeded, {"1 requests"});
  open = true;
  open.notify_all();
  must(engine.unload("m", kGuard));
}

// ------------------------------------------------------------------------------------------------------------
// memory

TEST_F(FailuresToo, MemoryThatRunsOutFailsTheRequestAndComesBack) {
  for (const char* path : {"reference:identity?shape=65536", "reference:identity?shape=-1",
                           "reference:identity?shape=65536&output_sized_late=1"}) {
    SCOPED_TRACE(path);
    EngineOptions options = host_devices();
    HostDeviceOptions small;
    small.memory_limit_bytes = std::size_t{4} << 20;
    options.devices.host = {small};
    Engine engine = make_engine(options);
    ModelConfig config = one_at_a_time(path);
    config.batching.max_items = 2;
    const Model model = must(engine.load(config));
    const std::vector<float> values(65536, 2.5F);
    const auto request = [&] {
      Request asked;
      asked.inputs.push_back({"input", TensorView::of(values.data(), {1, 65536}), {}});
      return asked;
    };
    std::vector<Response> held;  // 256 KiB each
    Result<Response> response = model.infer(request());
    while (response.ok()) {
      held.push_back(std::move(response).value());
      ASSERT_LT(held.size(), 20u);
      response = model.infer(request());
    }
    expect_error(response, ErrorCode::out_of_memory, {"needed ", "free ", "host:0"});
    EXPECT_GE(held.size(), 4u);
    expect_error(model.infer(request()), ErrorCode::out_of_memory);
    EXPECT_EQ(floats(held.back().outputs[0].view), values);
    held.pop_back();
    EXPECT_EQ(floats(must(model.infer(request())).outputs[0].view), values);
    held.clear();
    EXPECT_EQ(floats(must(model.infer(request())).outputs[0].view), values);
  }
}

TEST_F(FailuresToo, TimelinesTellOfFailures) {
  EngineOptions options = host_devices();
  options.trace_capacity = 10;
  Engine engine = make_engine(options);
  const Model model = must(engine.load(named("m", "reference:fail?at=2")));
  (void)model.infer(numbers_.request());
  (void)model.infer(numbers_.request());
  ASSERT_TRUE(eventually([&] { return engine.timelines().size() == 2; }));
  EXPECT_FALSE(engine.timelines()[0].failed);
  EXPECT_TRUE(engine.timelines()[1].failed);
}

}  // namespace
}  // namespace millrace::testing
