// Plug-ins in models that TensorRT runs: good ones against their host references, and one that
// misbehaves, which the watch must see and name before a clean run counts for anything.
#include <algorithm>
#include <cmath>

#include "examples/plugins/mish.h"
#include "examples/plugins/yolo_decode.h"
#include "tests/gpu/gpu_harness.h"
#include "tests/gpu/sync_watch.h"

namespace millrace::gpu {
namespace {

constexpr std::int64_t kWidth = 64;

BuildOptions with_plugins(Precision precision = Precision::fp32) {
  BuildOptions options = build_options();
  options.precision = precision;
  options.plugins = {MILLRACE_PLUGINS_LIBRARY, MILLRACE_MISBEHAVING_LIBRARY};
  return options;
}

Model load(Engine& engine, const std::string& name, const std::string& path,
           const std::string& graphs) {
  ModelConfig config = config_of(name, path, {{"graphs", graphs}});
  config.plugins = {MILLRACE_PLUGINS_LIBRARY, MILLRACE_MISBEHAVING_LIBRARY};
  return must(engine.load(config));
}

std::vector<float> plus_one(std::vector<float> values) {
  for (float& value : values) value += 1;
  return values;
}

/// One batch after the other, so that each round takes the same blocks from the pools. Every answer
/// is looked at, but where the plug-in races with what comes before it.
void run_plus_one(const Model& model, unsigned seed, bool look = true) {
  const std::vector<float> values = random_values(4 * kWidth, seed);
  for (int i = 0; i < 40; ++i) {
    const Response response =
        must(model.infer(request_of("input", TensorView::of(values.data(), {4, kWidth}))));
    if (look) expect_near(values_of<float>(response.outputs[0].view), plus_one(values), 1e-6F);
  }
}

TEST(Mish, RunsThroughTensorRtAsOnTheHost) {
  MILLRACE_NEEDS_TENSORRT();
  for (const Precision precision : {Precision::fp32, Precision::fp16}) {
    const std::string variant = "-" + std::string(to_string(precision));
    const std::string plan = plan_of("mish", with_plugins(precision), variant);
    for (const char* graphs : {"on", "off"}) {
      SCOPED_TRACE(variant + ", graphs " + graphs);
      Engine engine = engine_on_gpu();
      const Model model = load(engine, "mish", plan, graphs);
      for (const std::int64_t items : {1, 2, 3, 5, 8}) {
        const auto count = static_cast<std::size_t>(items * kWidth);
        const std::vector<float> values = random_values(count, static_cast<unsigned>(items));
        const Response response =
            must(model.infer(request_of("input", TensorView::of(values.data(), {items, kWidth}))));
        const std::vector<float> sums = plus_one(values);
        std::vector<float> right(count);
        plugins::mish_host(sums.data(), right.data(), count);
        expect_near(values_of<float>(response.outputs[0].view), right,
                    precision == Precision::fp32 ? 1e-5F : 4e-3F);
      }
      EXPECT_EQ(model.statistics().eager(), 0u) << "with graphs=on, all run as graphs";
      EXPECT_EQ(model.info().placements[0].not_graphs, "");
    }
  }
}

TEST(Mish, AnOnnxFileFindsItsPluginsByTheConfiguration) {
  MILLRACE_NEEDS_TENSORRT();
  Engine engine = engine_on_gpu();
  ModelConfig config = config_of(
      "mish", kModels + "mish.onnx",
      {{"cache", (scratch() / "cache").string()}, {"optimization_level", "0"}, {"batch", "4"}});
  config.plugins = {MILLRACE_PLUGINS_LIBRARY};
  const Model model = must(engine.load(config));
  const std::vector<float> values = random_values(kWidth, 5);
  const Response response =
      must(model.infer(request_of("input", TensorView::of(values.data(), {1, kWidth}))));
  const std::vector<float> sums = plus_one(values);
  std::vector<float> right(values.size());
  plugins::mish_host(sums.data(), right.data(), right.size());
  expect_near(values_of<float>(response.outputs[0].view), right, 1e-3F);
}

TEST(YoloDecode, RunsThroughTensorRtAsOnTheHost) {
  MILLRACE_NEEDS_TENSORRT();
  plugins::YoloHead head;
  head.height = 4;
  head.width = 5;
  head.anchors = 2;
  head.classes = 3;
  head.stride = 8;
  head.scale_xy = 1.05F;
  const float anchors[] = {10, 13, 33, 23};
  std::copy(std::begin(anchors), std::end(anchors), head.anchor);
  Engine engine = engine_on_gpu();
  const Model model = load(engine, "yolo", plan_of("yolo", with_plugins()), "on");
  for (const std::int64_t items : {1, 3, 8}) {
    head.batch = items;
    const auto count = static_cast<std::size_t>(items);
    const std::vector<float> values =
        random_values(count * 16 * 20, static_cast<unsigned>(items), -2, 2);
    const Response response =
        must(model.infer(request_of("head", TensorView::of(values.data(), {items, 16, 4, 5}))));
    std::vector<float> boxes(count * 40 * 4), scores(count * 40 * 3);
    plugins::yolo_decode_host(values.data(), boxes.data(), scores.data(), head);
    ASSERT_EQ(response.outputs.size(), 2u);
    for (const NamedTensor& output : response.outputs) {
      expect_near(values_of<float>(output.view), output.name == "boxes" ? boxes : scores, 1e-4F);
    }
  }
}

TEST(Plugins, WhatIsWrongWithALibraryIsSaidBeforeTheModelIsLoaded) {
  MILLRACE_NEEDS_TENSORRT();
  Engine engine = engine_on_gpu();
  ModelConfig config = config_of("mish", plan_of("mish", with_plugins(), "-fp32"));
  config.plugins = {"/nowhere/libmish.so"};
  const Result<Model> missing = engine.load(config);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::not_found) << missing.error().message;
  EXPECT_NE(missing.error().message.find("/nowhere/libmish.so"), std::string::npos);
  BuildOptions build = build_options();
  build.model = kModels + "mish.onnx";
  build.plugins = {kModels + "mish.onnx"};
  const Result<BuildReport> built = build_engine(build, (scratch() / "never.plan").string());
  ASSERT_FALSE(built.ok());
  EXPECT_NE(built.error().message.find("cannot be opened"), std::string::npos)
      << built.error().message;
}

// -------------------------------------------------------------------------------------------------
// the watch

struct Misdeed {
  int how;
  CallFault fault;
  const char* what;
};
constexpr Misdeed kMisdeeds[] = {
    {1, CallFault::default_stream, "copies on the legacy default stream"},
    {2, CallFault::synchronizes, "synchronizes the device"},
    {3, CallFault::allocates, "allocates"},
    {4, CallFault::pageable, "copies to pageable memory"},
    {6, CallFault::default_stream, "copies on the per-thread default stream"},
    {7, CallFault::synchronizes, "synchronizes its stream"},
};

/// What the watch sees of a model in its steady state.
std::vector<Violation> watched(const Model& model, SyncWatch& watch, bool look = true) {
  for (unsigned i = 0; i < 5; ++i) run_plus_one(model, i, look);  // fills the pools
  watch.clear();
  watch.arm();
  for (unsigned i = 0; i < 5; ++i) run_plus_one(model, i, look);
  watch.disarm();
  return watch.violations();
}

/// Whether the watch says that, and that it is the plug-in's doing.
bool names_plugin(const std::vector<Violation>& violations, CallFault fault) {
  return std::any_of(violations.begin(), violations.end(), [fault](const Violation& violation) {
    return violation.fault == fault &&
           std::any_of(violation.backtrace.begin(), violation.backtrace.end(),
                       [](const std::string& frame) {
                         return frame.find("misbehaving_plugins") != std::string::npos;
                       });
  });
}

/// The controls come first: a clean run counts only with a watch that sees each misdeed.
class PluginWatch : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    reason = nothing_to_check();
    if (!reason.empty()) return;
    Result<std::unique_ptr<SyncWatch>> started = SyncWatch::start();
    if (!started) {
      reason = "NOT CHECKED: " + started.error().message;
      return;
    }
    watch = std::move(*started);
    watch->allow_threads_named("mr-waiter-0");
    for (const Misdeed& misdeed : kMisdeeds) check_caught(misdeed);
  }
  static void TearDownTestSuite() { watch.reset(); }
  void SetUp() override {
    if (!watch) GTEST_SKIP() << reason;
  }

  static void check_caught(const Misdeed& misdeed) {
    const std::string name = "misbehave_" + std::to_string(misdeed.how);
    Engine engine = engine_on_gpu();
    const Model model = load(engine, name, plan_of(name, with_plugins()), "off");
    const bool in_order = misdeed.fault != CallFault::default_stream;
    const std::vector<Violation> violations = watched(model, *watch, in_order);
    if (names_plugin(violations, misdeed.fault)) {
      ++caught;
    } else {
      missed += name + ", which " + misdeed.what + ", is not named as " +
                std::string(to_string(misdeed.fault)) + "; the watch saw:\n" +
                to_string(violations) + "\n";
    }
  }

  static inline std::unique_ptr<SyncWatch> watch;
  static inline std::string reason, missed;
  static inline std::size_t caught = 0;
};

