#include "device/cuda_ipc.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/cuda_error.h"
#include "device/ipc_mappings.h"
#include "device/select_devices.h"

namespace millrace {
namespace {

static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(IpcMemoryHandle::memory));
static_assert(sizeof(cudaIpcEventHandle_t) == sizeof(IpcEventHandle::event));

Result<IpcDeviceName> name_of(std::int32_t gpu) {
  const std::vector<GpuIdentity> gpus = visible_gpus();
  const auto index = static_cast<std::size_t>(gpu);
  if (gpu < 0 || index >= gpus.size()) {
    return Error{ErrorCode::not_found,
                 concat("device ", DeviceId::cuda(gpu), ": ", gpus.size(), " GPUs are visible")};
  }
  IpcDeviceName name{};
  std::copy_n(gpus[index].uuid.data(), std::min(gpus[index].uuid.size(), name.size() - 1),
              name.data());
  return name;
}

Result<std::int32_t> index_of(const IpcDeviceName& name) {
  const std::string uuid(name.data(), strnlen(name.data(), name.size()));
  const std::vector<GpuIdentity> gpus = visible_gpus();
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    if (!uuid.empty() && gpus[i].uuid == uuid) return static_cast<std::int32_t>(i);
  }
  std::string known;
  for (const GpuIdentity& gpu : gpus) known += " " + gpu.uuid;
  return Error{ErrorCode::not_found,
               concat("a handle of another process names GPU ", quote(uuid),
                      ", which is not visible here; visible are:", known.empty() ? " none" : known,
                      "; see CUDA_VISIBLE_DEVICES")};
}

/// CUDA's words, with what the usual reasons are.
Error refused(cudaError_t status, const char* what, std::string_view reasons) {
  cudaGetLastError();
  const bool gone = status == cudaErrorInvalidResourceHandle ||
                    status == cudaErrorMapBufferObjectFailed || status == cudaErrorInvalidValue ||
                    status == cudaErrorDeviceUninitialized;
  return {gone ? ErrorCode::unavailable : ErrorCode::unsupported,
          concat(what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), "); ",
                 reasons)};
}

constexpr std::string_view kImportReasons =
    "the process that owns it may be gone or be this very one, or the two may not share process "
    "and "
    "IPC namespaces (containers: --ipc=host --pid=host)";
constexpr std::string_view kExportReasons =
    "only whole allocations of cudaMalloc can be shared, not memory of stream-ordered pools (that "
    "of Engine::new_tensor, cudaMallocAsync) nor managed memory";

Result<void*> open_mapping(const IpcMappings::Key& key) {
  MILLRACE_TRY(check_cuda(cudaSetDevice(key.device), "cudaSetDevice"));
  cudaIpcMemHandle_t handle;
  std::memcpy(&handle, key.handle.data(), sizeof handle);
  void* base = nullptr;
  const cudaError_t status = cudaIpcOpenMemHandle(&base, handle, cudaIpcMemLazyEnablePeerAccess);
  if (status != cudaSuccess) return refused(status, "cudaIpcOpenMemHandle", kImportReasons);
  return base;
}

void close_mapping(const IpcMappings::Key& key, void* base) noexcept {
  log_cuda(cudaSetDevice(key.device), "cudaSetDevice");
  const cudaError_t status = cudaIpcCloseMemHandle(base);
  if (status == cudaSuccess) return;
  cudaGetLastError();
  log_debug("cudaIpcCloseMemHandle: ", cudaGetErrorString(status),
            "; the process that owned the memory may be gone");
}

/// For the whole process; never destroyed, since leases may be dropped at exit.
IpcMappings& mappings() {
  static auto* mappings = new IpcMappings({&open_mapping, &close_mapping});
  return *mappings;
}

using AddressRange = CUresult (*)(CUdeviceptr*, std::size_t*, CUdeviceptr);

struct Allocation {
  std::uint64_t offset = 0;  // of the address asked for
  std::uint64_t bytes = 0;   // of all of it
};

/// The allocation in which `data` lies.
Result<Allocation> allocation_of(const void* data, const char* what) {
  static const AddressRange range = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const bool known = cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &entry, 12000,
                                                        cudaEnableDefault, &found) == cudaSuccess &&
                       found == cudaDriverEntryPointSuccess;
    return known ? reinterpret_cast<AddressRange>(entry) : nullptr;
  }();
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  if (!range || range(&base, &bytes, reinterpret_cast<CUdeviceptr>(data)) != CUDA_SUCCESS) {
    return Error{
        ErrorCode::invalid_argument,
        concat(what, ": the address is not that of a GPU's memory; it may have been freed")};
  }
  return Allocation{reinterpret_cast<CUdeviceptr>(data) - base, bytes};
}

}  // namespace

