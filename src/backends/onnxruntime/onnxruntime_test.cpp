#include "backends/onnxruntime/onnxruntime.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>

#include <millrace/log.h>

#include "backends/onnxruntime/lane.h"
#include "backends/onnxruntime/runtime.h"
#include "backends/test_harness.h"
#include "device/host/host_queue.h"

namespace millrace {
namespace {

using std::chrono::milliseconds;
using testing::Host;
using testing::TestRun;
using testing::text_of;

std::string model_path(std::string_view name) {
  return std::string(MILLRACE_SOURCE_DIR "/tests/models/") + std::string(name) + ".onnx";
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

ModelSpec spec_of(std::string_view name, int cpu_threads = 2) {
  ModelSpec spec;
  spec.name = std::string(name);
  spec.path = model_path(name);
  spec.cpu_threads = cpu_threads;
  return spec;
}

ModelSpec in_memory(std::string name, std::string content) {
  ModelSpec spec;
  spec.name = std::move(name);
  spec.content = std::make_shared<const std::string>(std::move(content));
  return spec;
}

struct Loaded {
  explicit Loaded(std::string_view name) : Loaded(spec_of(name)) {}
  explicit Loaded(ModelSpec spec) {
    auto loaded = host.load(std::move(spec));
    if (!loaded.ok()) throw std::runtime_error(text_of(loaded));
    plan = std::move(loaded).value();
    auto made = plan->new_lane({0, 2, 0});
    EXPECT_TRUE(made.ok()) << text_of(made);
    lane = std::move(made).value();
  }
  Host host;
  std::unique_ptr<Plan> plan;
  std::unique_ptr<Lane> lane;
};

std::string_view metadata(const PlanInfo& info, std::string_view name) {
  for (const auto& [key, value] : info.metadata) {
    if (key == name) return value;
  }
  return "(none)";
}

std::vector<float> counting(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

// --- What a model says of itself ---

TEST(OnnxModel, DescribesTheDigits) {
  ModelSpec spec;
  spec.name = "digits";
  spec.path = MILLRACE_SOURCE_DIR "/examples/digits/digits.onnx";
  spec.cpu_threads = 2;
  Loaded model(std::move(spec));
  const PlanInfo& info = model.plan->info();
  ASSERT_EQ(info.inputs.size(), 1U);
  EXPECT_EQ(info.inputs[0].type, DataType::fp32);
  EXPECT_EQ(info.inputs[0].shape[0], kDynamic);
  EXPECT_EQ(info.inputs[0].batch_axis, 0);
  EXPECT_EQ(info.max_items, 0);
  EXPECT_EQ(info.default_lanes, 2);
  EXPECT_TRUE(info.lanes_share_weights);
  EXPECT_NE(metadata(info, "opset"), "(none)");
  EXPECT_GT(model.plan->footprint().weights_bytes, 1000U);
  EXPECT_EQ(model.host.ledger().reserved_bytes(), model.plan->footprint().weights_bytes);
}

TEST(OnnxModel, DescribesNamesTypesAndMetadata) {
  Loaded model("two_in_two_out");
  const PlanInfo& info = model.plan->info();
  ASSERT_EQ(info.inputs.size(), 2U);
  ASSERT_EQ(info.outputs.size(), 2U);
  EXPECT_EQ(info.inputs[0].name, "a");
  EXPECT_EQ(info.inputs[1].name, "b");
  EXPECT_EQ(info.outputs[0].name, "sum");
  EXPECT_EQ(info.outputs[1].name, "product");
  EXPECT_EQ(info.outputs[1].shape, Shape({kDynamic, kDynamic}));
  EXPECT_EQ(metadata(info, "producer"), "make_models.py");
  EXPECT_EQ(metadata(info, "graph"), "two_in_two_out");
  EXPECT_EQ(metadata(info, "opset"), "21");
  EXPECT_EQ(metadata(info, "IR version"), "10");
  EXPECT_EQ(metadata(info, "purpose"), "arithmetic");
}

TEST(OnnxModel, WithoutABatchAxisIsTakenWhole) {
  for (const std::string_view name : {"fixed_batch", "scalar", "nonzero", "compress"}) {
    SCOPED_TRACE(name);
    Loaded model(name);
    EXPECT_EQ(model.plan->info().max_items, 1);
    for (const TensorInfo& input : model.plan->info().inputs) EXPECT_EQ(input.batch_axis, -1);
    for (const TensorInfo& output : model.plan->info().outputs) EXPECT_EQ(output.batch_axis, -1);
  }
}

TEST(OnnxModel, WithItsBatchAxisOffIsTakenWhole) {
  ModelSpec spec = spec_of("identity_fp32");
  spec.options = {{"batch_axis", "off"}};
  Loaded model(spec);
  EXPECT_EQ(model.plan->info().max_items, 1);
  EXPECT_EQ(model.plan->info().inputs[0].batch_axis, -1);
  EXPECT_EQ(model.plan->info().inputs[0].shape, Shape({kDynamic, 4}));
  EXPECT_EQ(model.plan->info().outputs[0].batch_axis, -1);
}

TEST(OnnxModel, TraitsOfItsLanes) {
  Loaded model("linear");
  const LaneTraits traits = model.lane->traits();
  EXPECT_TRUE(traits.terminable);
  EXPECT_TRUE(traits.only_computes);
  EXPECT_FALSE(traits.enqueue_blocks || traits.wants_prepare || traits.fixed_addresses ||
               traits.only_prepared);
  TestRun run(model.host.device());
  MILLRACE_EXPECT_ERROR(model.lane->prepare(run.io()), ErrorCode::unsupported,
                        "no use for preparation");
}

// --- Running ---

TEST(OnnxRun, PassesEveryTypeThroughBitForBit) {
  for (const DataType type : all_data_types()) {
    if (type == DataType::bytes) continue;
    std::string name = "identity_";
    for (const char c : to_string(type)) name += static_cast<char>(std::tolower(c));
    SCOPED_TRACE(name);
    Loaded model(name);
    EXPECT_EQ(model.plan->info().inputs[0].type, type);
    std::vector<std::uint8_t> bytes(size_of(type) * 3 * 4);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = type == DataType::boolean ? i % 3 == 0 : static_cast<std::uint8_t>(i * 37 + 11);
    }
    TestRun run(model.host.device());
    run.input(TensorView::of(type, bytes.data(), {3, 4}));
    run.output(type, {3, 4});
    const auto result = run.on(*model.lane);
    ASSERT_TRUE(result.ok()) << text_of(result);
    EXPECT_EQ(std::memcmp(run.outputs()[0].view.data, bytes.data(), bytes.size()), 0);
  }
}

TEST(OnnxRun, PassesStringsThrough) {
  Loaded model("identity_string");
  const std::string long_text(100000, 'x');
  const std::string_view values[] = {"one", "",    std::string_view("a\0b", 3), long_text, "5", "6",
                                     "7",   "\xff"};
  TestRun run(model.host.device());
  run.strings(values, {2, 4});
  run.late_output(DataType::bytes);
  for (int again = 0; again < 3; ++again) {
    run.outputs()[0].view = {};
    run.outputs()[0].view.type = DataType::bytes;
    const auto result = run.on(*model.lane);
    ASSERT_TRUE(result.ok()) << text_of(result);
    EXPECT_EQ(run.outputs()[0].view.shape, Shape({2, 4}));
    EXPECT_EQ(run.text(0), std::vector<std::string>(std::begin(values), std::end(values)));
  }
}

TEST(OnnxRun, SeveralInputsAndOutputsOfAnyWidth) {
  Loaded model("two_in_two_out");
  for (const std::int64_t width : {1, 3, 7}) {
    for (const std::int64_t items : {1, 2, 5}) {
      const std::vector<float> a = counting(static_cast<std::size_t>(items * width));
      const std::vector<float> b(a.size(), 3.0F);
      TestRun run(model.host.device());
      run.input(a, {items, width});
      run.input(b, {items, width});
      run.output(DataType::fp32, {items, width});
      run.late_output(DataType::fp32);
      const auto result = run.on(*model.lane);
      ASSERT_TRUE(result.ok()) << text_of(result);
      for (std::size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(run.values<float>(0)[i], a[i] + 3);
        EXPECT_EQ(run.values<float>(1)[i], a[i] * 3);
      }
      EXPECT_EQ(run.allocations, 1);
      EXPECT_EQ(run.outputs()[1].view.shape, Shape({items, width}));
    }
  }
}

TEST(OnnxRun, ReadsAndWritesTheMemoryGivenWhereItLies) {
  Loaded model("linear");
  std::vector<float> input(std::size_t{2} * 16, 0.0F);
  TestRun run(model.host.device());
  run.input(input, {2, 16});
  run.output(DataType::fp32, {2, 64});
  void* const memory = run.outputs()[0].view.data;
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.values<float>(0), std::vector<float>(128, 0.0F));
  // The same memory with other content, as slots are used.
  input.assign(input.size(), 0.0F);
  input[16] = 1;
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.outputs()[0].view.data, memory);
  const std::vector<float> output = run.values<float>(0);
  EXPECT_EQ(std::vector<float>(output.begin(), output.begin() + 64), std::vector<float>(64, 0.0F));
  EXPECT_NE(std::vector<float>(output.begin() + 64, output.end()), std::vector<float>(64, 0.0F));
}

TEST(OnnxRun, AllocatesBeforeRunningWhereTheShapeIsKnown) {
  Loaded model("linear");
  const std::vector<float> input(std::size_t{3} * 16, 1.0F);
  TestRun given(model.host.device());
  given.input(input, {3, 16});
  given.output(DataType::fp32, {3, 64});
  ASSERT_TRUE(given.on(*model.lane).ok());
  TestRun late(model.host.device());
  late.input(input, {3, 16});
  late.late_output(DataType::fp32);
  ASSERT_TRUE(late.on(*model.lane).ok());
  EXPECT_EQ(late.outputs()[0].view.shape, Shape({3, 64}));
  EXPECT_EQ(late.values<float>(0), given.values<float>(0));
  late.outputs()[0].view.data = nullptr;
  late.refuse_memory = true;
  MILLRACE_EXPECT_ERROR(late.on(*model.lane), ErrorCode::out_of_memory,
                        "no memory for this output");
}

TEST(OnnxRun, OutputsWhoseSizeIsKnownOnlyAfterComputing) {
  Loaded model("nonzero");
  for (int again = 0; again < 2; ++again) {
    std::vector<float> input = {0, 2, 0, again == 0 ? 4.0F : 0.0F};
    TestRun run(model.host.device());
    run.input(input, {2, 2});
    run.late_output(DataType::int64);
    const auto result = run.on(*model.lane);
    ASSERT_TRUE(result.ok()) << text_of(result);
    EXPECT_EQ(run.outputs()[0].view.shape, Shape({2, again == 0 ? 2 : 1}));
    EXPECT_EQ(run.values<std::int64_t>(0), again == 0 ? (std::vector<std::int64_t>{0, 1, 1, 1})
                                                      : (std::vector<std::int64_t>{0, 1}));
  }
  TestRun refused(model.host.device());
  const std::vector<float> input = {1};
  refused.input(input, {1, 1});
  refused.late_output(DataType::int64);
  refused.refuse_memory = true;
  MILLRACE_EXPECT_ERROR(refused.on(*model.lane), ErrorCode::out_of_memory, "no memory");
}

TEST(OnnxRun, NothingKept) {
  Loaded model("compress");
  const std::vector<float> input = counting(6);
  const bool keep[] = {false, false};
  TestRun run(model.host.device());
  run.input(input, {2, 3});
  run.input(TensorView::of(DataType::boolean, keep, {2}));
  run.late_output(DataType::fp32);
  const auto result = run.on(*model.lane);
  ASSERT_TRUE(result.ok()) << text_of(result);
  EXPECT_EQ(run.outputs()[0].view.shape, Shape({0, 3}));
}

TEST(OnnxRun, FixedShapesAndScalars) {
  Loaded fixed("fixed_batch");
  const std::vector<float> input = counting(32);
  TestRun run(fixed.host.device());
  run.input(input, {4, 8});
  run.output(DataType::fp32, {4});
  ASSERT_TRUE(run.on(*fixed.lane).ok());
  EXPECT_EQ(run.values<float>(0), (std::vector<float>{4.5F, 12.5F, 20.5F, 28.5F}));

  Loaded scalar("scalar");
  const std::vector<float> seven = {7};
  TestRun one(scalar.host.device());
  one.input(seven, {});
  one.late_output(DataType::fp32);
  ASSERT_TRUE(one.on(*scalar.lane).ok());
  EXPECT_EQ(one.outputs()[0].view.shape, Shape{});
  EXPECT_EQ(one.values<float>(0), std::vector<float>{8});
}

TEST(OnnxRun, WaitsForInputsToBeReady) {
  Loaded model("identity_fp32");
  Stream other = model.host.device()->new_stream({}).value();
  const Event ready = model.host.device()->new_event(EventTiming::untimed).value();
  std::atomic<bool> open{false};
  ASSERT_TRUE(other.ref()
                  .run([&] {
                    while (!open) std::this_thread::sleep_for(milliseconds(1));
                  })
                  .ok());
  ASSERT_TRUE(other.ref().record(ready).ok());
  const std::vector<float> values = counting(4);
  TestRun run(model.host.device());
  run.input(values, {1, 4});
  run.inputs()[0].ready = ready;
  run.output(DataType::fp32, {1, 4});
  ASSERT_TRUE(model.lane->enqueue(kEager, run.io()).ok());
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_FALSE(run.done());
  open = true;
  ASSERT_TRUE(run.wait().ok());
  EXPECT_EQ(run.values<float>(0), values);
}

TEST(OnnxRun, FailuresComeThroughTheStatusAndLeaveTheLaneWell) {
  Loaded model("division");
  const std::vector<float> values = counting(6);
  const auto run_with = [&](std::int64_t narrow) {
    TestRun run(model.host.device());
    run.input(values, {1, 6});
    run.input(values, {1, narrow});
    run.late_output(DataType::fp32);
    return run.on(*model.lane);
  };
  EXPECT_TRUE(run_with(6).ok());
  const auto failed = run_with(4);
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.error().message.find("model \"division\" (ONNX Runtime "), std::string::npos)
      << text_of(failed);
  EXPECT_EQ(failed.error().scope, Scope::request);
  EXPECT_TRUE(run_with(1).ok());
}

