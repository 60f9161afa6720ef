// Graphs of models that answer as one.
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;

EnsembleStep step(std::string model, std::map<std::string, std::string> inputs,
                  std::map<std::string, std::string> outputs) {
  EnsembleStep result;
  result.model = std::move(model);
  result.inputs = std::move(inputs);
  result.outputs = std::move(outputs);
  return result;
}

ModelConfig ensemble(std::vector<EnsembleStep> steps, std::vector<std::string> outputs) {
  ModelConfig config;
  config.name = "whole";
  config.ensemble = std::move(steps);
  config.ensemble_outputs = std::move(outputs);
  return config;
}

class Ensembles : public ::testing::Test {
 protected:
  void SetUp() override {
    must(engine_.load(named("copy", "reference:identity")));
    must(engine_.load(named("add", "reference:add")));
  }
  // output = (x + x) + x: a diamond, whose middle is used twice.
  static ModelConfig diamond() {
    return ensemble({step("add", {{"a", "left"}, {"b", "right"}}, {{"sum", "twice"}}),
                     step("copy", {{"input", "x"}}, {{"output", "left"}}),
                     step("copy", {{"input", "x"}}, {{"output", "right"}}),
                     step("add", {{"a", "twice"}, {"b", "left"}}, {{"sum", "output"}})},
                    {"output"});
  }
  static Request ask(const Numbers& numbers, EventRef ready = {}) {
    Request request;
    request.inputs.push_back({"x", numbers.view(ready), {}});
    return request;
  }
  static void expect_triple(const Result<Response>& response, const Numbers& numbers) {
    ASSERT_TRUE(response.ok()) << text_of(response);
    std::vector<float> expected = numbers.values();
    for (float& value : expected) value *= 3;
    EXPECT_EQ(floats(response->outputs.back().view), expected);
    EXPECT_EQ(response->outputs.back().name, "output");
  }

  Engine engine_ = make_engine(host_devices(2));
};

TEST_F(Ensembles, AChainAnswersAsOneModel) {
  const Model model =
      must(engine_.load(ensemble({step("copy", {{"input", "x"}}, {{"output", "y"}}),
                                  step("copy", {{"input", "y"}}, {{"output", "z"}})},
                                 {"z"})));
  const ModelInfo& info = model.info();
  EXPECT_EQ(info.backend, "ensemble");
  ASSERT_EQ(info.inputs.size(), 1u);
  EXPECT_EQ(info.inputs[0].name, "x");
  EXPECT_EQ(info.inputs[0].shape, (Shape{kDynamic, 16}));
  ASSERT_EQ(info.outputs.size(), 1u);
  EXPECT_EQ(info.outputs[0].name, "z");
  EXPECT_EQ(info.max_items, 32);
  const Numbers numbers(2);
  Request request = ask(numbers);
  request.id = "seven";
  const Response response = must(model.infer(std::move(request)));
  EXPECT_EQ(response.id, "seven");
  EXPECT_EQ(floats(response.outputs[0].view), numbers.values());
  EXPECT_EQ(response.outputs[0].name, "z");
  EXPECT_LE(response.times.submitted, response.times.completed);
}

TEST_F(Ensembles, ADiamondWaitsForBothOfItsArms) {
  const Model model = must(engine_.load(diamond()));
  const Numbers numbers(3);
  expect_triple(model.infer(ask(numbers)), numbers);
}

TEST_F(Ensembles, IntermediateTensorsMayBeAskedForToo) {
  ModelConfig config = diamond();
  config.ensemble_outputs = {"twice", "output"};
  const Model model = must(engine_.load(config));
  const Numbers numbers;
  const Response both = must(model.infer(ask(numbers)));
  ASSERT_EQ(both.outputs.size(), 2u);
  EXPECT_EQ(both.outputs[0].name, "twice");
  EXPECT_EQ(floats(both.outputs[0].view)[3], 2 * numbers.values()[3]);
  expect_triple(both, numbers);
  Request request = ask(numbers);
  request.outputs.push_back(placed("output", OutputPlacement::automatic));
  const Response one = must(model.infer(std::move(request)));
  ASSERT_EQ(one.outputs.size(), 1u);
  expect_triple(one, numbers);
}

