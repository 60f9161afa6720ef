// millrace bench --startup: what a fresh process needs until its first answer, with kernels loaded
// when they are used against all at once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_windows.h"
#include "cli/model_arguments.h"
#include "cli/print.h"
#include "cli/run_inputs.h"

namespace millrace::cli {

struct StartupOptions {
  ModelArguments model;
  InputArguments input;
  std::uint64_t seed = 1;
  int runs = 5;  // of each kind
};

/// One process. Times count from its start.
struct StartupSample {
  double ready_s = 0;            // the model can run
  double first_inference_s = 0;  // the first answer is there
  std::uint64_t host_bytes = 0;  // resident then
  std::optional<std::uint64_t> gpu_bytes;
};

struct StartupResult {
  std::string model;
  std::string backend;
  std::vector<std::string> devices;
  /// What `gpu_bytes` counts, in words; empty when there is none.
  std::string gpu_memory;
  std::vector<StartupSample> lazy;
  std::vector<StartupSample> eager;

  /// Whether a GPU runs it: else the variable changes nothing.
  [[nodiscard]] bool on_gpu() const;
};

/// The command line of a child: that of this process, told to probe.
[[nodiscard]] std::vector<std::string> probe_arguments(std::vector<std::string> arguments);
/// `environment` ("NAME=value") with CUDA_MODULE_LOADING as given.
[[nodiscard]] std::vector<std::string> with_loading(std::vector<std::string> environment,
                                                    const std::string& loading);

/// Runs this program anew, in turn for both kinds, after one run that does not count (it builds
/// and caches what a first run must). Errors: what a child says; cancelled.
[[nodiscard]] Result<StartupResult> measure_startup(const StartupOptions& options,
                                                    const std::vector<std::string>& arguments);
/// What such a child does: loads the model, answers one request, and prints what `measure_startup`
/// reads.
[[nodiscard]] Result<void> probe_startup(const StartupOptions& options);

[[nodiscard]] std::string startup_text(const StartupResult& result);
[[nodiscard]] Json startup_json(const StartupResult& result);

}  // namespace millrace::cli
