// Parts of counting GPUs that need none.
#pragma once

#include <string>
#include <string_view>

#include <cuda_runtime_api.h>

namespace millrace {

/// The driver's release, "580.95.05", in the first line of /proc/driver/nvidia/version; empty when
/// there is none.
[[nodiscard]] std::string driver_release(std::string_view line);

/// What asking CUDA for GPUs gave.
struct CudaCount {
  int driver = 0;  // the CUDA version that the driver supports, as 13020; 0: there is no driver
  int runtime = CUDART_VERSION;
  std::string release;  // of the driver, as `driver_release` has it
  cudaError_t status = cudaSuccess;
  const char* visible = nullptr;  // CUDA_VISIBLE_DEVICES; null when unset
};

/// Why CUDA shows no GPU, and what to do about it.
[[nodiscard]] std::string why_no_gpus(const CudaCount& count);

}  // namespace millrace
