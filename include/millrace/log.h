// Where Millrace's own messages and those of the libraries under it go.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace millrace {

enum class LogLevel : std::uint8_t { debug, info, warning, error, off };

/// Called for each message at or above the level set, one call at a time, from any thread.
using LogSink = std::function<void(LogLevel level, std::string_view message)>;

/// Default: to standard error as "millrace: warning: ...". An empty sink restores it. The sink must
/// not call `log_to`; what it throws is reported on standard error.
void log_to(LogSink sink);
/// The least level that is written. At first: what MILLRACE_LOG in the environment says, else
/// `warning`.
void set_log_level(LogLevel level) noexcept;
[[nodiscard]] LogLevel log_level() noexcept;
/// By name: "debug", "info", "warning", "error", "off"; false, with nothing changed, for any other.
bool set_log_level(std::string_view name) noexcept;

}  // namespace millrace
