// What this machine grants this process.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace millrace {

/// Bytes of memory: the machine's, or its control group's where that is less.
[[nodiscard]] std::size_t machine_memory_bytes();
/// Processors that this process may use: by its affinity and its control group's quota. At least 1.
[[nodiscard]] int usable_cores();
/// "Intel(R) Xeon(R) ..."; "CPU" when the system does not say.
[[nodiscard]] std::string processor_name();

// The parsers of the above.

/// The value of a "Name:   123 kB" line of /proc/meminfo, in bytes.
[[nodiscard]] std::optional<std::size_t> meminfo_bytes(std::string_view meminfo,
                                                       std::string_view name);
/// A control group's "max" or a number; nothing for no limit.
[[nodiscard]] std::optional<std::size_t> cgroup_limit_bytes(std::string_view text);
/// Whole processors, rounded up, of "200000 100000" (quota and period in microseconds); nothing for
/// "max".
[[nodiscard]] std::optional<int> cgroup_quota_cores(std::string_view text);
/// The path that /proc/self/cgroup names for `controller`; "" for the unified hierarchy.
[[nodiscard]] std::optional<std::string> cgroup_path(std::string_view cgroups,
                                                     std::string_view controller);

}  // namespace millrace
