#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "base/try.h"
#include "device/cuda/cuda_error.h"
#include "device/cuda/gather.h"

namespace millrace {
namespace {

// Pieces travel as a kernel argument, so that no staging buffer has to outlive the call. Arguments
// are limited to 4096 bytes on every device; more pieces take more launches.
constexpr int kCopiesPerLaunch = 128;
constexpr int kBlocksOfRowsPerLaunch = 96;
constexpr unsigned kThreads = 256;
constexpr unsigned kWarp = 32;
constexpr unsigned kBlocksPerLaunch = 2048;
// What a thread copies before another block for the same piece pays off.
constexpr std::size_t kBytesPerThread = 64;
// Rows of at least so many bytes are copied as pieces of their own, by many blocks each.
constexpr std::size_t kLongRowBytes = 32U << 10;

struct Copy {
  const std::byte* source;
  std::byte* destination;
  std::size_t bytes;
};
struct Copies {
  static constexpr int kMost = kCopiesPerLaunch;
  Copy item[kMost];
};
static_assert(sizeof(Copies) <= 4096);

struct Rows {
  Copy first;
  std::size_t rows;
  std::size_t pitch;
};
struct BlocksOfRows {
  static constexpr int kMost = kBlocksOfRowsPerLaunch;
  Rows item[kMost];
};
static_assert(sizeof(BlocksOfRows) <= 4096);

// Copies words of type T, `threads` threads together. Four loads are under way before the first
// store: a source in host memory is far away.
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

__device__ void copy_together(const Copy& copy, std::size_t thread, std::size_t threads) {
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

__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ Copies copies) {
  copy_together(copies.item[blockIdx.y], blockIdx.x * std::size_t{kThreads} + threadIdx.x,
                gridDim.x * std::size_t{kThreads});
}

// A warp for each row.
__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(const __grid_constant__ BlocksOfRows blocks) {
  const Rows& rows = blocks.item[blockIdx.y];
  constexpr std::size_t kWarps = kThreads / kWarp;
  const std::size_t step = gridDim.x * kWarps;
  for (std::size_t i = blockIdx.x * kWarps + threadIdx.x / kWarp; i < rows.rows; i += step) {
    const Copy row{rows.first.source + i * rows.pitch,
                   rows.first.destination + i * rows.first.bytes, rows.first.bytes};
    copy_together(row, threadIdx.x % kWarp, kWarp);
  }
}

// Gathers items for one launch after the other of `kernel`.
template <class Items>
class Launches {
 public:
  Launches(void (*kernel)(Items), cudaStream_t stream) : kernel_(kernel), stream_(stream) {}

  // `blocks`: as many as are of use to this item.
  template <class Item>
  Result<void> add(const Item& item, std::size_t blocks) {
    items_.item[count_++] = item;
    blocks_ = std::max(blocks_, blocks);
    return count_ == Items::kMost ? flush() : Result<void>();
  }
  Result<void> flush() {
    if (count_ == 0) return {};
    const std::size_t most = std::max(1U, kBlocksPerLaunch / static_cast<unsigned>(count_));
    const dim3 grid(static_cast<unsigned>(std::clamp<std::size_t>(blocks_, 1, most)),
                    static_cast<unsigned>(count_));
    void* arguments[] = {&items_};
    count_ = 0;
    blocks_ = 0;
    return check_cuda(cudaLaunchKernel(reinterpret_cast<const void*>(kernel_), grid, dim3(kThreads),
                                       arguments, 0, stream_),
                      "cudaLaunchKernel of a gathered copy");
  }

 private:
  void (*const kernel_)(Items);
  const cudaStream_t stream_;
  Items items_;
  int count_ = 0;
  std::size_t blocks_ = 0;
};

constexpr std::size_t rounded_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

}  // namespace

Result<void> copy_by_kernel(std::span<const CopyPiece> pieces, void* stream) {
  Launches<Copies> dense(&copy_kernel, static_cast<cudaStream_t>(stream));
  Launches<BlocksOfRows> pitched(&copy_rows_kernel, static_cast<cudaStream_t>(stream));
  const auto add_dense = [&](const Copy& copy) {
    return dense.add(copy, rounded_up(copy.bytes, kThreads * kBytesPerThread));
  };
  for (const CopyPiece& piece : pieces) {
    if (piece.bytes == 0 || piece.rows == 0) continue;
    const Copy first{static_cast<const std::byte*>(piece.source),
                     static_cast<std::byte*>(piece.target), piece.bytes};
    if (piece.rows == 1 || piece.source_pitch == piece.bytes) {
      MILLRACE_TRY(add_dense({first.source, first.destination, piece.bytes * piece.rows}));
    } else if (piece.bytes < kLongRowBytes) {
      MILLRACE_TRY(pitched.add(Rows{first, piece.rows, piece.source_pitch},
                               rounded_up(piece.rows, kThreads / kWarp)));
    } else {
      for (std::size_t i = 0; i < piece.rows; ++i) {
        MILLRACE_TRY(add_dense({first.source + i * piece.source_pitch,
                                first.destination + i * piece.bytes, piece.bytes}));
      }
    }
  }
  MILLRACE_TRY(dense.flush());
  return pitched.flush();
}

}  // namespace millrace
