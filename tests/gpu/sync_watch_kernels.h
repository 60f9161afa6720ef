// What the tests of the watch launch.
#pragma once

#include <cuda_runtime_api.h>

namespace millrace {

/// Enqueues a kernel that adds 1 to `*word`, in memory that the device reaches; any stream will do.
[[nodiscard]] cudaError_t launch_increment(unsigned* word, cudaStream_t stream);

}  // namespace millrace
