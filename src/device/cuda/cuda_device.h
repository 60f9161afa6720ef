// A GPU through the CUDA runtime.
#pragma once

#include <cstdint>
#include <memory>

#include <millrace/device.h>

namespace millrace {

/// Opens visible GPU `index`. Initializes CUDA on it. Streams do not synchronize with the default
/// stream, which is never used; each call makes the device current in its thread. Memory comes from
/// a stream-ordered pool of its own, so that allocating never halts the device; pinned memory is
/// mapped and portable. Errors: not_found, unavailable (the driver refuses), with the driver's
/// words.
[[nodiscard]] Result<std::unique_ptr<Device>> open_cuda_device(std::int32_t index);

}  // namespace millrace
