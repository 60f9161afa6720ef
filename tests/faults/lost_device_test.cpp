// A device that fails for good: what it held is answered, the others go on, and the engine says
// that the process should be restarted.
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

constexpr DeviceId kLost = DeviceId::host(0);
constexpr DeviceId kSound = DeviceId::host(1);

class LostDevice : public ::testing::Test {
 protected:
  static EngineOptions devices(bool take_over = true, bool apart = false) {
    EngineOptions options = host_devices(2);
    options.others_take_over = take_over;
    HostDeviceOptions host;
    host.separate_memory = apart;
    options.devices.host.assign(2, host);
    return options;
  }
  /// A model on the first device whose first call breaks it.
  static Model breaker(Engine& engine, const std::string& more = "") {
    ModelConfig config = named_one("breaker", "reference:fail?sticky=1&at=1" + more);
    config.devices = {kLost};
    config.batching.max_items = 1;
    return must(engine.load(config));
  }
  static Model on_both(Engine& engine, const std::string& name = "both",
                       const std::string& path = "reference:identity") {
    ModelConfig config = named_one(name, path);
    config.batching.max_items = 1;
    return must(engine.load(config));
  }
  void expect_lost(const Result<Response>& response) const {
    expect_error(response, ErrorCode::gpu_fault, {"host:0", "restarted"});
    ASSERT_FALSE(response.ok());
    EXPECT_EQ(response.error().scope, Scope::process);
  }
  void expect_on(const Result<Response>& response, DeviceId device) const {
    expect_echo(response, numbers_);
    if (response.ok()) {
      EXPECT_EQ(response->device, device);
    }
  }

  const Log log_;
  const Numbers numbers_;
};

TEST_F(LostDevice, IsSaidAndTakesNoWorkWhileTheOthersGoOn) {
  for (const char* way : {"", "&blocking=1", "&own_stream=1", "&output_sized_late=1"}) {
    SCOPED_TRACE(way);
    EngineOptions options = devices();
    std::atomic<int> told{0};
    options.on_fault = [&told](const DeviceFault& fault) {
      if (fault.device == kLost && fault.error.scope == Scope::process) ++told;
    };
    Engine engine = make_engine(options);
    const Model both = on_both(engine);
    EXPECT_TRUE(engine.faults().empty());
    (void)breaker(engine, way).infer(numbers_.request());
    ASSERT_TRUE(eventually([&] { return engine.faults().size() == 1; }));
    EXPECT_EQ(engine.faults()[0].device, kLost);
    EXPECT_EQ(engine.faults()[0].error.code, ErrorCode::gpu_fault);
    EXPECT_TRUE(eventually([&] { return told == 1; }));
    EXPECT_TRUE(engine.device_reports()[0].fault);
    EXPECT_FALSE(engine.device_reports()[1].fault);
    for (int i = 0; i < 50; ++i) expect_on(both.infer(numbers_.request()), kSound);
    expect_lost(must(engine.find("breaker")).infer(numbers_.request()));
  }
}

TEST_F(LostDevice, WhatItHoldsIsAnswered) {
  Engine engine = make_engine(devices());
  ModelConfig config = named("held", "reference:identity");
  config.devices = {kLost};
  config.lanes = 2;
  config.batching.max_items = 1;
  const Model held = must(engine.load(config));
  Gate gate(engine.devices()[1]);
  Requests requests(held);
  for (int i = 0; i < 6; ++i) requests.submit(1, gate.event());
  ASSERT_TRUE(eventually([&] { return held.statistics().running_batches == 4; }));
  expect_lost(breaker(engine).infer(numbers_.request()));
  for (std::size_t i = 0; i < 6; ++i) expect_lost(get(requests[i]));
  EXPECT_EQ(held.statistics().running_batches, 0u);
  gate.open();
}

TEST_F(LostDevice, WhatHasNotStartedRunsOnTheOthers) {
  Engine engine = make_engine(devices());
  const Model both = on_both(engine);
  const Model breaks = breaker(engine);
  Gate first(engine.devices()[0]), second(engine.devices()[1]);
  Future running[2];
  for (Future& future : running) future = both.submit(numbers_.request(second.event()));
  ASSERT_TRUE(eventually([&] { return both.statistics().running_batches == 2; }));
  std::vector<Future> waiting;
  for (int i = 0; i < 20; ++i) waiting.push_back(both.submit(numbers_.request()));
  expect_lost(breaks.infer(numbers_.request()));
  second.open();
  int lost = 0;
  for (Future& future : running) {
    const Result<Response> response = get(future);
    if (response.ok()) {
      expect_on(response, kSound);  // what the other holds is finished
    } else {
      expect_lost(response);
      ++lost;
    }
  }
  EXPECT_EQ(lost, 1);
  for (Future& future : waiting) expect_on(get(future), kSound);
}

