#include <cstdlib>

#include <millrace/device.h>

namespace millrace {

void set_cuda_defaults() noexcept {
  setenv("CUDA_MODULE_LOADING", "LAZY", 0);
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);  // the most there are
}

}  // namespace millrace
