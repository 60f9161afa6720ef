#include "backends/reference/reference.h"

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>

#include <unistd.h>

#include "backends/reference/test_hooks.h"
#include "backends/test_harness.h"
#include "base/text.h"

namespace millrace {
namespace {

using std::chrono::milliseconds;
using testing::Host;
using testing::TestRun;
using testing::text_of;

// One lane of one model on a host device of its own.
struct Loaded {
  explicit Loaded(const std::string& path, HostDeviceOptions options = {}, int slots = 2)
      : host(options) {
    auto loaded = host.load(path);
    EXPECT_TRUE(loaded.ok()) << text_of(loaded);
    plan = std::move(loaded).value();
    auto made = plan->new_lane({0, slots, 0});
    EXPECT_TRUE(made.ok()) << text_of(made);
    lane = std::move(made).value();
  }
  Host host;
  std::unique_ptr<Plan> plan;
  std::unique_ptr<Lane> lane;
};

std::vector<float> counting(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

// Holds a stream shut until opened.
class Door {
 public:
  void shut(StreamRef stream) {
    ASSERT_TRUE(stream
                    .run([this] {
                      std::unique_lock lock(mutex_);
                      changed_.wait(lock, [&] { return open_; });
                    })
                    .ok());
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

void wait_for_hung(std::size_t count) {
  const TimePoint end = Clock::now() + std::chrono::seconds(30);
  while (hung_reference_batches() != count) {
    ASSERT_LT(Clock::now(), end) << "no batch hangs";
    std::this_thread::sleep_for(milliseconds(1));
  }
}

// --- Kinds ---

TEST(ReferenceIdentity, DescribesItself) {
  Host host;
  auto plan = host.load("reference:identity?type=INT8&shape=3x-1&inputs=2&max_items=5&lanes=3");
  ASSERT_TRUE(plan.ok()) << text_of(plan);
  const PlanInfo& info = (*plan)->info();
  ASSERT_EQ(info.inputs.size(), 2U);
  ASSERT_EQ(info.outputs.size(), 2U);
  EXPECT_EQ(info.inputs[1].name, "input1");
  EXPECT_EQ(info.outputs[0].name, "output0");
  EXPECT_EQ(info.inputs[0].type, DataType::int8);
  EXPECT_EQ(info.inputs[0].shape, Shape({kDynamic, 3, kDynamic}));
  EXPECT_EQ(info.inputs[0].batch_axis, 0);
  EXPECT_EQ(info.max_items, 5);
  EXPECT_EQ(info.default_lanes, 3);
  EXPECT_TRUE(info.lanes_share_weights);
}

TEST(ReferenceIdentity, CopiesEveryTypeBitForBit) {
  for (const DataType type : all_data_types()) {
    if (type == DataType::bytes) continue;
    SCOPED_TRACE(to_string(type));
    Loaded model("reference:identity?shape=4&type=" + std::string(to_string(type)));
    std::vector<std::uint8_t> bytes(size_of(type) * 3 * 4);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::uint8_t>(i * 37 + 11);
    TestRun run(model.host.device());
    run.input(TensorView::of(type, bytes.data(), {3, 4}));
    run.output(type, {3, 4});
    const auto result = run.on(*model.lane);
    ASSERT_TRUE(result.ok()) << text_of(result);
    EXPECT_EQ(std::memcmp(run.outputs()[0].view.data, bytes.data(), bytes.size()), 0);
  }
}

TEST(ReferenceIdentity, CopiesStringsIntoAllocatedMemory) {
  Loaded model("reference:identity?shape=2&type=BYTES");
  const std::string_view values[] = {"one", "", std::string_view("a\0b", 3), "four"};
  TestRun run(model.host.device());
  run.strings(values, {2, 2});
  // A slice of a larger tensor has offsets that do not start at 0.
  run.inputs()[0] = slice(run.inputs()[0], 1, 1);
  run.late_output(DataType::bytes);
  const auto result = run.on(*model.lane);
  ASSERT_TRUE(result.ok()) << text_of(result);
  EXPECT_EQ(run.outputs()[0].view.shape, Shape({1, 2}));
  EXPECT_EQ(run.text(0), (std::vector{std::string("a\0b", 3), std::string("four")}));
  EXPECT_EQ(run.outputs()[0].view.offsets[0], 0U);
}

TEST(ReferenceIdentity, AFirstDimensionThatCountsNoItems) {
  Loaded model("reference:identity?shape=3&max_items=4&batch_axis=off");
  EXPECT_EQ(model.plan->info().max_items, 1);
  EXPECT_EQ(model.plan->info().inputs[0].shape, Shape({kDynamic, 3}));
  EXPECT_EQ(model.plan->info().inputs[0].batch_axis, -1);
  EXPECT_EQ(model.plan->info().outputs[0].batch_axis, -1);
  const std::vector<float> values = counting(6);
  TestRun run(model.host.device());
  run.input(values, {2, 3});
  run.output(DataType::fp32, {2, 3});
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.values<float>(0), values);
}

TEST(ReferenceIdentity, WithoutBatchAxis) {
  Loaded model("reference:identity?shape=2x3&batched=0");
  EXPECT_EQ(model.plan->info().max_items, 1);
  EXPECT_EQ(model.plan->info().inputs[0].batch_axis, -1);
  const std::vector<float> values = counting(6);
  TestRun run(model.host.device());
  run.input(values, {2, 3});
  run.output(DataType::fp32, {2, 3});
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.values<float>(0), values);
}

TEST(ReferenceIdentity, AllocatesWhileEnqueuingWhenTheSizeIsKnown) {
  Loaded model("reference:identity?shape=-1");
  const std::vector<float> values = counting(6);
  TestRun run(model.host.device());
  run.input(values, {2, 3});
  run.late_output(DataType::fp32);
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.values<float>(0), values);
  EXPECT_EQ(run.outputs()[0].view.shape, Shape({2, 3}));
  EXPECT_EQ(run.allocated_on, std::this_thread::get_id());
}

TEST(ReferenceIdentity, RefusedMemoryIsAnErrorOfTheEnqueue) {
  Loaded model("reference:identity?shape=-1");
  const std::vector<float> values = counting(6);
  TestRun run(model.host.device());
  run.input(values, {2, 3});
  run.late_output(DataType::fp32);
  run.refuse_memory = true;
  MILLRACE_EXPECT_ERROR(model.lane->enqueue(kEager, run.io()), ErrorCode::out_of_memory,
                        "no memory");
  EXPECT_TRUE(model.lane->stream().query().value());
}

TEST(ReferenceIdentity, EnqueueReturnsBeforeTheRunStarts) {
  for (const std::string traits : {"", "&own_stream=1"}) {
    Loaded model("reference:identity?shape=2" + traits);
    Door door;
    door.shut(model.lane->stream());
    const std::vector<float> values = counting(2);
    TestRun run(model.host.device());
    run.input(values, {1, 2});
    run.output(DataType::fp32, {1, 2});
    ASSERT_TRUE(model.lane->enqueue(kEager, run.io()).ok());
    EXPECT_FALSE(run.done());
    EXPECT_FALSE(run.io().inputs_consumed.query().value());
    door.open();
    ASSERT_TRUE(run.wait().ok());
    EXPECT_TRUE(run.io().inputs_consumed.query().value());
    EXPECT_EQ(run.values<float>(0), values);
  }
}

TEST(ReferenceIdentity, RunsAfterWhatTheLanesStreamDoesBefore) {
  for (const std::string traits :
       {"", "&own_stream=1", "&blocking=1", "&blocking=1&own_stream=1"}) {
    SCOPED_TRACE(traits);
    Loaded model("reference:identity?shape=2" + traits);
    Door door;
    door.shut(model.lane->stream());
    // The engine copies into the input on the lane's stream, without an event.
    std::vector<float> values = {0, 0};
    const std::vector<float> later = {5, 6};
    ASSERT_TRUE(model.lane->stream().copy(values.data(), later.data(), 8).ok());
    TestRun run(model.host.device());
    run.input(values, {1, 2});
    run.output(DataType::fp32, {1, 2});
    BatchIo& io = run.io();
    std::thread enqueuing([&] { EXPECT_TRUE(model.lane->enqueue(kEager, io).ok()); });
    std::this_thread::sleep_for(milliseconds(20));
    door.open();
    enqueuing.join();
    ASSERT_TRUE(run.wait().ok());
    EXPECT_EQ(run.values<float>(0), later);
  }
}

TEST(ReferenceIdentity, WaitsForInputsAndOutputsToBeReady) {
  for (const bool input : {true, false}) {
    for (const std::string traits : {"", "&own_stream=1"}) {
      SCOPED_TRACE(traits + (input ? " input" : " output"));
      Loaded model("reference:identity?shape=2" + traits);
      Door door;
      Stream other = model.host.device()->new_stream({}).value();
      const Event ready = model.host.device()->new_event(EventTiming::untimed).value();
      door.shut(other);
      ASSERT_TRUE(other.ref().record(ready).ok());
      const std::vector<float> values = counting(2);
      TestRun run(model.host.device());
      run.input(values, {1, 2});
      run.output(DataType::fp32, {1, 2});
      (input ? run.inputs()[0].ready : run.outputs()[0].view.ready) = ready;
      ASSERT_TRUE(model.lane->enqueue(kEager, run.io()).ok());
      std::this_thread::sleep_for(milliseconds(20));
      EXPECT_FALSE(run.done());
      door.open();
      ASSERT_TRUE(run.wait().ok());
      EXPECT_EQ(run.values<float>(0), values);
    }
  }
}

TEST(ReferenceIdentity, ManyRunsKeepTheirOrder) {
  Loaded model("reference:identity?shape=1");
  std::vector<std::unique_ptr<TestRun>> runs;
  std::vector<std::vector<float>> values(500);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = {static_cast<float>(i)};
    runs.push_back(std::make_unique<TestRun>(model.host.device()));
    runs.back()->input(values[i], {1, 1});
    runs.back()->output(DataType::fp32, {1, 1});
    ASSERT_TRUE(model.lane->enqueue(kEager, runs.back()->io()).ok());
  }
  ASSERT_TRUE(runs.back()->wait().ok());
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(runs[i]->values<float>(0), values[i]);
}

template <class T>
void expect_sum(std::string_view type, std::vector<T> a, std::vector<T> b,
                const std::vector<T>& sum) {
  SCOPED_TRACE(type);
  Loaded model("reference:add?shape=" + std::to_string(a.size()) + "&type=" + std::string(type));
  const Shape shape = {1, static_cast<std::int64_t>(a.size())};
  const DataType data_type = parse_data_type(type).value();
  TestRun run(model.host.device());
  run.input(TensorView::of(data_type, a.data(), shape));
  run.input(TensorView::of(data_type, b.data(), shape));
  run.output(data_type, shape);
  const auto result = run.on(*model.lane);
  ASSERT_TRUE(result.ok()) << text_of(result);
  EXPECT_EQ(run.values<T>(0), sum);
}

TEST(ReferenceAdd, AddsNumbersOfEachType) {
  expect_sum<std::uint8_t>("UINT8", {1, 255}, {2, 1}, {3, 0});
  expect_sum<std::int8_t>("INT8", {1, 127, -128}, {2, 1, -1}, {3, -128, 127});
  expect_sum<std::uint16_t>("UINT16", {1, 65535}, {2, 2}, {3, 1});
  expect_sum<std::int16_t>("INT16", {-5, 32767}, {2, 1}, {-3, -32768});
  expect_sum<std::uint32_t>("UINT32", {7}, {8}, {15});
  expect_sum<std::int32_t>("INT32", {-7, 2147483647}, {8, 1}, {1, -2147483647 - 1});
  expect_sum<std::uint64_t>("UINT64", {1ULL << 63}, {1}, {(1ULL << 63) + 1});
  expect_sum<std::int64_t>("INT64", {-1}, {-1}, {-2});
  expect_sum<float>("FP32", {1.5F, -2.0F}, {0.25F, 2.0F}, {1.75F, 0.0F});
  expect_sum<double>("FP64", {1e300}, {1.0}, {1e300});
  // 1 + 2 = 3; the largest subnormal + the smallest = the smallest normal; 65504 + 32 rounds to
  // infinity; 2048 + 1 is halfway and rounds to even; -1 + 1 = 0.
  expect_sum<std::uint16_t>("FP16", {0x3c00, 0x03ff, 0x7bff, 0x6800, 0xbc00},
                            {0x4000, 0x0001, 0x5000, 0x3c00, 0x3c00},
                            {0x4200, 0x0400, 0x7c00, 0x6800, 0x0000});
  // 1 + 2 = 3; 256 + 1 is halfway and rounds to even; infinity + 1.
  expect_sum<std::uint16_t>("BF16", {0x3f80, 0x4380, 0x7f80}, {0x4000, 0x3f80, 0x3f80},
                            {0x4040, 0x4380, 0x7f80});
}

TEST(ReferenceAdd, NotANumberStaysOne) {
  Loaded model("reference:add?shape=1&type=FP16");
  const std::vector<std::uint16_t> nan = {0x7d01};
  const std::vector<std::uint16_t> one = {0x3c00};
  TestRun run(model.host.device());
  run.input(TensorView::of(DataType::fp16, nan.data(), {1, 1}));
  run.input(TensorView::of(DataType::fp16, one.data(), {1, 1}));
  run.output(DataType::fp16, {1, 1});
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_GT(run.values<std::uint16_t>(0)[0] & 0x7fff, 0x7c00);
}

TEST(ReferenceAdd, RefusesTwoShapes) {
  Loaded model("reference:add?shape=-1");
  const std::vector<float> values = counting(4);
  TestRun run(model.host.device());
  run.input(values, {1, 4});
  run.input(values, {2, 2});
  run.output(DataType::fp32, {1, 4});
  MILLRACE_EXPECT_ERROR(run.on(*model.lane), ErrorCode::invalid_argument,
                        "one shape, got [1,4] and [2,2]");
}

TEST(ReferenceChecksum, AddsTheWordsOfEachItem) {
  Loaded model("reference:checksum?shape=5&type=UINT8");
  const std::vector<std::uint8_t> values = {1, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 3};
  TestRun run(model.host.device());
  run.input(values, {2, 5});
  run.output(DataType::uint32, {2});
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.values<std::uint32_t>(0), (std::vector<std::uint32_t>{3, 2}));
}

