// A GPU through the CUDA runtime.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <millrace/device.h>

namespace millrace {

/// Opens visible GPU `index`. Initializes CUDA on it. Streams do not synchronize with the default
/// stream, which is never used; each call makes the device current in its thread. Memory comes from
/// a stream-ordered pool of its own, so that allocating never halts the device; pinned memory is
/// mapped and portable. Errors: not_found, unavailable (the driver refuses), with the driver's
/// words.
[[nodiscard]] Result<std::unique_ptr<Device>> open_cuda_device(std::int32_t index);

/// Gives all GPUs among `devices`, which come from `open_cuda_device`, direct access to each
/// other's memory where the hardware can. Before they are used.
[[nodiscard]] Result<void> connect_cuda_devices(std::span<const DeviceRef> devices);

/// An untimed event of GPU `index` that other processes can open.
[[nodiscard]] Result<Event> new_shareable_cuda_event(std::int32_t index);
/// Takes over an untimed `cudaEvent_t`, recorded or not.
[[nodiscard]] Event adopt_cuda_event(std::int32_t index, void* native_handle);
/// The `cudaEvent_t` of an event of a GPU.
[[nodiscard]] void* native_cuda_event(EventRef event) noexcept;

}  // namespace millrace
