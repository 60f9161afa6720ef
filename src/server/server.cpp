#include "server/server.h"

#include <thread>
#include <utility>

#include "base/log.h"
#include "base/try.h"
#include "engine/sign_of_life.h"
#include "server/access_log.h"
#include "server/metrics.h"
#include "server/otlp_exporter.h"

namespace millrace::server {

struct Server::State {
  explicit State(Engine started) : engine(std::move(started)) {}
  ~State() {
    if (!metrics) return;
    metrics->count(static_cast<const HttpServer*>(nullptr));
    metrics->count(static_cast<const GrpcServer*>(nullptr));
    metrics->count(static_cast<const OtlpExporter*>(nullptr));
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  // In this order: what comes later uses what comes before, and goes first.
  Engine engine;
  std::unique_ptr<ModelRepository> repository;
  std::unique_ptr<Service> service;
  std::unique_ptr<OtlpExporter> traces;
  std::unique_ptr<AccessLog> access_log;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<HttpServer> http;
  std::unique_ptr<GrpcServer> grpc;
};

namespace {

/// Batches whose device times are kept until the traces of their requests are exported.
constexpr std::size_t kTimelines = 4096;

void count_sent(ServedTraffic& traffic, Duration took) {
  traffic.send.record(static_cast<std::uint64_t>(std::max<Duration::rep>(took.count(), 0)));
}

}  // namespace

Server::Server(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(ServerOptions options) {
  if (!options.otlp_url.empty()) options.engine.trace_capacity = kTimelines;
  MILLRACE_ASSIGN(Engine engine, Engine::create(std::move(options.engine)));
  auto state = std::make_unique<State>(std::move(engine));
  MILLRACE_ASSIGN(state->repository,
                  ModelRepository::open(state->engine, std::move(options.repository)));
  state->service = std::make_unique<Service>(state->engine, *state->repository, options.service);
  state->metrics = std::make_unique<Metrics>(*state->service);
  if (!options.otlp_url.empty()) {
    MILLRACE_ASSIGN(state->traces,
                    OtlpExporter::start({.url = options.otlp_url},
                                        [of = &state->engine] { return of->timelines(); }));
    MILLRACE_TRY(state->service->trace_to(state->traces->queue(), options.trace_settings));
    state->metrics->count(state->traces.get());
  }
  if (!options.access_log.empty()) {
    MILLRACE_ASSIGN(state->access_log, AccessLog::open(options.access_log));
  }
  if (options.take_over) state->metrics->count(options.take_over());
  State* const self = state.get();
  if (options.http) {
    options.http->on_request = [self](const HttpAccess& access) {
      if (access.traffic) count_sent(*access.traffic, access.sent - access.answered);
      if (self->access_log) self->access_log->write(access);
    };
    options.http->metrics = [self] { return self->metrics->text(); };
    MILLRACE_ASSIGN(state->http, HttpServer::start(*state->service, std::move(*options.http)));
    state->metrics->count(state->http.get());
  }
  if (options.grpc) {
    options.grpc->on_call = [self](const GrpcCallRecord& record) {
      if (record.traffic) count_sent(*record.traffic, record.answered - record.ready);
      if (self->access_log) self->access_log->write(record);
    };
    MILLRACE_ASSIGN(state->grpc, GrpcServer::start(*state->service, std::move(*options.grpc)));
    state->metrics->count(state->grpc.get());
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Service& Server::service() noexcept { return *state_->service; }
int Server::http_port() const noexcept { return state_->http ? state_->http->port() : 0; }
int Server::grpc_port() const noexcept { return state_->grpc ? state_->grpc->port() : 0; }
int Server::metrics_port() const noexcept {
  return state_->http ? state_->http->metrics_port() : 0;
}

void Server::reopen_logs() noexcept {
  if (state_->access_log) state_->access_log->reopen();
}

bool Server::responds() {
  if (!drivers_respond(state_->engine)) return false;
  for (const auto& served : state_->repository->served({})) {
    (void)served->model.statistics();
  }
  const bool http = !state_->http || state_->http->responds();
  const bool grpc = !state_->grpc || state_->grpc->responds();
  return http && grpc;
}

bool Server::drain(Duration limit) {
  const TimePoint until = Clock::now() + limit;
  state_->service->start_draining();
  bool all = true;
  std::thread grpc([this, until] {
    if (state_->grpc) state_->grpc->stop(until);
  });
  if (state_->http) all = state_->http->drain(limit);
  grpc.join();
  return state_->engine.drain(std::max(until - Clock::now(), Duration::zero())).ok() && all;
}

}  // namespace millrace::server
