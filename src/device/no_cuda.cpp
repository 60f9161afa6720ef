// What is known of GPUs in a build without CUDA.
#include "device/select_devices.h"

#if !MILLRACE_WITH_CUDA

namespace millrace {

CudaStatus cuda_status() {
  CudaStatus status;
  status.reason = "built without CUDA";
  return status;
}

std::vector<GpuIdentity> visible_gpus() { return {}; }

}  // namespace millrace

#endif