TEST(ReferenceChecksum, DoesNotReadWhenToldNotTo) {
  Loaded model("reference:checksum?shape=1000000&no_read=1");
  TestRun run(model.host.device());
  // Reading from this address would be the end of the test.
  run.input(TensorView::of(DataType::fp32, reinterpret_cast<const void*>(64), {2, 1000000}));
  run.output(DataType::uint32, {2});
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.values<std::uint32_t>(0), (std::vector<std::uint32_t>{0, 0}));
}

TEST(ReferenceChecksum, OfStringsAndOfAScalar) {
  Loaded strings("reference:checksum?shape=2&type=BYTES");
  const std::string_view values[] = {"a", "", "b", std::string_view("\0\0\0c", 4)};
  TestRun run(strings.host.device());
  run.strings(values, {2, 2});
  run.output(DataType::uint32, {2});
  ASSERT_TRUE(run.on(*strings.lane).ok());
  // The second item's bytes are "b\0\0\0c": two words.
  EXPECT_EQ(run.values<std::uint32_t>(0), (std::vector<std::uint32_t>{'a', 'b' + 'c'}));

  Loaded scalar("reference:checksum?shape=[]&type=INT32&batched=0");
  const std::vector<std::int32_t> seven = {7};
  TestRun one(scalar.host.device());
  one.input(seven, {});
  one.output(DataType::uint32, {});
  ASSERT_TRUE(one.on(*scalar.lane).ok());
  EXPECT_EQ(one.values<std::uint32_t>(0), std::vector<std::uint32_t>{7});
}

