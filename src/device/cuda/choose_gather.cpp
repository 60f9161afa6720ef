#include "device/cuda/gather.h"

namespace millrace {
namespace {

/// Of pieces in pinned memory, by their average size and their number: smaller ones, when they are
/// more, go by a kernel, others by the copy engine, which leaves the multiprocessors to the models.
/// Measured with bench/gather.cpp on an H200 with PCIe 5 x16: 64 pieces of 32 KiB go at 50.5 GB/s
/// in a batch and at 47.1 by a kernel, of 16 KiB at 39.3 and 43.8; 4 pieces of 4 KiB at 5.6
/// and 4.4, 8 of them at 7.5 and 8.0.
constexpr std::size_t kKernelBelowBytes = 32U << 10;
constexpr std::size_t kKernelFromPieces = 8;

}  // namespace

GatherMethod choose_gather(const GatherShape& shape) noexcept {
  if (!shape.reachable) return GatherMethod::each;
  if (shape.pitched) return GatherMethod::kernel;
  if (shape.pieces <= 1) return GatherMethod::each;
  if (shape.on_device) return GatherMethod::kernel;
  const bool small = shape.bytes / shape.pieces < kKernelBelowBytes;
  return small && shape.pieces >= kKernelFromPieces ? GatherMethod::kernel : GatherMethod::batch;
}

}  // namespace millrace
