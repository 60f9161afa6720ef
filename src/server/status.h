// Errors as the protocols know them.
#pragma once

#include <millrace/error.h>

namespace millrace::server {

/// The status of an HTTP response: 400, 404, 429, 499 (the caller went away), 500, 501, 503 or 504.
[[nodiscard]] int http_status(ErrorCode code) noexcept;
/// The number of the gRPC status code (grpc::StatusCode, without including it).
[[nodiscard]] int grpc_status(ErrorCode code) noexcept;

}  // namespace millrace::server
