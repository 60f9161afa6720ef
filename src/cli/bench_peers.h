// The loops by hand that a benchmark is compared with, made ready to run.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/bench_compare.h"
#include "direct/direct.h"

namespace millrace::cli {

/// A peer ready to run.
struct Peer {
  std::string name;
  std::string what;  // in words
  Json setup;
  std::unique_ptr<direct::Loop> loop;
  Lease memory;  // that the loop reads as long as it lives
};

/// Makes the peers that `setup` names, each checked to answer as the engine does. Errors:
/// unsupported, unavailable, internal.
using PeersMaker = Result<std::vector<Peer>> (*)(const CompareSetup& setup, const Model& model,
                                                 const BenchInputs& inputs, Progress& progress);
[[nodiscard]] Result<std::vector<Peer>> onnx_peers(const CompareSetup& setup, const Model& model,
                                                   const BenchInputs& inputs, Progress& progress);
[[nodiscard]] Result<std::vector<Peer>> pipeline_peers(const CompareSetup& setup,
                                                       const Model& model,
                                                       const BenchInputs& inputs,
                                                       Progress& progress);
[[nodiscard]] Result<std::vector<Peer>> tensorrt_peers(const CompareSetup& setup,
                                                       const Model& model,
                                                       const BenchInputs& inputs,
                                                       Progress& progress);
/// By the backend's name; null where there is nothing to compare with.
[[nodiscard]] PeersMaker peers_maker(std::string_view backend) noexcept;

/// ONNX's number of an element type (enum DataType of its protobuf); 0: none, or strings.
[[nodiscard]] int onnx_type(DataType type) noexcept;
/// Of all devices.
[[nodiscard]] int total_lanes(const ModelInfo& info);
/// Contents for a loop's batches of `items` items: `batches` each with a tensor per input, whose
/// memory `memory` keeps. As many as the load has in flight, within bounds.
[[nodiscard]] Result<std::vector<std::vector<direct::Tensor>>> make_batches(
    const CompareSetup& setup, const BenchInputs& inputs, std::int64_t items,
    std::vector<Lease>& memory);
/// Whether the engine answers batch 0 as `found` says, an entry per output. Errors: internal.
[[nodiscard]] Result<void> check_answer(const Model& model, const BenchInputs& inputs,
                                        std::int64_t items, std::vector<std::string> found);

}  // namespace millrace::cli
