// Several models on a device, one model on several.
#include <map>
#include <set>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// --------------------------------------------------------------------------------------------
// several models on one

TEST(Neighbours, AModelThatIsHeldUpDoesNotHoldUpAnother) {
  // Its stream shut; its enqueue blocked; its own stream shut beside the lane's; every lane and
  // slot of it taken.
  for (const char* path :
       {"reference:identity", "reference:identity?blocking=1", "reference:identity?own_stream=1"}) {
    SCOPED_TRACE(path);
    Engine engine = make_engine();
    ModelConfig config = named("slow", path);
    config.lanes = 2;
    config.batching.max_items = 1;
    const Model slow = must(engine.load(config));
    const Model quick = must(engine.load(named("quick", "reference:identity")));
    Gate gate(engine.devices()[0]);
    Requests held(slow);
    for (int i = 0; i < 10; ++i) held.submit(1, gate.event());
    ASSERT_TRUE(eventually([&] { return slow.statistics().running_batches == 4; }));
    const Numbers numbers;
    for (int i = 0; i < 20; ++i) expect_echo(quick.infer(numbers.request()), numbers);
    EXPECT_EQ(slow.statistics().succeeded, 0u);
    gate.open();
    held.batches();
  }
}

TEST(Neighbours, SubmittingNeverWaitsForALane) {
  Engine engine = make_engine();
  ModelConfig config = one_at_a_time("reference:identity?blocking=1");
  const Model model = must(engine.load(config));
  Gate gate(engine.devices()[0]);
  Requests requests(model);
  for (int i = 0; i < 100; ++i) requests.submit(1, gate.event());  // returns, with the gate shut
  gate.open();
  requests.batches();
}

TEST(Neighbours, AModelThatLoadsHoldsUpNobody) {
  for (const char* option : {"load_us=400000", "wants_prepare=1&prepare_us=100000"}) {
    SCOPED_TRACE(option);
    Engine engine = make_engine();
    const Model quick = must(engine.load(named("quick", "reference:identity")));
    std::atomic<bool> loading{true};
    std::jthread loader([&] {
      ModelConfig config = named_one("slow", std::string("reference:identity?") + option);
      config.batching.max_items = 4;
      must(engine.load(config));
      loading = false;
    });
    const Numbers numbers;
    int meanwhile = 0;
    while (loading) {
      expect_echo(quick.infer(numbers.request()), numbers);
      if (loading) ++meanwhile;
    }
    EXPECT_GT(meanwhile, 1);
  }
}

class Shares : public ::testing::Test {
 protected:
  // One batch at a time on the whole device.
  static EngineOptions capped() {
    EngineOptions options = host_devices();
    options.max_batches_in_flight = 1;
    return options;
  }
  Model load(const std::string& name, const std::function<void(ModelConfig&)>& settle = {},
             const std::string& path = "reference:identity") {
    ModelConfig config = named(name, path);
    config.batching.max_items = 1;
    if (settle) settle(config);
    return must(engine_.load(config));
  }
  void hold(const Model& model) {
    held_ = model.submit(numbers_.request(gate_.event()));
    ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 1; }));
  }

  const Numbers numbers_;
  Engine engine_ = make_engine(capped());
  Gate gate_{engine_.devices()[0]};
  Answers answers_;
  Future held_;
};

TEST_F(Shares, TheCapHoldsOverAllModels) {
  const Model a = load("a"), b = load("b");
  hold(a);
  Future waiting = b.submit(numbers_.request());
  EXPECT_FALSE(waiting.wait_until(Clock::now() + milliseconds(10)));
  EXPECT_EQ(b.statistics().queued_requests, 1u);
  gate_.open();
  expect_echo(waiting, numbers_);
}

TEST_F(Shares, AHigherClassGoesFirst) {
  const Model low = load("low");
  const Model high = load("high", [](ModelConfig& config) { config.priority_class = 1; });
  hold(low);
  for (int i = 0; i < 3; ++i) must(low.submit(numbers_.request(), answers_.callback(i)));
  for (int i = 10; i < 13; ++i) must(high.submit(numbers_.request(), answers_.callback(i)));
  gate_.open();
  ASSERT_TRUE(answers_.wait_for(6));
  EXPECT_THAT(answers_.order(), ElementsAre(10, 11, 12, 0, 1, 2));
}

