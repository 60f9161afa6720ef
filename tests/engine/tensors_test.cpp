// Where inputs come from and outputs go, and how long their memory is held.
#include <bit>
#include <cstdint>
#include <deque>
#include <optional>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

class Tensors : public ::testing::Test {
 protected:
  void load(const std::string& path) { model_ = must(engine_->load(one_at_a_time(path))); }
  // Holds the lane shut, so that what is submitted until `open` runs as one batch.
  void hold() {
    held_ = model_.submit(first_.request(gate_->event()));
    ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  }
  void open() {
    gate_->open();
    ASSERT_TRUE(get(held_).ok());
  }

  std::optional<Engine> engine_ = make_engine();
  std::optional<Gate> gate_ = std::optional<Gate>(std::in_place, engine_->devices()[0]);
  const Numbers first_{1, -1};
  Model model_;
  Future held_;
  std::deque<std::vector<float>> targets_;
};

// ------------------------------------------------------------------------------------------------------------
// inputs

TEST_F(Tensors, AnInputThatIsTheWholeBatchIsBoundWhereItLies) {
  load("reference:identity");
  const Numbers numbers(3);
  expect_echo(model_.infer(numbers.request()), numbers);
  EXPECT_EQ(model_.statistics().bound_in_place, 1u);

  hold();
  Requests requests(model_);
  requests.submit();
  requests.submit();
  open();
  EXPECT_THAT(requests.batches(), ElementsAre(2, 2));
  EXPECT_EQ(model_.statistics().bound_in_place, 2u)
      << "the one that was held, not the two that shared a batch";
  EXPECT_EQ(model_.statistics().batches, 3u);
}

TEST_F(Tensors, AMisalignedInputIsCopied) {
  load("reference:identity");
  const Numbers numbers(2);
  std::vector<std::byte> memory(numbers.values().size() * sizeof(float) + 1);
  std::memcpy(memory.data() + 1, numbers.values().data(), memory.size() - 1);
  Request request;
  request.inputs.push_back(
      {"input", TensorView::of(DataType::fp32, memory.data() + 1, numbers.shape()), {}});
  expect_echo(model_.infer(std::move(request)), numbers);
  EXPECT_EQ(model_.statistics().bound_in_place, 0u);
}

TEST_F(Tensors, AnInputIsReadOnlyOnceItIsReady) {
  for (const char* path :
       {"reference:identity", "reference:busy?batch_us=0&own_stream=1",
        "reference:add?fixed_addresses=1&only_prepared=1", "reference:checksum?blocking=1"}) {
    SCOPED_TRACE(path);
    const Model model = must(engine_->load(one_at_a_time(path)));
    Gate gate(engine_->devices()[0]);
    Numbers late(1, 5);
    const std::vector<float> expected = late.values();
    std::ranges::fill(late.values(), -1.0F);
    Request request;
    for (const TensorInfo& input : model.info().inputs) {
      request.inputs.push_back({input.name, late.view(gate.event()), {}});
    }
    Future future = model.submit(std::move(request));
    EXPECT_FALSE(future.wait_until(Clock::now() + milliseconds(10)));
    late.values() = expected;
    gate.open();
    const Response response = must(get(future));
    const TensorView& output = response.outputs[0].view;
    if (output.type == DataType::uint32) {
      std::uint32_t sum = 0;
      for (const float value : expected) sum += std::bit_cast<std::uint32_t>(value);
      EXPECT_EQ(*output.as<std::uint32_t>(), sum);
    } else {
      std::vector<float> all = expected;
      if (model.info().inputs.size() == 2) {
        for (float& value : all) value *= 2;
      }
      EXPECT_EQ(floats(output), all);
    }
  }
}

TEST_F(Tensors, ALeaseOnAnInputIsHeldUntilItWasReadAndDroppedOnce) {
  load("reference:identity");
  const Numbers numbers;
  LeaseCount leases;
  Request request = numbers.request(gate_->event());
  request.inputs[0].lease = leases.lease();
  Future running = model_.submit(std::move(request));
  Request second = numbers.request();
  second.inputs[0].lease = leases.lease();
  Future queued = model_.submit(std::move(second));
  ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  EXPECT_EQ(leases.released(), 0);
  gate_->open();
  const Result<Response> first = get(running);
  expect_echo(first, numbers);
  const Result<Response> other = get(queued);
  expect_echo(other, numbers);
  EXPECT_EQ(leases.released(), 2) << "not held by the response";
}

