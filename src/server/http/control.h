// Everything that a client may ask but inference: from the path and the JSON body to the service,
// and back to JSON.
#pragma once

#include <string>
#include <string_view>

#include <millrace/error.h>

#include "server/http/head.h"
#include "server/http/route.h"
#include "server/service.h"

namespace millrace::server {

/// A response without its head.
struct Reply {
  int status = 200;
  std::string body{};
  std::string_view type = "application/json";
  std::string_view allow{};    // for an Allow header; empty: none
  int retry_after_s = 0;       // for a Retry-After header; 0: none
  bool ask_for_token = false;  // for a WWW-Authenticate header
};

/// {"error": "..."} with that status.
[[nodiscard]] Reply error_reply(int status, std::string_view message);
/// The same for an error of the service.
[[nodiscard]] Reply error_reply(const Error& error);

/// Answers a request to any endpoint but `infer` and `metrics`, whose method is allowed there.
/// Calls the service, which may take long for those that are `slow`.
[[nodiscard]] Reply answer_control(Service& service, const Route& route, Method method,
                                   std::string_view body);

/// The description of the whole interface.
[[nodiscard]] std::string_view openapi_document() noexcept;

}  // namespace millrace::server
