// Whatever a caller gets wrong is one clear error, at once, and changes nothing.
#include <cmath>
#include <limits>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;

// ----------------------------------------------------------------------------------------------------------
// requests

// A model of one input [N,4] FP32 and at most 8 items.
class BadRequests : public ::testing::Test {
 protected:
  BadRequests() {
    ModelConfig config = named("m", "reference:identity?shape=4");
    config.batching.max_items = 8;
    model_ = must(engine_.load(config));
  }
  ~BadRequests() override {
    // Nothing came of it: no request was counted, and the model works.
    EXPECT_EQ(model_.statistics().requests, 0u);
    Request request = good();
    const Result<Response> response = model_.infer(std::move(request));
    EXPECT_TRUE(response.ok()) << text_of(response);
  }
  Request good() const {
    Request request;
    request.inputs.push_back({"input", view(), {}});
    return request;
  }
  TensorView view() const { return TensorView::of(values_.data(), {2, 4}); }
  // With another tensor in place of the input.
  void refuse(const TensorView& instead, std::initializer_list<std::string_view> words,
              ErrorCode code = ErrorCode::invalid_argument) {
    Request request = good();
    request.inputs[0].view = instead;
    refuse(std::move(request), words, code);
  }
  void refuse(Request request, std::initializer_list<std::string_view> words,
              ErrorCode code = ErrorCode::invalid_argument) {
    Future future = model_.submit(std::move(request));
    EXPECT_TRUE(future.ready()) << "at once";
    expect_error(get(future), code, words);
  }

  const std::vector<float> values_ = std::vector<float>(64, 1.0F);
  Engine engine_ = make_engine();
  Model model_;
};

TEST_F(BadRequests, WrongInputs) {
  refuse(Request(), {"\"m\"", "1 inputs", "\"input\"", "got 0"});
  Request request = good();
  request.inputs.push_back(request.inputs[0]);
  refuse(request, {"1 inputs", "got 2"});
  request = good();
  request.inputs[0].name = "inptu";
  refuse(request, {"\"input\"", "\"inptu\""});
  request.inputs[0].name = "";
  refuse(request, {"\"input\"", "\"\""});
}

TEST_F(BadRequests, WrongTypesAndShapes) {
  refuse(TensorView::of(DataType::fp16, values_.data(), {2, 4}),
         {"\"m\"", "\"input\"", "expected [N,4] FP32", "got [2,4] FP16", "millrace inspect"});
  refuse(TensorView::of(values_.data(), {4}), {"expected [N,4] FP32", "got [4]"});
  refuse(TensorView::of(values_.data(), {1, 2, 4}), {"got [1,2,4]"});
  refuse(TensorView::of(values_.data(), {}), {"got []"});
  refuse(TensorView::of(values_.data(), {2, 5}), {"expected [N,4] FP32", "got [2,5]"});
  refuse(TensorView::of(values_.data(), {2, 0}), {"got [2,0]"});
}

TEST_F(BadRequests, WrongNumbersOfItems) {
  refuse(TensorView::of(values_.data(), {0, 4}), {"0 items", "1 to 8"});
  refuse(TensorView::of(values_.data(), {9, 4}), {"9 items", "at most 8", "split the request"});
  refuse(TensorView::of(values_.data(), {-1, 4}), {"\"input\""});
  refuse(TensorView::of(values_.data(), {-5, 4}), {"\"input\""});
}

TEST_F(BadRequests, SizesThatOverflow) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  refuse(TensorView::of(values_.data(), {kHuge, 4}), {"\"input\""});
  refuse(TensorView::of(values_.data(), {kHuge / 4, 4}), {"\"input\""});
  refuse(TensorView::of(values_.data(), {std::int64_t{1} << 32, std::int64_t{1} << 32}),
         {"\"input\""});
  refuse(TensorView::of(values_.data(), {std::numeric_limits<std::int64_t>::min(), 4}),
         {"\"input\""});
}

TEST_F(BadRequests, WrongMemory) {
  refuse(TensorView::of(DataType::fp32, nullptr, {2, 4}), {"\"input\""});
  TensorView strided = view();
  strided.strides = {4};
  refuse(strided, {"\"input\""});
  strided.strides = {4, -1};
  refuse(strided, {"\"input\"", "contiguous copy"}, ErrorCode::unsupported);
  TensorView elsewhere = view();
  elsewhere.device = DeviceId::cuda(3);
  refuse(elsewhere, {"\"input\"", "cuda:3"});
}