TEST_F(Ensembles, OutputsGoWhereTheyAreAskedFor) {
  const Model model = must(engine_.load(diamond()));
  const Numbers numbers(2);
  std::vector<float> target(32);
  LeaseCount leases;
  Request request = ask(numbers);
  request.outputs.push_back(into("output", TensorView::of(target.data(), {2, 16}), leases.lease()));
  {
    const Response response = must(model.infer(std::move(request)));
    EXPECT_EQ(response.outputs[0].view.data, target.data());
    expect_triple(response, numbers);
    EXPECT_EQ(target[5], 3 * numbers.values()[5]);
  }
  EXPECT_TRUE(eventually([&] { return leases.released() == 1; }));
  request = ask(numbers);
  request.outputs.push_back(placed("output", OutputPlacement::device));
  EXPECT_EQ(must(model.infer(std::move(request))).outputs[0].view.device.kind, DeviceKind::host);
}

TEST_F(Ensembles, ALeaseOnAnInputIsHeldUntilTheLastStepHasReadIt) {
  must(engine_.load(named("slow", "reference:identity")));
  const Model model =
      must(engine_.load(ensemble({step("copy", {{"input", "x"}}, {{"output", "y"}}),
                                  step("slow", {{"input", "z"}}, {{"output", "w"}}),
                                  step("add", {{"a", "y"}, {"b", "w"}}, {{"sum", "output"}})},
                                 {"output"})));
  Gate gate(engine_.devices()[0]);
  const Numbers numbers;
  LeaseCount early, late;
  Request request;
  request.inputs.push_back({"x", numbers.view(), early.lease()});
  request.inputs.push_back({"z", numbers.view(gate.event()), late.lease()});
  Future future = model.submit(std::move(request));
  EXPECT_FALSE(future.wait_until(Clock::now() + milliseconds(10)));
  EXPECT_EQ(late.released(), 0);
  gate.open();
  const Response response = must(get(future));
  EXPECT_EQ(floats(response.outputs[0].view)[1], 2 * numbers.values()[1]);
  EXPECT_TRUE(eventually([&] { return early.released() == 1 && late.released() == 1; }));
}

TEST_F(Ensembles, AnErrorInAStepIsTheAnswer) {
  Log log;
  must(engine_.load(named("bad", "reference:fail?every=1")));
  const Model model = must(
      engine_.load(ensemble({step("copy", {{"input", "x"}}, {{"output", "left"}}),
                             step("bad", {{"input", "x"}}, {{"output", "right"}}),
                             step("add", {{"a", "left"}, {"b", "right"}}, {{"sum", "output"}})},
                            {"output"})));
  const Numbers numbers;
  LeaseCount leases;
  Request request = ask(numbers);
  request.inputs[0].lease = leases.lease();
  expect_error(get(model.submit(std::move(request))), ErrorCode::internal,
               {"ensemble \"whole\"", "\"bad\"", "as asked"});
  EXPECT_TRUE(eventually([&] { return leases.released() == 1; }));
  EXPECT_EQ(model.statistics().failed, 1u);
}

TEST_F(Ensembles, ADeadlineHoldsForEveryStep) {
  must(engine_.load(named_one("last", "reference:identity")));
  ModelConfig config = ensemble({step("copy", {{"input", "x"}}, {{"output", "y"}}),
                                 step("last", {{"input", "y"}}, {{"output", "z"}})},
                                {"z"});
  const Model model = must(engine_.load(config));
  Gate gate(engine_.devices()[0]);
  const Numbers numbers;
  const Model last = must(engine_.find("last"));
  Requests held(last);
  held.submit(1, gate.event());  // one for each device
  held.submit(32, gate.event());
  ASSERT_TRUE(eventually([&] { return last.statistics().running_batches == 2; }));
  Request request = ask(numbers);
  request.deadline = Clock::now() + milliseconds(30);
  expect_error(get(model.submit(std::move(request))), ErrorCode::deadline_exceeded, {"\"whole\""});
  EXPECT_EQ(model.statistics().expired, 1u);
  gate.open();
  held.batches();
}

