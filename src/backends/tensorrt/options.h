// What a model's configuration may ask of the TensorRT backend.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <millrace/build.h>
#include <millrace/error.h>

namespace millrace::tensorrt {

/// Whether runs are captured in CUDA graphs.
enum class Graphs : std::uint8_t {
  automatic,  // and run so where that was measured to be cheaper
  on,         // and run so wherever there is one
  off,
};

struct Options {
  BuildOptions build;  // for ONNX files
  /// Whether a first dimension that is free in all tensors counts items.
  bool batch_axis = true;
  Graphs graphs = Graphs::automatic;
  /// The lanes use one block of activation memory in turn.
  bool share_activations = false;
  /// Take engines that carry code for the host, as version-compatible ones do.
  bool host_code = false;
  /// Where engines are kept; empty: nowhere.
  std::string cache;
};

/// Reads the options by name: precision, calibration_cache, batch, batch_axis, optimization_level,
/// workspace_mib, aux_streams, timing_cache, graphs, share_activations, host_code, cache. Errors:
/// invalid_argument naming the option, what it takes and what was given; unsupported for refit and
/// weight_streaming.
[[nodiscard]] Result<Options> parse_options(const std::map<std::string, std::string>& options);

/// Where engines are kept unless the user says otherwise: MILLRACE_CACHE, else
/// XDG_CACHE_HOME/millrace/engines, else ~/.cache/millrace/engines; empty when none of these is
/// set.
[[nodiscard]] std::string default_cache_folder();

}  // namespace millrace::tensorrt
