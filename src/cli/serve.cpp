// millrace serve: folders of models, served over HTTP and gRPC.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/try.h"
#include "cli/print.h"
#include "cli/verbs.h"
#include "server/server.h"

namespace millrace::cli {
namespace {

using server::GrpcOptions;
using server::HttpListener;
using server::HttpOptions;
using server::Server;
using server::ServerOptions;

struct Options {
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
  std::size_t max_connections = 0;
  std::string max_request;
  std::string max_in_flight;
  std::string drain_limit = "30s";
  std::string access_log;
  std::string otlp_url;
  std::string trace_level = "TIMESTAMPS";
  std::int64_t trace_rate = 1000;
};

/// Waits for signals in an orderly way: they are blocked in all threads, and read here.
class Signals {
 public:
  /// `hangup`: SIGHUP too.
  explicit Signals(bool hangup) {
    sigemptyset(&set_);
    if (hangup) sigaddset(&set_, SIGHUP);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set_, &before_);
    descriptor_ = signalfd(-1, &set_, SFD_CLOEXEC);
  }
  ~Signals() {
    close(descriptor_);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  /// The signal that came within that time; 0: none did.
  [[nodiscard]] int wait(std::chrono::milliseconds limit) const {
    pollfd ready{descriptor_, POLLIN, 0};
    if (poll(&ready, 1, static_cast<int>(limit.count())) <= 0) return 0;
    signalfd_siginfo info{};
    return read(descriptor_, &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo)
                                                                : 0;
  }

 private:
  sigset_t set_{};
  sigset_t before_{};
  int descriptor_ = -1;
};

/// The tokens of a file: one a line, blank lines and those that begin with # left out.
Result<std::vector<std::string>> read_tokens(const std::string& path) {
  MILLRACE_ASSIGN(const std::string text, read_file(path));
  std::vector<std::string> tokens;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::string_view token = trimmed(line);
    if (!token.empty() && token.front() != '#') tokens.emplace_back(token);
  }
  if (tokens.empty()) {
    return Error{ErrorCode::invalid_argument,
                 "no token in " + in_quotes(path) + "; expected one a line"};
  }
  return tokens;
}

Result<RepositoryOptions> repository_options(const Options& options) {
  RepositoryOptions out;
  out.folders = options.repositories;
  out.mode = options.mode == "poll"       ? RepositoryMode::poll
             : options.mode == "explicit" ? RepositoryMode::control
                                          : RepositoryMode::none;
  MILLRACE_ASSIGN(out.poll_interval, parse_duration(options.poll_interval, "--poll-interval"));
  out.load_at_start = options.load;
  out.strict = options.strict;
  if (!options.evict_idle.empty()) {
    out.eviction.enabled = true;
    MILLRACE_ASSIGN(out.eviction.idle_for, parse_duration(options.evict_idle, "--evict-idle"));
  }
  return out;
}

Result<std::optional<HttpOptions>> http_options(const Options& options) {
  if (options.http_port < 0) return std::optional<HttpOptions>();
  HttpOptions out;
  out.listener.host = options.host;
  out.listener.port = static_cast<std::uint16_t>(options.http_port);
  out.threads = options.http_threads;
  out.tls = {options.certificate, options.key, options.client_authorities};
  out.allow_open = options.allow_open;
  if (options.max_connections > 0) out.max_connections = options.max_connections;
  if (!options.max_request.empty()) {
    MILLRACE_ASSIGN(out.max_body_bytes, parse_bytes(options.max_request, "--max-request"));
  }
  if (!options.max_in_flight.empty()) {
    MILLRACE_ASSIGN(out.max_bytes_in_flight, parse_bytes(options.max_in_flight, "--max-in-flight"));
  }
  if (!options.token_file.empty()) {
    MILLRACE_ASSIGN(out.tokens, read_tokens(options.token_file));
  }
  if (!options.control_token_file.empty()) {
    MILLRACE_ASSIGN(out.control_tokens, read_tokens(options.control_token_file));
  }
  if (options.metrics_port >= 0) {
    out.metrics_listener =
        HttpListener{options.host, static_cast<std::uint16_t>(options.metrics_port), -1};
  }
  return std::optional(std::move(out));
}

Result<std::optional<GrpcOptions>> grpc_options(const Options& options) {
  if (options.grpc_port < 0) return std::optional<GrpcOptions>();
  GrpcOptions out;
  out.host = options.host;
  out.port = options.grpc_port;
  out.queues = options.grpc_queues;
  out.tls = {options.certificate, options.key, options.client_authorities};
  out.allow_open = options.allow_open;
  if (!options.token_file.empty()) {
    MILLRACE_ASSIGN(out.tokens, read_tokens(options.token_file));
  }
  if (!options.control_token_file.empty()) {
    MILLRACE_ASSIGN(out.control_tokens, read_tokens(options.control_token_file));
  }
  if (!options.max_request.empty()) {
    MILLRACE_ASSIGN(out.max_request_bytes, parse_bytes(options.max_request, "--max-request"));
  }
  if (!options.max_in_flight.empty()) {
    MILLRACE_ASSIGN(out.max_bytes, parse_bytes(options.max_in_flight, "--max-in-flight"));
  }
  return std::optional(std::move(out));
}

Result<ServerOptions> server_options(const Options& options) {
  ServerOptions out;
  out.engine.devices.devices = options.devices;
  MILLRACE_ASSIGN(out.repository, repository_options(options));
  out.service = {options.allow_control, options.allow_shm, options.allow_settings};
  MILLRACE_ASSIGN(out.http, http_options(options));
  MILLRACE_ASSIGN(out.grpc, grpc_options(options));
  out.access_log = options.access_log;
  out.otlp_url = options.otlp_url;
  out.trace_settings = {{"trace_level", options.trace_level}, {"trace_rate", options.trace_rate}};
  if (!out.http && !out.grpc) throw UsageError("expected a port for HTTP or for gRPC, got neither");
  return out;
}

void say_where(const Options& options, const Server& running) {
  const std::string_view secure = options.certificate.empty() ? "" : "s";
  std::string text = "millrace serves";
  if (running.http_port() > 0) {
    text += concat(" http", secure, "://", options.host, ':', running.http_port());
  }
  if (running.grpc_port() > 0) {
    text += concat(" grpc", secure, "://", options.host, ':', running.grpc_port());
  }
  if (running.metrics_port() > 0) {
    text += concat(" metrics http://", options.host, ':', running.metrics_port(), "/metrics");
  }
  print(text + "\n");
  (void)flush_printed();
}

void say_models(Server& running) {
  for (const RepositoryEntry& entry : running.service().repository().index()) {
    if (entry.state == "READY") {
      print("  " + entry.name + " " + entry.version + " is ready\n");
    } else {
      log_warning("model \"", entry.name, "\" ", entry.version, entry.version.empty() ? "" : " ",
                  "is ", entry.state, entry.reason.empty() ? "" : ": ", entry.reason);
    }
  }
  (void)flush_printed();
}

Result<int> serve(const Options& options) {
  const Signals signals(!options.access_log.empty());
  MILLRACE_ASSIGN(const Duration drain_limit, parse_duration(options.drain_limit, "--drain-limit"));
  MILLRACE_ASSIGN(ServerOptions chosen, server_options(options));
  MILLRACE_ASSIGN(const std::unique_ptr<Server> running, Server::start(std::move(chosen)));
  say_models(*running);
  say_where(options, *running);
  constexpr std::chrono::milliseconds kLook(200);
  for (int signal = 0; signal == 0 || signal == SIGHUP; signal = signals.wait(kLook)) {
    if (signal == SIGHUP) running->reopen_logs();
    if (const auto faults = running->service().engine().faults(); !faults.empty()) {
      (void)running->drain(std::chrono::seconds(1));
      return faults.front().error;
    }
  }
  log_info("draining");
  std::atomic<bool> over{false};
  const Thread watch("mr-signals", [&] {
    while (!over.load(std::memory_order_acquire)) {
      const int signal = signals.wait(kLook);
      if (signal != 0 && signal != SIGHUP)
        _exit(kFailed);  // the second one: what is left is dropped
    }
  });
  const bool all = running->drain(drain_limit);
  over.store(true, std::memory_order_release);
  if (!all) log_warning("requests were left when the limit for draining was reached");
  return all ? kFine : kFailed;
}

void add_options(CLI::App& verb, Options& options) {
  verb.add_option("REPOSITORY", options.repositories,
                  "Folders of models, NAME/VERSION/model.onnx or model.plan, or single models")
      ->required();
  verb.add_option("--devices", options.devices, "Devices to use; default: all GPUs, else the host")
      ->delimiter(',');
  verb.add_option("--host", options.host, "Address to listen on (default: 127.0.0.1)");
  verb.add_option("--http-port", options.http_port, "0: any free one, -1: none (default: 8000)")
      ->check(CLI::Range(-1, 65535));
  verb.add_option("--grpc-port", options.grpc_port, "Likewise (default: 8001)")
      ->check(CLI::Range(-1, 65535));
  verb.add_option("--metrics-port", options.metrics_port,
                  "Likewise (default: 8002); /metrics is on the HTTP port too")
      ->check(CLI::Range(-1, 65535));
  verb.add_option("--http-threads", options.http_threads, "0: by the number of processors")
      ->check(CLI::Range(0, 256));
  verb.add_option("--grpc-queues", options.grpc_queues, "0: by the number of processors")
      ->check(CLI::Range(0, 256));
  verb.add_option("--mode", options.mode,
                  "none: all models, once; explicit: those of --load and those that clients load; "
                  "poll: as the folders say")
      ->check(CLI::IsMember({"none", "explicit", "poll"}));
  verb.add_option("--poll-interval", options.poll_interval, "For --mode poll (default: 15s)");
  verb.add_option("--load", options.load, "Models to load with --mode explicit; *: all");
  verb.add_flag("--strict", options.strict, "End when a model cannot be loaded");
  verb.add_option("--evict-idle", options.evict_idle,
                  "Unload models idle for so long when memory is short; they come back on demand");
  verb.add_flag("--allow-repository-control", options.allow_control,
                "Clients may load and unload models");
  verb.add_flag("--allow-client-shm", options.allow_shm,
                "Clients may register system and CUDA shared memory");
  verb.add_flag("--allow-settings", options.allow_settings,
                "Clients may change trace and log settings");
  verb.add_option("--tls-cert", options.certificate, "PEM file: certificate, with its chain");
  verb.add_option("--tls-key", options.key, "PEM file: its key");
  verb.add_option("--tls-client-ca", options.client_authorities,
                  "PEM file: clients must show a certificate signed by one of these");
  verb.add_option("--token-file", options.token_file,
                  "Every request but health needs a bearer token of this file, one a line");
  verb.add_option("--control-token-file", options.control_token_file,
                  "Repository control, shared memory and settings need one of this file instead");
  verb.add_flag("--allow-open", options.allow_open,
                "Listen beyond loopback with neither TLS nor a token");
  verb.add_option("--max-connections", options.max_connections, "Of HTTP (default: 16384)");
  verb.add_option("--max-request", options.max_request, "Bytes of a request (default: 1GiB)");
  verb.add_option("--max-in-flight", options.max_in_flight,
                  "Bytes of requests under way, each protocol (default: 4GiB)");
  verb.add_option("--drain-limit", options.drain_limit,
                  "How long what was begun may take after SIGTERM (default: 30s)");
  verb.add_option("--otlp-url", options.otlp_url,
                  "Export traces to this collector, http://HOST:PORT/v1/traces");
  verb.add_option("--trace-rate", options.trace_rate,
                  "Trace one request of so many that bring no trace of their own (default: 1000)")
      ->check(CLI::Range(std::int64_t{1}, std::numeric_limits<std::int64_t>::max()));
  verb.add_option("--trace-level", options.trace_level,
                  "OFF: nothing is traced until a client with --allow-settings changes that "
                  "(default: TIMESTAMPS)")
      ->check(CLI::IsMember({"OFF", "TIMESTAMPS"}));
  verb.add_option("--access-log", options.access_log,
                  "File for a line of JSON a request; -: here. SIGHUP opens it anew");
}

}  // namespace

void add_serve(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("serve", "Serves models over HTTP and gRPC");
  add_options(*verb, *options);
  verb->callback([options, &context] {
    if (options->certificate.empty() != options->key.empty()) {
      throw CLI::ValidationError("--tls-cert", "expected --tls-cert and --tls-key, or neither");
    }
    context.action = [options] { return serve(*options); };
  });
}

}  // namespace millrace::cli
