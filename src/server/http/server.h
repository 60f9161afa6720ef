// The HTTP front end: the Open Inference Protocol over HTTP/1.1, on a Service.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <millrace/error.h>

#include "server/http/options.h"
#include "server/service.h"

namespace millrace::server {

/// What has happened since the start.
struct HttpCounters {
  std::atomic<std::uint64_t> connections{0};  // accepted
  std::atomic<std::uint64_t> refused{0};      // connections that were too many
  std::atomic<std::uint64_t> requests{0};     // answered, with whatever status
  std::atomic<std::uint64_t> errors{0};       // of them with 400 and above
  std::atomic<std::uint64_t> timeouts{0};     // connections that were too slow
  std::atomic<std::uint64_t> aborted{0};      // requests whose caller went away
  std::atomic<std::uint64_t> received_bytes{0};
  std::atomic<std::uint64_t> sent_bytes{0};
  std::atomic<std::uint64_t> over_budget{0};  // requests beyond the bytes in flight
  static constexpr std::size_t kFirstStatus = 200;
  std::array<std::atomic<std::uint64_t>, 400> by_status{};  // requests, by their answer's
};

struct ServerCore;

/// Listens and serves from `start` until it is destroyed. Every function may be called from any
/// thread.
class HttpServer {
 public:
  /// `service` must outlive the server, and its engine too. Errors: invalid_argument (options, an
  /// address that is not local, a certificate, listening beyond loopback without TLS or a token),
  /// unavailable (the port is in use), not_found (a file).
  [[nodiscard]] static Result<std::unique_ptr<HttpServer>> start(Service& service,
                                                                 HttpOptions options);
  /// Closes everything; requests under way are cancelled or their answers dropped.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// The ports that it listens on; 0: has none.
  [[nodiscard]] std::uint16_t port() const noexcept;
  [[nodiscard]] std::uint16_t metrics_port() const noexcept;
  [[nodiscard]] const HttpCounters& counters() const noexcept;
  /// Connections that are open.
  [[nodiscard]] std::size_t connections() const;
  /// Bytes of bodies that are held.
  [[nodiscard]] std::size_t bytes_in_flight() const noexcept;
  /// Whether each of its threads has gone round since this was last true, as each does at least
  /// twice a second. One caller at a time.
  [[nodiscard]] bool responds();

  /// No new connections; idle ones are closed, the others after the request that they are at.
  /// Whether all were gone in time.
  bool drain(Duration limit);

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state) noexcept;
  Result<void> listen();
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
