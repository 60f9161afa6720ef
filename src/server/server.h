// A whole server: repository, service and both protocols over one engine.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <millrace/engine.h>

#include "repository/model_repository.h"
#include "server/grpc/server.h"
#include "server/http/server.h"
#include "server/metrics.h"
#include "server/service.h"

namespace millrace::server {

struct ServerOptions {
  EngineOptions engine;
  RepositoryOptions repository;
  ServiceOptions service;
  std::optional<HttpOptions> http = HttpOptions();
  std::optional<GrpcOptions> grpc = GrpcOptions();
  /// Where traced requests are exported to, http://HOST:PORT/v1/traces; empty: none is traced.
  std::string otlp_url;
  /// The trace settings to begin with.
  Settings trace_settings{};
  /// A file that every request is written to, one JSON object a line; "-": standard output; empty:
  /// none.
  std::string access_log;
  /// Called when the models are loaded, before anything listens: whoever accepted connections on
  /// these sockets until then stops. The result is for the metrics.
  std::function<WorkerHistory()> take_over;
};

/// Runs from `start` until it is destroyed. Every function may be called from any thread.
class Server {
 public:
  /// Opens the repository, loads what its mode says, then listens. Errors: as Engine::create,
  /// ModelRepository::open, HttpServer::start, GrpcServer::start.
  [[nodiscard]] static Result<std::unique_ptr<Server>> start(ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] Service& service() noexcept;
  /// 0: does not listen.
  [[nodiscard]] int http_port() const noexcept;
  [[nodiscard]] int grpc_port() const noexcept;
  [[nodiscard]] int metrics_port() const noexcept;

  /// Opens the access log anew, after it was moved.
  void reopen_logs() noexcept;

  /// Whether the threads of both protocols and the engine's drivers have gone round since they were
  /// last asked, and the engine and its models answer questions. It waits for their locks; one
  /// caller at a time.
  [[nodiscard]] bool responds();

  /// Readiness goes false, no new connections are taken; returns when what was begun is answered,
  /// or `limit` has passed. Whether all was answered.
  bool drain(Duration limit);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
