// The GPU that CUDA calls of a thread go to.
#pragma once

#include <millrace/error.h>

namespace millrace {

/// Makes `gpu` the calling thread's current device, as cudaSetDevice does, at a fraction of its
/// cost where it is already. Right also after others (plug-ins, TensorRT, the application) have
/// chosen another.
[[nodiscard]] Result<void> make_current(int gpu);

}  // namespace millrace
