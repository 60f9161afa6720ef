// Who is let onto a device and who is refused, and that what is refused leaves no trace.
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::size_t kMiB = std::size_t{1} << 20;

EngineOptions limited(std::size_t bytes) {
  EngineOptions options = host_devices();
  HostDeviceOptions host;
  host.memory_limit_bytes = bytes;
  options.devices.host = {host};
  return options;
}

std::size_t used_bytes(const Engine& engine) {
  return engine.device_reports()[0].memory.used_bytes;
}

std::size_t held_bytes(const Engine& engine, std::string_view holder) {
  const std::vector<DeviceReport> reports = engine.device_reports();
  for (const MemoryHolder& held : reports[0].held) {
    if (held.holder == holder) return held.bytes;
  }
  return 0;
}

TEST(Memory, AModelThatDoesNotFitIsRefusedAndLeavesNoTrace) {
  Engine engine = make_engine(limited(10 * kMiB));
  const Model first = must(engine.load(named("first", "reference:identity?weights_bytes=6MiB")));
  const std::size_t before = used_bytes(engine);
  const std::size_t held = held_bytes(engine, "model \"first\"");
  EXPECT_GE(held, 6 * kMiB);
  for (const char* path :
       {"reference:identity?weights_bytes=5MiB", "reference:identity?lane_bytes=5MiB",
        "reference:identity?lane_bytes=2MiB&lanes=3",
        "reference:identity?weights_bytes=2MiB&share_weights=0&lanes=2",
        "reference:identity?wants_prepare=1&prepared_bytes=1MiB",
        "reference:identity?weights_bytes=3MiB&shape=100000"}) {
    SCOPED_TRACE(path);
    expect_error(engine.load(named("second", path)), ErrorCode::out_of_memory,
                 {"\"second\"", "needed ", "free ", "host:0", "model \"first\""});
    EXPECT_EQ(used_bytes(engine), before);
    EXPECT_EQ(held_bytes(engine, "model \"first\""), held);
    EXPECT_EQ(held_bytes(engine, "model \"second\""), 0u);
    EXPECT_THAT(engine.model_names(), ElementsAre("first"));
  }
  const Numbers numbers;
  expect_echo(first.infer(numbers.request()), numbers);
  must(engine.unload("first"));
  const Model second = must(engine.load(named("second", "reference:identity?weights_bytes=5MiB")));
  expect_echo(second.infer(numbers.request()), numbers);
}

TEST(Memory, WhatFailsWhileLoadingLeavesNoTrace) {
  Engine engine = make_engine(limited(100 * kMiB));
  must(engine.load(named("first", "reference:identity")));
  const std::size_t before = used_bytes(engine);
  const std::string size = "weights_bytes=8MiB&lane_bytes=1MiB&lanes=3&";
  for (const char* options :
       {"fail_load=1", "fail_lane=1", "fail_lane=3", "wants_prepare=1&fail_prepare=1"}) {
    SCOPED_TRACE(options);
    expect_error(engine.load(named("second", "reference:identity?" + size + options)),
                 ErrorCode::internal, {"\"second\"", "as asked"});
    EXPECT_LT(used_bytes(engine), before + kMiB / 16) << "but for what is kept for outputs to come";
    EXPECT_EQ(held_bytes(engine, "model \"second\""), 0u);
  }
  EXPECT_THAT(engine.model_names(), ElementsAre("first"));
  must(engine.load(named("second", "reference:identity?" + size)));
}

TEST(Memory, OnOneDeviceOfSeveralTooLittleIsTooLittle) {
  EngineOptions options = host_devices(3);
  HostDeviceOptions small;
  small.memory_limit_bytes = kMiB;
  options.devices.host = {HostDeviceOptions(), small, HostDeviceOptions()};
  Engine engine = make_engine(options);
  expect_error(engine.load(named("m", "reference:identity?weights_bytes=2MiB")),
               ErrorCode::out_of_memory, {"\"m\"", "host:1"});
  for (const DeviceReport& report : engine.device_reports()) {
    EXPECT_EQ(report.memory.used_bytes, 0u) << to_string(report.info.id);
    EXPECT_THAT(report.held, IsEmpty());
  }
}

TEST(Memory, LanesShareOneSetOfWeights) {
  Engine engine = make_engine();
  ModelConfig config = named("shared", "reference:identity?weights_bytes=16MiB");
  config.lanes = 4;
  must(engine.load(config));
  EXPECT_GE(used_bytes(engine), 16 * kMiB);
  EXPECT_LT(used_bytes(engine), 18 * kMiB);
  EXPECT_GE(held_bytes(engine, "model \"shared\""), 16 * kMiB);
  EXPECT_LT(held_bytes(engine, "model \"shared\""), 18 * kMiB);
  must(engine.unload("shared"));
  config = named("apart", "reference:identity?weights_bytes=16MiB&share_weights=0");
  config.lanes = 4;
  const Model apart = must(engine.load(config));
  EXPECT_FALSE(apart.info().placements[0].lanes_share_weights);
  EXPECT_GE(used_bytes(engine), 64 * kMiB);
  EXPECT_GE(held_bytes(engine, "model \"apart\""), 64 * kMiB);
}

TEST(Memory, TheLedgerHoldsAtLeastWhatIsAllocated) {
  Engine engine = make_engine();
  ModelConfig config = named("m",
                             "reference:identity?weights_bytes=3MiB&lane_bytes=2MiB&wants_prepare=1"
                             "&prepared_bytes=1MiB&fixed_addresses=1&shape=1000");
  config.lanes = 2;
  config.batching.max_items = 4;
  must(engine.load(config));
  EXPECT_GE(held_bytes(engine, "model \"m\""), used_bytes(engine));
}

