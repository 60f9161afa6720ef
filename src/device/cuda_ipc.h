// What stands behind ipc.h; without CUDA each of these answers `unsupported`.
#pragma once

#include <cstddef>
#include <cstdint>

#include <millrace/ipc.h>

namespace millrace {

struct ImportedMemory {
  void* data = nullptr;
  DeviceId device;
  Lease lease;
};

[[nodiscard]] Result<IpcMemoryHandle> export_cuda_memory(std::int32_t gpu, const void* data,
                                                         std::size_t bytes);
[[nodiscard]] Result<ImportedMemory> import_cuda_memory(const IpcMemoryHandle& handle);
/// New memory of cudaMalloc, which `export_cuda_memory` takes. The device halts for it: not for the
/// steady state.
[[nodiscard]] Result<ImportedMemory> new_shared_cuda_memory(std::int32_t gpu, std::size_t bytes);
[[nodiscard]] Result<Event> new_shared_cuda_event(std::int32_t gpu);
[[nodiscard]] Result<IpcEventHandle> export_cuda_event(EventRef event);
[[nodiscard]] Result<Event> import_cuda_event(const IpcEventHandle& handle);

}  // namespace millrace
