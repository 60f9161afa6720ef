// What an ONNX file says about itself, read from its bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace millrace {

struct OnnxSummary {
  /// Whether it was a model with a graph, read to its end. The rest holds what was found until
  /// then.
  bool complete = false;
  std::int64_t ir_version = 0;
  /// Domain ("" is ONNX's own) and version.
  std::vector<std::pair<std::string, std::int64_t>> opsets;
  /// Bytes of all initializers, those in files beside the model included.
  std::uint64_t weights_bytes = 0;
  /// Outputs of the graph that declare no shape, not even a rank.
  std::vector<std::string> shapeless_outputs;
  std::vector<std::string> shapeless_inputs;
  /// Files that hold weights, as the model names them (relative to its own folder): each once, in
  /// order.
  std::vector<std::string> external_files;
  /// Whether it has QuantizeLinear or DequantizeLinear nodes.
  bool quantized = false;
  /// What `millrace build --variant` wrote: "fp16", "int8", ...; empty for any other model.
  std::string variant;
};

/// Reads any bytes; never fails.
[[nodiscard]] OnnxSummary summarize_onnx(std::string_view content);

/// The same for a file, which is mapped, not read as a whole. An unreadable file gives an empty
/// summary.
[[nodiscard]] OnnxSummary summarize_onnx_file(const std::string& path);

/// Whether a file begins as ONNX files do.
[[nodiscard]] bool starts_like_onnx(std::string_view first_bytes) noexcept;

}  // namespace millrace