TEST(ReferenceNonzero, SizesItsOutputAfterComputing) {
  Loaded model("reference:nonzero?shape=4");
  EXPECT_EQ(model.plan->info().outputs[0].shape, Shape({kDynamic, kDynamic}));
  const std::vector<float> values = {0, 2, -0.0F, 4, 0, 0, 0, 1};
  TestRun run(model.host.device());
  run.input(values, {2, 4});
  run.late_output(DataType::int64);
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.outputs()[0].view.shape, Shape({2, 2}));
  EXPECT_EQ(run.values<std::int64_t>(0), (std::vector<std::int64_t>{1, 3, 3, -1}));
  EXPECT_EQ(run.allocations, 1);
  EXPECT_NE(run.allocated_on, std::this_thread::get_id());
}

TEST(ReferenceNonzero, MayFindNothing) {
  Loaded model("reference:nonzero?shape=3&batched=0&type=INT16");
  const std::vector<std::int16_t> values = {0, 0, 0};
  TestRun run(model.host.device());
  run.input(values, {3});
  run.late_output(DataType::int64);
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.outputs()[0].view.shape, Shape({0}));
}

TEST(ReferenceBusy, TakesTimeByBatchByItemAndByDevice) {
  // Lower bounds only: sleeping never ends early.
  HostDeviceOptions slow;
  slow.slowness = 2;
  for (const std::string mode : {"sleep", "compute"}) {
    for (const std::string traits : {"", "&terminable=1"}) {
      Loaded model(concat("reference:busy?shape=1&batch_us=2000&item_us=1000&mode=", mode, traits),
                   slow);
      const std::vector<float> values = counting(3);
      TestRun run(model.host.device());
      run.input(values, {3, 1});
      run.output(DataType::fp32, {3, 1});
      const TimePoint begun = Clock::now();
      ASSERT_TRUE(run.on(*model.lane).ok());
      EXPECT_GE(Clock::now() - begun, milliseconds(10)) << mode;
      EXPECT_EQ(run.values<float>(0), values);
    }
  }
}

