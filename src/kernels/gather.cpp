#include "kernels/gather.h"

#include <algorithm>
#include <array>
#include <cstring>

#if MILLRACE_WITH_CUDA
#include <cuda_runtime_api.h>

#include "base/try.h"
#include "device/cuda/gather.h"
#endif

namespace millrace {

void gather_host(void* destination, std::span<const GatherPiece> pieces) noexcept {
  for (const GatherPiece& piece : pieces) {
    if (piece.bytes == 0) continue;
    std::memcpy(static_cast<std::byte*>(destination) + piece.offset_bytes, piece.source,
                piece.bytes);
  }
}

void scatter_host(const void* source, std::span<const ScatterPiece> pieces) noexcept {
  for (const ScatterPiece& piece : pieces) {
    if (piece.bytes == 0) continue;
    std::memcpy(piece.destination, static_cast<const std::byte*>(source) + piece.offset_bytes,
                piece.bytes);
  }
}

#if MILLRACE_WITH_CUDA
namespace {

/// Hands pieces on in portions, so that nothing is allocated.
template <class Piece, class ToCopy>
Result<void> copy_pieces(std::span<const Piece> pieces, void* stream, const char* function,
                         ToCopy to_copy) {
  if (stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread) {
    return Error{
        ErrorCode::invalid_argument,
        std::string(function) + ": expected a stream of its own, found the default stream"};
  }
  std::array<CopyPiece, 128> portion;
  while (!pieces.empty()) {
    const std::size_t count = std::min(pieces.size(), portion.size());
    std::transform(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(count),
                   portion.begin(), to_copy);
    MILLRACE_TRY(copy_by_kernel(std::span(portion).first(count), stream));
    pieces = pieces.subspan(count);
  }
  return {};
}

}  // namespace

Result<void> gather_cuda(void* destination, std::span<const GatherPiece> pieces, void* stream) {
  return copy_pieces(pieces, stream, "gather_cuda", [destination](const GatherPiece& piece) {
    return CopyPiece{static_cast<std::byte*>(destination) + piece.offset_bytes, piece.source,
                     piece.bytes};
  });
}

Result<void> scatter_cuda(const void* source, std::span<const ScatterPiece> pieces, void* stream) {
  return copy_pieces(pieces, stream, "scatter_cuda", [source](const ScatterPiece& piece) {
    return CopyPiece{piece.destination, static_cast<const std::byte*>(source) + piece.offset_bytes,
                     piece.bytes};
  });
}
#else
namespace {

Error built_without_cuda(const char* function) {
  return {ErrorCode::unsupported, std::string(function) +
                                      ": expected a build with CUDA, found one without; configure "
                                      "with -DMILLRACE_CUDA=ON"};
}

}  // namespace

Result<void> gather_cuda(void*, std::span<const GatherPiece>, void*) {
  return built_without_cuda("gather_cuda");
}

Result<void> scatter_cuda(const void*, std::span<const ScatterPiece>, void*) {
  return built_without_cuda("scatter_cuda");
}
#endif

}  // namespace millrace
