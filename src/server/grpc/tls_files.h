// Certificates and keys as gRPC wants them.
#pragma once

#include <memory>

#include <grpcpp/security/server_credentials.h>

#include <millrace/error.h>

#include "server/grpc/server.h"

namespace millrace::server {

/// What connections are secured with; plain ones where no certificate is named. Errors: not_found
/// (a file), invalid_argument (not PEM, or certificate and key are no pair), naming the file.
[[nodiscard]] Result<std::shared_ptr<grpc::ServerCredentials>> open_credentials(
    const TlsFiles& files);

}  // namespace millrace::server
