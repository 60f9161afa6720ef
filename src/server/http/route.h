// What a request's path names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace millrace::server {

enum class Endpoint : std::uint8_t {
  none,
  server_metadata,
  server_live,
  server_ready,
  model_metadata,
  model_ready,
  model_config,
  statistics,
  infer,
  trace_settings,
  log_settings,
  repository_index,
  model_load,
  model_unload,
  system_memory_status,
  system_memory_register,
  system_memory_unregister,
  cuda_memory_status,
  cuda_memory_register,
  cuda_memory_unregister,
  openapi,
  metrics,
};

struct Route {
  Endpoint endpoint = Endpoint::none;
  std::string model;    // empty: none is named
  std::string version;  // empty: none is named
  std::string region;   // empty: none is named
};

/// Reads a request target: the path with its escapes, up to a "?". `endpoint` is `none` for what
/// there is not. The strings of `route` keep their memory.
void find_route(std::string_view target, Route& route);

struct EndpointTraits {
  bool get = false;
  bool post = false;
  /// Changes or shows what only operators should: may ask for a token of its own.
  bool control = false;
  /// May take long: not for a thread that serves connections.
  bool slow = false;
  /// Answered to anybody, for probes that carry no token.
  bool open = false;
  /// For the Allow header.
  std::string_view allowed;
};
[[nodiscard]] EndpointTraits traits(Endpoint endpoint) noexcept;

}  // namespace millrace::server
