// The client over gRPC.
#pragma once

#include <memory>

#include "client/client.h"
#include "client/url.h"

namespace millrace::client {

/// As Client::connect.
[[nodiscard]] Result<std::unique_ptr<Client>> connect_grpc(const Url& url, ClientOptions options);

}  // namespace millrace::client
