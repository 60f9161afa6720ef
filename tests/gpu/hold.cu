#include <cuda_runtime_api.h>

#include <thread>

#include "tests/gpu/hold.h"

namespace millrace {
namespace {

__global__ void spin_until(const volatile unsigned* open) {
  while (*open == 0) __nanosleep(1000);
}

}  // namespace

Result<void> hold_stream(StreamRef stream, std::shared_ptr<std::atomic<bool>> open) {
  unsigned* word = nullptr;  // left to the process: the kernel may read it after this test is over
  if (cudaHostAlloc(reinterpret_cast<void**>(&word), sizeof *word, cudaHostAllocMapped) !=
      cudaSuccess) {
    return Error{ErrorCode::internal, "hold_stream: no mapped memory"};
  }
  *word = 0;
  std::thread([open = std::move(open), word] {
    open->wait(false);
    *static_cast<volatile unsigned*>(word) = 1;
  }).detach();
  spin_until<<<1, 1, 0, static_cast<cudaStream_t>(stream.native_handle())>>>(word);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) {
    return Error{ErrorCode::internal, cudaGetErrorString(status)};
  }
  return {};
}

}  // namespace millrace
