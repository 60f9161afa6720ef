// For whoever watches the process from outside of the engine.
#pragma once

#include <millrace/engine.h>

namespace millrace {

/// Whether the driver of each device has gone round since this was called last; asks them to, and
/// does not wait for it. False for long: a driver is stuck, in a library perhaps, and nothing on
/// its device goes on, lanes that hang are not given up either. One caller at a time.
[[nodiscard]] bool drivers_respond(const Engine& engine);

}  // namespace millrace