TEST(OnnxRun, AModelThatLiesAboutItsShapeFails) {
  Loaded model("mislabelled");
  const std::vector<float> values = counting(4);
  TestRun run(model.host.device());
  run.input(values, {2, 2});
  run.output(DataType::fp32, {2, 2});
  const auto result = run.on(*model.lane);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("mislabelled"), std::string::npos);
}

TEST(OnnxRun, FourLanesOfOneSessionGiveTheRightAnswers) {
  constexpr int kLanes = 4;
  constexpr int kRuns = 1000;
  Host host;
  auto plan = host.load(spec_of("linear", 4)).value();
  // What a single lane answers for each of the inputs used.
  constexpr std::size_t kInputs = 50;
  std::vector<std::vector<float>> inputs(kInputs), expected(kInputs);
  std::mt19937 random(11);
  std::uniform_int_distribution<int> digit(-3, 3);
  {
    auto lane = plan->new_lane({0, 2, 0}).value();
    for (std::size_t i = 0; i < kInputs; ++i) {
      inputs[i].resize((i % 5 + 1) * 16);
      for (float& x : inputs[i]) x = static_cast<float>(digit(random));
      TestRun run(host.device());
      run.input(inputs[i], {static_cast<std::int64_t>(i % 5 + 1), 16});
      run.late_output(DataType::fp32);
      ASSERT_TRUE(run.on(*lane).ok());
      expected[i] = run.values<float>(0);
    }
  }
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  threads.reserve(kLanes);
  for (int l = 0; l < kLanes; ++l) {
    threads.emplace_back([&, l] {
      auto lane = plan->new_lane({l, 2, 0}).value();
      for (int i = 0; i < kRuns; i += 2) {
        // Two in flight on the lane, one in each slot.
        TestRun first(host.device()), second(host.device());
        TestRun* const runs[] = {&first, &second};
        for (int slot = 0; slot < 2; ++slot) {
          const std::size_t which = static_cast<std::size_t>(l * 17 + i + slot) % kInputs;
          runs[slot]->input(inputs[which], {static_cast<std::int64_t>(which % 5 + 1), 16});
          runs[slot]->output(DataType::fp32, {static_cast<std::int64_t>(which % 5 + 1), 64});
          runs[slot]->io().slot = slot;
          ASSERT_TRUE(lane->enqueue(kEager, runs[slot]->io()).ok());
        }
        for (int slot = 0; slot < 2; ++slot) {
          const std::size_t which = static_cast<std::size_t>(l * 17 + i + slot) % kInputs;
          ASSERT_TRUE(runs[slot]->wait().ok());
          if (runs[slot]->values<float>(0) == expected[which]) ++right;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right.load(), kLanes * kRuns);
}

TEST(OnnxRun, FromMemoryAsFromAFile) {
  Loaded model(in_memory("in memory", content_of(model_path("linear"))));
  Loaded file("linear");
  const std::vector<float> input = counting(16);
  TestRun a(model.host.device()), b(file.host.device());
  for (TestRun* run : {&a, &b}) {
    run->input(input, {1, 16});
    run->output(DataType::fp32, {1, 64});
  }
  ASSERT_TRUE(a.on(*model.lane).ok());
  ASSERT_TRUE(b.on(*file.lane).ok());
  EXPECT_EQ(a.values<float>(0), b.values<float>(0));
}

// --- Ending what runs too long ---

// A run that would take hours unless ended.
struct EndlessRun {
  explicit EndlessRun(DeviceRef device, std::int64_t count) : steps{count}, run(device) {
    run.input(steps, {});
    run.input(start, {1});
    run.output(DataType::fp32, {1});
  }
  std::vector<std::int64_t> steps;
  std::vector<float> start = {0};
  TestRun run;
};
constexpr std::int64_t kEndless = std::int64_t{1} << 50;

TEST(OnnxTerminate, EndsARunAndTheNextOneIsWell) {
  Loaded model("slow");
  EXPECT_TRUE(model.lane->terminate().ok());  // nothing runs: nothing happens
  for (int again = 0; again < 3; ++again) {
    EndlessRun endless(model.host.device(), kEndless);
    ASSERT_TRUE(model.lane->enqueue(kEager, endless.run.io()).ok());
    std::this_thread::sleep_for(milliseconds(20));
    EXPECT_FALSE(endless.run.done());
    while (!endless.run.done()) {  // the batch may not have started before
      ASSERT_TRUE(model.lane->terminate().ok());
      std::this_thread::sleep_for(milliseconds(1));
    }
    MILLRACE_EXPECT_ERROR(endless.run.wait(), ErrorCode::unavailable, "model \"slow\"");
    EXPECT_NE(endless.run.wait().error().message.find("ended after"), std::string::npos);
    EndlessRun finite(model.host.device(), 10);
    const auto result = finite.run.on(*model.lane);
    ASSERT_TRUE(result.ok()) << text_of(result);
    EXPECT_EQ(finite.run.values<float>(0), std::vector<float>{10});
  }
}

TEST(OnnxTerminate, EndsARunThatWaitsForItsTurn) {
  Host host;
  auto plan = host.load(spec_of("slow", 1)).value();  // one run at a time
  auto first = plan->new_lane({0, 2, 0}).value();
  auto second = plan->new_lane({1, 2, 0}).value();
  auto runtime = onnxruntime::Runtime::share({1, {}, {}, {}}).value();
  EndlessRun running(host.device(), kEndless);
  ASSERT_TRUE(first->enqueue(kEager, running.run.io()).ok());
  while (runtime->gate().inside() == 0) std::this_thread::yield();
  EndlessRun waiting(host.device(), 10);
  ASSERT_TRUE(second->enqueue(kEager, waiting.run.io()).ok());
  while (runtime->gate().waiting() == 0) std::this_thread::yield();
  EXPECT_FALSE(waiting.run.done());
  ASSERT_TRUE(second->terminate().ok());
  MILLRACE_EXPECT_ERROR(waiting.run.wait(), ErrorCode::unavailable, "ended after");
  EXPECT_FALSE(running.run.done());
  EXPECT_EQ(runtime->gate().inside(), 1);
  ASSERT_TRUE(first->terminate().ok());
  EXPECT_FALSE(running.run.wait().ok());
  EXPECT_EQ(runtime->gate().inside(), 0);
}

// In a process of its own: an abandoned lane keeps its session, and with it the thread pool, for
// good.
[[noreturn]] void abandon_a_running_lane() {
  const auto expect = [](bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::exit(1);
  };
  static auto* const host = new Host;  // what the lane may still touch is kept
  static auto* const endless = new EndlessRun(host->device(), kEndless);
  auto runtime = onnxruntime::Runtime::share({1, {}, {}, {}}).value();
  {
    auto plan = host->load(spec_of("slow", 1)).value();
    auto lane = plan->new_lane({0, 2, 0}).value();
    expect(lane->enqueue(kEager, endless->run.io()).ok(), "the batch is enqueued");
    while (runtime->gate().inside() == 0) std::this_thread::yield();
    lane.release()->abandon();
  }
  expect(runtime->gate().inside() == 0, "the place is given back");
  Loaded other(spec_of("slow", 1));
  EndlessRun finite(other.host.device(), 10);
  expect(finite.run.on(*other.lane).ok(), "another lane runs");
  const TimePoint end = Clock::now() + std::chrono::seconds(30);
  while (!endless->run.done()) {  // abandoning ends it where it can
    expect(Clock::now() < end, "the abandoned run ends");
    std::this_thread::sleep_for(milliseconds(1));
  }
  std::fputs("all well", stderr);
  std::exit(0);
}

TEST(OnnxTerminateDeathTest, AnAbandonedLaneGivesItsPlaceBack) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(abandon_a_running_lane(), ::testing::ExitedWithCode(0), "all well");
}

TEST(OnnxBudget, NoMoreRunsAtATimeThanThreads) {
  Host host;
  auto plan = host.load(spec_of("slow", 2)).value();
  auto runtime = onnxruntime::Runtime::share({2, {}, {}, {}}).value();
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<std::unique_ptr<EndlessRun>> runs;
  for (int i = 0; i < 4; ++i) {
    lanes.push_back(plan->new_lane({i, 2, 0}).value());
    runs.push_back(std::make_unique<EndlessRun>(host.device(), kEndless));
    ASSERT_TRUE(lanes.back()->enqueue(kEager, runs.back()->run.io()).ok());
  }
  while (runtime->gate().waiting() != 2) std::this_thread::yield();
  EXPECT_EQ(runtime->gate().inside(), 2);
  for (int i = 0; i < 4; ++i) {
    while (!runs[static_cast<std::size_t>(i)]->run.done()) {
      ASSERT_TRUE(lanes[static_cast<std::size_t>(i)]->terminate().ok());
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  EXPECT_EQ(runtime->gate().inside(), 0);
}

TEST(OnnxBudget, WhoHelpsDoesNotWaitForItsTurn) {
  Host host;
  auto plan = host.load(spec_of("slow", 1)).value();  // one run at a time
  auto first = plan->new_lane({0, 2, 0}).value();
  auto second = plan->new_lane({1, 2, 0}).value();
  auto runtime = onnxruntime::Runtime::share({1, {}, {}, {}}).value();
  EndlessRun running(host.device(), kEndless);
  ASSERT_TRUE(first->enqueue(kEager, running.run.io()).ok());
  while (runtime->gate().inside() == 0) std::this_thread::yield();
  bool helped = false;
  for (int attempt = 0; attempt < 100 && !helped; ++attempt) {
    std::this_thread::sleep_for(milliseconds(5));  // the stream's thread goes to sleep
    EndlessRun brief(host.device(), 1);
    {
      HelpingHand hand;
      const HeldWakes held(Duration::zero());
      ASSERT_TRUE(second->enqueue(kEager, brief.run.io()).ok());
    }
    helped = brief.run.done();
    while (!brief.run.done()) ASSERT_TRUE(second->terminate().ok());  // it waits for its turn
    EXPECT_EQ(brief.run.wait().ok(), helped);
  }
  EXPECT_TRUE(helped);
  EXPECT_FALSE(running.run.done());
  ASSERT_TRUE(first->terminate().ok());
  EXPECT_FALSE(running.run.wait().ok());
  EXPECT_EQ(runtime->gate().inside(), 0);
}

int threads_of_this_process() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST(OnnxBudget, ThePoolHasTheWorkersThatItShould) {
  Host host;
  std::thread([] {}).join();  // ThreadSanitizer starts a thread of its own beside the first
  const int before = threads_of_this_process();
  {
    auto none = host.load(spec_of("linear", 2)).value();
    EXPECT_EQ(threads_of_this_process(), before);
  }
  auto plan = host.load(spec_of("linear", 8)).value();  // 2 lanes and 6 workers
  EXPECT_EQ(plan->info().default_lanes, 2);
  EXPECT_EQ(threads_of_this_process(), before + 6);
  auto another = host.load(spec_of("two_in_two_out", 8)).value();  // the same pool
  EXPECT_EQ(threads_of_this_process(), before + 6);
  auto lane = plan->new_lane({0, 2, 0}).value();
  const std::vector<float> input(std::size_t{16} * 16, 1.0F);
  TestRun run(host.device());
  run.input(input, {16, 16});
  run.output(DataType::fp32, {16, 64});
  EXPECT_TRUE(run.on(*lane).ok());
}

// --- Options ---

TEST(OnnxOptions, AreAccepted) {
  ModelSpec spec = spec_of("linear", 4);
  const auto profile =
      std::filesystem::path(::testing::TempDir()) / ("profile" + std::to_string(getpid()));
  spec.options = {{"graph_optimization", "basic"},
                  {"execution_mode", "parallel"},
                  {"intra_op_threads", "2"},
                  {"inter_op_threads", "2"},
                  {"spinning", "1"},
                  {"profile", profile.string()}};
  {
    Loaded model(spec);
    const std::vector<float> input = counting(16);
    TestRun run(model.host.device());
    run.input(input, {1, 16});
    run.output(DataType::fp32, {1, 64});
    ASSERT_TRUE(run.on(*model.lane).ok());
  }
  int profiles = 0;
  for (const auto& entry : std::filesystem::directory_iterator(::testing::TempDir())) {
    if (!entry.path().filename().string().starts_with(profile.filename().string())) continue;
    ++profiles;
    EXPECT_NE(content_of(entry.path()).find("MatMul"), std::string::npos);
    std::filesystem::remove(entry.path());
  }
  EXPECT_EQ(profiles, 1);
}

TEST(OnnxOptions, AreRefusedByName) {
  Host host;
  const auto load_with = [&](std::map<std::string, std::string> options) {
    ModelSpec spec = spec_of("linear");
    spec.options = std::move(options);
    return host.load(spec);
  };
  MILLRACE_EXPECT_ERROR(load_with({{"speed", "9"}}), ErrorCode::invalid_argument,
                        "model \"linear\": the onnxruntime backend has no option \"speed\"; it has "
                        "batch_axis, execution_mode");
  MILLRACE_EXPECT_ERROR(load_with({{"graph_optimization", "most"}}), ErrorCode::invalid_argument,
                        "expected one of disable, basic, extended, all, got \"most\"");
  MILLRACE_EXPECT_ERROR(load_with({{"intra_op_threads", "0"}}), ErrorCode::invalid_argument,
                        "intra_op_threads");
  MILLRACE_EXPECT_ERROR(load_with({{"intra_op_threads", "9"}}), ErrorCode::invalid_argument,
                        "budget of 2");
  MILLRACE_EXPECT_ERROR(load_with({{"spinning", "yes"}}), ErrorCode::invalid_argument,
                        "one of 0, 1");
  MILLRACE_EXPECT_ERROR(load_with({{"execution_mode", "parallel"}}), ErrorCode::invalid_argument,
                        "inter_op_threads");
}

TEST(OnnxOptions, ThreadsOfALaterModelMustAgree) {
  Host host;
  const auto first = host.load(spec_of("linear", 4));
  ASSERT_TRUE(first.ok());
  ModelSpec spec = spec_of("two_in_two_out", 4);
  spec.options = {{"intra_op_threads", "2"}};
  MILLRACE_EXPECT_ERROR(host.load(spec), ErrorCode::invalid_argument,
                        "model \"two_in_two_out\": option \"intra_op_threads\"");
}

// --- What cannot be loaded ---

TEST(OnnxRefused, FilesThatAreNoModels) {
  Host host;
  ModelSpec missing = spec_of("nowhere");
  MILLRACE_EXPECT_ERROR(host.load(missing), ErrorCode::not_found, "nowhere.onnx\" does not exist");
  const auto folder =
      std::filesystem::path(::testing::TempDir()) / ("folder" + std::to_string(getpid()) + ".onnx");
  std::filesystem::create_directory(folder);
  ModelSpec directory = spec_of("x");
  directory.path = folder;
  MILLRACE_EXPECT_ERROR(host.load(directory), ErrorCode::invalid_argument, "is not a file");
  const auto empty = folder / "empty.onnx";
  std::ofstream(empty).flush();
  directory.path = empty;
  MILLRACE_EXPECT_ERROR(host.load(directory), ErrorCode::invalid_argument, "is empty");
  MILLRACE_EXPECT_ERROR(host.load(in_memory("x", "")), ErrorCode::invalid_argument, "is empty");
  const std::string whole = content_of(model_path("linear"));
  for (const std::size_t length : {std::size_t{1}, whole.size() / 2, whole.size() - 1}) {
    const auto truncated = folder / "truncated.onnx";
    std::ofstream(truncated, std::ios::binary) << whole.substr(0, length);
    directory.path = truncated;
    const auto loaded = host.load(directory);
    MILLRACE_EXPECT_ERROR(loaded, ErrorCode::invalid_argument, "model \"x\" (ONNX Runtime ");
    MILLRACE_EXPECT_ERROR(host.load(in_memory("x", whole.substr(0, length))),
                          ErrorCode::invalid_argument, "model \"x\"");
  }
  MILLRACE_EXPECT_ERROR(host.load(in_memory("x", "this is a letter, not a model")),
                        ErrorCode::invalid_argument, "model \"x\"");
  std::filesystem::remove_all(folder);
  EXPECT_EQ(host.ledger().reserved_bytes(), 0U);
}

TEST(OnnxRefused, ModelsThatCannotBeRunAreNamedWithTheReason) {
  Host host;
  MILLRACE_EXPECT_ERROR(host.load(spec_of("unknown_operator")), ErrorCode::unsupported,
                        "Frobnicate");
  MILLRACE_EXPECT_ERROR(host.load(spec_of("sequence_input")), ErrorCode::unsupported,
                        "input \"input\" is a sequence");
  MILLRACE_EXPECT_ERROR(host.load(spec_of("nine_dimensions")), ErrorCode::unsupported,
                        "input \"input\" is a tensor of 9 dimensions; at most 8");
  MILLRACE_EXPECT_ERROR(host.load(spec_of("unknown_rank")), ErrorCode::unsupported,
                        "output \"output\" is a tensor whose number of dimensions");
  EXPECT_EQ(host.ledger().reserved_bytes(), 0U);
}

TEST(OnnxRefused, ModelsLargerThanTheDevice) {
  HostDeviceOptions small;
  small.memory_limit_bytes = 2048;
  Host host(small);
  MILLRACE_EXPECT_ERROR(host.load(spec_of("linear")), ErrorCode::out_of_memory, "free 2 KiB");
}

TEST(OnnxLog, GoesToOurs) {
  std::vector<std::string> messages;
  const LogLevel before = log_level();
  set_log_level(LogLevel::debug);
  log_to([&](LogLevel, std::string_view message) { messages.emplace_back(message); });
  { Loaded model("linear"); }
  log_to({});
  set_log_level(before);
  const bool found = std::ranges::any_of(
      messages, [](const std::string& m) { return m.starts_with("onnxruntime: "); });
  EXPECT_TRUE(found) << messages.size() << " messages";
}

}  // namespace
}  // namespace millrace
