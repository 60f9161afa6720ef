#include "base/log.h"

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

namespace millrace {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"debug", "info", "warning", "error", "off"};

std::optional<LogLevel> level_named(std::string_view name) noexcept {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (equal_ignoring_case(name, kNames[i])) return static_cast<LogLevel>(i);
  }
  return std::nullopt;
}

LogLevel initial_level() noexcept {
  const char* name = std::getenv("MILLRACE_LOG");
  return (name ? level_named(name) : std::nullopt).value_or(LogLevel::warning);
}

std::atomic<LogLevel>& level_word() noexcept {
  static std::atomic<LogLevel> level{initial_level()};
  return level;
}

struct SinkState {
  std::mutex mutex;
  LogSink sink;  // guarded by mutex
};

// Never destroyed, so that destructors of other static objects may still log.
SinkState& sink_state() {
  static SinkState& state = *new SinkState;
  return state;
}

thread_local bool in_sink = false;

void write_to_standard_error(LogLevel level, std::string_view message) {
  const std::string line =
      concat("millrace: ", kNames[static_cast<std::size_t>(level)], ": ", message, "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

void log_to(LogSink sink) {
  SinkState& state = sink_state();
  const std::lock_guard lock(state.mutex);
  std::swap(state.sink, sink);
}

void set_log_level(LogLevel level) noexcept {
  level_word().store(level, std::memory_order_relaxed);
}

LogLevel log_level() noexcept { return level_word().load(std::memory_order_relaxed); }

bool set_log_level(std::string_view name) noexcept {
  const std::optional<LogLevel> level = level_named(name);
  if (level) set_log_level(*level);
  return level.has_value();
}

void log_message(LogLevel level, std::string_view message) noexcept {
  try {
    if (in_sink) return write_to_standard_error(level, message);
    SinkState& state = sink_state();
    const std::lock_guard lock(state.mutex);
    if (!state.sink) return write_to_standard_error(level, message);
    in_sink = true;
    try {
      state.sink(level, message);
    } catch (const std::exception& e) {
      write_to_standard_error(LogLevel::error, concat("the log sink threw: ", e.what()));
    } catch (...) {
      write_to_standard_error(LogLevel::error, "the log sink threw");
    }
    in_sink = false;
  } catch (...) {  // no memory for the message: nothing more can be done
    in_sink = false;
  }
}

}  // namespace millrace