TEST_F(Ensembles, ManyRequestsShareTheBatchesOfTheirSteps) {
  const Model model = must(engine_.load(diamond()));
  constexpr int kRequests = 300;
  std::vector<Numbers> numbers;
  numbers.reserve(kRequests);
  for (int i = 0; i < kRequests; ++i) numbers.emplace_back(1 + i % 4, static_cast<float>(i));
  std::vector<Future> futures;
  futures.reserve(numbers.size());
  for (const Numbers& each : numbers) futures.push_back(model.submit(ask(each)));
  for (std::size_t i = 0; i < kRequests; ++i) expect_triple(get(futures[i]), numbers[i]);
  const ModelStatistics statistics = model.statistics();
  EXPECT_EQ(statistics.succeeded, static_cast<std::uint64_t>(kRequests));
  EXPECT_EQ(statistics.phase(Phase::total).count(), static_cast<std::uint64_t>(kRequests));
  EXPECT_EQ(must(engine_.find("copy")).statistics().succeeded, 2u * kRequests);
}

TEST_F(Ensembles, AnswersByCallbackToo) {
  const Model model = must(engine_.load(diamond()));
  Answers answers;
  const Numbers numbers;
  Ticket ticket = must(model.submit(ask(numbers), answers.callback(4)));
  EXPECT_FALSE(ticket.cancel()) << "it started at once";
  ASSERT_TRUE(answers.wait_for(1));
  expect_triple(answers.results()[0], numbers);
}

TEST_F(Ensembles, MayBeMadeOfEnsembles) {
  must(engine_.load(diamond()));
  ModelConfig config = ensemble({step("whole", {{"x", "x"}}, {{"output", "y"}}),
                                 step("whole", {{"x", "y"}}, {{"output", "z"}})},
                                {"z"});
  config.name = "outer";
  const Model model = must(engine_.load(config));
  const Numbers numbers;
  const Response response = must(model.infer(ask(numbers)));
  EXPECT_EQ(floats(response.outputs[0].view)[7], 9 * numbers.values()[7]);
  expect_error(engine_.unload("whole"), ErrorCode::unavailable, {"\"outer\""});
}

TEST_F(Ensembles, AreUnloadedBeforeTheirParts) {
  const Model model = must(engine_.load(diamond()));
  expect_error(engine_.unload("add"), ErrorCode::unavailable,
               {"\"add\"", "ensemble \"whole\"", "unload that first"});
  const Numbers numbers;
  expect_triple(model.infer(ask(numbers)), numbers);
  must(engine_.unload("whole"));
  must(engine_.unload("add"));
  must(engine_.unload("copy"));
  expect_error(model.infer(ask(numbers)), ErrorCode::unavailable);
}

TEST_F(Ensembles, GoWithTheirEngineWhileTheyWork) {
  Answers answers;
  const Numbers numbers;
  {
    Engine engine = make_engine();
    must(engine.load(named("copy", "reference:busy?batch_us=3000")));
    must(engine.load(named("add", "reference:add")));
    const Model model = must(engine.load(diamond()));
    for (int i = 0; i < 20; ++i) must(model.submit(ask(numbers), answers.callback(i)));
  }
  EXPECT_EQ(answers.order().size(), 20u) << "each was answered before the engine was gone";
  for (const Result<Response>& response : answers.results()) {
    if (response.ok()) {
      expect_triple(response, numbers);
    } else {
      expect_error(response, ErrorCode::cancelled, {"shutting down"});
    }
  }
}

