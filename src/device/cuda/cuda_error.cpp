#include "device/cuda/cuda_error.h"

#include "base/log.h"
#include "base/text.h"

namespace millrace {
namespace {

bool sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<void> check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return {};
  cudaGetLastError();  // one that is not sticky must not show up in a later call
  std::string message =
      concat(what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
  if (status == cudaErrorMemoryAllocation)
    return Error{ErrorCode::out_of_memory, std::move(message)};
  if (sticky(status)) return Error{ErrorCode::gpu_fault, std::move(message), Scope::process};
  return Error{ErrorCode::internal, std::move(message)};
}

void log_cuda(cudaError_t status, const char* what) noexcept {
  if (status == cudaSuccess || status == cudaErrorCudartUnloading) return;
  log_warning(what, ": ", cudaGetErrorString(status));
}

}  // namespace millrace
