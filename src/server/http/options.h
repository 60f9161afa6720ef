// What an operator may set about the HTTP server.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/device.h>

#include "server/exposure.h"

namespace millrace {
struct ServedTraffic;
}

namespace millrace::server {

/// Where to listen.
struct HttpListener {
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;  // 0: any that is free
  /// A socket that listens already, which is taken over; -1: none.
  int socket = -1;
};

/// One request, when its answer has been handed to the system or given up.
struct HttpAccess {
  std::string_view method;
  std::string_view target;
  std::string_view model;        // empty: none was named
  std::string_view peer;         // "127.0.0.1:40312"
  std::string_view traceparent;  // its own, where it is traced, else as it came
  int status = 0;
  std::size_t received_bytes = 0;  // of the body, as it came
  std::size_t sent_bytes = 0;
  TimePoint arrived;   // the head was there
  TimePoint answered;  // the answer began to be sent
  TimePoint sent;
  ServedTraffic* traffic = nullptr;  // of the model, where its answer was sent
};

struct HttpOptions {
  HttpListener listener;
  /// Threads that serve connections; 0: one for each four processors, at most 4.
  int threads = 0;

  // Limits. What is over them is refused at once.
  std::size_t max_connections = 16384;
  std::size_t max_header_bytes = std::size_t{16} << 10;
  /// As it comes, and decompressed.
  std::size_t max_body_bytes = std::size_t{1} << 30;
  /// Of bodies beyond the first 16 KiB, over all connections.
  std::size_t max_bytes_in_flight = std::size_t{4} << 30;

  // Timeouts; zero: none.
  Duration header_timeout = std::chrono::seconds(10);  // from the first byte to the last
  /// For a body, and for sending an answer: this and as long as it takes at `slowest_rate`.
  Duration body_timeout = std::chrono::seconds(30);
  std::size_t slowest_rate = std::size_t{64} << 10;  // bytes a second
  Duration idle_timeout = std::chrono::seconds(120);

  /// Answers shorter than this are not compressed.
  std::size_t compress_from_bytes = 1024;

  // Who may ask.
  TlsFiles tls;
  /// Not empty: every request but health needs one of these as "Authorization: Bearer TOKEN".
  std::vector<std::string> tokens;
  /// Not empty: repository control, shared memory and settings need one of these instead.
  std::vector<std::string> control_tokens;
  /// Listens beyond loopback with neither TLS nor a token.
  bool allow_open = false;

  // For the server around it.
  /// Called for each request, on a thread of the server's or of the engine's executor. It should
  /// not block and must not throw.
  std::function<void(const HttpAccess&)> on_request;
  /// With it, /metrics is served here and, if `metrics_listener` has a port or a socket, there: in
  /// plain HTTP, without a token, and nothing else.
  std::function<std::string()> metrics;
  std::optional<HttpListener> metrics_listener;
};

}  // namespace millrace::server
