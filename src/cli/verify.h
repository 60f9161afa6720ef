// "millrace build --verify": the answers of what was built against those of the model in FP32.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <millrace/build.h>

#include "cli/compare_outputs.h"
#include "cli/print.h"

namespace millrace::cli {

struct VerifyOptions {
  BuildOptions build;   // `model` is the reference; the rest, where an FP32 engine must be built
  std::string subject;  // an engine, or an ONNX file
  /// Where the subject runs: the GPU that it was built for, or host:0.
  DeviceId device;
  std::map<std::string, std::string> options;  // of the subject's backend
  /// A folder of .npy and .npz files, each with a sample or batch; empty: seeded random values.
  std::string inputs;
  ComparisonLimits limits;
};

struct VerifyReport {
  std::vector<OutputComparison> outputs;
  std::string reference;  // what ran it, in words
  std::string inputs;     // in words
  std::int64_t items = 0;
  ComparisonLimits limits;  // as applied: random values say nothing of agreement
  /// Of the first output that is not good; empty when all are.
  std::string problem;

  [[nodiscard]] std::string text() const;
  [[nodiscard]] Json json() const;
};

/// Runs both and compares. The reference runs through ONNX Runtime on the host; where that cannot
/// be, as an engine in strict FP32 on the subject's GPU. Errors: those of loading and running, of
/// reading the inputs; cancelled.
[[nodiscard]] Result<VerifyReport> verify(const VerifyOptions& options);

}  // namespace millrace::cli
