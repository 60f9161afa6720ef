// Gather and scatter: many separate buffers into one contiguous block, and back.
//
// This is how a batch is made of requests, and how its results reach them. The two versions, on the
// host and on a CUDA device, do the same and are held equal by the same tests.
#pragma once

#include <millrace/error.h>

#include <cstddef>
#include <span>

namespace millrace {

/// `bytes` bytes at `source` go to `offset_bytes` from the start of the destination.
struct GatherPiece {
  const void* source = nullptr;
  std::size_t offset_bytes = 0;
  std::size_t bytes = 0;
};

/// `bytes` bytes at `offset_bytes` from the start of the source go to `destination`.
struct ScatterPiece {
  void* destination = nullptr;
  std::size_t offset_bytes = 0;
  std::size_t bytes = 0;
};

/// Copies every piece into the block at `destination`. Pieces must not overlap there, nor overlap
/// their sources; the caller sees to it that they lie inside the block. A piece of 0 bytes is
/// ignored, and its pointer may be null. Returns when all is copied.
void gather_host(void* destination, std::span<const GatherPiece> pieces) noexcept;

/// The reverse of `gather_host`: copies every piece out of the block at `source`.
void scatter_host(const void* source, std::span<const ScatterPiece> pieces) noexcept;

/// Enqueues `gather_host`'s work on a CUDA stream and returns without waiting. `stream` is a
/// `cudaStream_t` of the current device; the default stream is refused. All memory must be
/// reachable from that device (its own, pinned host memory, or a peer's) and stay so until the
/// stream has passed. `pieces` is read before the call returns. Allocates nothing, and may be
/// captured into a graph, which then keeps the pieces' addresses. Fastest where source and
/// destination are equally aligned to 16 bytes. Errors: `invalid_argument` for the default stream,
/// `unsupported` in a build without CUDA, `gpu_fault` (scope process) when a launch fails.
[[nodiscard]] Result<void> gather_cuda(void* destination, std::span<const GatherPiece> pieces,
                                       void* stream);

/// The reverse of `gather_cuda`, under the same conditions.
[[nodiscard]] Result<void> scatter_cuda(const void* source, std::span<const ScatterPiece> pieces,
                                        void* stream);

}  // namespace millrace