// --- What goes wrong ---

TEST(ReferenceFail, FailsTheCallNamedThroughTheStatus) {
  Loaded model("reference:fail?shape=1&at=2&code=unavailable&scope=model");
  const std::vector<float> values = counting(1);
  for (int call = 1; call <= 4; ++call) {
    TestRun run(model.host.device());
    run.input(values, {1, 1});
    run.output(DataType::fp32, {1, 1});
    ASSERT_TRUE(model.lane->enqueue(kEager, run.io()).ok());
    const auto result = run.wait();
    if (call != 2) {
      EXPECT_TRUE(result.ok()) << text_of(result);
      continue;
    }
    MILLRACE_EXPECT_ERROR(result, ErrorCode::unavailable,
                          "model \"m\" (reference fail): call 2 fails");
    EXPECT_EQ(result.error().scope, Scope::model);
  }
}

TEST(ReferenceFail, FailsRegularlyWhileEnqueuingOverAllLanes) {
  Loaded model("reference:fail?shape=1&every=2&when=enqueue");
  auto other = model.plan->new_lane({1, 2, 0}).value();
  const std::vector<float> values = counting(1);
  for (int call = 1; call <= 6; ++call) {
    Lane& lane = call <= 3 ? *model.lane : *other;
    TestRun run(model.host.device());
    run.input(values, {1, 1});
    run.output(DataType::fp32, {1, 1});
    const auto enqueued = lane.enqueue(kEager, run.io());
    EXPECT_EQ(enqueued.ok(), call % 2 == 1) << call;
    if (enqueued.ok()) {
      EXPECT_TRUE(run.wait().ok());
    }
  }
}

