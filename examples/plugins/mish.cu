#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "mish.h"

namespace millrace::plugins {
namespace {

constexpr unsigned kThreads = 256;
constexpr std::size_t kMaxBlocks = 2048;

// The form is explained in mish_host.cpp.
__device__ float mish(float x) {
  const float e = expf(x);
  const float n = e * (e + 2.0F);
  return x > 20.0F ? x : x * (n / (n + 2.0F));
}

__device__ __half mish(__half x) { return __float2half_rn(mish(__half2float(x))); }

// Reads and writes whole Words, the last elements one by one.
template <class T, class Word>
__global__ void __launch_bounds__(kThreads)
    mish_kernel(const T* input, T* output, std::size_t count) {
  constexpr std::size_t kPerWord = sizeof(Word) / sizeof(T);
  const std::size_t thread = blockIdx.x * std::size_t{kThreads} + threadIdx.x;
  const std::size_t threads = gridDim.x * std::size_t{kThreads};
  const std::size_t words = count / kPerWord;
  for (std::size_t i = thread; i < words; i += threads) {
    union {
      Word word;
      T element[kPerWord];
    } held;
    held.word = reinterpret_cast<const Word*>(input)[i];
#pragma unroll
    for (std::size_t k = 0; k < kPerWord; ++k) held.element[k] = mish(held.element[k]);
    reinterpret_cast<Word*>(output)[i] = held.word;
  }
  const std::size_t last = words * kPerWord + thread;
  if (last < count) output[last] = mish(input[last]);
}

template <class T>
using Kernel = void (*)(const T*, T*, std::size_t);

template <class T>
int launch(const void* input, void* output, std::size_t count, cudaStream_t stream) {
  const bool aligned =
      (reinterpret_cast<std::uintptr_t>(input) | reinterpret_cast<std::uintptr_t>(output)) %
          sizeof(uint4) ==
      0;
  const Kernel<T> kernel = aligned ? &mish_kernel<T, uint4> : &mish_kernel<T, T>;
  const std::size_t per_block = kThreads * (aligned ? sizeof(uint4) / sizeof(T) : 1);
  const std::size_t blocks = std::min((count + per_block - 1) / per_block, kMaxBlocks);
  void* arguments[] = {&input, &output, &count};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel),
                          dim3(static_cast<unsigned>(blocks)), dim3(kThreads), arguments, 0,
                          stream);
}

template <class T>
int load() {
  for (const Kernel<T> kernel : {&mish_kernel<T, uint4>, &mish_kernel<T, T>}) {
    cudaFuncAttributes attributes;
    const int status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace

int launch_mish(const void* input, void* output, std::size_t count, Precision precision,
                void* stream) {
  if (count == 0) return cudaSuccess;
  const auto on = static_cast<cudaStream_t>(stream);
  return precision == Precision::fp16 ? launch<__half>(input, output, count, on)
                                      : launch<float>(input, output, count, on);
}

int load_mish() {
  const int status = load<float>();
  return status != cudaSuccess ? status : load<__half>();
}

}  // namespace millrace::plugins
