// A kernel that makes a GPU useless to the process.
#pragma once

#include <millrace/device.h>

namespace millrace {

/// Loads it. Loading waits for what the GPU computes, which would be for ever where a kernel holds
/// a stream until the fault is there.
[[nodiscard]] Result<void> load_illegal_write(DeviceId gpu);
/// Enqueues a kernel that writes to an address that belongs to nobody.
[[nodiscard]] Result<void> launch_illegal_write(StreamRef stream);

}  // namespace millrace
