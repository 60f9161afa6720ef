// What a server's status says, as an error of ours.
#pragma once

#include <millrace/error.h>

namespace millrace::client {

[[nodiscard]] ErrorCode code_of_http(int status) noexcept;
/// Of the number of a gRPC status code other than OK.
[[nodiscard]] ErrorCode code_of_grpc(int status) noexcept;

}  // namespace millrace::client