TEST(ReferenceHang, HangsUntilReleasedThenCompletes) {
  Loaded model("reference:hang?shape=2&at=2");
  const std::vector<float> values = counting(2);
  TestRun first(model.host.device());
  TestRun second(model.host.device());
  for (TestRun* run : {&first, &second}) {
    run->input(values, {1, 2});
    run->output(DataType::fp32, {1, 2});
  }
  ASSERT_TRUE(first.on(*model.lane).ok());
  ASSERT_TRUE(model.lane->enqueue(kEager, second.io()).ok());
  wait_for_hung(1);
  EXPECT_FALSE(second.done());
  MILLRACE_EXPECT_ERROR(model.lane->terminate(), ErrorCode::unsupported, "cannot end");
  release_hung_reference_batches();
  ASSERT_TRUE(second.wait().ok());
  EXPECT_EQ(second.values<float>(0), values);
  EXPECT_EQ(hung_reference_batches(), 0U);
}

TEST(ReferenceHang, EndsWhenTerminated) {
  Loaded model("reference:hang?shape=2&at=1&terminable=1");
  EXPECT_TRUE(model.lane->traits().terminable);
  EXPECT_TRUE(model.lane->terminate().ok());  // nothing runs: nothing happens
  const std::vector<float> values = counting(2);
  TestRun run(model.host.device());
  run.input(values, {1, 2});
  run.output(DataType::fp32, {1, 2});
  ASSERT_TRUE(model.lane->enqueue(kEager, run.io()).ok());
  wait_for_hung(1);
  ASSERT_TRUE(model.lane->terminate().ok());
  MILLRACE_EXPECT_ERROR(run.wait(), ErrorCode::unavailable, "ended after");
  run.reset_status();
  EXPECT_TRUE(run.on(*model.lane).ok());
}

TEST(ReferenceBusy, EndsWhenTerminated) {
  for (const std::string mode : {"sleep", "compute"}) {
    Loaded model("reference:busy?shape=1&batch_us=1e9&terminable=1&mode=" + mode);
    const std::vector<float> values = counting(1);
    TestRun run(model.host.device());
    run.input(values, {1, 1});
    run.output(DataType::fp32, {1, 1});
    ASSERT_TRUE(model.lane->enqueue(kEager, run.io()).ok());
    while (!run.done()) {
      ASSERT_TRUE(model.lane->terminate().ok());
      std::this_thread::sleep_for(milliseconds(1));
    }
    MILLRACE_EXPECT_ERROR(run.wait(), ErrorCode::unavailable, "ended after");
  }
}

TEST(ReferenceHang, AnAbandonedLaneOutlivesEverything) {
  const std::vector<float> values = counting(2);
  // What the batch may still touch is the engine's to keep.
  static auto* const host = new Host;
  static auto* const run = new TestRun(host->device());
  {
    auto plan = host->load("reference:hang?shape=2&own_stream=1&weights_bytes=4096&lane_bytes=4096")
                    .value();
    auto lane = plan->new_lane({0, 2, 0}).value();
    run->input(values, {1, 2});
    run->output(DataType::fp32, {1, 2});
    ASSERT_TRUE(lane->enqueue(kEager, run->io()).ok());
    wait_for_hung(1);
    lane.release()->abandon();
  }
  EXPECT_FALSE(run->done());
  EXPECT_EQ(host->ledger().reserved_bytes(), 4096U);  // still held
  release_hung_reference_batches();
  wait_for_hung(0);
  const TimePoint end = Clock::now() + std::chrono::seconds(30);
  while (!run->done()) ASSERT_LT(Clock::now(), end);
  EXPECT_EQ(run->values<float>(0), values);
}

TEST(ReferenceLoad, FailsAsAskedAndGivesBackWhatItReserved) {
  Host host;
  MILLRACE_EXPECT_ERROR(host.load("reference:identity?fail_load=1&weights_bytes=1MiB"),
                        ErrorCode::internal, "loading fails, as asked");
  EXPECT_EQ(host.ledger().reserved_bytes(), 0U);
  EXPECT_EQ(host.device()->memory().used_bytes, 0U);
}

TEST(ReferenceLoad, LanesAndPreparationFailAsAsked) {
  Host host;
  auto plan = host.load("reference:identity?fail_lane=2&fail_prepare=1").value();
  auto lane = plan->new_lane({0, 2, 0});
  ASSERT_TRUE(lane.ok());
  MILLRACE_EXPECT_ERROR(plan->new_lane({1, 2, 0}), ErrorCode::internal, "lane 1 fails, as asked");
  TestRun run(host.device());
  MILLRACE_EXPECT_ERROR((*lane)->prepare(run.io()), ErrorCode::internal, "preparing fails");
}

TEST(ReferenceLoad, NamesTheModelInEveryError) {
  Host host;
  MILLRACE_EXPECT_ERROR(host.load("reference:idle"), ErrorCode::invalid_argument,
                        "model \"m\": there is no reference model");
  MILLRACE_EXPECT_ERROR(host.load("reference:identity", {{"speed", "1"}}),
                        ErrorCode::invalid_argument, "no option \"speed\"");
  MILLRACE_EXPECT_ERROR(host.load("missing.reference.json"), ErrorCode::not_found,
                        "missing.reference.json");
}

