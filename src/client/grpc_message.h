// Inferences on the wire of gRPC, as a client writes and reads them. Pure functions.
#pragma once

#include <string>

#include <grpcpp/support/byte_buffer.h>

#include <millrace/request.h>

#include "client/client.h"

namespace millrace::client {

/// Writes a ModelInferRequest. Large inputs with a lease are not copied: the buffer holds the
/// lease. Errors: invalid_argument for what cannot be sent (strided, on a device and in no region).
[[nodiscard]] Result<grpc::ByteBuffer> write_request(const ModelName& model, const Request& request,
                                                     const RegionTable& regions);

/// Reads a ModelInferResponse to `request`. Views of the outputs point into the message, which
/// their leases hold; those in regions are the request's targets. Errors: internal for what is not
/// an answer.
[[nodiscard]] Result<Response> read_answer(grpc::ByteBuffer& buffer, const Request& request);

}  // namespace millrace::client