TEST_F(Shares, WithinAClassTheEarliestDeadlineGoesFirst) {
  const Model a = load("a"), b = load("b"), c = load("c");
  hold(a);
  const auto submit = [&](const Model& model, int tag, std::optional<Duration> deadline) {
    Request request = numbers_.request();
    if (deadline) request.deadline = Clock::now() + *deadline;
    must(model.submit(std::move(request), answers_.callback(tag)));
  };
  submit(a, 0, std::nullopt);
  submit(b, 1, 2 * kAges);
  submit(c, 2, kAges);
  gate_.open();
  ASSERT_TRUE(answers_.wait_for(3));
  EXPECT_THAT(answers_.order(), ElementsAre(2, 1, 0));
}

TEST_F(Shares, DeviceTimeIsSharedByWeight) {
  const Model holder = load("holder");
  const Model three = load(
      "three", [](ModelConfig& config) { config.weight = 3; }, "reference:busy?batch_us=600");
  const Model one = load("one", {}, "reference:busy?batch_us=1400");
  hold(holder);
  constexpr int kRequests = 600;
  std::atomic<int> left{kRequests};
  double ratio = 0;
  for (int i = 0; i < kRequests; ++i) {
    must(one.submit(numbers_.request(), [](const Result<Response>&, bool) {}));
    must(three.submit(numbers_.request(), [&](const Result<Response>&, bool) {
      if (--left != kRequests / 3) return;  // while both still have plenty to do
      ratio = static_cast<double>(three.statistics().device_time.count()) /
              static_cast<double>(one.statistics().device_time.count());
    }));
  }
  gate_.open();
  ASSERT_TRUE(eventually([&] { return left == 0; }));
  EXPECT_NEAR(ratio, 3.0, 0.5);
  must(engine_.drain(kGuard));
}

// ------------------------------------------------------------------------------------------- one
// model on several

TEST(OverDevices, AllTakeWork) {
  Engine engine = make_engine(host_devices(4));
  ModelConfig config = one_at_a_time("reference:identity");
  config.batching.max_items = 1;
  const Model model = must(engine.load(config));
  Gate gate(engine.devices()[0]);
  Requests requests(model);
  for (int i = 0; i < 4; ++i) requests.submit(1, gate.event());
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 4; }));
  gate.open();
  std::set<std::int32_t> devices;
  for (std::size_t i = 0; i < 4; ++i) devices.insert(must(get(requests[i])).device.index);
  EXPECT_THAT(devices, ElementsAre(0, 1, 2, 3));
}

TEST(OverDevices, AModelRunsWhereItIsToldTo) {
  Engine engine = make_engine(host_devices(3));
  ModelConfig config = one_at_a_time("reference:identity");
  config.devices = {DeviceId::host(2)};
  const Model model = must(engine.load(config));
  ASSERT_EQ(model.info().placements.size(), 1u);
  EXPECT_EQ(model.info().placements[0].device, DeviceId::host(2));
  const Numbers numbers;
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(must(model.infer(numbers.request())).device, DeviceId::host(2));
}

TEST(OverDevices, WhatWaitsGoesToWhicheverIsFree) {
  Engine engine = make_engine(host_devices(2));
  ModelConfig config = one_at_a_time("reference:identity");
  config.batching.max_items = 1;
  const Model model = must(engine.load(config));
  // One device is shut; all the rest runs on the other.
  Gate gate(engine.devices()[0]);
  const Numbers numbers;
  Future held = model.submit(numbers.request(gate.event()));
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 1; }));
  std::set<std::int32_t> devices;
  Requests requests(model);
  for (int i = 0; i < 100; ++i) requests.submit();
  for (std::size_t i = 0; i < 100; ++i) devices.insert(must(get(requests[i])).device.index);
  EXPECT_EQ(devices.size(), 1u);
  gate.open();
  EXPECT_FALSE(devices.contains(must(get(held)).device.index));
}

