// Parts of counting GPUs that need none.
#pragma once

#include <string>
#include <string_view>

namespace millrace {

/// The driver's release, "580.95.05", in the first line of /proc/driver/nvidia/version; empty when
/// there is none.
[[nodiscard]] std::string driver_release(std::string_view line);

}  // namespace millrace