TEST(Memory, WhatALaneTakesIsListedInParts) {
  Engine engine = make_engine();
  ModelConfig config = named("m",
                             "reference:identity?lane_bytes=2MiB&wants_prepare=1"
                             "&prepared_bytes=1MiB&fixed_addresses=1&shape=1000");
  config.lanes = 3;
  config.slots = 2;
  config.batching.max_items = 4;
  const ModelInfo::Placement placement = must(engine.load(config)).info().placements[0];
  EXPECT_EQ(placement.context_bytes, 2 * kMiB);
  EXPECT_EQ(placement.graph_bytes, 2 * 3 * kMiB);  // slots by sizes: 1, 2, 4
  EXPECT_EQ(placement.activation_bytes, 0u);
  EXPECT_EQ(placement.lane_bytes, 8 * kMiB);
  EXPECT_EQ(used_bytes(engine), 3 * (8 * kMiB + 2 * 2 * std::size_t{4 * 4000}));
  EXPECT_LE(used_bytes(engine), held_bytes(engine, "model \"m\""));
}

/// Requests for an input on the device come again and again, until a run in place is prepared.
void run_in_place(Engine& engine, const Model& model) {
  const Tensor input = must(engine.new_tensor(DataType::fp32, {4, 16}, DeviceId::host(0)));
  std::memset(input.view().data, 0, must(input.view().bytes()));
  for (int i = 0; i < 20; ++i) {
    Request request;
    request.inputs.push_back({"input", input.view(), input.lease()});
    (void)must(model.infer(std::move(request)));
  }
}

TEST(Memory, RunsPreparedForACallersAddressesAreReserved) {
  const auto engine_with = [](std::size_t limit) {
    EngineOptions options = limited(limit);
    options.devices.host[0].separate_memory = true;
    return make_engine(options);
  };
  const std::string path = "reference:identity?prepared_bytes=1MiB&fixed_addresses=1";
  ModelConfig config = named_one("m", path);
  config.batching.max_items = 4;
  const std::size_t loaded = 3 * kMiB;  // sizes 1, 2, 4
  {
    Engine engine = engine_with(100 * kMiB);
    const Model model = must(engine.load(config));
    const std::size_t before = held_bytes(engine, "model \"m\"");
    EXPECT_GE(before, loaded);
    run_in_place(engine, model);
    ASSERT_TRUE(eventually([&] { return held_bytes(engine, "model \"m\"") == before + kMiB; }));
    EXPECT_GE(held_bytes(engine, "model \"m\""), used_bytes(engine) - 2 * kMiB);
  }
  Log log;
  Engine engine = engine_with(loaded + kMiB / 2);
  const Model model = must(engine.load(config));
  run_in_place(engine, model);
  ASSERT_TRUE(eventually([&] { return log.has("runs in place are not prepared"); }));
  EXPECT_TRUE(log.has("needed 1 MiB"));
  EXPECT_LT(held_bytes(engine, "model \"m\""), loaded + kMiB);
  run_in_place(engine, model);  // as before
}

TEST(Memory, UnloadingGivesEverythingBack) {
  Engine engine = make_engine();
  for (const char* path : {"reference:identity?weights_bytes=1MiB&lane_bytes=1MiB",
                           "reference:identity?weights_bytes=1MiB&fixed_addresses=1",
                           "reference:identity?shape=1000000"}) {
    SCOPED_TRACE(path);
    ModelConfig config = named("m", path);
    config.lanes = 2;
    config.batching.max_items = 4;
    for (int round = 0; round < 3; ++round) {
      must(engine.load(config));
      EXPECT_GT(used_bytes(engine), 0u);
      must(engine.unload("m"));  // at once: its blocks may still be being filled
      EXPECT_EQ(held_bytes(engine, "model \"m\""), 0u);
    }
    EXPECT_THAT(engine.device_reports()[0].held, IsEmpty());
  }
  // Only what is kept for outputs to come is left.
  EXPECT_LT(used_bytes(engine), 2 * kMiB);
}

TEST(Memory, BlocksThatNobodyUsesGiveWayToAModel) {
  Engine engine = make_engine(limited(10 * kMiB));
  // Outputs of 4 MiB, which are kept for the next ones.
  const Model model = must(engine.load(one_at_a_time("reference:identity?shape=-1")));
  const std::vector<float> values(kMiB);
  {
    std::vector<Response> responses;
    for (int i = 0; i < 2; ++i) {
      Request request;
      request.inputs.push_back(
          {"input", TensorView::of(values.data(), {1, static_cast<std::int64_t>(kMiB)}), {}});
      responses.push_back(must(model.infer(std::move(request))));
    }
  }
  const Numbers numbers;
  Model second;
  EXPECT_TRUE(eventually([&] {  // once the lane has let go of the last block too
    Result<Model> loaded = engine.load(named("second", "reference:identity?weights_bytes=6MiB"));
    if (loaded.ok()) second = *loaded;
    return loaded.ok();
  }));
  expect_echo(second.infer(numbers.request()), numbers);
}

TEST(Memory, ReportsWhatTheDeviceHas) {
  Engine engine = make_engine(limited(64 * kMiB));
  const std::vector<DeviceReport> reports = engine.device_reports();
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].info.id, DeviceId::host(0));
  EXPECT_EQ(reports[0].memory.limit_bytes, 64 * kMiB);
  EXPECT_EQ(reports[0].memory.used_bytes, 0u);
  EXPECT_EQ(reports[0].memory.free_bytes, 64 * kMiB);
  EXPECT_THAT(reports[0].held, IsEmpty());
}

}  // namespace
}  // namespace millrace::testing
