// Whether the server serves, as gRPC's health protocol asks.
#pragma once

#include <string>

#include <millrace/error.h>

#include "server/service.h"

namespace millrace::server {

/// A serialized HealthCheckRequest to such a response. Errors: not_found for a service that is not
/// here, invalid_argument.
[[nodiscard]] Result<std::string> check_health(Service& service, const std::string& request);
/// The same for who watches: an unknown service has a status of its own.
[[nodiscard]] std::string watched_health(Service& service, const std::string& request);

}  // namespace millrace::server
