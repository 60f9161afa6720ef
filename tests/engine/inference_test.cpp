// Loading, asking, answering: what a program does with the engine first.
#include <unistd.h>

#include <fstream>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(Inference, LoadsAnswersAndUnloads) {
  Engine engine = make_engine();
  EXPECT_THAT(engine.model_names(), IsEmpty());
  const Model model = must(engine.load(named("m", "reference:identity")));
  EXPECT_THAT(engine.model_names(), ElementsAre("m"));

  const Numbers numbers(3);
  expect_echo(model.infer(numbers.request()), numbers);

  must(engine.unload("m"));
  EXPECT_THAT(engine.model_names(), IsEmpty());
  expect_error(model.infer(numbers.request()), ErrorCode::unavailable, {"\"m\"", "unloaded"});
  expect_error(engine.find("m"), ErrorCode::not_found, {"\"m\""});
  expect_error(engine.unload("m"), ErrorCode::not_found, {"\"m\""});
}

TEST(Inference, TellsWhatALoadedModelIs) {
  Engine engine = make_engine(host_devices(2));
  ModelConfig config = named("m", "reference:add?shape=2x3&weights_bytes=1KiB&lane_bytes=2KiB");
  config.lanes = 3;
  config.slots = 4;
  config.batching.max_items = 7;
  const ModelInfo info = must(engine.load(config)).info();
  EXPECT_EQ(info.name, "m");
  EXPECT_EQ(info.path, config.path);
  EXPECT_EQ(info.backend, "reference");
  EXPECT_FALSE(info.backend_reason.empty());
  ASSERT_THAT(info.inputs, SizeIs(2));
  EXPECT_EQ(info.inputs[1].name, "b");
  EXPECT_EQ(info.inputs[1].type, DataType::fp32);
  EXPECT_EQ(info.inputs[1].shape, (Shape{kDynamic, 2, 3}));
  EXPECT_EQ(info.inputs[1].batch_axis, 0);
  ASSERT_THAT(info.outputs, SizeIs(1));
  EXPECT_EQ(info.outputs[0].name, "sum");
  EXPECT_EQ(info.max_items, 7);
  ASSERT_THAT(info.placements, SizeIs(2));
  for (std::int32_t i = 0; i < 2; ++i) {
    const ModelInfo::Placement& placement = info.placements[static_cast<std::size_t>(i)];
    EXPECT_EQ(placement.device, DeviceId::host(i));
    EXPECT_EQ(placement.lanes, 3);
    EXPECT_EQ(placement.slots, 4);
    EXPECT_TRUE(placement.lanes_share_weights);
    EXPECT_EQ(placement.weights_bytes, 1024u);
    EXPECT_EQ(placement.lane_bytes, 2048u);
    EXPECT_FALSE(placement.enqueue_blocks);
  }
}

TEST(Inference, AModelIsNamedAfterItsPathUnlessItIsGivenAName) {
  Engine engine = make_engine();
  must(engine.load(from("reference:identity?shape=2")));
  must(engine.load(named("other", "reference:identity")));
  EXPECT_THAT(engine.model_names(), ElementsAre("identity", "other"));
  expect_error(engine.load(named("other", "reference:busy")), ErrorCode::invalid_argument,
               {"\"other\"", "loaded already"});
  EXPECT_TRUE(must(engine.find("identity")));
}

TEST(Inference, ReadsModelsFromFilesAndFromMemory) {
  const std::string path =
      ::testing::TempDir() + "engine_inference" + std::to_string(::getpid()) + ".reference.json";
  const std::string text = R"({"kind": "identity", "options": {"max_items": 5}})";
  std::ofstream(path) << text;
  Engine engine = make_engine();
  EXPECT_EQ(must(engine.load(from(path))).info().max_items, 5);
  ModelConfig config = named("in_memory", "anything");
  config.content = std::make_shared<const std::string>(text);
  const Model model = must(engine.load(config));
  EXPECT_EQ(model.info().max_items, 5);
  const Numbers numbers;
  expect_echo(model.infer(numbers.request()), numbers);
}

