// What a model's configuration may ask of the TensorRT backend.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <millrace/build.h>
#include <millrace/error.h>

namespace millrace::tensorrt {

struct Options {
  BuildOptions build;  // for ONNX files
  /// Capture runs in CUDA graphs.
  bool graphs = true;
  /// Where engines are kept; empty: nowhere.
  std::string cache;
  /// Shared libraries of plug-ins.
  std::vector<std::string> plugins;
};

/// Reads the options by name: precision, batch, optimization_level, workspace_mib, aux_streams,
/// timing_cache, graphs, cache, plugins. Errors: invalid_argument naming the option,
/// what it takes and what was given.
[[nodiscard]] Result<Options> parse_options(const std::map<std::string, std::string>& options);

/// Where engines are kept unless the user says otherwise: MILLRACE_CACHE, else
/// XDG_CACHE_HOME/millrace/engines, else ~/.cache/millrace/engines; empty when none of these is
/// set.
[[nodiscard]] std::string default_cache_folder();

}  // namespace millrace::tensorrt
