// What NVML says of the GPUs, for people and as JSON.
#pragma once

#include <string>
#include <vector>

#include <millrace/gpu_report.h>

#include "cli/print.h"

namespace millrace::cli {

/// Leaves only the GPUs of these CUDA indices, whole or as a MIG instance.
void keep_only(GpuReport& report, const std::vector<int>& cuda_indices);

/// A block for each GPU, and who reaches whom when there are several; empty without GPUs.
[[nodiscard]] std::string gpus_text(const GpuReport& report);
/// Where NVML gave no answer the field is null, and "refused" says why, by the field's name.
[[nodiscard]] Json gpus_json(const GpuReport& report);

}  // namespace millrace::cli
