#include "tests/gpu/sync_watch_kernels.h"

namespace millrace {
namespace {

__global__ void increment(unsigned* word) { atomicAdd(word, 1); }

}  // namespace

cudaError_t launch_increment(unsigned* word, cudaStream_t stream) {
  void* arguments[] = {&word};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&increment), dim3(1), dim3(1), arguments, 0,
                          stream);
}

}  // namespace millrace
