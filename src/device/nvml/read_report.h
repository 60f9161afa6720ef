// NVML's answers as a report: pure but for the calls that it is given.
#pragma once

#include <span>
#include <string>

#include <millrace/gpu_report.h>

#include "device/nvml/nvml_api.h"
#include "device/select_devices.h"

namespace millrace {

/// Asks everything. `cuda_index` is left at -1.
[[nodiscard]] GpuReport read_gpu_report(const NvmlFunctions& nvml,
                                        const std::string& sysfs = "/sys");

/// Sets each `cuda_index`: CUDA's order may be another than NVML's (by speed, or by
/// CUDA_VISIBLE_DEVICES), so GPUs are told by UUID, and by their place on the PCI bus where a UUID
/// is not to be had.
void number_as_cuda(GpuReport& report, std::span<const GpuIdentity> visible);

/// Opens NVML and reads; `unavailable` says why not.
[[nodiscard]] GpuReport nvml_report();

}  // namespace millrace