TEST(ReferenceLoad, FromAFileAndFromMemory) {
  const auto path = std::filesystem::path(::testing::TempDir()) /
                    ("model" + std::to_string(getpid()) + ".reference.json");
  const std::string text = R"({"kind": "add", "options": {"type": "INT64"}})";
  std::ofstream(path) << text;
  Host host;
  const auto from_file = host.load(path.string());
  std::filesystem::remove(path);
  ASSERT_TRUE(from_file.ok()) << text_of(from_file);
  EXPECT_EQ((*from_file)->info().inputs[1].type, DataType::int64);
  ModelSpec spec;
  spec.path = "anything";
  spec.content = std::make_shared<const std::string>(text);
  const auto from_memory = host.load(spec);
  ASSERT_TRUE(from_memory.ok()) << text_of(from_memory);
  EXPECT_EQ((*from_memory)->info().outputs[0].name, "sum");
}

// --- Memory ---

TEST(ReferenceMemory, IsReservedAndAllocatedAsDeclared) {
  constexpr std::size_t kMiB = 1 << 20;
  Host host;
  auto plan = host.load("reference:identity?weights_bytes=4MiB&lane_bytes=2MiB&prepared_bytes=1MiB")
                  .value();
  const Footprint footprint = plan->footprint();
  EXPECT_EQ(footprint.weights_bytes, 4 * kMiB);
  EXPECT_EQ(footprint.lane_bytes, 2 * kMiB);
  EXPECT_EQ(footprint.prepared_bytes, kMiB);
  EXPECT_EQ(host.ledger().reserved_bytes(), 4 * kMiB);
  ASSERT_EQ(host.ledger().held().size(), 1U);
  EXPECT_EQ(host.ledger().held()[0].holder, "model \"m\"");
  EXPECT_GE(host.device()->memory().used_bytes, 4 * kMiB);
  auto lane = plan->new_lane({0, 2, 0}).value();
  const std::size_t before = host.device()->memory().used_bytes;
  EXPECT_GE(before, 6 * kMiB);
  TestRun run(host.device());
  const std::vector<float> values = counting(16);
  run.input(values, {1, 16});
  run.output(DataType::fp32, {1, 16});
  ASSERT_TRUE(lane->prepare(run.io()).ok());
  EXPECT_GE(host.device()->memory().used_bytes, before + kMiB);
  lane.reset();
  plan.reset();
  EXPECT_EQ(host.ledger().reserved_bytes(), 0U);
  EXPECT_EQ(host.device()->memory().used_bytes, 0U);
}

TEST(ReferenceMemory, OfEachLaneWhereWeightsAreNotShared) {
  Host host;
  auto plan =
      host.load("reference:identity?weights_bytes=1000&lane_bytes=24&share_weights=0").value();
  EXPECT_EQ(plan->footprint().weights_bytes, 0U);
  EXPECT_EQ(plan->footprint().lane_bytes, 1024U);
  EXPECT_FALSE(plan->info().lanes_share_weights);
}

TEST(ReferenceMemory, IsRefusedBeyondTheDevicesLimit) {
  HostDeviceOptions small;
  small.memory_limit_bytes = 1 << 20;
  Host host(small);
  MILLRACE_EXPECT_ERROR(host.load("reference:identity?weights_bytes=2MiB"),
                        ErrorCode::out_of_memory, "2 MiB");
  EXPECT_EQ(host.device()->memory().used_bytes, 0U);
}

// --- Traits ---

TEST(ReferenceTraits, AreWhatTheOptionsSay) {
  const auto traits = [](const std::string& options) {
    return Loaded("reference:identity?" + options).lane->traits();
  };
  const LaneTraits plain = traits("lanes=1");
  EXPECT_FALSE(plain.enqueue_blocks || plain.terminable || plain.wants_prepare ||
               plain.fixed_addresses || plain.only_prepared);
  EXPECT_TRUE(traits("blocking=1").enqueue_blocks);
  EXPECT_TRUE(traits("terminable=1").terminable);
  EXPECT_TRUE(traits("wants_prepare=1").wants_prepare);
  EXPECT_TRUE(traits("first_run_us=1").wants_prepare);
  EXPECT_TRUE(traits("fixed_addresses=1").fixed_addresses);
  EXPECT_TRUE(traits("fixed_addresses=1").wants_prepare);
  EXPECT_TRUE(traits("only_prepared=1").only_prepared);
}

TEST(ReferenceTraits, OutputSizedLateIsAllocatedFromTheStream) {
  Loaded model("reference:identity?shape=3&output_sized_late=1");
  EXPECT_EQ(model.plan->info().outputs[0].shape, Shape({kDynamic, kDynamic}));
  const std::vector<float> values = counting(6);
  TestRun run(model.host.device());
  run.input(values, {2, 3});
  run.late_output(DataType::fp32);
  ASSERT_TRUE(run.on(*model.lane).ok());
  EXPECT_EQ(run.values<float>(0), values);
  EXPECT_EQ(run.outputs()[0].view.shape, Shape({2, 3}));
  EXPECT_NE(run.allocated_on, std::this_thread::get_id());
  run.outputs()[0].view.data = nullptr;
  run.refuse_memory = true;
  MILLRACE_EXPECT_ERROR(run.on(*model.lane), ErrorCode::out_of_memory, "no memory");
}

