// Choosing MIG instances. Tested against recorded answers of NVML, on no hardware.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <millrace/error.h>
#include <millrace/gpu_report.h>

namespace millrace {

/// Whether a device name means a MIG instance: it starts with "MIG-".
[[nodiscard]] bool names_mig(std::string_view name);

/// What CUDA_VISIBLE_DEVICES must be for CUDA to show the instances that `names` has, by UUID or an
/// unambiguous prefix of one; nothing when it has none. `visible_now` is what the variable is: null
/// when unset, else it must name them already. Where NVML says nothing, names are taken as they
/// are. Errors: not_found, listing what there is; invalid_argument for a prefix of several, and for
/// instances beside GPUs.
[[nodiscard]] Result<std::optional<std::string>> visible_for_mig(std::span<const std::string> names,
                                                                 const GpuReport& report,
                                                                 const char* visible_now);

}  // namespace millrace
