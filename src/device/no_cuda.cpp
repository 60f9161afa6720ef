// What is known of GPUs in a build without CUDA.
#include <millrace/pinned.h>

#include "base/text.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda_ipc.h"
#include "device/select_devices.h"

#if !MILLRACE_WITH_CUDA

namespace millrace {

CudaStatus cuda_status() {
  CudaStatus status;
  status.reason = "built without CUDA";
  return status;
}

std::vector<GpuIdentity> visible_gpus() { return {}; }

Result<std::unique_ptr<Device>> open_cuda_device(std::int32_t index) {
  return Error{ErrorCode::unsupported,
               concat("device ", DeviceId::cuda(index), ": this program was built without CUDA")};
}

Result<void> connect_cuda_devices(std::span<const DeviceRef>) { return {}; }

namespace {

Error no_ipc(const char* what) {
  return {
      ErrorCode::unsupported,
      concat(what, ": this program was built without CUDA, which sharing a GPU's memory needs")};
}

}  // namespace

Result<IpcMemoryHandle> export_cuda_memory(std::int32_t, const void*, std::size_t) {
  return no_ipc("export_memory");
}
Result<ImportedMemory> import_cuda_memory(const IpcMemoryHandle&) {
  return no_ipc("import_memory");
}
Result<ImportedMemory> new_shared_cuda_memory(std::int32_t, std::size_t) {
  return no_ipc("memory for other processes");
}
Result<Event> new_shared_cuda_event(std::int32_t) { return no_ipc("new_shared_event"); }
Result<IpcEventHandle> export_cuda_event(EventRef) { return no_ipc("export_event"); }
Result<Event> import_cuda_event(const IpcEventHandle&) { return no_ipc("import_event"); }

Result<Lease> pin_host_memory(void*, std::size_t) {
  return Error{ErrorCode::unsupported, "pin_host_memory: this program was built without CUDA"};
}

}  // namespace millrace

#endif
