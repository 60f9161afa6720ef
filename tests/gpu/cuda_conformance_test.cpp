// CUDA devices do what every device must. Skipped, and said so, where there is none.
#include "tests/conformance/device_conformance.h"

#include "device/cuda/cuda_device.h"
#include "tests/gpu/hold.h"

namespace millrace {
namespace {

struct CudaFactory {
  static constexpr const char* kName = "cuda";
  static constexpr bool kTakesALimit = false;
  // The driver holds up whoever enqueues more than about a thousand pieces of work on a shut
  // stream.
  static constexpr int kPending = 10;
  // Between the device's clock and the host's.
  static constexpr auto kClockError = std::chrono::microseconds(50);

  static int present() { return cuda_status().visible_gpus; }
  static std::unique_ptr<Device> make(int index = 0, std::size_t /*memory_limit_bytes*/ = 0) {
    return open_cuda_device(index).value();
  }
  static Result<void> hold(StreamRef stream, std::shared_ptr<std::atomic<bool>> open) {
    return hold_stream(stream, std::move(open));
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, DeviceConformance, testing::Types<CudaFactory>, FactoryName);

}  // namespace
}  // namespace millrace
