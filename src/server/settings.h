// Settings of the trace and of the log extension.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <millrace/error.h>
#include <millrace/log.h>

namespace millrace::server {

/// A setting by the name that the extension gives it.
struct Setting {
  std::string name;
  /// `std::monostate` in a change: back to what it would be without one.
  std::variant<std::monostate, bool, std::int64_t, std::string, std::vector<std::string>> value;
};
using Settings = std::vector<Setting>;

/// Which requests are traced: settings of the server, and of models that differ. Thread-safe.
class TraceSettings {
 public:
  TraceSettings();
  /// Those in force for a model, or with an empty name those of the server.
  [[nodiscard]] Settings of(std::string_view model) const;
  /// Changes what is named and returns what is in force then. Errors: invalid_argument, with
  /// nothing changed.
  Result<Settings> change(std::string_view model, const Settings& changes);
  /// Whether anything may be traced at all.
  [[nodiscard]] bool any() const noexcept { return any_.load(std::memory_order_relaxed); }
  /// Whether a model's next request is traced: counts it. `told`: what the caller's own trace says,
  /// which holds instead of the rate. Cheap while tracing is off.
  [[nodiscard]] bool sample(std::string_view model, std::optional<bool> told = std::nullopt);

 private:
  struct Values {
    std::map<std::string, Setting, std::less<>> by_name;
    std::uint64_t seen = 0;
    std::int64_t left = -1;  // -1: no limit
    // What `by_name`, and for a model the server's, come to.
    bool on = false;
    std::uint64_t rate = 1;
  };
  [[nodiscard]] Settings in_force(std::string_view model) const;  // with the mutex held
  void work_out();                                                // with the mutex held

  mutable std::mutex mutex_;
  Values server_;
  std::map<std::string, Values, std::less<>> models_;
  std::atomic<bool> any_{false};
};

/// How much is logged. The extension switches each level by itself; the process has one least
/// level, which is the lowest that is on. Whoever else sets that sets these. Thread-safe.
class LogSettings {
 public:
  [[nodiscard]] Settings all() const;
  /// Errors: invalid_argument, with nothing changed.
  Result<Settings> change(const Settings& changes);

 private:
  struct Values {
    bool info = false;
    bool warning = false;
    bool error = false;
    std::int64_t verbose = 0;
  };
  [[nodiscard]] static LogLevel least(const Values& values) noexcept;
  [[nodiscard]] Values in_force() const;  // with the mutex held

  mutable std::mutex mutex_;
  Values values_;
};

}  // namespace millrace::server
