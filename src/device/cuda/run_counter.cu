#include <cuda_runtime_api.h>

#include <memory>
#include <utility>

#include "base/try.h"
#include "device/cuda/cuda_error.h"
#include "device/cuda/run_counter.h"

namespace millrace {
namespace {

__global__ void raise_by_one(unsigned long long* count, volatile unsigned long long* word) {
  const unsigned long long next = *count + 1;
  *count = next;
  __threadfence_system();
  *word = next;
}

}  // namespace

Result<RunCounter> RunCounter::make(Device& gpu, StreamRef stream) {
  RunCounter counter;
  MILLRACE_ASSIGN(counter.count_, gpu.allocate(sizeof(std::uint64_t), MemoryKind::device));
  MILLRACE_ASSIGN(counter.word_, gpu.allocate(sizeof(std::uint64_t), MemoryKind::pinned));
  std::construct_at(static_cast<std::atomic<std::uint64_t>*>(counter.word_.data()), 0);
  MILLRACE_TRY(stream.fill(counter.count_.data(), 0, sizeof(std::uint64_t)));
  cudaFuncAttributes attributes{};
  MILLRACE_TRY(
      check_cuda(cudaFuncGetAttributes(&attributes, raise_by_one), "cudaFuncGetAttributes"));
  MILLRACE_TRY(stream.synchronize());
  return Result<RunCounter>(std::move(counter));
}

Result<void> RunCounter::raise(void* stream) const {
  raise_by_one<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<unsigned long long*>(count_.data()),
      static_cast<volatile unsigned long long*>(word_.data()));
  return check_cuda(cudaGetLastError(), "raise_by_one");
}

void RunCounter::abandon() noexcept {
  (void)count_.release();
  (void)word_.release();
}

}  // namespace millrace