Result<IpcMemoryHandle> export_cuda_memory(std::int32_t gpu, const void* data, std::size_t bytes) {
  IpcMemoryHandle result;
  MILLRACE_ASSIGN(result.device, name_of(gpu));
  MILLRACE_TRY(check_cuda(cudaSetDevice(gpu), "cudaSetDevice"));
  MILLRACE_ASSIGN(const Allocation allocation, allocation_of(data, "export_memory"));
  result.offset_bytes = allocation.offset;
  const std::byte* base = static_cast<const std::byte*>(data) - result.offset_bytes;
  cudaIpcMemHandle_t handle;
  const cudaError_t status = cudaIpcGetMemHandle(&handle, const_cast<std::byte*>(base));
  if (status == cudaErrorInvalidValue) {  // of memory that is there: it is no such allocation
    cudaGetLastError();
    return Error{ErrorCode::unsupported, concat("cudaIpcGetMemHandle: ", kExportReasons)};
  }
  if (status != cudaSuccess) return refused(status, "cudaIpcGetMemHandle", kExportReasons);
  std::memcpy(result.memory.data(), &handle, sizeof handle);
  result.bytes = bytes;
  return result;
}

Result<ImportedMemory> import_cuda_memory(const IpcMemoryHandle& handle) {
  MILLRACE_ASSIGN(const std::int32_t gpu, index_of(handle.device));
  MILLRACE_ASSIGN(IpcMappings::Mapping mapping, mappings().take({gpu, handle.memory}));
  // The handle's numbers are the peer's word: beyond the allocation a kernel would fault.
  MILLRACE_ASSIGN(const Allocation allocation, allocation_of(mapping.base, "import_memory"));
  if (handle.offset_bytes > allocation.bytes ||
      handle.bytes > allocation.bytes - handle.offset_bytes) {
    return Error{ErrorCode::invalid_argument,
                 concat("import_memory: the handle names ", handle.bytes, " bytes from ",
                        handle.offset_bytes, " of an allocation of ", allocation.bytes)};
  }
  return ImportedMemory{static_cast<std::byte*>(mapping.base) + handle.offset_bytes,
                        DeviceId::cuda(gpu), std::move(mapping.lease)};
}

Result<ImportedMemory> new_shared_cuda_memory(std::int32_t gpu, std::size_t bytes) {
  MILLRACE_TRY(name_of(gpu));
  MILLRACE_TRY(check_cuda(cudaSetDevice(gpu), "cudaSetDevice"));
  void* data = nullptr;
  MILLRACE_TRY(check_cuda(cudaMalloc(&data, bytes), "cudaMalloc"));
  return ImportedMemory{data, DeviceId::cuda(gpu), Lease::on_release([gpu, data] {
                          log_cuda(cudaSetDevice(gpu), "cudaSetDevice");
                          log_cuda(cudaFree(data), "cudaFree");
                        })};
}

Result<Event> new_shared_cuda_event(std::int32_t gpu) {
  MILLRACE_TRY(name_of(gpu));
  return new_shareable_cuda_event(gpu);
}

Result<IpcEventHandle> export_cuda_event(EventRef event) {
  IpcEventHandle result;
  const std::int32_t gpu = event.device().index;
  MILLRACE_ASSIGN(result.device, name_of(gpu));
  MILLRACE_TRY(check_cuda(cudaSetDevice(gpu), "cudaSetDevice"));
  cudaIpcEventHandle_t handle;
  const cudaError_t status =
      cudaIpcGetEventHandle(&handle, static_cast<cudaEvent_t>(native_cuda_event(event)));
  if (status != cudaSuccess) {
    return refused(status, "cudaIpcGetEventHandle", "make the event with new_shared_event");
  }
  std::memcpy(result.event.data(), &handle, sizeof handle);
  return result;
}

Result<Event> import_cuda_event(const IpcEventHandle& handle) {
  MILLRACE_ASSIGN(const std::int32_t gpu, index_of(handle.device));
  MILLRACE_TRY(check_cuda(cudaSetDevice(gpu), "cudaSetDevice"));
  cudaIpcEventHandle_t native;
  std::memcpy(&native, handle.event.data(), sizeof native);
  cudaEvent_t event = nullptr;
  const cudaError_t status = cudaIpcOpenEventHandle(&event, native);
  if (status != cudaSuccess) return refused(status, "cudaIpcOpenEventHandle", kImportReasons);
  return adopt_cuda_event(gpu, event);
}

}  // namespace millrace
