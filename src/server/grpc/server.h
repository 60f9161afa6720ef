// The Open Inference Protocol over gRPC: translates, submits, answers.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/device.h>
#include <millrace/error.h>

#include "server/exposure.h"
#include "server/service.h"

namespace millrace::server {

/// A call that is over. The views last for the callback.
struct GrpcCallRecord {
  std::string_view method;   // "ModelInfer"; one record for each request of a stream
  std::string_view peer;     // "ipv4:127.0.0.1:40000"; empty for requests of a stream
  int status = 0;            // of gRPC
  std::string_view message;  // of an error
  std::size_t request_bytes = 0;
  std::size_t answer_bytes = 0;
  TimePoint received;
  TimePoint ready{};                 // the answer began to be sent
  TimePoint answered;                // the answer was handed to the network
  std::string_view model{};          // empty: it was not read
  std::string_view traceparent{};    // its own, where it is traced, else as it came
  ServedTraffic* traffic = nullptr;  // of the model, where its answer was sent
};

struct GrpcOptions {
  std::string host = "127.0.0.1";
  int port = 8001;  // 0: any that is free
  /// A socket that listens already, which is taken over; -1: none.
  int socket = -1;
  /// Each is a completion queue with a thread of its own; 0: one for 4 processors, 1 to 8.
  int queues = 0;

  /// What comes beyond is closed at once.
  std::size_t max_connections = 16384;
  /// Of one message, decompressed. Larger ones are RESOURCE_EXHAUSTED.
  std::size_t max_request_bytes = std::size_t{1} << 30;
  /// Inferences that are not answered yet and the bytes of their messages, over all connections.
  /// What comes beyond is RESOURCE_EXHAUSTED at once.
  std::size_t max_calls = 16384;
  std::size_t max_bytes = std::size_t{4} << 30;
  /// Unanswered requests on one stream before no more are read from it.
  std::size_t max_calls_per_stream = 256;
  /// Calls at a time on one connection.
  int max_calls_per_connection = 4096;

  /// Zero: the server sends no pings.
  std::chrono::milliseconds keepalive_time{0};
  std::chrono::milliseconds keepalive_timeout{20000};
  /// Clients that ping more often, while nothing is sent, are disconnected.
  std::chrono::milliseconds min_ping_interval{10000};

  /// Answers are compressed, with what the client takes.
  bool compress = false;

  TlsFiles tls{};
  /// Not empty: every call but those for health needs one of these, as "authorization: Bearer
  /// TOKEN".
  std::vector<std::string> tokens{};
  /// Not empty: repository control, shared memory and settings need one of these instead.
  std::vector<std::string> control_tokens{};
  /// Listens beyond loopback with neither TLS nor a token.
  bool allow_open = false;

  /// Called for each call that is over, on a thread of the server. It should not block and must
  /// not throw.
  std::function<void(const GrpcCallRecord&)> on_call{};
};

/// Since the start.
struct GrpcCounters {
  std::uint64_t calls = 0;           // inferences received, those on streams included
  std::uint64_t failed = 0;          // of these, answered with an error
  std::uint64_t refused = 0;         // of these, because a limit was reached
  std::uint64_t received_bytes = 0;  // of their messages
  std::uint64_t sent_bytes = 0;
  std::uint64_t refused_connections = 0;
  std::uint64_t connections = 0;      // now
  std::uint64_t calls_in_flight = 0;  // now
  std::uint64_t bytes_in_flight = 0;
  std::array<std::uint64_t, 17> by_status{};  // inferences, by their status
};

/// Every function may be called from any thread.
class GrpcServer {
 public:
  /// Listens and answers. The service must outlive the server. Errors: unavailable (the port is in
  /// use), invalid_argument (an address that is not this machine's, certificates, listening beyond
  /// loopback without TLS or a token), not_found (a file).
  [[nodiscard]] static Result<std::unique_ptr<GrpcServer>> start(Service& service,
                                                                 GrpcOptions options);
  /// As `stop` now.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  [[nodiscard]] int port() const noexcept;
  [[nodiscard]] GrpcCounters counters() const noexcept;
  /// Whether each of its threads has gone round since this was last true, as each does at least
  /// twice a second. One caller at a time.
  [[nodiscard]] bool responds();
  /// Takes no more connections and calls, answers those that are there until `until`, and cancels
  /// what is left then. Returns when nothing is left; what a device runs is waited for.
  void stop(TimePoint until) noexcept;

 private:
  class State;
  explicit GrpcServer(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