TEST_F(Tensors, LeasesAreDroppedOnceHoweverARequestEnds) {
  ModelConfig config = one_at_a_time("reference:fail?every=1");
  config.limits.max_requests = 3;
  model_ = must(engine_->load(config));
  const Numbers numbers;
  const auto request = [&](LeaseCount& count) {
    Request leased = numbers.request();
    leased.inputs[0].lease = count.lease();
    std::vector<float>& target = targets_.emplace_back(16);
    leased.outputs.push_back(into("output", TensorView::of(target.data(), {1, 16}), count.lease()));
    return leased;
  };
  LeaseCount failed, cancelled, expired, refused, invalid, late;
  Request running = request(failed);
  running.inputs[0].view.ready = gate_->event();
  Future failing = model_.submit(std::move(running));
  ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  Future cancelling = model_.submit(request(cancelled));
  Request expires = request(expired);
  expires.deadline = Clock::now() + milliseconds(5);
  Future expiring = model_.submit(std::move(expires));
  Request passed = request(late);
  passed.deadline = Clock::now() - seconds(1);
  expect_error(get(model_.submit(std::move(passed))), ErrorCode::deadline_exceeded);
  EXPECT_EQ(late.released(), 2);
  expect_error(get(expiring), ErrorCode::deadline_exceeded);
  EXPECT_EQ(expired.released(), 2);
  EXPECT_TRUE(cancelling.cancel());
  expect_error(get(cancelling), ErrorCode::cancelled);
  EXPECT_EQ(cancelled.released(), 2);
  Requests fill(model_);
  for (int i = 0; i < 3; ++i) fill.submit();
  expect_error(get(model_.submit(request(refused))), ErrorCode::queue_full);
  EXPECT_EQ(refused.released(), 2);
  Request wrong = request(invalid);
  wrong.inputs[0].name = "wrong";
  expect_error(get(model_.submit(std::move(wrong))), ErrorCode::invalid_argument);
  EXPECT_EQ(invalid.released(), 2);
  EXPECT_EQ(failed.released(), 0);
  gate_->open();
  expect_error(get(failing), ErrorCode::internal);
  EXPECT_EQ(failed.released(), 2);
  for (std::size_t i = 0; i < 3; ++i) expect_error(get(fill[i]), ErrorCode::internal);
}

// -----------------------------------------------------------------------------------------------------------
// outputs

TEST_F(Tensors, OutputsLieInHostMemoryUnlessAskedForOtherwise) {
  load("reference:identity");
  const Numbers numbers(2);
  Response response = must(model_.infer(numbers.request()));
  EXPECT_EQ(response.outputs[0].view.device, DeviceId::host_memory());
  EXPECT_TRUE(response.outputs[0].lease);
  EXPECT_NE(response.outputs[0].view.data, numbers.values().data());

  Request request = numbers.request();
  request.outputs.push_back(placed("output", OutputPlacement::device));
  response = must(model_.infer(std::move(request)));
  EXPECT_EQ(response.outputs[0].view.device, DeviceId::host(0));
  EXPECT_TRUE(response.outputs[0].lease);
  must(response.outputs[0].view.ready.synchronize());
  EXPECT_EQ(floats(response.outputs[0].view), numbers.values());
}

TEST_F(Tensors, ResponsesOutliveTheirModelAndTheirEngine) {
  load("reference:identity");
  hold();
  const Numbers numbers[] = {Numbers(1, 1), Numbers(2, 100), Numbers(3, 200)};
  std::vector<Future> futures;
  for (const Numbers& each : numbers) futures.push_back(model_.submit(each.request()));
  open();
  std::vector<Result<Response>> responses;
  responses.reserve(futures.size());
  for (Future& future : futures) responses.push_back(get(future));
  must(engine_->unload("identity"));
  expect_echo(responses[0], numbers[0]);
  model_ = Model();
  gate_.reset();
  engine_.reset();
  expect_echo(responses[1], numbers[1]);
  responses.erase(responses.begin());  // they share a block
  expect_echo(responses[1], numbers[2]);
}

TEST_F(Tensors, AResponseThatIsHeldKeepsItsMemory) {
  load("reference:identity");
  std::vector<Numbers> numbers;
  std::vector<Result<Response>> responses;
  for (int i = 0; i < 50; ++i) {
    numbers.emplace_back(1 + i % 4, static_cast<float>(100 * i));
    responses.push_back(model_.infer(numbers.back().request()));
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) expect_echo(responses[i], numbers[i]);
}

TEST_F(Tensors, ATargetOfTheWholeBatchIsWrittenInPlace) {
  load("reference:identity");
  const Numbers numbers(2);
  std::vector<float> target(40, -1.0F);  // more than is needed
  Request request = numbers.request();
  LeaseCount leases;
  request.outputs.push_back(into("output", TensorView::of(target.data(), {40}), leases.lease()));
  {
    const Response response = must(model_.infer(std::move(request)));
    const NamedTensor& output = response.outputs[0];
    EXPECT_EQ(output.view.data, target.data());
    EXPECT_EQ(output.view.shape, numbers.shape()) << "that of the output, not of the memory";
    EXPECT_EQ(output.view.device, DeviceId::host_memory());
    EXPECT_EQ(floats(output.view), numbers.values());
    EXPECT_EQ(leases.released(), 0) << "the target's lease comes back with the response";
  }
  EXPECT_EQ(leases.released(), 1);
  EXPECT_THAT(std::vector<float>(target.begin() + 32, target.end()), Each(-1.0F));
}

