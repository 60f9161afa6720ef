// Host devices do what every device must.
#include "tests/conformance/device_conformance.h"

#include "device/host/host_device.h"

namespace millrace {
namespace {

struct HostFactory {
  static constexpr const char* kName = "host";
  static constexpr bool kTakesALimit = true;
  static constexpr int kPending = 1000;
  static constexpr auto kClockError = std::chrono::nanoseconds(0);

  static int present() { return 2; }
  static std::unique_ptr<Device> make(int index = 0, std::size_t memory_limit_bytes = 0) {
    HostDeviceOptions options;
    options.memory_limit_bytes = memory_limit_bytes;
    return std::make_unique<HostDevice>(index, options);
  }
  /// Enqueues work on `stream` that ends once `open` is true.
  static Result<void> hold(StreamRef stream, std::shared_ptr<std::atomic<bool>> open) {
    return stream.run([open = std::move(open)] { open->wait(false); });
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Host, DeviceConformance, testing::Types<HostFactory>, FactoryName);

}  // namespace
}  // namespace millrace