TEST(Inference, AFutureIsReadyOnceAndReadOnce) {
  Engine engine = make_engine();
  const Model model = must(engine.load(one_at_a_time("reference:identity")));
  Gate gate(engine.devices()[0]);
  const Numbers numbers;
  Future future = model.submit(numbers.request(gate.event()));
  ASSERT_TRUE(future);
  EXPECT_FALSE(future.ready());
  EXPECT_FALSE(future.wait_until(Clock::now() + milliseconds(5)));
  gate.open();
  EXPECT_TRUE(future.wait_until(Clock::now() + kGuard));
  future.wait();
  EXPECT_TRUE(future.ready());
  expect_echo(future.get(), numbers);
  EXPECT_FALSE(future);
  expect_error(future.get(), ErrorCode::invalid_argument, {"no response"});
  EXPECT_FALSE(Future().ready());
  expect_error(Future().get(), ErrorCode::invalid_argument);
}

TEST(Inference, DroppingAFutureDoesNotCancel) {
  Engine engine = make_engine();
  const Model model = must(engine.load(one_at_a_time("reference:identity")));
  Gate gate(engine.devices()[0]);
  const Numbers numbers;
  (void)model.submit(numbers.request(gate.event()));
  (void)model.submit(numbers.request());
  gate.open();
  must(engine.drain(kGuard));
  EXPECT_EQ(model.statistics().succeeded, 2u);
}

TEST(Inference, ACallbackIsCalledOnceOnAThreadOfTheExecutor) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity")));
  const Numbers numbers(2);
  std::atomic<int> calls{0};
  std::thread::id where;
  must(model.submit(numbers.request(), [&](const Result<Response>& response, bool last) {
    EXPECT_TRUE(last);
    expect_echo(response, numbers);
    where = std::this_thread::get_id();
    ++calls;
  }));
  must(engine.drain(kGuard));
  EXPECT_EQ(calls, 1);
  EXPECT_NE(where, std::this_thread::get_id());
}

TEST(Inference, ARefusedRequestDoesNotCallBack) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity")));
  bool called = false;
  expect_error(model.submit(Request(), [&called](const Result<Response>&, bool) { called = true; }),
               ErrorCode::invalid_argument);
  expect_error(model.submit(Numbers().request(), Callback()), ErrorCode::invalid_argument,
               {"callback"});
  must(engine.drain(kGuard));
  EXPECT_FALSE(called);
}

TEST(Inference, ACallbackMaySubmit) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity")));
  const Numbers numbers;
  std::atomic<int> left{100};
  std::function<void(Result<Response>, bool)> again = [&](const Result<Response>& response, bool) {
    expect_echo(response, numbers);
    if (--left > 0) must(model.submit(numbers.request(), again));
  };
  must(model.submit(numbers.request(), again));
  EXPECT_TRUE(eventually([&] { return left == 0; }));
  must(engine.drain(kGuard));
}

TEST(Inference, ACallbackMayWaitForWhatItSubmits) {
  Engine engine = make_engine(host_devices(2));
  const Model model = must(engine.load(from("reference:identity")));
  const Numbers numbers(2);
  std::atomic<int> answered{0};
  for (int i = 0; i < 20; ++i) {
    must(model.submit(numbers.request(), [&](const Result<Response>& response, bool) {
      expect_echo(response, numbers);
      expect_echo(model.infer(numbers.request()), numbers);
      Future first = model.submit(numbers.request());
      Future second = model.submit(numbers.request());
      expect_echo(second, numbers);
      expect_echo(first, numbers);
      ++answered;
    }));
  }
  EXPECT_TRUE(eventually([&] { return answered == 20; }));
  must(engine.drain(kGuard));
}

