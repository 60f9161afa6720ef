#include "device/cuda/gather.h"

namespace millrace {
namespace {

/// Of pieces in pinned memory, by their average size. Below, each costs the copy engine more than
/// its bytes do; above, both ways come to the speed of PCIe, and the copy engine leaves the
/// multiprocessors to the models. Measured on an H200 with PCIe 5 x16: 64 pieces of 150,528 bytes
/// go at 48.1 GB/s in a batch and 48.4 by a kernel, of 602,112 bytes at 53.4 and 50.5; one copy of
/// 64 KiB at a third of that.
constexpr std::size_t kKernelBelowBytes = 64U << 10;

}  // namespace

GatherMethod choose_gather(const GatherShape& shape) noexcept {
  if (!shape.reachable) return GatherMethod::each;
  if (shape.pitched) return GatherMethod::kernel;
  if (shape.pieces <= 1) return GatherMethod::each;
  if (shape.on_device) return GatherMethod::kernel;
  return shape.bytes / shape.pieces < kKernelBelowBytes ? GatherMethod::kernel
                                                        : GatherMethod::batch;
}

}  // namespace millrace
