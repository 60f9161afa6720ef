// Many copies as one piece of work on a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <millrace/device.h>

namespace millrace {

enum class GatherMethod : std::uint8_t {
  automatic,  // as `choose_gather` says
  each,       // one cudaMemcpyAsync (or cudaMemcpy2DAsync) for every piece
  batch,      // one cudaMemcpyBatchAsync: the copy engines work, the multiprocessors are free
  kernel,     // one kernel that reads the pieces where they lie
};

/// What decides how pieces are copied fastest.
struct GatherShape {
  std::size_t pieces = 0;
  std::size_t bytes = 0;   // of all together
  bool pitched = false;    // some piece has rows with gaps between them
  bool reachable = true;   // by a kernel: device, pinned or managed memory
  bool on_device = false;  // both ends are GPU memory
};

/// The fastest way, by what bench_gather measured. Never `automatic`.
[[nodiscard]] GatherMethod choose_gather(const GatherShape& shape) noexcept;

/// Enqueues the pieces on `stream`, a `cudaStream_t` of the current device; as `StreamRef::gather`.
[[nodiscard]] Result<void> gather_pieces(std::span<const CopyPiece> pieces, GatherMethod method,
                                         void* stream);

/// The same by kernels alone. Allocates nothing; may be captured into a graph, which keeps the
/// pieces' addresses. Fastest where both ends of a piece are equally aligned to 16 bytes.
[[nodiscard]] Result<void> copy_by_kernel(std::span<const CopyPiece> pieces, void* stream);

}  // namespace millrace
