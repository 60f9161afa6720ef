#include <cstdlib>

#include <millrace/device.h>

namespace millrace {

void set_cuda_defaults() noexcept { setenv("CUDA_MODULE_LOADING", "LAZY", 0); }

}  // namespace millrace