TEST_F(PluginWatch, SeesEveryMisdeedAndNamesThePlugin) {
  EXPECT_EQ(caught, std::size(kMisdeeds)) << missed;
}

TEST_F(PluginWatch, SeesNothingWherePluginsBehave) {
  ASSERT_EQ(caught, std::size(kMisdeeds)) << "a watch that misses a misdeed proves nothing";
  for (const char* graphs : {"on", "off"}) {
    Engine engine = engine_on_gpu();
    const Model model = load(engine, "behaves", plan_of("misbehave_0", with_plugins()), graphs);
    const std::vector<Violation> violations = watched(model, *watch);
    EXPECT_TRUE(violations.empty()) << "graphs " << graphs << "\n" << to_string(violations);
  }
}

TEST_F(PluginWatch, WhatCannotBeCapturedRunsEagerlyAndSaysSo) {
  for (const int how : {2, 3, 7}) {
    SCOPED_TRACE(how);
    const std::string name = "misbehave_" + std::to_string(how);
    const std::string plan = plan_of(name, with_plugins());
    for (const char* graphs : {"auto", "on"}) {
      Log log;
      Engine engine = engine_on_gpu();
      const Model model = load(engine, name, plan, graphs);
      EXPECT_NE(log.text().find("runs without CUDA graphs, since capturing failed"),
                std::string::npos)
          << log.text();
      const std::string why = model.info().placements[0].not_graphs;
      EXPECT_TRUE(why.starts_with("capturing failed: ")) << why;
      run_plus_one(model, 3);
      const ModelStatistics statistics = model.statistics();
      EXPECT_GT(statistics.batches, 0u);
      EXPECT_EQ(statistics.eager(), statistics.batches);
      if (graphs == std::string("on")) {
        EXPECT_EQ(statistics.eager(EagerReason::not_captured), statistics.batches);
      }
      const CallFault fault = how == 3 ? CallFault::allocates : CallFault::synchronizes;
      const std::vector<Violation> violations = watched(model, *watch);
      EXPECT_TRUE(names_plugin(violations, fault)) << to_string(violations);
    }
  }
}

}  // namespace
}  // namespace millrace::gpu
