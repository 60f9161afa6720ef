#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels/gather.h"

namespace millrace {
namespace {

// Pieces travel as a kernel argument, so that no staging buffer has to outlive the call. Arguments
// are limited to 4096 bytes on every device; more pieces take more launches.
constexpr int kPiecesPerLaunch = 128;
constexpr unsigned kThreads = 256;
constexpr unsigned kBlocksPerLaunch = 2048;
// What a thread copies before another block for the same piece pays off.
constexpr std::size_t kBytesPerThread = 64;

struct Copy {
  const std::byte* source;
  std::byte* destination;
  std::size_t bytes;
};

struct Copies {
  Copy item[kPiecesPerLaunch];
};
static_assert(sizeof(Copies) <= 4096);

// Copies words of type T, the threads of all blocks of one piece together. Four loads are under way
// before the first store: a source in host memory is far away.
template <class T>
__device__ void copy_words(const std::byte* source, std::byte* destination, std::size_t words,
                           std::size_t thread, std::size_t threads) {
  constexpr int kAtOnce = 4;
  const T* from = reinterpret_cast<const T*>(source);
  T* to = reinterpret_cast<T*>(destination);
  std::size_t i = thread;
  for (; i + (kAtOnce - 1) * threads < words; i += kAtOnce * threads) {
    T held[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) held[k] = from[i + k * threads];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) to[i + k * threads] = held[k];
  }
  for (; i < words; i += threads) to[i] = from[i];
}

// Copies the bytes before the first address of the destination that is aligned for T, then words,
// then the bytes that are left. Source and destination must be equally misaligned.
template <class T>
__device__ void copy_aligned(const Copy& copy, std::size_t thread, std::size_t threads) {
  const auto address = reinterpret_cast<std::uintptr_t>(copy.destination);
  const std::size_t head = min((sizeof(T) - address % sizeof(T)) % sizeof(T), copy.bytes);
  const std::size_t words = (copy.bytes - head) / sizeof(T);
  const std::size_t tail = head + words * sizeof(T);
  copy_words<T>(copy.source + head, copy.destination + head, words, thread, threads);
  if (thread < head) copy.destination[thread] = copy.source[thread];
  if (thread < copy.bytes - tail) {
    copy.destination[tail + thread] = copy.source[tail + thread];
  }
}

__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ Copies copies) {
  const Copy& copy = copies.item[blockIdx.y];
  const std::size_t thread = blockIdx.x * std::size_t{kThreads} + threadIdx.x;
  const std::size_t threads = gridDim.x * std::size_t{kThreads};
  const auto difference = reinterpret_cast<std::uintptr_t>(copy.source) ^
                          reinterpret_cast<std::uintptr_t>(copy.destination);
  if (difference % sizeof(uint4) == 0) {
    copy_aligned<uint4>(copy, thread, threads);
  } else if (difference % sizeof(std::uint32_t) == 0) {
    copy_aligned<std::uint32_t>(copy, thread, threads);
  } else {
    copy_words<std::byte>(copy.source, copy.destination, copy.bytes, thread, threads);
  }
}

Result<void> launch(const Copies& copies, int count, std::size_t longest_bytes,
                    cudaStream_t stream) {
  const std::size_t useful =
      (longest_bytes + kThreads * kBytesPerThread - 1) / (kThreads * kBytesPerThread);
  const std::size_t most = std::max(1U, kBlocksPerLaunch / static_cast<unsigned>(count));
  const dim3 grid(static_cast<unsigned>(std::clamp<std::size_t>(useful, 1, most)),
                  static_cast<unsigned>(count));
  void* arguments[] = {const_cast<Copies*>(&copies)};
  const cudaError_t status = cudaLaunchKernel(reinterpret_cast<const void*>(&copy_kernel), grid,
                                              dim3(kThreads), arguments, 0, stream);
  if (status == cudaSuccess) return {};
  return Error{ErrorCode::gpu_fault,
               std::string("launching the copy of ") + std::to_string(count) +
                   " pieces failed: " + cudaGetErrorString(status) +
                   "; the process must be restarted if the fault persists",
               Scope::process};
}

template <class Piece, class ToCopy>
Result<void> copy_pieces(std::span<const Piece> pieces, void* stream, const char* function,
                         ToCopy to_copy) {
  if (stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread) {
    return Error{
        ErrorCode::invalid_argument,
        std::string(function) + ": expected a stream of its own, found the default stream"};
  }
  Copies copies;
  int count = 0;
  std::size_t longest_bytes = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].bytes != 0) {
      copies.item[count++] = to_copy(pieces[i]);
      longest_bytes = std::max(longest_bytes, pieces[i].bytes);
    }
    if (count == kPiecesPerLaunch || (count > 0 && i + 1 == pieces.size())) {
      Result<void> launched =
          launch(copies, count, longest_bytes, static_cast<cudaStream_t>(stream));
      if (!launched.ok()) return launched;
      count = 0;
      longest_bytes = 0;
    }
  }
  return {};
}

}  // namespace

Result<void> gather_cuda(void* destination, std::span<const GatherPiece> pieces, void* stream) {
  return copy_pieces(pieces, stream, "gather_cuda", [&](const GatherPiece& piece) {
    return Copy{static_cast<const std::byte*>(piece.source),
                static_cast<std::byte*>(destination) + piece.offset_bytes, piece.bytes};
  });
}

Result<void> scatter_cuda(const void* source, std::span<const ScatterPiece> pieces, void* stream) {
  return copy_pieces(pieces, stream, "scatter_cuda", [&](const ScatterPiece& piece) {
    return Copy{static_cast<const std::byte*>(source) + piece.offset_bytes,
                static_cast<std::byte*>(piece.destination), piece.bytes};
  });
}

}  // namespace millrace
