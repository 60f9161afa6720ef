// Holds a CUDA stream shut with a kernel, so that no thread of the driver is held with it.
#pragma once

#include <atomic>
#include <memory>

#include <millrace/device.h>

namespace millrace {

/// Enqueues a kernel that spins until `open` is true.
[[nodiscard]] Result<void> hold_stream(StreamRef stream, std::shared_ptr<std::atomic<bool>> open);

}  // namespace millrace
