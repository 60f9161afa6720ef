// What is known of GPUs in a build without CUDA.
#include "base/text.h"
#include "device/cuda/cuda_device.h"
#include "device/select_devices.h"

#if !MILLRACE_WITH_CUDA

namespace millrace {

CudaStatus cuda_status() {
  CudaStatus status;
  status.reason = "built without CUDA";
  return status;
}

std::vector<GpuIdentity> visible_gpus() { return {}; }

Result<std::unique_ptr<Device>> open_cuda_device(std::int32_t index) {
  return Error{ErrorCode::unsupported,
               concat("device ", DeviceId::cuda(index), ": this program was built without CUDA")};
}

}  // namespace millrace

#endif