TEST_F(BadRequests, WrongOutputs) {
  std::vector<float> target(8);
  const auto with = [this](RequestedOutput output) {
    Request request = good();
    request.outputs.push_back(std::move(output));
    return request;
  };
  refuse(with(placed("other", OutputPlacement::automatic)), {"no output \"other\"", "\"output\""});
  refuse(with(into("output", TensorView::of(target.data(), {7}))),
         {"\"output\"", "at least 32 bytes", "got 28"});
  refuse(with(into("output", TensorView::of(DataType::int32, target.data(), {8}))),
         {"expected FP32", "got INT32"});
  refuse(with(into("output", TensorView::of(DataType::fp32, nullptr, {8}))), {"output"});
  refuse(with(into("output", TensorView::of(target.data(), {-1}))), {"output"});
  TensorView target_view = TensorView::of(target.data(), {2, 4});
  target_view.strides = {1, 2};
  refuse(with(into("output", target_view)), {"contiguous"});
  target_view = TensorView::of(DataType::fp32, target.data(), {2, 4}, DeviceId::cuda(0));
  refuse(with(into("output", target_view)), {"cuda:0"});
  refuse(with(into("output", TensorView())), {"output"});
}

TEST_F(BadRequests, Sequences) {
  Request request = good();
  request.sequence.id = 7;
  refuse(std::move(request), {"sequence"}, ErrorCode::unsupported);
}

TEST_F(BadRequests, RaggedOnes) {
  const Model add = must(engine_.load(named("add", "reference:add?shape=4")));
  Request request;
  request.inputs.push_back({"a", TensorView::of(values_.data(), {2, 4}), {}});
  request.inputs.push_back({"b", TensorView::of(values_.data(), {3, 4}), {}});
  expect_error(get(add.submit(request)), ErrorCode::invalid_argument,
               {"\"add\"", "ragged", "\"a\" has 2", "\"b\" has 3"});
  request.inputs[1].name = "a";
  expect_error(get(add.submit(request)), ErrorCode::invalid_argument, {"\"b\""});
}

TEST_F(BadRequests, WrongBytes) {
  const Model texts = must(engine_.load(named("texts", "reference:identity?type=BYTES&shape=2")));
  const Tensor good_one = must(Tensor::of_strings(std::vector<std::string_view>{"a", "b"}, {1, 2}));
  Request request;
  request.inputs.push_back({"input", good_one.view(), {}});
  std::vector<float> target(8);
  Request targeted = request;
  targeted.outputs.push_back(into("output", TensorView::of(target.data(), {8})));
  expect_error(get(texts.submit(std::move(targeted))), ErrorCode::invalid_argument, {"BYTES"});
  Request descending = request;
  const std::uint64_t offsets[] = {5, 3, 9};
  descending.inputs[0].view.offsets = offsets;
  expect_error(get(texts.submit(std::move(descending))), ErrorCode::invalid_argument,
               {"\"input\""});
  Request missing = request;
  missing.inputs[0].view.offsets = nullptr;
  expect_error(get(texts.submit(std::move(missing))), ErrorCode::invalid_argument, {"\"input\""});
  EXPECT_TRUE(texts.infer(std::move(request)).ok());
}

TEST_F(BadRequests, WhatTheModelItselfRefuses) {
  const Log log;
  const Model add = must(engine_.load(named_one("add", "reference:add?shape=-1")));
  Request request;
  request.inputs.push_back({"a", TensorView::of(values_.data(), {1, 4}), {}});
  request.inputs.push_back({"b", TensorView::of(values_.data(), {1, 5}), {}});
  expect_error(get(add.submit(request)), ErrorCode::invalid_argument,
               {"\"add\"", "[1,4]", "[1,5]"});
  request.inputs[1].view.shape = {1, 4};
  EXPECT_TRUE(add.infer(std::move(request)).ok());
}

// -----------------------------------------------------------------------------------------------------
// configurations

class BadModels : public ::testing::Test {
 protected:
  BadModels() { must(engine_.load(named("there", "reference:identity"))); }
  ~BadModels() override {
    // The engine is as it was.
    EXPECT_THAT(engine_.model_names(), ElementsAre("there"));
    EXPECT_EQ(engine_.device_reports()[0].memory.used_bytes, used_);
    const Numbers numbers;
    expect_echo(must(engine_.find("there")).infer(numbers.request()), numbers);
  }
  void refuse(const std::function<void(ModelConfig&)>& spoil,
              std::initializer_list<std::string_view> words,
              ErrorCode code = ErrorCode::invalid_argument) {
    ModelConfig config = named("m", "reference:identity");
    spoil(config);
    expect_error(engine_.load(config), code, words);
  }
  void refuse_path(const std::string& path, std::initializer_list<std::string_view> words,
                   ErrorCode code = ErrorCode::invalid_argument) {
    SCOPED_TRACE(path);
    refuse([&](ModelConfig& config) { config.path = path; }, words, code);
  }