TEST(ReferenceTraits, BlockingRunsBeforeEnqueueReturns) {
  for (const std::string more : {"", "&own_stream=1", "&output_sized_late=1"}) {
    Loaded model("reference:busy?shape=2&batch_us=2000&blocking=1" + more);
    const std::vector<float> values = counting(2);
    TestRun run(model.host.device());
    run.input(values, {1, 2});
    run.late_output(DataType::fp32);
    const TimePoint begun = Clock::now();
    ASSERT_TRUE(model.lane->enqueue(kEager, run.io()).ok());
    EXPECT_GE(Clock::now() - begun, milliseconds(2));
    EXPECT_EQ(run.values<float>(0), values);  // without waiting
    EXPECT_EQ(run.allocated_on, std::this_thread::get_id());
    EXPECT_TRUE(run.wait().ok());
  }
}

TEST(ReferenceTraits, OwnStreamIsJoinedBeforeDone) {
  Loaded model("reference:busy?shape=2&batch_us=5000&own_stream=1");
  const std::vector<float> values = counting(2);
  std::vector<float> copied(2);
  TestRun run(model.host.device());
  run.input(values, {1, 2});
  run.output(DataType::fp32, {1, 2});
  ASSERT_TRUE(model.lane->enqueue(kEager, run.io()).ok());
  // Later work of the lane's stream sees the outputs.
  ASSERT_TRUE(model.lane->stream().copy(copied.data(), run.outputs()[0].view.data, 8).ok());
  ASSERT_TRUE(model.lane->stream().synchronize().ok());
  EXPECT_TRUE(run.done());
  EXPECT_EQ(copied, values);
}

TEST(ReferenceTraits, FirstRunOfAShapeIsSlowUnlessPrepared) {
  Loaded model("reference:identity?shape=-1&first_run_us=20000");
  const std::vector<float> values = counting(8);
  // How long a run of that many columns took.
  const auto time = [&](std::int64_t columns, ShapeKey key) {
    TestRun run(model.host.device());
    run.input(values, {1, columns});
    run.output(DataType::fp32, {1, columns});
    const TimePoint begun = Clock::now();
    EXPECT_TRUE(run.on(*model.lane, key).ok());
    return Clock::now() - begun;
  };
  EXPECT_GE(time(3, kEager), milliseconds(20));
  EXPECT_GE(time(4, kEager), milliseconds(20));
  TestRun run(model.host.device());
  run.input(values, {1, 5});
  run.output(DataType::fp32, {1, 5});
  const TimePoint begun = Clock::now();
  const auto key = model.lane->prepare(run.io());
  ASSERT_TRUE(key.ok());
  EXPECT_GE(Clock::now() - begun, milliseconds(20));
  // Were each of them a first run, they would take more than a minute.
  Duration total{};
  for (int i = 0; i < 1000; ++i) total += time(3, kEager) + time(5, *key) + time(5, kEager);
  EXPECT_LT(total, std::chrono::seconds(40));
}

TEST(ReferenceTraits, FixedAddressesAreUsedWhateverEnqueueGets) {
  Loaded model("reference:identity?shape=2&fixed_addresses=1");
  std::vector<float> slot = {1, 2};
  TestRun prepared(model.host.device());
  prepared.input(slot, {1, 2});
  prepared.output(DataType::fp32, {1, 2});
  const auto key = model.lane->prepare(prepared.io());
  ASSERT_TRUE(key.ok());
  const std::vector<float> elsewhere = {8, 9};
  slot = {3, 4};
  TestRun run(model.host.device());
  run.input(elsewhere, {1, 2});
  run.output(DataType::fp32, {1, 2});
  ASSERT_TRUE(run.on(*model.lane, *key).ok());
  EXPECT_EQ(prepared.values<float>(0), (std::vector<float>{3, 4}));
  EXPECT_EQ(run.outputs()[0].view.data, prepared.outputs()[0].view.data);
  TestRun eager(model.host.device());
  eager.input(elsewhere, {1, 2});
  eager.output(DataType::fp32, {1, 2});
  ASSERT_TRUE(eager.on(*model.lane).ok());
  EXPECT_EQ(eager.values<float>(0), elsewhere);
}

TEST(ReferenceTraits, PreparedRunsTakeTheAddressesGivenWhenNotFixed) {
  Loaded model("reference:identity?shape=2&wants_prepare=1");
  const std::vector<float> values = {8, 9};
  TestRun run(model.host.device());
  run.input(values, {1, 2});
  run.output(DataType::fp32, {1, 2});
  const auto key = model.lane->prepare(run.io());
  ASSERT_TRUE(key.ok());
  const std::vector<float> others = {5, 6};
  run.inputs()[0].data = const_cast<float*>(others.data());
  ASSERT_TRUE(run.on(*model.lane, *key).ok());
  EXPECT_EQ(run.values<float>(0), others);
}