TEST_F(Tensors, EachRequestOfABatchHasItsOwnTarget) {
  load("reference:identity");
  hold();
  const Numbers a(1, 1), b(3, 100), c(2, 200);
  std::vector<float> target_a(16), target_c(32);
  Request into_a = a.request();
  into_a.outputs.push_back(into("output", TensorView::of(target_a.data(), {1, 16})));
  Request into_c = c.request();
  into_c.outputs.push_back(into("output", TensorView::of(target_c.data(), {2, 16})));
  Future first = model_.submit(std::move(into_a));
  Future second = model_.submit(b.request());
  Future third = model_.submit(std::move(into_c));
  open();
  const Response response = must(get(first));
  EXPECT_EQ(response.batch_items, 6);
  EXPECT_EQ(response.outputs[0].view.data, target_a.data());
  EXPECT_EQ(target_a, a.values());
  expect_echo(second, b);
  EXPECT_EQ(must(get(third)).outputs[0].view.data, target_c.data());
  EXPECT_EQ(target_c, c.values());
}

TEST_F(Tensors, ATargetIsWrittenOnlyOnceItIsReady) {
  load("reference:identity");
  const Numbers numbers;
  std::vector<float> target(16);
  Request request = numbers.request();
  TensorView view = TensorView::of(target.data(), {1, 16});
  view.ready = gate_->event();
  request.outputs.push_back(into("output", view));
  Future future = model_.submit(std::move(request));
  EXPECT_FALSE(future.wait_until(Clock::now() + milliseconds(10)));
  std::ranges::fill(target, -1.0F);  // still ours
  gate_->open();
  ASSERT_TRUE(get(future).ok());
  EXPECT_EQ(target, numbers.values());
}

TEST_F(Tensors, SeveralOutputsGoToSeveralPlaces) {
  load("reference:identity?inputs=3");
  const Numbers zero(2, 0), one(2, 100), two(2, 200);
  std::vector<float> target(32);
  for (const bool share : {false, true}) {
    SCOPED_TRACE(share);
    Gate gate(engine_->devices()[0]);
    const auto inputs = [&](EventRef ready = {}) {
      Request request;
      request.inputs.push_back({"input0", zero.view(ready), {}});
      request.inputs.push_back({"input1", one.view(), {}});
      request.inputs.push_back({"input2", two.view(), {}});
      return request;
    };
    Future held, other;
    if (share) {
      held = model_.submit(inputs(gate.event()));
      ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
      other = model_.submit(inputs());
    }
    Request request = inputs();
    request.outputs.push_back(placed("output2", OutputPlacement::device));
    request.outputs.push_back(into("output0", TensorView::of(target.data(), {2, 16})));
    request.outputs.push_back(placed("output1", OutputPlacement::automatic));
    std::ranges::fill(target, -1.0F);
    Future future = model_.submit(std::move(request));
    gate.open();
    const Response response = must(get(future));
    EXPECT_EQ(response.batch_items, share ? 4 : 2);
    EXPECT_EQ(floats(response.outputs[0].view), two.values());
    EXPECT_EQ(response.outputs[0].view.device, DeviceId::host(0));
    EXPECT_EQ(response.outputs[1].view.data, target.data());
    EXPECT_EQ(target, zero.values());
    EXPECT_EQ(floats(response.outputs[2].view), one.values());
    EXPECT_EQ(response.outputs[2].view.device, DeviceId::host_memory());
    if (share) {
      ASSERT_TRUE(get(held).ok());
      const Response all = must(get(other));
      EXPECT_EQ(floats(all.find("output2")->view), two.values());
    }
  }
}

// ----------------------------------------------------------------------------------------------------
// sized late, BYTES

TEST_F(Tensors, OutputsSizedLateAreSharedOut) {
  load("reference:identity?output_sized_late=1");
  hold();
  const Numbers a(1, 1), b(2, 100);
  std::vector<float> target(32);
  Request into_target = b.request();
  into_target.outputs.push_back(into("output", TensorView::of(target.data(), {2, 16})));
  Future first = model_.submit(a.request());
  Future second = model_.submit(std::move(into_target));
  open();
  expect_echo(first, a);
  const Response response = must(get(second));
  EXPECT_EQ(response.batch_items, 3);
  EXPECT_EQ(response.outputs[0].view.data, target.data());
  EXPECT_EQ(target, b.values());
}

