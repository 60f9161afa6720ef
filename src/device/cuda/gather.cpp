#include "device/cuda/gather.h"

#include <cuda_runtime_api.h>

#include <vector>

#include "base/try.h"
#include "device/cuda/cuda_error.h"

namespace millrace {
namespace {

bool pitched(const CopyPiece& piece) { return piece.rows > 1 && piece.source_pitch != piece.bytes; }

cudaMemoryType kind_of(const void* address) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, address) == cudaSuccess) return attributes.type;
  cudaGetLastError();
  return cudaMemoryTypeUnregistered;
}

/// What lies where is asked of the first piece only: the pieces of one call are alike.
GatherShape shape_of(std::span<const CopyPiece> pieces) {
  GatherShape shape;
  const CopyPiece* first = nullptr;
  for (const CopyPiece& piece : pieces) {
    if (piece.bytes == 0 || piece.rows == 0) continue;
    if (!first) first = &piece;
    ++shape.pieces;
    shape.bytes += piece.bytes * piece.rows;
    shape.pitched |= pitched(piece);
  }
  if (!first || (shape.pieces == 1 && !shape.pitched)) return shape;
  const cudaMemoryType source = kind_of(first->source);
  const cudaMemoryType target = kind_of(first->target);
  shape.reachable = source != cudaMemoryTypeUnregistered && target != cudaMemoryTypeUnregistered;
  shape.on_device = source == cudaMemoryTypeDevice && target == cudaMemoryTypeDevice;
  return shape;
}

Result<void> copy_each(std::span<const CopyPiece> pieces, cudaStream_t stream) {
  for (const CopyPiece& piece : pieces) {
    if (piece.bytes == 0 || piece.rows == 0) continue;
    if (pitched(piece)) {
      MILLRACE_TRY(
          check_cuda(cudaMemcpy2DAsync(piece.target, piece.bytes, piece.source, piece.source_pitch,
                                       piece.bytes, piece.rows, cudaMemcpyDefault, stream),
                     "cudaMemcpy2DAsync"));
      continue;
    }
    MILLRACE_TRY(check_cuda(cudaMemcpyAsync(piece.target, piece.source, piece.bytes * piece.rows,
                                            cudaMemcpyDefault, stream),
                            "cudaMemcpyAsync"));
  }
  return {};
}

/// A call starts to copy when it has taken all its pieces, which costs the host 0.4 us for each
/// (bench/gather.cpp, on an H200). So many pieces go by several calls: a few first, and while those
/// are copied, more each time.
constexpr std::size_t kFirstPieces = 8;
constexpr std::size_t kPiecesGrow = 3;

/// Dense pieces only.
Result<void> copy_batch(std::span<const CopyPiece> pieces, cudaStream_t stream) {
  static thread_local std::vector<void*> targets;
  static thread_local std::vector<const void*> sources;
  static thread_local std::vector<std::size_t> sizes;
  targets.clear();
  sources.clear();
  sizes.clear();
  for (const CopyPiece& piece : pieces) {
    if (piece.bytes == 0 || piece.rows == 0) continue;
    targets.push_back(piece.target);
    sources.push_back(piece.source);
    sizes.push_back(piece.bytes * piece.rows);
  }
  if (targets.empty()) return {};
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  std::size_t step = kFirstPieces;
  for (std::size_t begin = 0; begin < targets.size();) {
    const std::size_t left = targets.size() - begin;
    const std::size_t count = left < 2 * step ? left : step;
    std::size_t first = 0;
    MILLRACE_TRY(check_cuda(
        cudaMemcpyBatchAsync(targets.data() + begin, sources.data() + begin, sizes.data() + begin,
                             count, &attributes, &first, 1, stream),
        "cudaMemcpyBatchAsync"));
    begin += count;
    step *= kPiecesGrow;
  }
  return {};
}

}  // namespace

Result<void> gather_pieces(std::span<const CopyPiece> pieces, GatherMethod method, void* stream) {
  auto* const native = static_cast<cudaStream_t>(stream);
  if (method == GatherMethod::automatic) method = choose_gather(shape_of(pieces));
  switch (method) {
    case GatherMethod::batch:
      return copy_batch(pieces, native);
    case GatherMethod::kernel:
      return copy_by_kernel(pieces, stream);
    default:
      return copy_each(pieces, native);
  }
}

}  // namespace millrace