TEST(Inference, TakesInputsInAnyOrderAndGivesOutputsAsAskedFor) {
  Engine engine = make_engine();
  const Model add = must(engine.load(from("reference:add?type=INT32&shape=2")));
  const std::vector<std::int32_t> a = {1, 2}, b = {10, 20};
  Request request;
  request.inputs.push_back({"b", TensorView::of(b.data(), {1, 2}), {}});
  request.inputs.push_back({"a", TensorView::of(a.data(), {1, 2}), {}});
  const Response sum = must(add.infer(std::move(request)));
  EXPECT_EQ(sum.outputs[0].view.as<std::int32_t>()[1], 22);
  EXPECT_EQ(sum.find("sum"), &sum.outputs[0]);
  EXPECT_EQ(sum.find("difference"), nullptr);

  const Model three = must(engine.load(from("reference:identity?inputs=3")));
  const Numbers zero(1, 0), one(1, 100), two(1, 200);
  const auto ask = [&](std::initializer_list<const char*> outputs) {
    Request asked;
    asked.inputs.push_back({"input2", two.view(), {}});
    asked.inputs.push_back({"input0", zero.view(), {}});
    asked.inputs.push_back({"input1", one.view(), {}});
    for (const char* name : outputs)
      asked.outputs.push_back(placed(name, OutputPlacement::automatic));
    return must(three.infer(std::move(asked)));
  };
  const Response all = ask({});
  ASSERT_EQ(all.outputs.size(), 3u);
  EXPECT_EQ(floats(all.find("output0")->view), zero.values());
  EXPECT_EQ(floats(all.find("output1")->view), one.values());
  EXPECT_EQ(floats(all.find("output2")->view), two.values());
  const Response some = ask({"output2", "output0"});
  ASSERT_EQ(some.outputs.size(), 2u);
  EXPECT_EQ(some.outputs[0].name, "output2");
  EXPECT_EQ(floats(some.outputs[0].view), two.values());
  EXPECT_EQ(some.outputs[1].name, "output0");
  EXPECT_EQ(floats(some.outputs[1].view), zero.values());
}

TEST(Inference, TakesStridedInputs) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity?type=INT16&shape=2x3")));
  // [2,2,3] seen in memory of [2,3,4] with the last two axes exchanged, and every second column
  // left out.
  std::vector<std::int16_t> memory(24);
  std::iota(memory.begin(), memory.end(), std::int16_t{0});
  LeaseCount leases;
  Request request;
  TensorView view = TensorView::of(memory.data(), {2, 2, 3});
  view.strides = {12, 2, 4};
  request.inputs.push_back({"input", view, leases.lease()});
  const Response response = must(model.infer(std::move(request)));
  EXPECT_EQ(leases.released(), 1);
  const auto* values = response.outputs[0].view.as<std::int16_t>();
  EXPECT_THAT(std::vector<std::int16_t>(values, values + 12),
              ElementsAre(0, 4, 8, 2, 6, 10, 12, 16, 20, 14, 18, 22));
  EXPECT_TRUE(response.outputs[0].view.contiguous());
}

TEST(Inference, CarriesEveryDataType) {
  Engine engine = make_engine();
  for (const DataType type : all_data_types()) {
    if (type == DataType::bytes) continue;
    SCOPED_TRACE(to_string(type));
    const std::string name(to_string(type));
    const Model model = must(engine.load(named(name, "reference:identity?shape=5&type=" + name)));
    std::vector<std::uint8_t> bytes(size_of(type) * 3 * 5);
    std::iota(bytes.begin(), bytes.end(), static_cast<std::uint8_t>(type));
    if (type == DataType::boolean) {
      for (std::uint8_t& byte : bytes) byte &= 1;
    }
    Request request;
    request.inputs.push_back({"input", TensorView::of(type, bytes.data(), {3, 5}), {}});
    const Response response = must(model.infer(std::move(request)));
    const TensorView& view = response.outputs[0].view;
    EXPECT_EQ(view.type, type);
    ASSERT_EQ(must(view.bytes()), bytes.size());
    EXPECT_EQ(std::memcmp(view.data, bytes.data(), bytes.size()), 0);
  }
}

TEST(Inference, ModelsWithoutABatchAxisRunRequestByRequest) {
  Engine engine = make_engine();
  ModelConfig config = one_at_a_time("reference:identity?batched=0");
  const Model model = must(engine.load(config));
  EXPECT_EQ(model.info().max_items, 1);
  EXPECT_EQ(model.info().inputs[0].batch_axis, -1);
  Gate gate(engine.devices()[0]);
  const Numbers numbers;
  std::vector<Future> futures;
  for (int i = 0; i < 3; ++i) {
    Request request;
    TensorView view = TensorView::of(numbers.values().data(), {16});
    if (i == 0) view.ready = gate.event();
    request.inputs.push_back({"input", view, {}});
    futures.push_back(model.submit(std::move(request)));
  }
  gate.open();
  for (Future& future : futures) {
    const Response response = must(get(future));
    EXPECT_EQ(response.batch_items, 1);
    EXPECT_EQ(response.outputs[0].view.shape, Shape{16});
    EXPECT_EQ(floats(response.outputs[0].view), numbers.values());
  }
}

