// Writing to the log that <millrace/log.h> sets up. Arguments are concatenated as `concat` does;
// nothing is built when the level is off. Safe from any thread and from destructors; never throws.
#pragma once

#include <string_view>

#include <millrace/log.h>

#include "base/text.h"

namespace millrace {

/// Hands a message to the sink, whatever the level set. Messages logged from inside a sink go to
/// standard error.
void log_message(LogLevel level, std::string_view message) noexcept;

template <class... Pieces>
void log_at(LogLevel level, const Pieces&... pieces) noexcept {
  if (level < log_level()) return;
  try {
    log_message(level, concat(pieces...));
  } catch (...) {  // no memory for the message
  }
}
template <class... Pieces>
void log_debug(const Pieces&... pieces) noexcept {
  log_at(LogLevel::debug, pieces...);
}
template <class... Pieces>
void log_info(const Pieces&... pieces) noexcept {
  log_at(LogLevel::info, pieces...);
}
template <class... Pieces>
void log_warning(const Pieces&... pieces) noexcept {
  log_at(LogLevel::warning, pieces...);
}
template <class... Pieces>
void log_error(const Pieces&... pieces) noexcept {
  log_at(LogLevel::error, pieces...);
}

}  // namespace millrace