TEST(ReferenceTraits, OnlyPreparedRefusesTheRest) {
  Loaded model("reference:identity?shape=2&only_prepared=1");
  const std::vector<float> values = counting(4);
  TestRun run(model.host.device());
  run.input(values, {1, 2});
  run.output(DataType::fp32, {1, 2});
  MILLRACE_EXPECT_ERROR(model.lane->enqueue(kEager, run.io()), ErrorCode::unsupported,
                        "runs only as prepared");
  const auto key = model.lane->prepare(run.io());
  ASSERT_TRUE(key.ok());
  EXPECT_TRUE(run.on(*model.lane, *key).ok());
  TestRun two(model.host.device());
  two.input(values, {2, 2});
  two.output(DataType::fp32, {2, 2});
  MILLRACE_EXPECT_ERROR(model.lane->enqueue(*key, two.io()), ErrorCode::internal,
                        "prepared for input shape [1,2], got [2,2]");
  MILLRACE_EXPECT_ERROR(model.lane->enqueue(7, run.io()), ErrorCode::internal, "no prepared run 7");
}

TEST(ReferenceTraits, LoadingAndPreparingTakeTheTimeAskedFor) {
  TimePoint begun = Clock::now();
  Loaded model("reference:identity?shape=2&load_us=5000&prepare_us=5000");
  EXPECT_GE(Clock::now() - begun, milliseconds(5));
  TestRun run(model.host.device());
  const std::vector<float> values = counting(2);
  run.input(values, {1, 2});
  run.output(DataType::fp32, {1, 2});
  begun = Clock::now();
  ASSERT_TRUE(model.lane->prepare(run.io()).ok());
  EXPECT_GE(Clock::now() - begun, milliseconds(5));
}

HostDeviceOptions apart() {
  HostDeviceOptions options;
  options.separate_memory = true;
  return options;
}

// A device with memory of its own.
TEST(ReferenceApart, TakesNothingOutsideItsMemoryAndNothingMisaligned) {
  Host host(apart());
  auto plan = host.load("reference:identity?shape=2");
  ASSERT_TRUE(plan.ok()) << text_of(plan);
  auto lane = (*plan)->new_lane({});
  ASSERT_TRUE(lane.ok()) << text_of(lane);
  const Buffer memory = host.device()->allocate(64, MemoryKind::device).value();
  const Buffer pinned = host.device()->allocate(64, MemoryKind::pinned).value();
  const std::vector<float> values = counting(2);
  auto* const here = static_cast<std::byte*>(memory.data());
  std::memcpy(here, values.data(), 8);
  const auto run = [&](const void* input, void* output) -> Result<void> {
    TestRun batch(host.device());
    batch.input(TensorView::of(DataType::fp32, input, {1, 2}, host.device()->id()));
    batch.output(DataType::fp32, {1, 2});
    batch.outputs()[0].view.data = output;
    return batch.on(**lane);
  };
  EXPECT_TRUE(run(here, here + 8).ok());
  std::array<float, 2> copied{};
  std::memcpy(copied.data(), here + 8, 8);
  EXPECT_TRUE(std::equal(copied.begin(), copied.end(), values.begin()));
  EXPECT_TRUE(run(here, here + 56).ok());
  for (const void* outside :
       {static_cast<const void*>(values.data()), static_cast<const void*>(pinned.data()),
        static_cast<const void*>(here + 60)}) {
    MILLRACE_EXPECT_ERROR(run(outside, here), ErrorCode::internal,
                          "an input lies outside the device's memory");
    MILLRACE_EXPECT_ERROR(run(here, const_cast<void*>(outside)), ErrorCode::internal,
                          "an output lies outside the device's memory");
  }
  MILLRACE_EXPECT_ERROR(run(here + 2, here), ErrorCode::internal, "an input is not aligned");
  MILLRACE_EXPECT_ERROR(run(here, here + 9), ErrorCode::internal, "an output is not aligned");
}

TEST(ReferenceApart, SizesOutputsLateOnlyWhereEnqueueBlocks) {
  Host host(apart());
  MILLRACE_EXPECT_ERROR(host.load("reference:nonzero"), ErrorCode::unsupported,
                        "model \"m\": on host:0, which has memory of its own, outputs whose size "
                        "is known only after computing need blocking=1");
  MILLRACE_EXPECT_ERROR(host.load("reference:identity?output_sized_late=1"), ErrorCode::unsupported,
                        "need blocking=1");
  for (const char* path :
       {"reference:nonzero?blocking=1", "reference:identity?output_sized_late=1&blocking=1",
        "reference:identity?shape=-1"}) {
    EXPECT_TRUE(host.load(path).ok()) << path;
  }
}

}  // namespace
}  // namespace millrace