TEST_F(Ensembles, RequestsAreCheckedLikeThoseOfAnyModel) {
  const Model model = must(engine_.load(diamond()));
  const Numbers numbers;
  Request wrong = ask(numbers);
  wrong.inputs[0].name = "input";
  expect_error(get(model.submit(std::move(wrong))), ErrorCode::invalid_argument,
               {"\"x\"", "\"input\""});
  wrong = ask(numbers);
  wrong.outputs.push_back(placed("left", OutputPlacement::automatic));
  expect_error(get(model.submit(std::move(wrong))), ErrorCode::invalid_argument,
               {"no output \"left\"", "\"output\""});
  const Numbers many(33);
  expect_error(get(model.submit(ask(many))), ErrorCode::invalid_argument, {"33", "32"});
}

TEST_F(Ensembles, WrongGraphsAreRefused) {
  must(engine_.load(named("ints", "reference:identity?type=INT32")));
  const auto copy = [](std::string from, std::string to) {
    return step("copy", {{"input", std::move(from)}}, {{"output", std::move(to)}});
  };
  const struct {
    const char* name;
    ModelConfig config;
    ErrorCode code;
    std::vector<std::string_view> words;
  } cases[] = {
      {"unknown model",
       ensemble({step("nobody", {}, {})}, {"x"}),
       ErrorCode::not_found,
       {"\"nobody\"", "load it first"}},
      {"cycle",
       ensemble({copy("a", "b"), copy("b", "a")}, {"a"}),
       ErrorCode::invalid_argument,
       {"cycle"}},
      {"itself", ensemble({copy("a", "a")}, {"a"}), ErrorCode::invalid_argument, {"cycle"}},
      {"produced twice",
       ensemble({copy("a", "b"), copy("a", "b")}, {"b"}),
       ErrorCode::invalid_argument,
       {"\"b\"", "two steps"}},
      {"types",
       ensemble({copy("a", "b"), step("ints", {{"input", "b"}}, {{"output", "c"}})}, {"c"}),
       ErrorCode::invalid_argument,
       {"\"b\"", "FP32", "INT32"}},
      {"input left out",
       ensemble({step("add", {{"a", "x"}}, {{"sum", "y"}})}, {"y"}),
       ErrorCode::invalid_argument,
       {"\"add\"", "\"b\""}},
      {"unknown input",
       ensemble({step("copy", {{"input", "x"}, {"other", "x"}}, {{"output", "y"}})}, {"y"}),
       ErrorCode::invalid_argument,
       {"no input \"other\""}},
      {"unknown output",
       ensemble({step("copy", {{"input", "x"}}, {{"other", "y"}})}, {"y"}),
       ErrorCode::invalid_argument,
       {"no output \"other\""}},
      {"no outputs of a step",
       ensemble({copy("x", "y"), step("copy", {{"input", "x"}}, {})}, {"y"}),
       ErrorCode::invalid_argument,
       {"\"copy\"", "none of its outputs"}},
      {"no outputs",
       ensemble({copy("x", "y")}, {}),
       ErrorCode::invalid_argument,
       {"ensemble_outputs"}},
      {"unknown ensemble output",
       ensemble({copy("x", "y")}, {"z"}),
       ErrorCode::invalid_argument,
       {"\"z\""}},
      {"an input as output",
       ensemble({copy("x", "y")}, {"x"}),
       ErrorCode::invalid_argument,
       {"\"x\""}},
  };
  for (const auto& [name, config, code, words] : cases) {
    SCOPED_TRACE(name);
    const Result<Model> loaded = engine_.load(config);
    expect_error(loaded, code, {"ensemble \"whole\""});
    for (const std::string_view word : words) expect_error(loaded, code, {word});
    EXPECT_THAT(engine_.model_names(), ElementsAre("add", "copy", "ints"));
  }
  must(engine_.load(diamond()));
}

}  // namespace
}  // namespace millrace::testing
