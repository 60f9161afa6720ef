// One engine on several GPUs: data stays where it lies, models run where they are told to.
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <memory>

#include "tests/gpu/digits.h"
#include "tests/gpu/gpus.h"
#include "tests/gpu/hold.h"
#include "tests/gpu/sync_watch.h"

namespace millrace {
namespace {

using digits::must;

constexpr DeviceId kFirst = DeviceId::cuda(0);
constexpr DeviceId kSecond = DeviceId::cuda(1);

class SeveralGpus : public testing::Test {
 protected:
  void SetUp() override {
    REQUIRE_GPUS(2);
    if (const std::string reason = digits::why_no_tensorrt(); !reason.empty()) {
      GTEST_SKIP() << reason;
    }
    gpus_ = cuda_status().visible_gpus;
    EngineOptions options;
    for (int i = 0; i < gpus_; ++i) options.devices.devices.push_back(to_string(DeviceId::cuda(i)));
    options.devices.devices.push_back("host:0");
    engine_ = std::make_unique<Engine>(must(Engine::create(options)));
    cpu_ = must(engine_->load(digits::config("cpu", cache().path(), {DeviceId::host(0)})));
  }
  static digits::Cache& cache() {
    static digits::Cache cache;
    return cache;
  }
  Model load(const std::string& name, std::vector<DeviceId> devices, int lanes = 0) {
    ModelConfig config = digits::config(name, cache().path(), std::move(devices));
    config.lanes = lanes;
    return must(engine_->load(config));
  }
  std::vector<DeviceId> all() const {
    std::vector<DeviceId> ids;
    ids.reserve(static_cast<std::size_t>(gpus_));
    for (int i = 0; i < gpus_; ++i) ids.push_back(DeviceId::cuda(i));
    return ids;
  }
  static void print(const Model& model) {
    for (const DeviceStatistics& device : model.statistics().devices) {
      std::printf("  %s on %s: %llu requests, %llu of them moved, %llu batches\n",
                  model.info().name.c_str(), to_string(device.device).c_str(),
                  static_cast<unsigned long long>(device.requests),
                  static_cast<unsigned long long>(device.moved_requests),
                  static_cast<unsigned long long>(device.batches));
    }
  }

