#include "cli/bench_peers.h"

#include <algorithm>

#include "direct/machine.h"

namespace millrace::cli {
namespace {

constexpr std::size_t kMostBatchBytes = std::size_t{256} << 20;

Error unsupported(std::string message) { return {ErrorCode::unsupported, std::move(message)}; }

}  // namespace

// ONNX's number of an element type (enum DataType of its protobuf); 0: none, or strings.
int onnx_type(DataType type) noexcept {
  switch (type) {
    case DataType::fp32:
      return 1;
    case DataType::uint8:
      return 2;
    case DataType::int8:
      return 3;
    case DataType::uint16:
      return 4;
    case DataType::int16:
      return 5;
    case DataType::int32:
      return 6;
    case DataType::int64:
      return 7;
    case DataType::boolean:
      return 9;
    case DataType::fp16:
      return 10;
    case DataType::fp64:
      return 11;
    case DataType::uint32:
      return 12;
    case DataType::uint64:
      return 13;
    case DataType::bf16:
      return 16;
    case DataType::fp8_e4m3:
      return 17;
    case DataType::fp8_e5m2:
      return 19;
    case DataType::bytes:
      return 0;
  }
  return 0;
}

int total_lanes(const ModelInfo& info) {
  int lanes = 0;
  for (const ModelInfo::Placement& placement : info.placements) lanes += placement.lanes;
  return std::max(lanes, 1);
}

Result<std::vector<std::vector<direct::Tensor>>> make_batches(const CompareSetup& setup,
                                                              const BenchInputs& inputs,
                                                              std::int64_t items,
                                                              std::vector<Lease>& memory) {
  std::vector<std::vector<direct::Tensor>> batches;
  std::size_t count = std::max<std::size_t>(static_cast<std::size_t>(setup.load.concurrency) *
                                                static_cast<std::size_t>(setup.load.request_items) /
                                                static_cast<std::size_t>(items),
                                            2 * static_cast<std::size_t>(direct::usable_cores()));
  for (std::size_t k = 0; k < count; ++k) {
    Result<std::vector<NamedTensor>> content = inputs.make(k, items);
    if (!content.ok()) return std::move(content).error();
    if (k == 0)
      count = std::clamp<std::size_t>(
          kMostBatchBytes / std::max<std::size_t>(bytes_of(*content), 1), 2, count);
    std::vector<direct::Tensor>& batch = batches.emplace_back();
    for (NamedTensor& input : *content) {
      const Result<std::size_t> bytes = input.view.bytes();
      if (onnx_type(input.view.type) == 0)
        return unsupported("the loops compared with do not handle BYTES (input " +
                           in_quotes(input.name) + ")");
      if (!bytes.ok()) return bytes.error();
      batch.push_back({input.name,
                       onnx_type(input.view.type),
                       {input.view.shape.begin(), input.view.shape.end()},
                       input.view.data,
                       *bytes});
      memory.push_back(std::move(input.lease));
    }
  }
  return batches;
}

Result<void> check_answer(const Model& model, const BenchInputs& inputs, std::int64_t items,
                          std::vector<std::string> found) {
  Request request;
  Result<std::vector<NamedTensor>> content = inputs.make(0, items);
  if (!content.ok()) return std::move(content).error();
  for (const NamedTensor& input : *content) request.inputs.push_back(input);
  const Result<Response> expected = model.infer(std::move(request));
  if (!expected.ok()) return expected.error();
  std::vector<NamedTensor> outputs(expected->outputs.begin(), expected->outputs.end());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Result<std::size_t> bytes = outputs[i].view.bytes();
    if (!bytes.ok() || i >= found.size() || found[i].size() != *bytes) {
      return Error{ErrorCode::internal,
                   "output " + in_quotes(outputs[i].name) +
                       ": the loop compared with gives another size than the engine"};
    }
    outputs[i].view.data = found[i].data();
  }
  const std::string difference =
      difference_of(outputs, {expected->outputs.data(), expected->outputs.size()});
  if (difference.empty()) return {};
  return Error{ErrorCode::internal,
               "the loop compared with and the engine answer differently: " + difference};
}

PeersMaker peers_maker(std::string_view backend) noexcept {
  if (backend == "tensorrt") return tensorrt_peers;
  if (backend == "onnxruntime") return onnx_peers;
  if (backend == "reference") return pipeline_peers;
  return nullptr;
}

Result<std::vector<Peer>> pipeline_peers(const CompareSetup& setup, const Model& model,
                                         const BenchInputs& inputs, Progress&) {
  const ModelInfo& info = model.info();
  if (std::find(setup.peers.begin(), setup.peers.end(), "naive") != setup.peers.end()) {
    return unsupported(
        "there is no naive loop for reference models, which have no library of their own; use "
        "--compare direct");
  }
  if (!setup.model_path.starts_with("reference:identity")) {
    return unsupported(
        "among reference models only reference:identity has something to compare with, got " +
        in_quotes(setup.model_path));
  }
  const Result<std::vector<NamedTensor>> item = inputs.make(0, 1);
  if (!item.ok()) return item.error();
  direct::PipelineSetup pipeline;
  pipeline.concurrency = setup.load.concurrency;
  pipeline.request_items = setup.load.request_items;
  pipeline.max_batch_items = setup.batching ? info.max_items : setup.load.request_items;
  pipeline.lanes = total_lanes(info);
  pipeline.slots = info.placements.empty() ? 2 : info.placements[0].slots;
  pipeline.item_bytes = bytes_of(*item);
  std::vector<Peer> peers;
  peers.push_back({"direct",
                   "a pipeline of the same threads and queues without the engine",
                   {{"lanes", pipeline.lanes},
                    {"slots", pipeline.slots},
                    {"concurrency", pipeline.concurrency},
                    {"batch", pipeline.max_batch_items}},
                   direct::make_pipeline(pipeline),
                   {}});
  return peers;
}

}  // namespace millrace::cli