TEST(Inference, TakesWhateverSizeAModelLeavesOpen) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity?shape=-1x4")));
  for (const std::int64_t size : {3, 1, 17}) {
    const std::vector<float> values(static_cast<std::size_t>(2 * size * 4),
                                    static_cast<float>(size));
    Request request;
    request.inputs.push_back({"input", TensorView::of(values.data(), {2, size, 4}), {}});
    const Response response = must(model.infer(std::move(request)));
    EXPECT_EQ(response.outputs[0].view.shape, (Shape{2, size, 4}));
    EXPECT_EQ(floats(response.outputs[0].view), values);
  }
}

TEST(Inference, TakesTensorsOfNoElements) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity?shape=-1x4")));
  Request request;
  request.inputs.push_back({"input", TensorView::of(DataType::fp32, nullptr, {2, 0, 4}), {}});
  const Response response = must(model.infer(std::move(request)));
  EXPECT_EQ(response.outputs[0].view.shape, (Shape{2, 0, 4}));
}

TEST(Inference, AnswersWithWhatWasAskedFor) {
  Engine engine = make_engine();
  const Model model = must(engine.load(one_at_a_time("reference:identity")));
  const Numbers numbers(3);
  Request request = numbers.request();
  request.id = "an id longer than what fits into a small string";
  const TimePoint before = Clock::now();
  const Response response = must(model.infer(std::move(request)));
  EXPECT_EQ(response.id, "an id longer than what fits into a small string");
  EXPECT_EQ(response.device, DeviceId::host(0));
  EXPECT_EQ(response.lane, 0);
  EXPECT_EQ(response.batch_items, 3);
  EXPECT_LE(before, response.times.submitted);
  EXPECT_LE(response.times.submitted, response.times.picked);
  EXPECT_LE(response.times.picked, response.times.staged);
  EXPECT_LE(response.times.staged, response.times.completed);
  EXPECT_LE(response.times.completed, Clock::now());
}

TEST(Inference, TimesCountFromTheIntendedTimeWhereThereIsOne) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity")));
  const Numbers numbers;
  Request request = numbers.request();
  request.intended = Clock::now() - seconds(5);
  const TimePoint intended = *request.intended;
  EXPECT_EQ(must(model.infer(std::move(request))).times.submitted, intended);
  EXPECT_GE(model.statistics().phase(Phase::total).max(), 4'900'000'000u);
}

class EveryWayToWait : public ::testing::TestWithParam<WaitMode> {};

TEST_P(EveryWayToWait, RequestsAreAnswered) {
  EngineOptions options = host_devices(2);
  options.wait = GetParam();
  Engine engine = make_engine(options);
  ModelConfig config = one_at_a_time("reference:busy?batch_us=100");
  config.batching.max_items = 4;
  config.batching.max_delay = microseconds(200);
  const Model model = must(engine.load(config));
  Requests requests(model);
  for (int i = 0; i < 50; ++i) requests.submit(1 + i % 3);
  requests.batches();
  const Numbers numbers;
  expect_echo(model.infer(numbers.request()), numbers);  // after it slept
  must(engine.unload("busy"));
}

std::string name_of(const ::testing::TestParamInfo<WaitMode>& info) {
  constexpr const char* kNames[] = {"Automatic", "Hybrid", "Spin", "Block"};
  return kNames[static_cast<int>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Inference, EveryWayToWait,
                         ::testing::Values(WaitMode::automatic, WaitMode::hybrid, WaitMode::spin,
                                           WaitMode::block),
                         name_of);

TEST(Inference, AMovedEngineGoesOn) {
  Engine first = make_engine();
  const Model model = must(first.load(from("reference:identity")));
  Engine second = std::move(first);
  const Numbers numbers;
  expect_echo(model.infer(numbers.request()), numbers);
  EXPECT_THAT(second.model_names(), ElementsAre("identity"));
  Engine third = make_engine();
  third = std::move(second);
  expect_echo(model.infer(numbers.request()), numbers);
}

}  // namespace
}  // namespace millrace::testing