  Engine engine_ = make_engine();
  const std::size_t used_ = [this] {
    must(engine_.load(named("there", "reference:identity")));
    const std::size_t used = engine_.device_reports()[0].memory.used_bytes;
    must(engine_.unload("there"));
    return used;
  }();
};

TEST_F(BadModels, ZeroAndNegativeCounts) {
  refuse([](ModelConfig& config) { config.lanes = -1; }, {"\"m\"", "lanes is -1"});
  refuse([](ModelConfig& config) { config.lanes = 257; }, {"lanes is 257", "256"});
  refuse([](ModelConfig& config) { config.slots = 0; }, {"slots is 0", "1 to 8"});
  refuse([](ModelConfig& config) { config.slots = -3; }, {"slots is -3"});
  refuse([](ModelConfig& config) { config.slots = 9; }, {"slots is 9"});
  refuse([](ModelConfig& config) { config.batching.max_items = -1; }, {"max_items is -1"});
  refuse([](ModelConfig& config) { config.batching.max_delay = -microseconds(1); },
         {"max_delay is negative"});
  refuse([](ModelConfig& config) { config.batching.preferred_items = {0}; },
         {"preferred", "0 items"});
  refuse(
      [](ModelConfig& config) {
        config.batching.preferred_items = {4, -2};
      },
      {"preferred", "-2 items"});
  refuse([](ModelConfig& config) { config.batching.preferred_items = {33}; },
         {"preferred", "33 items", "1..32"});
  refuse([](ModelConfig& config) { config.limits.max_requests = 0; }, {"max_requests is 0"});
  refuse([](ModelConfig& config) { config.limits.max_bytes = 0; }, {"max_bytes is 0"});
  refuse([](ModelConfig& config) { config.limits.default_timeout = -seconds(1); },
         {"default_timeout is negative"});
  refuse([](ModelConfig& config) { config.hang_timeout = -seconds(1); },
         {"hang_timeout is negative"});
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    refuse([weight](ModelConfig& config) { config.weight = weight; }, {"weight is "});
  }
}

TEST_F(BadModels, SizesThatOverflow) {
  refuse(
      [](ModelConfig& config) {
        config.batching.max_items = std::numeric_limits<std::int64_t>::max();
      },
      {"\"m\"", "max_items is 9223372036854775807"});
  refuse(
      [](ModelConfig& config) {
        config.path = "reference:identity?shape=1048576x1048576";
        config.batching.max_items = 1 << 24;
      },
      {"\"m\"", "does not fit in 63 bits"});
  refuse(
      [](ModelConfig& config) {
        config.path = "reference:identity?shape=1048576x4096";
        config.batching.max_items = 1 << 24;
      },
      {"\"m\"", "16777216 items", "more than any device has", "lower batching.max_items"});
  refuse(
      [](ModelConfig& config) {
        config.path = "reference:identity?shape=1099511627776x1024";
        config.batching.max_items = 1 << 20;
      },
      {"\"m\""});
  refuse([](ModelConfig& config) { config.path = "reference:identity?lane_bytes=16EiB"; },
         {"\"m\"", "lane_bytes"});
  refuse(
      [](ModelConfig& config) {
        config.path = "reference:identity?lane_bytes=4611686018427387904";
        config.lanes = 256;
      },
      {"\"m\"", "needed "}, ErrorCode::out_of_memory);
  refuse(
      [](ModelConfig& config) {
        config.path = "reference:identity?wants_prepare=1&prepared_bytes=4611686018427387904";
      },
      {"\"m\"", "needed "}, ErrorCode::out_of_memory);
  refuse(
      [](ModelConfig& config) {
        config.path = "reference:identity?weights_bytes=4611686018427387904";
      },
      {"\"m\"", "needed "}, ErrorCode::out_of_memory);
}

TEST_F(BadModels, ABatchOverTheModelsMaximum) {
  refuse(
      [](ModelConfig& config) {
        config.path = "reference:identity?max_items=4";
        config.batching.max_items = 5;
      },
      {"\"m\"", "max_items is 5", "at most 4"});
  refuse(
      [](ModelConfig& config) {
        config.path = "reference:identity?batched=0";
        config.batching.max_items = 2;
      },
      {"at most 1", "no batch dimension"});
}

