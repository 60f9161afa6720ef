#include <utility>

#include "base/try.h"
#include "device/host/host_device.h"
#include "device/impl.h"

namespace millrace {
namespace {

// Memory of a device that has no shared source of its own.
class DeviceMemory final : public MemorySource {
 public:
  explicit DeviceMemory(Device& device) : device_(device) {}

  Result<void*> allocate(std::size_t bytes, MemoryKind kind) override {
    MILLRACE_ASSIGN(Buffer buffer, device_.allocate(bytes, kind));
    return buffer.release();
  }
  void free(void* data, std::size_t bytes, MemoryKind kind) noexcept override {
    Buffer(&device_, data, bytes, kind);
  }
  bool host_addressable(MemoryKind kind) const noexcept override {
    return kind == MemoryKind::pinned;
  }

 private:
  Device& device_;
};

}  // namespace

std::shared_ptr<MemorySource> memory_source(Device& device) {
  if (HostDevice* host = as_host(&device)) return host->memory_source();
  return std::make_shared<DeviceMemory>(device);
}

}  // namespace millrace
