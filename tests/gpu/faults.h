// A kernel that makes a GPU useless to the process.
#pragma once

#include <millrace/device.h>

namespace millrace {

/// Enqueues a kernel that writes to an address that belongs to nobody.
[[nodiscard]] Result<void> launch_illegal_write(StreamRef stream);

}  // namespace millrace
