// Variants of ONNX models, made by the Python package millrace_variants in a process of its own.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <millrace/build.h>
#include <millrace/error.h>

namespace millrace::cli {

struct VariantOptions {
  std::string model;
  std::string variant;            // "fp16", "bf16", "int8", "fp8"
  std::string calibrate;          // folder of real inputs, for int8 and fp8
  std::string calibration;        // how ranges follow from them; empty: the package's default
  std::vector<std::string> keep;  // operators and nodes that stay FP32
  std::string output;             // an ONNX file
  /// For bf16: a model for the CPU that rounds as the variant does. Empty: none.
  std::string twin;
};

struct VariantReport {
  std::size_t bytes = 0;
  int nodes = 0;
  int casts = 0;
  int quantized = 0;  // tensors that pass through Q/DQ
};

/// Writes `output` (and `twin`), which on errors may be there in part: give names of your own. The
/// interpreter is `python3`, or what MILLRACE_PYTHON names. Calls `progress` now and then on this
/// thread; ends the process when interrupted. Errors: unavailable (no Python, or a package that it
/// lacks: says which), not_found, invalid_argument, unsupported, cancelled, internal.
[[nodiscard]] Result<VariantReport> make_variant(
    const VariantOptions& options, const std::function<void(const BuildProgress&)>& progress);

/// A file of a name of its own beside another, gone when this goes unless it took that one's place.
class ScratchFile {
 public:
  ScratchFile(const std::string& beside, const std::string& extension);
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Errors: unavailable.
  Result<void> take_place_of(const std::string& path);

 private:
  std::string path_;
};

}  // namespace millrace::cli
