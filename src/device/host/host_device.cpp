#include "device/host/host_device.h"

#include <utility>

#include "base/text.h"
#include "base/try.h"
#include "device/host/host_stream.h"
#include "device/host/machine.h"

namespace millrace {
namespace {

DeviceInfo describe(std::int32_t index) {
  DeviceInfo info;
  info.id = DeviceId::host(index);
  info.uuid = "HOST-" + std::to_string(index);
  info.name = processor_name();
  info.cores = usable_cores();
  info.memory_bytes = machine_memory_bytes();
  return info;
}

}  // namespace

HostDevice::HostDevice(std::int32_t index, const HostDeviceOptions& options)
    : options_(options),
      info_(describe(index)),
      memory_(std::make_shared<HostMemory>(
          info_.id, options.memory_limit_bytes ? options.memory_limit_bytes : info_.memory_bytes,
          fault_)) {}

Result<Stream> HostDevice::new_stream(const StreamOptions& options) {
  const int number = streams_made_.fetch_add(1, std::memory_order_relaxed);
  std::string name = options.name;
  if (name.empty()) name = concat(id(), "/", number);
  MILLRACE_TRY(fault_->check());
  MILLRACE_ASSIGN(auto queue, HostQueue::start(name, fault_));
  return Stream(std::make_unique<HostStream>(id(), std::move(queue)));
}

Result<Event> HostDevice::new_event(EventTiming timing) {
  MILLRACE_TRY(fault_->check());
  return Event(std::make_unique<HostEvent>(id(), timing));
}

Result<Buffer> HostDevice::allocate(std::size_t bytes, MemoryKind kind) {
  if (bytes == 0) return Buffer();
  MILLRACE_ASSIGN(void* data, memory_->allocate(bytes, kind));
  return Buffer(this, data, bytes, kind);
}

Result<Stream> HostDevice::borrow_stream(void*) {
  return Error{ErrorCode::unsupported, concat("borrow_stream: ", id(),
                                              " is a host device, whose streams have no native "
                                              "handle; use new_stream")};
}

void HostDevice::break_down(const std::string& reason) {
  fault_->set({ErrorCode::gpu_fault, reason, Scope::process});
}

Result<void> HostDevice::wake_after(EventRef, Waker&) { return {}; }

void HostDevice::free(void* data, std::size_t bytes, MemoryKind kind) noexcept {
  memory_->free(data, bytes, kind);
}

HostDevice* as_host(DeviceRef device) noexcept {
  if (!device || device->id().kind != DeviceKind::host) return nullptr;
  return static_cast<HostDevice*>(device);
}

}  // namespace millrace
