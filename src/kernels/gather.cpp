#include "kernels/gather.h"

#include <cstring>

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

#if !MILLRACE_WITH_CUDA
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
