// Runs prepared ahead for certain sizes and addresses, as captured graphs are.
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

ModelConfig prepared(const std::string& options, std::int64_t max_items = 8) {
  ModelConfig config = one_at_a_time("reference:identity?" + options);
  config.batching.max_items = max_items;
  return config;
}

TEST(Prepared, PowersOfTwoPreferredSizesAndTheMaximumArePrepared) {
  Engine engine = make_engine();
  ModelConfig config = prepared("wants_prepare=1", 12);
  config.batching.preferred_items = {3, 8};
  EXPECT_EQ(must(engine.load(config)).info().placements[0].prepared_shapes, 6);  // 1 2 3 4 8 12
  config.name = "one";
  config.batching = batching(1);
  EXPECT_EQ(must(engine.load(config)).info().placements[0].prepared_shapes, 1);
  EXPECT_EQ(
      must(engine.load(named("none", "reference:identity"))).info().placements[0].prepared_shapes,
      0);
}

TEST(Prepared, ABatchIsPaddedUpToAPreparedSize) {
  for (const char* options :
       {"only_prepared=1", "only_prepared=1&fixed_addresses=1", "only_prepared=1&own_stream=1",
        "only_prepared=1&blocking=1&fixed_addresses=1"}) {
    SCOPED_TRACE(options);
    Engine engine = make_engine();
    const Model model = must(engine.load(prepared(options)));
    for (std::int64_t items = 1; items <= 8; ++items) {
      const Numbers numbers(items, static_cast<float>(100 * items));
      const Result<Response> response = model.infer(numbers.request());
      expect_echo(response, numbers);
      EXPECT_EQ(response->batch_items, items) << "padding is not counted";
    }
    const ModelStatistics statistics = model.statistics();
    EXPECT_EQ(statistics.batches, 8u);
    EXPECT_EQ(statistics.prepared_batches, 8u);
    EXPECT_EQ(statistics.items, 36u);
  }
}

TEST(Prepared, ExactSizesRunAsPreparedThoughTheLaneCanDoWithout) {
  Engine engine = make_engine();
  const Model model = must(engine.load(prepared("wants_prepare=1")));
  for (const std::int64_t items : {1, 2, 4, 8, 4}) {
    const Numbers numbers(items);
    expect_echo(model.infer(numbers.request()), numbers);
  }
  EXPECT_EQ(model.statistics().prepared_batches, 5u);
  for (const std::int64_t items : {3, 5, 7}) {  // either way
    const Numbers numbers(items);
    expect_echo(model.infer(numbers.request()), numbers);
  }
}

TEST(Prepared, OthersAreNeverCountedAsPrepared) {
  Engine engine = make_engine();
  const Model model = must(engine.load(from("reference:identity")));
  const Numbers numbers;
  expect_echo(model.infer(numbers.request()), numbers);
  EXPECT_EQ(model.statistics().prepared_batches, 0u);
}

std::uint64_t run_and_count(const Model& model, EagerReason reason) {
  for (const std::int64_t items : {1, 3, 4}) {
    const Numbers numbers(items);
    expect_echo(model.infer(numbers.request()), numbers);
  }
  const ModelStatistics statistics = model.statistics();
  EXPECT_EQ(statistics.eager(), statistics.eager(reason)) << "for that reason alone";
  return statistics.eager(reason);
}

TEST(Prepared, BatchesThatAreNoGraphsAreCountedWhereGraphsWereAskedFor) {
  Engine engine = make_engine();
  const auto load = [&](const char* name, const std::string& options) {
    ModelConfig config = prepared(options, 4);
    config.name = name;
    return must(engine.load(config));
  };
  const Model captured = load("captured", "graphs=1&only_prepared=1");
  EXPECT_EQ(run_and_count(captured, EagerReason::cheaper), 0u);
  EXPECT_EQ(captured.info().placements[0].not_graphs, "");

  const Model broken = load("broken", "graphs=1&only_prepared=1&not_captured=1");
  EXPECT_EQ(run_and_count(broken, EagerReason::not_captured), 3u);
  EXPECT_EQ(broken.info().placements[0].not_graphs, "not captured, as asked");
  EXPECT_EQ(broken.statistics().prepared_batches, 3u);

  const Model unasked = load("unasked", "only_prepared=1&not_captured=1");
  EXPECT_EQ(run_and_count(unasked, EagerReason::not_captured), 0u);
  EXPECT_EQ(unasked.info().placements[0].not_graphs, "");

  const Model blocking = load("blocking", "graphs=1&blocking=1");
  EXPECT_EQ(run_and_count(blocking, EagerReason::blocking), 3u);
  EXPECT_EQ(blocking.info().placements[0].not_graphs,
            "the size of an output is known only after computing");

  const Model late = load("late", "graphs=1&wants_prepare=1&shape=-1");
  EXPECT_EQ(run_and_count(late, EagerReason::unknown_shapes), 3u);
  EXPECT_EQ(late.info().placements[0].not_graphs, "shapes are known only with a request");
}

