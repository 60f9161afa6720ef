// The settings of `millrace serve`: one table, which the command line and the configuration file
// are both read by.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <CLI/CLI.hpp>

#include <millrace/error.h>

#include "cli/print.h"

namespace millrace::cli {

/// With the defaults. Durations and sizes are as given: "15s", "1GiB".
struct ServeOptions {
  std::vector<std::string> repositories;
  std::vector<std::string> devices;
  std::string host = "127.0.0.1";
  int http_port = 8000;
  int grpc_port = 8001;
  int metrics_port = 8002;
  int http_threads = 0;
  int grpc_queues = 0;
  std::string mode = "none";
  std::string poll_interval = "15s";
  std::vector<std::string> load;
  bool strict = false;
  std::string evict_idle;
  bool allow_control = false;
  bool allow_shm = false;
  bool allow_settings = false;
  std::string certificate;
  std::string key;
  std::string client_authorities;
  std::string token_file;
  std::string control_token_file;
  bool allow_open = false;
  int max_connections = 16384;
  std::string max_request = "1GiB";
  std::string max_in_flight = "4GiB";
  std::string drain_limit = "30s";
  std::string access_log;
  std::string otlp_url;
  std::string trace_level = "TIMESTAMPS";
  int trace_rate = 1000;
  bool supervise = true;
  std::string hang_limit = "60s";
  std::string start_limit = "1h";
  std::string restart_delay = "100ms";
  std::string longest_restart_delay = "30s";
  std::string healthy_after = "60s";
  int give_up_after = 20;
};

/// What a text must be besides a text.
enum class SettingForm : std::uint8_t { plain, path, duration, bytes, choice };

struct ServeSetting {
  /// The field of the configuration file; the option has hyphens instead: --http-port.
  std::string_view field;
  std::variant<bool ServeOptions::*, int ServeOptions::*, std::string ServeOptions::*,
               std::vector<std::string> ServeOptions::*>
      target;
  std::string_view help;
  SettingForm form = SettingForm::plain;
  int low = 0;  // of numbers
  int high = 0;
  std::string_view choices{};  // separated by blanks
};

/// All of them, in the order of the help.
[[nodiscard]] std::span<const ServeSetting> serve_settings() noexcept;

/// Adds an option for each setting; REPOSITORY is positional. The result says, after parsing,
/// whether the command line gave a field.
[[nodiscard]] std::function<bool(std::string_view field)> add_serve_settings(CLI::App& verb,
                                                                             ServeOptions& options);

/// Reads the fields of a configuration file, but those that the command line `gave`. Relative paths
/// start at the file's folder. Errors: invalid_argument with the place, for unknown fields too;
/// not_found.
Result<void> read_serve_config(const std::string& path,
                               const std::function<bool(std::string_view field)>& gave,
                               ServeOptions& options);

/// As a configuration file; what is empty is left out.
[[nodiscard]] Json to_json(const ServeOptions& options);

/// Settings that contradict each other. Errors: invalid_argument.
[[nodiscard]] Result<void> check_serve_options(const ServeOptions& options);

}  // namespace millrace::cli
