#include "cli/serve_options.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <sstream>

#include "base/file.h"
#include "base/text.h"
#include "base/try.h"
#include "io/fields.h"

namespace millrace::cli {
namespace {

namespace fs = std::filesystem;
using O = ServeOptions;
using Form = SettingForm;

constexpr int kHighestPort = 65535;
constexpr int kMostThreads = 256;
constexpr int kMost = std::numeric_limits<int>::max();
constexpr std::size_t kMostConfigBytes = std::size_t{1} << 20;
constexpr std::string_view kRepositories = "repositories";

constexpr std::array<ServeSetting, 37> kSettings = {{
    {kRepositories, &O::repositories,
     "Folders of models, NAME/VERSION/model.onnx or model.plan, or single models", Form::path},
    {"devices", &O::devices, "Devices to use; default: all GPUs, else the host"},
    {"host", &O::host, "Address to listen on (default: 127.0.0.1)"},
    {"http_port", &O::http_port, "0: any free one, -1: none (default: 8000)", Form::plain, -1,
     kHighestPort},
    {"grpc_port", &O::grpc_port, "Likewise (default: 8001)", Form::plain, -1, kHighestPort},
    {"metrics_port", &O::metrics_port, "Likewise (default: 8002); /metrics is on the HTTP port too",
     Form::plain, -1, kHighestPort},
    {"http_threads", &O::http_threads, "0: by the number of processors", Form::plain, 0,
     kMostThreads},
    {"grpc_queues", &O::grpc_queues, "0: by the number of processors", Form::plain, 0,
     kMostThreads},
    {"mode", &O::mode,
     "none: all models, once; explicit: those of --load and those that clients load; poll: as "
     "the folders say",
     Form::choice, 0, 0, "none explicit poll"},
    {"poll_interval", &O::poll_interval, "For --mode poll (default: 15s)", Form::duration},
    {"load", &O::load, "Models to load with --mode explicit; *: all"},
    {"strict", &O::strict, "End when a model cannot be loaded"},
    {"evict_idle", &O::evict_idle,
     "Unload models idle for so long when memory is short; they come back on demand",
     Form::duration},
    {"allow_repository_control", &O::allow_control, "Clients may load and unload models"},
    {"allow_client_shm", &O::allow_shm, "Clients may register system and CUDA shared memory"},
    {"allow_settings", &O::allow_settings, "Clients may change trace and log settings"},
    {"tls_cert", &O::certificate, "PEM file: certificate, with its chain", Form::path},
    {"tls_key", &O::key, "PEM file: its key", Form::path},
    {"tls_client_ca", &O::client_authorities,
     "PEM file: clients must show a certificate signed by one of these", Form::path},
    {"token_file", &O::token_file,
     "Every request but health needs a bearer token of this file, one a line", Form::path},
    {"control_token_file", &O::control_token_file,
     "Repository control, shared memory and settings need one of this file instead", Form::path},
    {"allow_open", &O::allow_open, "Listen beyond loopback with neither TLS nor a token"},
    {"max_connections", &O::max_connections, "Of HTTP (default: 16384)", Form::plain, 1, kMost},
    {"max_request", &O::max_request, "Bytes of a request (default: 1GiB)", Form::bytes},
    {"max_in_flight", &O::max_in_flight,
     "Bytes of requests under way, each protocol (default: 4GiB)", Form::bytes},
    {"drain_limit", &O::drain_limit,
     "How long what was begun may take after SIGTERM (default: 30s)", Form::duration},
    {"access_log", &O::access_log,
     "File for a line of JSON a request; -: here. SIGHUP opens it anew", Form::path},
    {"otlp_url", &O::otlp_url, "Export traces to this collector, http://HOST:PORT/v1/traces"},
    {"trace_rate", &O::trace_rate,
     "Trace one request of so many that bring no trace of their own (default: 1000)", Form::plain,
     1, kMost},
    {"trace_level", &O::trace_level,
     "OFF: nothing is traced until a client with --allow-settings changes that (default: "
     "TIMESTAMPS)",
     Form::choice, 0, 0, "OFF TIMESTAMPS"},
    {"supervise", &O::supervise,
     "Whether a small process keeps the ports and starts the serving one again (default: yes)"},
    {"hang_limit", &O::hang_limit,
     "A serving process that shows no life for so long is ended; 0: never (default: 60s)",
     Form::duration},
    {"start_limit", &O::start_limit,
     "The same for one that loads its models; 0: never (default: 1h)", Form::duration},
    {"restart_delay", &O::restart_delay,
     "Before it is started again; doubled each time (default: 100ms)", Form::duration},
    {"longest_restart_delay", &O::longest_restart_delay, "The most that becomes (default: 30s)",
     Form::duration},
    {"healthy_after", &O::healthy_after,
     "After serving for so long, the delay is the first again (default: 60s)", Form::duration},
    {"give_up_after", &O::give_up_after,
     "Starts in a row that fail before the whole ends; 0: no limit (default: 20)", Form::plain, 0,
     kMost},
}};

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

bool is_one_of(std::string_view choices, std::string_view text) {
  std::istringstream words{std::string(choices)};
  for (std::string word; words >> word;) {
    if (word == text) return true;
  }
  return false;
}

Result<void> check_text(const ServeSetting& setting, std::string_view text, std::string_view what) {
  switch (setting.form) {
    case Form::duration:
      MILLRACE_TRY(parse_duration(text, what));
      return {};
    case Form::bytes: {
      MILLRACE_ASSIGN(const std::uint64_t bytes, parse_bytes(text, what));
      if (bytes > 0) return {};
      return Error{ErrorCode::invalid_argument, concat(what, ": expected at least 1 byte, got 0")};
    }
    case Form::choice:
      if (is_one_of(setting.choices, text)) return {};
      return Error{ErrorCode::invalid_argument,
                   concat(what, ": expected one of ", setting.choices, ", got ", quote(text))};
    case Form::plain:
    case Form::path:
      break;
  }
  return {};
}

std::string option_of(std::string_view field) {
  std::string out = "--" + std::string(field);
  std::replace(out.begin(), out.end(), '_', '-');
  return out;
}

CLI::Option* add_option(CLI::App& verb, const ServeSetting& setting, ServeOptions& options) {
  const std::string name = option_of(setting.field);
  const std::string help(setting.help);
  const auto flag = [&](bool O::*target) {
    // What is on by default has an option to turn it off.
    const std::string off = options.*target ? ",!--no-" + name.substr(2) : std::string();
    return verb.add_flag(name + off, options.*target, help);
  };
  const auto number = [&](int O::*target) {
    return verb.add_option(name, options.*target, help)
        ->check(CLI::Range(setting.low, setting.high));
  };
  const auto text = [&](std::string O::*target) {
    return verb.add_option(name, options.*target, help)
        ->check([&setting, name](const std::string& given) {
          const Result<void> good = check_text(setting, given, name);
          return good.ok() ? std::string() : good.error().message;
        });
  };
  const auto texts = [&](std::vector<std::string> O::*target) {
    if (setting.field == kRepositories) {
      return verb.add_option("REPOSITORY", options.*target, help);
    }
    CLI::Option* const option = verb.add_option(name, options.*target, help);
    option->allow_extra_args(false);  // what follows may be a REPOSITORY
    if (setting.field == "devices") option->delimiter(',');
    return option;
  };
  return std::visit(Overloaded{flag, number, text, texts}, setting.target);
}

// A path in a configuration: relative ones start at its folder.
void join_path(const std::string& configuration, std::string& path) {
  if (path.empty() || path == "-" || path.starts_with("reference:") ||
      fs::path(path).is_absolute()) {
    return;
  }
  path = (fs::path(configuration).parent_path() / path).lexically_normal().string();
}

void read_text(Fields& fields, const ServeSetting& setting, std::string& out) {
  const std::string field(setting.field);
  const nlohmann::json* const value = fields.find(field);
  if (!value) return;
  if (setting.form == Form::bytes && value->is_number_unsigned()) {
    out = concat(value->get<std::uint64_t>());
  } else {
    fields.text(field, out);
  }
  if (!fields.ok()) return;
  const Result<void> good = check_text(setting, out, fields.where(field));
  if (!good.ok()) fields.fail(good.error());
}

void read_field(Fields& fields, const ServeSetting& setting, const std::string& path,
                ServeOptions& options) {
  const std::string field(setting.field);
  const bool is_path = setting.form == Form::path;
  std::visit(Overloaded{[&](bool O::*target) { fields.flag(field, options.*target); },
                        [&](int O::*target) {
                          fields.integer(field, options.*target, setting.low, setting.high);
                        },
                        [&](std::string O::*target) {
                          if (!fields.has(field)) return;
                          read_text(fields, setting, options.*target);
                          if (is_path) join_path(path, options.*target);
                        },
                        [&](std::vector<std::string> O::*target) {
                          if (!fields.has(field)) return;
                          (options.*target).clear();
                          fields.texts(field, options.*target);
                          for (std::string& text : options.*target) {
                            if (is_path) join_path(path, text);
                          }
                        }},
             setting.target);
}

Error contradiction(std::string message) {
  return {ErrorCode::invalid_argument, std::move(message)};
}

}  // namespace

std::span<const ServeSetting> serve_settings() noexcept { return kSettings; }

std::function<bool(std::string_view)> add_serve_settings(CLI::App& verb, ServeOptions& options) {
  auto added = std::make_shared<std::map<std::string_view, const CLI::Option*>>();
  for (const ServeSetting& setting : kSettings) {
    added->emplace(setting.field, add_option(verb, setting, options));
  }
  return [added](std::string_view field) { return added->at(field)->count() > 0; };
}

Result<void> read_serve_config(const std::string& path,
                               const std::function<bool(std::string_view)>& gave,
                               ServeOptions& options) {
  MILLRACE_ASSIGN(const std::string text, read_file(path, kMostConfigBytes));
  MILLRACE_ASSIGN(const nlohmann::json value, parse_json(text, path));
  std::vector<std::string_view> known;
  for (const ServeSetting& setting : kSettings) known.push_back(setting.field);
  Fields fields(value, path, known);
  ServeOptions ignored;  // what the command line gave is checked all the same
  for (const ServeSetting& setting : kSettings) {
    read_field(fields, setting, path, gave(setting.field) ? ignored : options);
  }
  return fields.finish();
}

Json to_json(const ServeOptions& options) {
  Json out = Json::object();
  for (const ServeSetting& setting : kSettings) {
    const std::string field(setting.field);
    std::visit(Overloaded{[&](bool O::*target) { out[field] = options.*target; },
                          [&](int O::*target) { out[field] = options.*target; },
                          [&](auto target) {
                            if (!(options.*target).empty()) out[field] = options.*target;
                          }},
               setting.target);
  }
  return out;
}

Result<void> check_serve_options(const ServeOptions& options) {
  if (options.repositories.empty()) {
    return contradiction(
        "expected at least one REPOSITORY, on the command line or as "
        "\"repositories\" in the configuration file");
  }
  if (options.http_port < 0 && options.grpc_port < 0) {
    return contradiction("expected a port for HTTP or for gRPC, got neither");
  }
  if (options.certificate.empty() != options.key.empty()) {
    return contradiction("expected --tls-cert and --tls-key, or neither");
  }
  if (options.certificate.empty() && !options.client_authorities.empty()) {
    return contradiction("--tls-client-ca is of no use without --tls-cert and --tls-key");
  }
  MILLRACE_ASSIGN(const std::uint64_t request, parse_bytes(options.max_request, "--max-request"));
  MILLRACE_ASSIGN(const std::uint64_t all, parse_bytes(options.max_in_flight, "--max-in-flight"));
  if (request > all) {
    return contradiction(concat("expected --max-request up to --max-in-flight, got ",
                                options.max_request, " and ", options.max_in_flight));
  }
  MILLRACE_ASSIGN(const Duration first, parse_duration(options.restart_delay, "--restart-delay"));
  MILLRACE_ASSIGN(const Duration longest,
                  parse_duration(options.longest_restart_delay, "--longest-restart-delay"));
  if (first > longest || first == Duration::zero()) {
    return contradiction(
        concat("expected --restart-delay above 0 and up to --longest-restart-delay, got ",
               options.restart_delay, " and ", options.longest_restart_delay));
  }
  return {};
}

}  // namespace millrace::cli