TEST(Prepared, WhatRunsEagerlySinceThatIsCheaperIsCounted) {
  Engine engine = make_engine();
  // A batch of 5 takes 500 ms less than the 8 that it would be padded to.
  const std::string slow = "graphs=1&wants_prepare=1&item_us=20000";
  ModelConfig config = prepared(slow, 8);
  config.name = "cheaper";
  const Model cheaper = must(engine.load(config));
  config = prepared(slow + "&avoids_eager=1", 8);
  config.name = "always";
  const Model always = must(engine.load(config));
  const Numbers numbers(5);
  expect_echo(cheaper.infer(numbers.request()), numbers);
  expect_echo(always.infer(numbers.request()), numbers);
  EXPECT_EQ(cheaper.statistics().eager(EagerReason::cheaper), 1u);
  EXPECT_EQ(always.statistics().eager(), 0u);
  EXPECT_EQ(always.statistics().prepared_batches, 1u);
}

TEST(Prepared, FixedAddressesServeManyRequestsInSharedBatches) {
  Engine engine = make_engine();
  ModelConfig config = prepared("fixed_addresses=1&only_prepared=1&inputs=1");
  config.slots = 2;
  config.lanes = 2;
  const Model model = must(engine.load(config));
  // All slots are full and shut, then everything behind them goes through the same blocks.
  Gate gate(engine.devices()[0]);
  Requests requests(model);
  for (int i = 0; i < 4; ++i) requests.submit(8, gate.event());
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 4; }));
  for (int i = 0; i < 100; ++i) requests.submit(1 + i % 5);
  gate.open();
  requests.batches();
  const ModelStatistics statistics = model.statistics();
  EXPECT_EQ(statistics.prepared_batches, statistics.batches);
  EXPECT_EQ(statistics.bound_in_place, 0u);
}

TEST(Prepared, FixedAddressesFillTargetsAndLeaveResponsesAlone) {
  Engine engine = make_engine();
  const Model model = must(engine.load(prepared("fixed_addresses=1&only_prepared=1")));
  const Numbers a(2, 1), b(2, 100);
  std::vector<float> target(32, -1.0F);
  Request request = a.request();
  request.outputs.push_back(into("output", TensorView::of(target.data(), {2, 16})));
  const Response first = must(model.infer(std::move(request)));
  EXPECT_EQ(first.outputs[0].view.data, target.data());
  const Result<Response> second = model.infer(a.request());
  const Result<Response> third = model.infer(b.request());  // through the same blocks
  EXPECT_EQ(target, a.values());
  expect_echo(second, a);
  expect_echo(third, b);
}

TEST(Prepared, EveryTensorHasItsBlock) {
  Engine engine = make_engine();
  ModelConfig config = one_at_a_time("reference:add?fixed_addresses=1&only_prepared=1");
  config.batching.max_items = 4;
  const Model model = must(engine.load(config));
  const Numbers a(3, 1), b(3, 1000);
  for (int i = 0; i < 5; ++i) {
    Request request;
    request.inputs.push_back({"a", a.view(), {}});
    request.inputs.push_back({"b", b.view(), {}});
    const Response response = must(model.infer(std::move(request)));
    const std::vector<float> sum = floats(response.outputs[0].view);
    for (std::size_t k = 0; k < sum.size(); ++k) ASSERT_EQ(sum[k], a.values()[k] + b.values()[k]);
  }
}

TEST(Prepared, ASlowFirstRunIsOverBeforeTheFirstRequest) {
  Engine engine = make_engine();
  ModelConfig config = prepared("first_run_us=50000&only_prepared=1", 2);
  const Model model = must(engine.load(config));
  const Numbers numbers(2);
  expect_echo(model.infer(numbers.request()), numbers);
  EXPECT_LT(model.statistics().device_time, milliseconds(50))
      << "as long as a first run takes at least";
}

TEST(Prepared, ShapesThatAreNotKnownCannotBePrepared) {
  Engine engine = make_engine();
  const Model model =
      must(engine.load(one_at_a_time("reference:identity?shape=-1&only_prepared=1")));
  EXPECT_EQ(model.info().placements[0].prepared_shapes, 0);
  const std::vector<float> values(4);
  Request request;
  request.inputs.push_back({"input", TensorView::of(values.data(), {1, 4}), {}});
  expect_error(get(model.submit(std::move(request))), ErrorCode::unsupported, {"only as prepared"});
}

}  // namespace
}  // namespace millrace::testing