TEST_F(Tensors, OutputsMayDependOnTheData) {
  load("reference:nonzero?type=INT32&shape=4");
  const std::vector<std::int32_t> a = {0, 7, 0, 0}, b = {1, 1, 0, 1}, none = {0, 0, 0, 0};
  const auto request = [](const std::vector<std::int32_t>& values, EventRef ready = {}) {
    Request asked;
    TensorView view = TensorView::of(values.data(), {1, 4});
    view.ready = ready;
    asked.inputs.push_back({"input", view, {}});
    return asked;
  };
  const auto indices = [](const Response& response) {
    const TensorView& view = response.outputs[0].view;
    const auto count = static_cast<std::size_t>(must(element_count(view.shape)));
    return std::vector<std::int64_t>(view.as<std::int64_t>(), view.as<std::int64_t>() + count);
  };
  Future held = model_.submit(request(none, gate_->event()));
  ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  Future first = model_.submit(request(a));
  Future second = model_.submit(request(b));
  gate_->open();
  EXPECT_EQ(must(get(held)).outputs[0].view.shape, (Shape{1, 0}));
  EXPECT_THAT(indices(must(get(first))), ElementsAre(1, -1, -1))
      << "filled up to the longest of the batch";
  EXPECT_THAT(indices(must(get(second))), ElementsAre(0, 1, 3));
}

class Bytes : public Tensors {
 protected:
  static Request request(const Tensor& tensor, EventRef ready = {}) {
    Request asked;
    TensorView view = tensor.view();
    view.ready = ready;
    asked.inputs.push_back({"input", view, tensor.lease()});
    return asked;
  }
  static Tensor strings(std::initializer_list<std::string_view> values) {
    return must(Tensor::of_strings(values, {static_cast<std::int64_t>(values.size() / 2), 2}));
  }
  static std::vector<std::string> texts(const Response& response) {
    const NamedTensor& output = response.outputs[0];
    const Tensor tensor(output.view, output.lease);
    std::vector<std::string> values;
    for (std::int64_t i = 0; i < must(element_count(output.view.shape)); ++i) {
      values.emplace_back(tensor.string_at(i));
    }
    return values;
  }
};

TEST_F(Bytes, AreGatheredAndSharedOut) {
  load("reference:identity?type=BYTES&shape=2");
  const std::string long_text(10000, 'x');
  const Tensor a = strings({"one", ""}),
               b = strings({"", "", long_text, std::string_view("\0z", 2)}),
               c = strings({"five", "six"});
  EXPECT_THAT(texts(must(model_.infer(request(b)))),
              ElementsAre("", "", long_text, std::string("\0z", 2)));
  Future held = model_.submit(request(a, gate_->event()));
  ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  Future first = model_.submit(request(c));
  Future second = model_.submit(request(b));
  Future third = model_.submit(request(a));
  gate_->open();
  EXPECT_THAT(texts(must(get(held))), ElementsAre("one", ""));
  const Response response = must(get(first));
  EXPECT_EQ(response.batch_items, 4);
  EXPECT_THAT(texts(response), ElementsAre("five", "six"));
  EXPECT_THAT(texts(must(get(second))), ElementsAre("", "", long_text, std::string("\0z", 2)));
  EXPECT_THAT(texts(must(get(third))), ElementsAre("one", ""));
}

TEST_F(Bytes, GoBesideNumbers) {
  load("reference:identity?inputs=2&type=FP32,BYTES&shape=2");
  const std::vector<float> numbers = {1, 2};
  const Tensor text = strings({"a", "bc"});
  const auto both = [&](EventRef ready = {}) {
    Request asked;
    TensorView view = TensorView::of(numbers.data(), {1, 2});
    view.ready = ready;
    asked.inputs.push_back({"input0", view, {}});
    asked.inputs.push_back({"input1", text.view(), text.lease()});
    asked.outputs.push_back(placed("output1", OutputPlacement::automatic));
    asked.outputs.push_back(placed("output0", OutputPlacement::automatic));
    return asked;
  };
  Future held = model_.submit(both(gate_->event()));
  ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  Future first = model_.submit(both());
  Future second = model_.submit(both());
  gate_->open();
  for (Future* future : {&held, &first, &second}) {
    const Response response = must(get(*future));
    EXPECT_THAT(texts(response), ElementsAre("a", "bc"));
    EXPECT_EQ(floats(response.outputs[1].view), numbers);
  }
}

TEST_F(Bytes, OutliveTheirEngine) {
  load("reference:identity?type=BYTES&shape=2");
  const Tensor a = strings({"one", "two"});
  const Response response = must(model_.infer(request(a)));
  model_ = Model();
  gate_.reset();
  engine_.reset();
  EXPECT_THAT(texts(response), ElementsAre("one", "two"));
}

}  // namespace
}  // namespace millrace::testing
