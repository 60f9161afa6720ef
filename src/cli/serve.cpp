// millrace serve: folders of models, served over HTTP and gRPC.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
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
#include "cli/serve_options.h"
#include "cli/verbs.h"
#include "server/notify.h"
#include "server/server.h"
#include "server/supervisor.h"
#include "server/worker_link.h"

namespace millrace::cli {
namespace {

using server::GrpcOptions;
using server::HttpListener;
using server::HttpOptions;
using server::Server;
using server::ServerOptions;

using server::Notifier;
using server::SupervisorOptions;
using server::WorkerLink;
using server::WorkerStart;
using Options = ServeOptions;

constexpr std::chrono::milliseconds kLook(200);
constexpr std::chrono::seconds kBeat(1);

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

Result<std::optional<HttpOptions>> http_options(const Options& options, const WorkerStart& start) {
  if (options.http_port < 0) return std::optional<HttpOptions>();
  HttpOptions out;
  out.listener.host = options.host;
  out.listener.port = static_cast<std::uint16_t>(options.http_port);
  out.listener.socket = start.http;
  out.threads = options.http_threads;
  out.tls = {options.certificate, options.key, options.client_authorities};
  out.allow_open = options.allow_open;
  out.max_connections = static_cast<std::size_t>(options.max_connections);
  MILLRACE_ASSIGN(out.max_body_bytes, parse_bytes(options.max_request, "--max-request"));
  MILLRACE_ASSIGN(out.max_bytes_in_flight, parse_bytes(options.max_in_flight, "--max-in-flight"));
  if (!options.token_file.empty()) {
    MILLRACE_ASSIGN(out.tokens, read_tokens(options.token_file));
  }
  if (!options.control_token_file.empty()) {
    MILLRACE_ASSIGN(out.control_tokens, read_tokens(options.control_token_file));
  }
  if (options.metrics_port >= 0) {
    out.metrics_listener =
        HttpListener{options.host, static_cast<std::uint16_t>(options.metrics_port), start.metrics};
  }
  return std::optional(std::move(out));
}

Result<std::optional<GrpcOptions>> grpc_options(const Options& options, const WorkerStart& start) {
  if (options.grpc_port < 0) return std::optional<GrpcOptions>();
  GrpcOptions out;
  out.host = options.host;
  out.port = options.grpc_port;
  out.socket = start.grpc;
  out.queues = options.grpc_queues;
  out.tls = {options.certificate, options.key, options.client_authorities};
  out.allow_open = options.allow_open;
  if (!options.token_file.empty()) {
    MILLRACE_ASSIGN(out.tokens, read_tokens(options.token_file));
  }
  if (!options.control_token_file.empty()) {
    MILLRACE_ASSIGN(out.control_tokens, read_tokens(options.control_token_file));
  }
  MILLRACE_ASSIGN(out.max_request_bytes, parse_bytes(options.max_request, "--max-request"));
  MILLRACE_ASSIGN(out.max_bytes, parse_bytes(options.max_in_flight, "--max-in-flight"));
  return std::optional(std::move(out));
}

Result<ServerOptions> server_options(const Options& options, const WorkerStart& start) {
  ServerOptions out;
  out.engine.devices.devices = options.devices;
  MILLRACE_ASSIGN(out.repository, repository_options(options));
  out.service = {options.allow_control, options.allow_shm, options.allow_settings};
  MILLRACE_ASSIGN(out.http, http_options(options, start));
  MILLRACE_ASSIGN(out.grpc, grpc_options(options, start));
  out.access_log = options.access_log;
  out.otlp_url = options.otlp_url;
  out.trace_settings = {{"trace_level", options.trace_level},
                        {"trace_rate", std::int64_t{options.trace_rate}}};
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

/// Whoever started this process and wants to hear of it: a supervisor, or a service manager.
class Overseer {
 public:
  explicit Overseer(const std::optional<WorkerStart>& start) {
    if (start) link_.emplace(*start);
  }
  [[nodiscard]] bool is_supervisor() const noexcept { return link_.has_value(); }
  [[nodiscard]] server::WorkerHistory take_over() noexcept { return link_->take_over(); }
  void say(std::string_view state) const noexcept { notifier_.send(state); }
  /// The server's threads go round.
  void beat() noexcept {
    if (link_) link_->beat();
    notifier_.beat(Clock::now());
  }
  void fail(std::string_view message) noexcept {
    if (link_) link_->fail(message);
  }
  [[nodiscard]] std::chrono::nanoseconds interval() const noexcept {
    std::chrono::nanoseconds out = kBeat;
    if (const auto watched = notifier_.watchdog_interval()) out = std::min(out, *watched / 2);
    return out;
  }
  [[nodiscard]] bool gone() noexcept { return link_ && link_->supervisor_gone(); }

 private:
  std::optional<WorkerLink> link_;
  Notifier notifier_;
};

/// Until a signal comes. Errors: a device failed for good.
Result<void> watch(Server& running, const Signals& signals, Overseer& overseer) {
  TimePoint next_beat{};
  for (int signal = 0; signal == 0 || signal == SIGHUP; signal = signals.wait(kLook)) {
    if (signal == SIGHUP) running.reopen_logs();
    if (overseer.gone()) _exit(kFailed);
    if (auto faults = running.service().engine().faults(); !faults.empty()) {
      (void)running.drain(std::chrono::seconds(1));
      return faults.front().error;
    }
    if (Clock::now() < next_beat || !running.responds()) continue;
    overseer.beat();
    next_beat = Clock::now() + overseer.interval();
  }
  return {};
}

/// Whether all that was begun was answered within the limit. A second signal ends the process; one
/// that has a supervisor leaves that to it.
bool drain(Server& running, Duration limit, const Signals& signals, Overseer& overseer) {
  log_info("draining");
  std::atomic<bool> over{false};
  const Thread watching("mr-signals", [&] {
    while (!over.load(std::memory_order_acquire)) {
      const int signal = signals.wait(kLook);
      const bool again = signal != 0 && signal != SIGHUP;
      if ((again && !overseer.is_supervisor()) || overseer.gone()) _exit(kFailed);
      overseer.beat();  // the limit is watch enough
    }
  });
  const bool all = running.drain(limit);
  over.store(true, std::memory_order_release);
  if (!all) log_warning("requests were left when the limit for draining was reached");
  return all;
}

Result<int> serve_overseen(const Options& options, const std::optional<WorkerStart>& start,
                           Overseer& overseer) {
  const Signals signals(!options.access_log.empty());
  MILLRACE_ASSIGN(const Duration drain_limit, parse_duration(options.drain_limit, "--drain-limit"));
  MILLRACE_ASSIGN(ServerOptions chosen, server_options(options, start.value_or(WorkerStart())));
  if (start) chosen.take_over = [&overseer] { return overseer.take_over(); };
  MILLRACE_ASSIGN(const std::unique_ptr<Server> running, Server::start(std::move(chosen)));
  say_models(*running);
  say_where(options, *running);
  overseer.say("READY=1\nSTATUS=serving");
  overseer.beat();  // the first says that it serves
  MILLRACE_TRY(watch(*running, signals, overseer));
  overseer.say("STOPPING=1\nSTATUS=draining");
  return drain(*running, drain_limit, signals, overseer) ? kFine : kFailed;
}

/// In this process. `start`: as the worker of a supervisor.
Result<int> serve_here(const Options& options, const std::optional<WorkerStart>& start) {
  Overseer overseer(start);
  Result<int> served = serve_overseen(options, start, overseer);
  if (!served) overseer.fail(served.error().message);
  return served;
}

Result<SupervisorOptions> supervisor_options(const Options& options,
                                             std::vector<std::string> arguments) {
  SupervisorOptions out;
  out.host = options.host;
  out.http_port = options.http_port;
  out.grpc_port = options.grpc_port;
  out.metrics_port = options.metrics_port;
  out.tls = !options.certificate.empty();
  out.arguments = std::move(arguments);
  out.passes_hangup_on = !options.access_log.empty();
  out.restart_code = kRestart;
  MILLRACE_ASSIGN(out.restarts.first_delay,
                  parse_duration(options.restart_delay, "--restart-delay"));
  MILLRACE_ASSIGN(out.restarts.longest_delay,
                  parse_duration(options.longest_restart_delay, "--longest-restart-delay"));
  MILLRACE_ASSIGN(out.restarts.healthy_after,
                  parse_duration(options.healthy_after, "--healthy-after"));
  out.restarts.most_failed_starts = options.give_up_after;
  MILLRACE_ASSIGN(out.hang_limit, parse_duration(options.hang_limit, "--hang-limit"));
  MILLRACE_ASSIGN(out.start_limit, parse_duration(options.start_limit, "--start-limit"));
  MILLRACE_ASSIGN(out.drain_limit, parse_duration(options.drain_limit, "--drain-limit"));
  return out;
}

/// What the command line says besides the settings.
struct Invocation {
  ServeOptions options;
  std::string config;
  bool print_config = false;
  std::string worker;
  std::function<bool(std::string_view)> gave;
  std::vector<std::string> arguments;
};

Result<int> serve(const Invocation& invocation) {
  Options options = invocation.options;
  if (!invocation.config.empty()) {
    MILLRACE_TRY(read_serve_config(invocation.config, invocation.gave, options));
  }
  if (const Result<void> good = check_serve_options(options); !good.ok()) {
    throw UsageError(good.error().message);
  }
  if (invocation.print_config) {
    print_json(to_json(options));
    return kFine;
  }
  std::optional<WorkerStart> start;
  if (!invocation.worker.empty()) {
    MILLRACE_ASSIGN(start, server::parse_worker_start(invocation.worker));
  }
  std::signal(SIGPIPE, SIG_IGN);  // whoever reads what is printed may go away
  if (start || !options.supervise) return serve_here(options, start);
  MILLRACE_ASSIGN(SupervisorOptions chosen, supervisor_options(options, invocation.arguments));
  return server::supervise(std::move(chosen));
}

}  // namespace

void add_serve(CLI::App& app, Context& context) {
  auto invocation = std::make_shared<Invocation>();
  CLI::App* verb = app.add_subcommand("serve", "Serves models over HTTP and gRPC");
  invocation->gave = add_serve_settings(*verb, invocation->options);
  verb->add_option("--config", invocation->config,
                   "JSON file with any of these settings; the command line counts more");
  verb->add_flag("--print-config", invocation->print_config,
                 "Print the settings in force as such a file, and end");
  verb->add_option("--worker", invocation->worker)->group("");  // the supervisor's
  verb->callback([invocation, &context] {
    invocation->arguments = context.arguments;
    context.action = [invocation] { return serve(*invocation); };
  });
}

}  // namespace millrace::cli