  int gpus_ = 0;
  std::unique_ptr<Engine> engine_;
  Model cpu_;
};

TEST_F(SeveralGpus, TransfersBetweenEveryPairAreMeasured) {
  for (const DeviceReport& report : engine_->device_reports()) {
    if (report.info.id.kind != DeviceKind::cuda) continue;
    EXPECT_EQ(report.transfers.size(), static_cast<std::size_t>(gpus_ - 1));
    for (const TransferCost& cost : report.transfers) {
      int peers = 0;
      (void)cudaDeviceCanAccessPeer(&peers, report.info.id.index, cost.from.index);
      std::printf("  %s -> %s: %.1f us, %.1f GB/s%s\n", to_string(cost.from).c_str(),
                  to_string(report.info.id).c_str(),
                  std::chrono::duration<double, std::micro>(cost.latency).count(),
                  cost.bytes_per_second / 1e9, peers ? ", peers" : "");
      EXPECT_GT(cost.latency, Duration::zero());
      EXPECT_LT(cost.latency, std::chrono::milliseconds(10));
      EXPECT_GT(cost.bytes_per_second, 1e8);
    }
  }
}

TEST_F(SeveralGpus, DataOnOneIsComputedThereWithoutACopy) {
  const Model model = load("everywhere", all());
  const digits::Sample sample = digits::sample(cpu_, 4, 1);
  const Tensor input = digits::on_device(*engine_, sample, kSecond);
  (void)must(model.infer(digits::request_of(input)));  // fills the pools
  const ModelStatistics before = model.statistics();
  Result<std::unique_ptr<SyncWatch>> watch = SyncWatch::start();
  if (watch) (*watch)->arm();
  constexpr int kRequests = 300;
  int there = 0;
  for (int i = 0; i < kRequests; ++i) {
    const Result<Response> response = model.infer(digits::request_of(input));
    ASSERT_TRUE(sample.matches(response)) << digits::text_of(response);
    there += response->device == kSecond ? 1 : 0;
  }
  if (watch) {
    (*watch)->disarm();
    EXPECT_EQ((*watch)->count("cuMemcpyPeer"), 0u);
    for (const auto& [function, count] : (*watch)->counts()) {
      if (function.starts_with("cuMemcpy")) {
        std::printf("  %s: %llu\n", function.c_str(), static_cast<unsigned long long>(count));
      }
    }
  } else {
    std::printf("  copies are NOT CHECKED: %s\n", watch.error().message.c_str());
  }
  print(model);
  EXPECT_EQ(there, kRequests);
  for (const DeviceStatistics& device : model.statistics().devices) {
    EXPECT_EQ(device.moved_requests, 0u) << device.device.index;
  }
  EXPECT_EQ(model.statistics().bound_in_place - before.bound_in_place +
                (model.statistics().prepared_batches - before.prepared_batches),
            static_cast<std::uint64_t>(kRequests))
      << "each batch ran on the caller's memory or as prepared";
}

TEST_F(SeveralGpus, DataIsMovedOnceItsGpuIsBusyForLongerThanThatTakes) {
  const Model model = load("everywhere", all(), 1);
  const digits::Sample sample = digits::sample(cpu_, 4, 2);
  const Tensor input = digits::on_device(*engine_, sample, kSecond);
  (void)must(model.infer(digits::request_of(input)));
  // A stream of the second GPU that is held shut, and requests there that wait for it.
  Device& second = *digits::device(*engine_, kSecond);
  const Stream held_stream = must(second.new_stream({}));
  const Event ready = must(second.new_event(EventTiming::untimed));
  auto open = std::make_shared<std::atomic<bool>>(false);
  must(hold_stream(held_stream, open));
  must(held_stream.ref().record(ready));
  const int slots = model.info().placements[1].lanes * model.info().placements[1].slots;
  std::vector<Future> held;
  for (int i = 0; i < slots; ++i) {
    // Not to be combined into one batch.
    const TimePoint until = Clock::now() + std::chrono::seconds(20);
    held.push_back(model.submit(digits::request_of(input, ready)));
    while (model.statistics().running_batches <= static_cast<std::uint64_t>(i) &&
           Clock::now() < until) {
      std::this_thread::yield();
    }
  }
  std::map<int, int> counts;
  for (int i = 0; i < 50; ++i) {
    Future future = model.submit(digits::request_of(input));
    if (!future.wait_until(Clock::now() + std::chrono::seconds(30))) break;
    const Result<Response> response = future.get();
    EXPECT_TRUE(sample.matches(response)) << digits::text_of(response);
    if (response.ok()) ++counts[response->device.index];
  }
  *open = true;
  open->notify_all();
  for (Future& future : held) {
    const Result<Response> response = future.get();
    EXPECT_TRUE(sample.matches(response)) << digits::text_of(response);
  }
  print(model);
  EXPECT_EQ(counts[1], 0);
  int elsewhere = 0;
  for (const auto& [device, count] : counts) elsewhere += count;
  EXPECT_EQ(elsewhere, 50);
}

TEST_F(SeveralGpus, ModelsRunWhereTheyAreToldToAndAnswerRight) {
  const Model models[] = {load("a", {kFirst}), load("b", {kSecond}), load("c", all())};
  std::vector<digits::Sample> samples;
  for (unsigned i = 0; i < 30; ++i) samples.push_back(digits::sample(cpu_, 1 + i % 4, 100 + i));
  std::vector<std::pair<std::size_t, Future>> futures;
  for (int round = 0; round < 20; ++round) {
    for (std::size_t i = 0; i < samples.size(); ++i) {
      for (const Model& model : models) {
        futures.emplace_back(i, model.submit(samples[i].request()));
      }
    }
  }
  std::map<int, int> of_a, of_b, of_c;
  for (std::size_t k = 0; k < futures.size(); ++k) {
    const Result<Response> response = futures[k].second.get();
    ASSERT_TRUE(samples[futures[k].first].matches(response)) << digits::text_of(response);
    auto& counts = k % 3 == 0 ? of_a : k % 3 == 1 ? of_b : of_c;
    ++counts[response->device.index];
  }
  for (const Model& model : models) print(model);
  EXPECT_EQ(of_a.size(), 1u);
  EXPECT_EQ(of_a[0], 600);
  EXPECT_EQ(of_b[1], 600);
  EXPECT_GT(of_c.size(), 1u);
}

TEST_F(SeveralGpus, AnEnsembleGoesFromOneToAnotherAndToTheHost) {
  (void)load("first", {kFirst});
  ModelConfig config = digits::config("host", cache().path(), {DeviceId::host(0)});
  must(engine_->load(config));
  ModelConfig chain;
  chain.name = "both";
  chain.ensemble = {{"first", {{"images", "images"}}, {{"probabilities", "gpu"}}},
                    {"host", {{"images", "images"}}, {{"probabilities", "cpu"}}}};
  chain.ensemble_outputs = {"gpu", "cpu"};
  const Model both = must(engine_->load(chain));
  const digits::Sample sample = digits::sample(cpu_, 3, 7);
  const Response response = must(both.infer(sample.request()));
  ASSERT_EQ(response.outputs.size(), 2u);
  for (std::size_t i = 0; i < sample.expected.size(); ++i) {
    EXPECT_NEAR(response.outputs[0].view.as<float>()[i], response.outputs[1].view.as<float>()[i],
                2e-4);
  }
}

}  // namespace
}  // namespace millrace