TEST_F(BadModels, UnknownNames) {
  refuse([](ModelConfig& config) { config.backend = "magic"; },
         {"\"m\"", "magic", "reference", "onnxruntime"}, ErrorCode::not_found);
  refuse([](ModelConfig& config) { config.devices = {DeviceId::host(7)}; },
         {"\"m\"", "host:7", "host:0"}, ErrorCode::not_found);
  refuse([](ModelConfig& config) { config.devices = {DeviceId::cuda(0)}; }, {"cuda:0", "host:0"},
         ErrorCode::not_found);
  refuse([](ModelConfig& config) { config.devices = {DeviceId::host_memory()}; }, {"host"},
         ErrorCode::not_found);
  refuse(
      [](ModelConfig& config) {
        config.devices = {DeviceId::host(0), DeviceId::host(0)};
      },
      {"host:0", "twice"});
  refuse([](ModelConfig& config) { config.options["colour"] = "red"; }, {"\"m\"", "colour"});
  refuse([](ModelConfig& config) { config.name = "there"; }, {"\"there\"", "loaded already"});
  refuse([](ModelConfig& config) { config = ModelConfig(); }, {"name or a path"});
  expect_error(engine_.find("nobody"), ErrorCode::not_found, {"\"nobody\""});
  expect_error(engine_.unload("nobody"), ErrorCode::not_found, {"\"nobody\""});
}

TEST_F(BadModels, WrongReferenceModels) {
  refuse_path("reference:unheard_of", {"\"m\"", "unheard_of", "identity"});
  refuse_path("reference:", {"\"m\""});
  refuse_path("reference:identity?colour=red", {"colour", "shape"});
  refuse_path("reference:identity?lanes=0", {"lanes"});
  refuse_path("reference:identity?lanes=-2", {"lanes", "-2"});
  refuse_path("reference:identity?shape=-7", {"shape"});
  refuse_path("reference:identity?type=FP12", {"FP12"});
  refuse_path("reference:busy?batch_us=-1", {"batch_us", "-1"});
  refuse_path("reference:fail?at=0", {"at", "0"});
  refuse_path("reference:identity?batched=0&max_items=3", {"batched"});
}

TEST_F(BadModels, FilesThatAreNotThereOrNoModels) {
  refuse_path("no/such/file.reference.json", {"\"m\"", "no/such/file.reference.json"},
              ErrorCode::not_found);
  refuse(
      [](ModelConfig& config) {
        config.content = std::make_shared<const std::string>("{\"kind\": \"identity\"");
      },
      {"\"m\"", "JSON"});
  refuse(
      [](ModelConfig& config) {
        config.content = std::make_shared<const std::string>("{\"kind\": 5}");
      },
      {"\"m\"", "kind"});
  refuse([](ModelConfig& config) { config.content = std::make_shared<const std::string>("{}"); },
         {"kind"});
  refuse(
      [](ModelConfig& config) {
        config.backend = "reference";
        config.content = std::make_shared<const std::string>();
      },
      {"\"m\""}, ErrorCode::unsupported);
}

// ------------------------------------------------------------------------------------------------------------
// engines

TEST(BadEngines, ZeroAndNegativeCounts) {
  const auto refuse = [](const std::function<void(EngineOptions&)>& spoil,
                         std::initializer_list<std::string_view> words,
                         ErrorCode code = ErrorCode::invalid_argument) {
    EngineOptions options = host_devices();
    spoil(options);
    expect_error(Engine::create(options), code, words);
  };
  refuse([](EngineOptions& options) { options.callback_threads = 0; }, {"callback_threads is 0"});
  refuse([](EngineOptions& options) { options.callback_threads = -1; }, {"callback_threads is -1"});
  refuse([](EngineOptions& options) { options.max_batches_in_flight = -1; },
         {"max_batches_in_flight is -1"});
  refuse([](EngineOptions& options) { options.sample_every = -1; }, {"sample_every is -1"});
  refuse([](EngineOptions& options) { options.cpu_threads = -1; }, {"cpu_threads is -1"});
  refuse([](EngineOptions& options) { options.shutdown_timeout = -seconds(1); },
         {"shutdown_timeout"});
  refuse(
      [](EngineOptions& options) {
        options.devices.devices = {"host:0", "host:0"};
      },
      {"host:0"});
  refuse([](EngineOptions& options) { options.devices.devices = {"toaster"}; }, {"toaster"});
  refuse([](EngineOptions& options) { options.devices.devices = {"host:-1"}; }, {"host:-1"});
  for (const double slowness : {0.0, -2.0, std::nan("")}) {
    refuse(
        [slowness](EngineOptions& options) {
          HostDeviceOptions host;
          host.slowness = slowness;
          options.devices.host = {host};
        },
        {"slowness"});
  }
}

}  // namespace
}  // namespace millrace::testing
