// How fast data moves from one device to another.
#pragma once

#include <millrace/device.h>

namespace millrace {

struct TransferSpeed {
  Duration latency{};  // of the smallest copy
  double bytes_per_second = 0;
};

/// Copies between memory of the two devices on a stream of `to`, a little and a lot, and takes the
/// best times of a few by events: some milliseconds, and 16 MiB on each. Waits: for the start of an
/// engine. Errors: those of the devices.
[[nodiscard]] Result<TransferSpeed> measure_transfer(Device& from, Device& to);

}  // namespace millrace
