// What lanes take of a GPU's memory: as much as is listed, weights once, and less where they share
// activations.
#include <cuda_runtime_api.h>

#include <cstdio>

#include "tests/gpu/gpu_harness.h"

namespace millrace::gpu {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr int kEightLanes = 8;
/// Enough that what the pool takes at once, 32 MiB, is little for each.
constexpr int kMostLanes = 16;

BuildOptions large_batches() {
  BuildOptions options = build_options();
  options.max_batch = 32;
  return options;
}

std::size_t used_on_gpu() {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  return total_bytes - free_bytes;
}

struct Measured {
  std::size_t grown = 0;  // by cudaMemGetInfo, from before the engine was made
  std::size_t held = 0;   // by the ledger
  ModelInfo::Placement placement;
};

Measured load_with(int lanes, std::map<std::string, std::string> options) {
  const std::size_t before = used_on_gpu();
  Engine engine = engine_on_gpu();
  ModelConfig config =
      config_of("convolutions", plan_of("convolutions", large_batches()), std::move(options));
  config.lanes = lanes;
  Measured measured;
  measured.placement = must(engine.load(config)).info().placements[0];
  measured.grown = used_on_gpu() - before;
  for (const MemoryHolder& holder : engine.device_reports()[0].held) measured.held += holder.bytes;
  return measured;
}

double mib(std::size_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

TEST(LaneMemory, GrowsByWhatIsListed) {
  MILLRACE_NEEDS_TENSORRT();
  for (const char* graphs : {"on", "off"}) {
    (void)load_with(kMostLanes, {{"graphs", graphs}});  // what the process takes but once
    const Measured one = load_with(1, {{"graphs", graphs}});
    std::printf(
        "graphs %s, MiB\nlanes  grown  a lane |  listed a lane: contexts activations graphs slots "
        "| ledger\n",
        graphs);
    for (const int lanes : {2, kEightLanes, kMostLanes}) {
      const Measured all = load_with(lanes, {{"graphs", graphs}});
      const ModelInfo::Placement& p = all.placement;
      const double listed = mib(p.lane_bytes + p.slot_bytes);
      const double growth = (mib(all.grown) - mib(one.grown)) / (lanes - 1);
      std::printf("%5d %6.1f %7.2f | %7.2f       %8.2f %11.2f %6.2f %5.2f | %6.1f\n", lanes,
                  mib(all.grown), growth, listed, mib(p.context_bytes), mib(p.activation_bytes),
                  mib(p.graph_bytes), mib(p.slot_bytes), mib(all.held));
      EXPECT_EQ(p.lane_bytes, p.context_bytes + p.activation_bytes + p.graph_bytes);
      EXPECT_EQ(p.weights_bytes, one.placement.weights_bytes) << "once";
      EXPECT_GT(p.activation_bytes, 0u);
      EXPECT_GE(mib(all.held) + 4, mib(p.weights_bytes) + lanes * listed) << "the ledger knows";
      if (lanes == kMostLanes) {
        EXPECT_NEAR(growth, listed, std::max(4.0, 0.05 * listed));
      }
    }
  }
}

TEST(LaneMemory, IsLessWhereActivationsAreShared) {
  MILLRACE_NEEDS_TENSORRT();
  const Measured own = load_with(4, {});
  const Measured shared = load_with(4, {{"share_activations", "on"}});
  EXPECT_EQ(own.placement.shared_bytes, 0u);
  EXPECT_GT(own.placement.activation_bytes, 0u);
  EXPECT_EQ(shared.placement.activation_bytes, 0u);
  EXPECT_EQ(shared.placement.shared_bytes, own.placement.activation_bytes);
  EXPECT_LT(shared.held, own.held);
}

TEST(SharedActivations, GiveTheSameAnswersWithLanesInFlight) {
  MILLRACE_NEEDS_TENSORRT();
  constexpr std::size_t kImage = std::size_t{4} * 48 * 48;
  Engine engine = engine_on_gpu();
  ModelConfig config = config_of("own", plan_of("convolutions", large_batches()));
  config.lanes = 1;
  config.slots = 1;
  const Model own = must(engine.load(config));
  std::vector<std::vector<float>> inputs, right;
  for (unsigned i = 0; i < 8; ++i) {
    inputs.push_back(random_values((1 + i) * kImage, i, -1, 1));
    const Response response = must(
        own.infer(request_of("input", TensorView::of(inputs.back().data(), {1 + i, 4, 48, 48}))));
    right.push_back(values_of<float>(response.outputs[0].view));
  }
  for (const char* graphs : {"on", "off"}) {
    config.name = std::string("shared-") + graphs;
    config.lanes = 4;
    config.slots = 2;
    config.batching.max_items = 8;
    config.options = {{"share_activations", "on"}, {"graphs", graphs}};
    const Model shared = must(engine.load(config));
    std::vector<Future> futures;
    for (std::size_t i = 0; i < 400; ++i) {
      const std::vector<float>& input = inputs[i % 8];
      const auto items = static_cast<std::int64_t>(1 + i % 8);
      futures.push_back(
          shared.submit(request_of("input", TensorView::of(input.data(), {items, 4, 48, 48}))));
    }
    for (std::size_t i = 0; i < futures.size(); ++i) {
      const Response response = must(futures[i].get());
      SCOPED_TRACE(i);
      expect_near(values_of<float>(response.outputs[0].view), right[i % 8], 1e-4F);
    }
  }
}

}  // namespace
}  // namespace millrace::gpu
