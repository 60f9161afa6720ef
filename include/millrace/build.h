// Builds engines: a model file made fit for one GPU.
//
//   auto report = millrace::build_engine({.model = "resnet50.onnx",
//                                         .precision = millrace::Precision::fp16,
//                                         .max_batch = 32}, "resnet50.plan");
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/device.h>
#include <millrace/error.h>
#include <millrace/shape.h>

namespace millrace {

/// What an engine may compute in. A model's precision is best a property of its file (a variant
/// made by `millrace build --variant`), which is then built `typed`; fp16, bf16, int8 and fp8 leave
/// the choice to the builder of TensorRT 10.
enum class Precision : std::uint8_t {
  automatic,  // typed for a model with Q/DQ nodes and for a variant, else tf32
  fp32,       // nothing less
  tf32,       // FP32 tensors; products in TF32 where the GPU has it
  fp16,       // FP16 where it is faster
  bf16,       // BF16 where it is faster
  int8,       // INT8 where the model has Q/DQ nodes or a calibration cache has ranges
  fp8,        // FP8 where the model has Q/DQ nodes
  typed,      // exactly the types written in the model ("strongly typed")
};
/// "auto", "fp32", ...
[[nodiscard]] std::string_view to_string(Precision precision) noexcept;
/// Errors: invalid_argument, listing the names.
[[nodiscard]] Result<Precision> parse_precision(std::string_view text);

/// The shapes that an input may have: the engine takes all between `min` and `max`, and is fastest
/// at `opt`.
struct ShapeRange {
  Shape min, opt, max;
};

/// One step of building, for a progress bar. Phases nest: `parent` is empty for the outermost.
struct BuildProgress {
  std::string phase;
  std::string parent;
  int step = 0;
  int steps = 0;
  bool finished = false;
};

struct BuildOptions {
  std::string model;  // an ONNX file
  Precision precision = Precision::automatic;
  /// Ranges that a calibrator of TensorRT wrote, for int8 without Q/DQ nodes. Empty: none.
  std::string calibration_cache{};
  /// Of the first dimension of every input, where that is dynamic.
  std::int64_t min_batch = 1;
  std::int64_t opt_batch = 0;  // 0: the maximum
  std::int64_t max_batch = 32;
  /// By input, where more than the first dimension is dynamic: takes the place of the batch above.
  /// Several of them per input make several profiles; every input named has as many.
  std::map<std::string, std::vector<ShapeRange>> shapes{};
  /// 0 (quick to build) to 5 (fast to run).
  int optimization_level = 3;
  std::size_t workspace_bytes = 0;  // 0: all that is free
  /// Streams besides its own that one run may use.
  int aux_streams = 0;
  /// Runs with later TensorRT versions of the same major; on all GPUs from this generation on.
  bool version_compatible = false;
  bool hardware_compatible = false;
  /// Read and written: makes the next build of a similar model quicker. Empty: none.
  std::string timing_cache{};
  /// Shared libraries whose plug-ins the model uses.
  std::vector<std::string> plugins{};
  /// The GPU to build on and for.
  DeviceId device = DeviceId::cuda(0);
  /// Called from threads of the builder; must be quick.
  std::function<void(const BuildProgress&)> progress{};
  /// Set to true by anyone: the build ends soon with ErrorCode::cancelled.
  const std::atomic<bool>* cancel = nullptr;
};

struct BuildReport {
  std::string path;
  std::size_t bytes = 0;
  Duration took{};
  std::string builder;  // "TensorRT 10.6.0"
  std::string device;   // "NVIDIA H200"
  /// What was asked for; what `automatic` came to.
  Precision precision = Precision::automatic;
  /// What the engine is made of, as the vendor's inspector tells: JSON.
  std::string layers;
};

/// Builds and writes `path` in one step: a failure or a cancelled build leaves no file. Slow:
/// seconds to many minutes, and gigabytes of host memory. Errors: not_found (model, GPU),
/// unavailable (no TensorRT: says where it was looked for), unsupported (an operator, with its
/// node), invalid_argument, out_of_memory, cancelled.
[[nodiscard]] Result<BuildReport> build_engine(const BuildOptions& options,
                                               const std::string& path);

/// An engine in the cache that `run`, `bench` and `Engine::load` keep for ONNX files.
struct CachedEngine {
  std::string file;
  std::size_t bytes = 0;
  std::string model;    // the file it was built from
  std::string device;   // "NVIDIA H200 (9.0)"
  std::string builder;  // "TensorRT 10.6.0"
  std::string options;
};
/// The cache's folder: MILLRACE_CACHE, else the user's cache folder; empty when there is none.
[[nodiscard]] std::string engine_cache_folder();
[[nodiscard]] Result<std::vector<CachedEngine>> list_engine_cache();
/// Returns how many engines were removed.
Result<int> clear_engine_cache();

}  // namespace millrace
