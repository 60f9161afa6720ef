#include "server/server.h"

#include <thread>
#include <utility>

#include "base/log.h"
#include "base/try.h"
#include "server/access_log.h"
#include "server/metrics.h"

namespace millrace::server {

struct Server::State {
  explicit State(Engine started) : engine(std::move(started)) {}

  // In this order: what comes later uses what comes before, and goes first.
  Engine engine;
  std::unique_ptr<ModelRepository> repository;
  std::unique_ptr<Service> service;
  std::unique_ptr<AccessLog> access_log;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<HttpServer> http;
  std::unique_ptr<GrpcServer> grpc;
};

Server::Server(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(ServerOptions options) {
  MILLRACE_ASSIGN(Engine engine, Engine::create(std::move(options.engine)));
  auto state = std::make_unique<State>(std::move(engine));
  MILLRACE_ASSIGN(state->repository,
                  ModelRepository::open(state->engine, std::move(options.repository)));
  state->service = std::make_unique<Service>(state->engine, *state->repository, options.service);
  state->metrics = std::make_unique<Metrics>(*state->service);
  if (!options.access_log.empty()) {
    MILLRACE_ASSIGN(state->access_log, AccessLog::open(options.access_log));
  }
  State* const self = state.get();
  if (options.http) {
    options.http->on_request = [self](const HttpAccess& access) {
      if (!access.model.empty() && access.status < 400) {
        self->metrics->sent(access.model, access.sent - access.answered);
      }
      if (self->access_log) self->access_log->write(access);
    };
    options.http->metrics = [self] { return self->metrics->text(); };
    MILLRACE_ASSIGN(state->http, HttpServer::start(*state->service, std::move(*options.http)));
    state->metrics->count(state->http->counters());
  }
  if (options.grpc) {
    if (state->access_log) {
      options.grpc->on_call = [self](const GrpcCallRecord& record) {
        self->access_log->write(record);
      };
    }
    MILLRACE_ASSIGN(state->grpc, GrpcServer::start(*state->service, std::move(*options.grpc)));
    state->metrics->count([self] { return self->grpc->counters(); });
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Service& Server::service() noexcept { return *state_->service; }
int Server::http_port() const noexcept { return state_->http ? state_->http->port() : 0; }
int Server::grpc_port() const noexcept { return state_->grpc ? state_->grpc->port() : 0; }
int Server::metrics_port() const noexcept {
  return state_->http ? state_->http->metrics_port() : 0;
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
