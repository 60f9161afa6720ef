// The CUDA runtime's errors as ours.
#pragma once

#include <cuda_runtime_api.h>

#include <millrace/error.h>

namespace millrace {

/// Errors: out_of_memory; gpu_fault with Scope::process for those after which the device's context
/// answers nothing else ("sticky"); internal for all others. `what` is the call.
[[nodiscard]] Result<void> check_cuda(cudaError_t status, const char* what);

/// For destructors: logs an error, except that the driver is already gone at the process's end.
void log_cuda(cudaError_t status, const char* what) noexcept;

}  // namespace millrace
