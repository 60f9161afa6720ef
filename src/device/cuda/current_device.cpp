#include "device/cuda/current_device.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstddef>

#include "base/try.h"
#include "device/cuda/cuda_error.h"

namespace millrace {
namespace {

using GetCurrent = CUresult (*)(CUcontext*);

GetCurrent find_get_current() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  if (cudaGetDriverEntryPointByVersion("cuCtxGetCurrent", &entry, 12000, cudaEnableDefault,
                                       &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return reinterpret_cast<GetCurrent>(entry);
}

constexpr std::size_t kMostGpus = 64;

/// By GPU: the context that cudaSetDevice has made current, null when not known yet.
std::array<std::atomic<CUcontext>, kMostGpus> contexts;

}  // namespace

Result<void> make_current(int gpu) {
  static const GetCurrent get_current = find_get_current();
  const bool known = get_current && gpu >= 0 && static_cast<std::size_t>(gpu) < kMostGpus;
  if (!known) return check_cuda(cudaSetDevice(gpu), "cudaSetDevice");
  std::atomic<CUcontext>& context = contexts[static_cast<std::size_t>(gpu)];
  CUcontext now = nullptr;
  if (get_current(&now) == CUDA_SUCCESS && now && now == context.load(std::memory_order_relaxed)) {
    return {};
  }
  MILLRACE_TRY(check_cuda(cudaSetDevice(gpu), "cudaSetDevice"));
  if (get_current(&now) == CUDA_SUCCESS) context.store(now, std::memory_order_relaxed);
  return {};
}

}  // namespace millrace