class Locality : public ::testing::Test {
 protected:
  Locality() {
    ModelConfig config = one_at_a_time("reference:identity");
    config.batching.max_items = 1;
    model_ = must(engine_.load(config));
  }
  Request on(std::int32_t device, EventRef ready = {}) {
    Request request = numbers_.request(ready);
    request.inputs[0].view.device = DeviceId::host(device);
    return request;
  }

  const Numbers numbers_;
  Engine engine_ = make_engine(host_devices(3));
  Gate gate_{engine_.devices()[0]};
  Model model_;
};

TEST_F(Locality, DataOnADeviceIsComputedThere) {
  for (int round = 0; round < 30; ++round) {
    for (const std::int32_t device : {1, 2, 0}) {
      const Result<Response> response = model_.infer(on(device));
      expect_echo(response, numbers_);
      EXPECT_EQ(response->device, DeviceId::host(device));
    }
  }
  EXPECT_EQ(model_.statistics().bound_in_place, 90u);
}

TEST_F(Locality, ADeviceThatIsStuckStrandsNothing) {
  Future held = model_.submit(on(1, gate_.event()));
  ASSERT_TRUE(eventually([&] { return model_.statistics().running_batches == 1; }));
  std::vector<Future> futures;
  futures.reserve(20);
  for (int i = 0; i < 20; ++i) futures.push_back(model_.submit(on(1)));
  for (Future& future : futures) {
    const Result<Response> response = get(future);
    expect_echo(response, numbers_);
    EXPECT_NE(response->device, DeviceId::host(1));
  }
  gate_.open();
  EXPECT_EQ(must(get(held)).device, DeviceId::host(1));
}

TEST_F(Locality, DataOnADeviceThatDoesNotRunTheModelGoesAnywhere) {
  ModelConfig config = named("elsewhere", "reference:identity");
  config.devices = {DeviceId::host(2)};
  const Model model = must(engine_.load(config));
  const Result<Response> response = model.infer(on(0));
  expect_echo(response, numbers_);
  EXPECT_EQ(response->device, DeviceId::host(2));
}

// A request takes the memory of one that came before it, for whatever model; nothing of that may
// stay.
TEST_F(Locality, NothingIsLeftOfARequestsLocation) {
  ModelConfig config = named("single", "reference:identity");
  config.devices = {DeviceId::host(0)};
  const Model single = must(engine_.load(config));
  for (int i = 0; i < 10; ++i) {
    expect_echo(model_.infer(on(2)), numbers_);
    expect_echo(single.infer(numbers_.request()), numbers_);
  }
}

TEST(OverDevices, ASlowDeviceTakesWhatItCanAndNoMore) {
  EngineOptions options = host_devices(2);
  options.devices.host = {HostDeviceOptions(), HostDeviceOptions()};
  options.devices.host[1].slowness = 50;
  Engine engine = make_engine(options);
  ModelConfig config = one_at_a_time("reference:busy?batch_us=500");
  config.batching.max_items = 1;
  const Model model = must(engine.load(config));
  Requests requests(model);
  for (int i = 0; i < 200; ++i) requests.submit();
  std::map<std::int32_t, int> count;
  for (std::size_t i = 0; i < 200; ++i) ++count[must(get(requests[i])).device.index];
  EXPECT_GT(count[0], 100);
  EXPECT_GT(count[1], 0);
}

TEST(OverDevices, DevicesShareNoCapAndNoMemory) {
  EngineOptions options = host_devices(2);
  options.max_batches_in_flight = 1;
  Engine engine = make_engine(options);
  ModelConfig config = from("reference:identity");
  config.batching.max_items = 1;
  const Model model = must(engine.load(config));
  Gate gate(engine.devices()[0]);
  Requests requests(model);
  for (int i = 0; i < 4; ++i) requests.submit(1, gate.event());
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 2; }));
  EXPECT_EQ(model.statistics().queued_requests, 2u);
  gate.open();
  EXPECT_THAT(requests.batches(), Each(1));
}

}  // namespace
}  // namespace millrace::testing
