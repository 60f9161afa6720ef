#include "tests/gpu/faults.h"

#include <cuda_runtime_api.h>

namespace millrace {
namespace {

__global__ void write_to(unsigned long long address) {
  *reinterpret_cast<volatile unsigned*>(address) = 1;
}

}  // namespace

Result<void> load_illegal_write(DeviceId gpu) {
  cudaError_t status = cudaSetDevice(gpu.index);
  cudaFuncAttributes attributes{};
  if (status == cudaSuccess) status = cudaFuncGetAttributes(&attributes, write_to);
  if (status == cudaSuccess) return {};
  return Error{ErrorCode::internal, cudaGetErrorString(status)};
}

Result<void> launch_illegal_write(StreamRef stream) {
  cudaError_t status = cudaSetDevice(stream.device().index);
  if (status == cudaSuccess) {
    write_to<<<1, 1, 0, static_cast<cudaStream_t>(stream.native_handle())>>>(64);
    status = cudaGetLastError();
  }
  if (status == cudaSuccess) return {};
  return Error{ErrorCode::internal, cudaGetErrorString(status)};
}

}  // namespace millrace
