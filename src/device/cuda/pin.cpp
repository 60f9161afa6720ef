#include <millrace/pinned.h>

#include <cuda_runtime_api.h>

#include "base/try.h"
#include "device/cuda/cuda_error.h"

namespace millrace {

Result<Lease> pin_host_memory(void* data, std::size_t bytes) {
  if (bytes == 0) return Lease();
  MILLRACE_TRY(
      check_cuda(cudaHostRegister(data, bytes, cudaHostRegisterPortable), "cudaHostRegister"));
  return Lease::on_release([data] { log_cuda(cudaHostUnregister(data), "cudaHostUnregister"); });
}

}  // namespace millrace