TEST_F(LostDevice, NobodyTakesOverWhereThatIsNotAllowed) {
  Engine engine = make_engine(devices(false));
  const Model both = on_both(engine);
  ModelConfig config = named("elsewhere", "reference:identity");
  config.devices = {kSound};
  const Model elsewhere = must(engine.load(config));
  const Model breaks = breaker(engine);
  Gate gate(engine.devices()[1]);
  Future running[2];
  for (Future& future : running) future = both.submit(numbers_.request(gate.event()));
  ASSERT_TRUE(eventually([&] { return both.statistics().running_batches == 2; }));
  Future waiting = both.submit(numbers_.request());
  expect_lost(breaks.infer(numbers_.request()));
  expect_lost(get(waiting));
  expect_lost(both.infer(numbers_.request()));
  gate.open();
  EXPECT_NE(get(running[0]).ok(), get(running[1]).ok()) << "what the other holds is finished";
  expect_on(elsewhere.infer(numbers_.request()), kSound);
}

TEST_F(LostDevice, DataOnItIsLostWithIt) {
  Engine engine = make_engine(devices(true, true));
  const Model both = on_both(engine);
  const Model breaks = breaker(engine);
  const auto on = [&](DeviceId device) {
    const Tensor tensor = must(engine.new_tensor(DataType::fp32, numbers_.shape(), device));
    std::memcpy(tensor.view().data, numbers_.values().data(), 16 * sizeof(float));
    Request request;
    request.inputs.push_back({"input", tensor.view(), tensor.lease()});
    return request;
  };
  Gate gate(engine.devices()[1]);
  Future running[2];
  for (Future& future : running) {
    Request request = on(&future == running ? kLost : kSound);
    request.inputs[0].view.ready = gate.event();
    future = both.submit(std::move(request));
  }
  ASSERT_TRUE(eventually([&] { return both.statistics().running_batches == 2; }));
  // Waits for its device: the other is as busy.
  Future waiting = both.submit(on(kLost));
  Future sound = both.submit(on(kSound));
  Request another = on(kLost);
  expect_lost(breaks.infer(numbers_.request()));
  expect_lost(get(running[0]));
  expect_lost(get(waiting));
  gate.open();
  expect_on(get(running[1]), kSound);
  expect_on(get(sound), kSound);
  expect_lost(both.infer(std::move(another)));
  expect_on(both.infer(numbers_.request()), kSound);
}

TEST_F(LostDevice, NothingIsLoadedOnIt) {
  Engine engine = make_engine(devices());
  (void)breaker(engine).infer(numbers_.request());
  ASSERT_TRUE(eventually([&] { return engine.faults().size() == 1; }));
  ModelConfig config = named("late", "reference:identity");
  config.devices = {kLost};
  expect_error(engine.load(config), ErrorCode::gpu_fault, {"\"late\"", "host:0"});
  config.devices.clear();
  const Model late = must(engine.load(config));
  ASSERT_EQ(late.info().placements.size(), 1u);
  expect_on(late.infer(numbers_.request()), kSound);
  must(engine.unload("late"));
}

TEST_F(LostDevice, TheLastOneTakesTheModelWithIt) {
  Engine engine = make_engine();
  const Model model = must(engine.load(named_one("m", "reference:identity")));
  const Model breaks = breaker(engine);
  expect_lost(breaks.infer(numbers_.request()));
  expect_lost(model.infer(numbers_.request()));
  expect_error(engine.load(named("late", "reference:identity")), ErrorCode::gpu_fault);
}

TEST_F(LostDevice, MayBeLostUnderLoadFromManyThreads) {
  for (int round = 0; round < 5; ++round) {
    Engine engine = make_engine(devices(true, round % 2 == 1));
    const Model both = on_both(engine);
    const Model breaks = breaker(engine);
    std::atomic<int> right{0}, lost{0}, wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 200; ++i) {
          const Result<Response> response = both.infer(numbers_.request());
          const bool echo = response.ok() && floats(response->outputs[0].view) == numbers_.values();
          const bool fault = !response.ok() && response.error().scope == Scope::process;
          ++(echo ? right : fault ? lost : wrong);
        }
      });
    }
    (void)breaks.infer(numbers_.request());
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
    // What was running there; and what was brought into memory of it before anybody knew.
    if (round % 2 == 0) {
      EXPECT_LE(lost, 1);
    }
    EXPECT_EQ(right + lost, 600);
  }
}

// Batches in flight on several lanes and slots, callbacks that submit again from within.
TEST_F(LostDevice, LeavesNoRequestUnanswered) {
  for (int round = 0; round < 20; ++round) {
    Engine engine = make_engine(devices(true, round % 2 == 1));
    ModelConfig config = named("breaker", "reference:fail?sticky=1&at=60");
    config.devices = {kLost};
    config.lanes = 2;
    config.batching.max_items = 2;
    const Model models[] = {must(engine.load(config)),
                            must(engine.load(named("both", "reference:identity")))};
    std::atomic<int> answers{0};
    std::function<void(const Model&, int)> send = [&](const Model& model, int left) {
      const Result<Ticket> ticket =
          model.submit(numbers_.request(), [&, left](const Result<Response>&, bool) {
            ++answers;
            if (left > 0) send(model, left - 1);
          });
      if (!ticket.ok()) answers += left + 1;
    };
    for (int i = 0; i < 8; ++i) {
      for (const Model& model : models) send(model, 99);
    }
    EXPECT_TRUE(eventually([&] { return answers == 1600; })) << answers;
    EXPECT_EQ(engine.faults().size(), 1u);
  }
}

}  // namespace
}  // namespace millrace::testing
