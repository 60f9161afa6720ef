// A ModelInferRequest as it came over the wire, as a Call.
#pragma once

#include <functional>
#include <string_view>

#include <millrace/error.h>
#include <millrace/tensor.h>

#include "server/call.h"
#include "server/grpc/wire.h"

namespace millrace::server {

/// Memory for so many bytes of an input of that model, as `Service::receive_buffer`.
using ReceiveBuffer = std::function<Result<Tensor>(std::string_view model, std::size_t bytes)>;

/// The most inputs, and the most outputs, of a request.
inline constexpr std::size_t kMaxTensors = 1024;

/// Reads a request. Elements that lie in one piece stay there: such an input borrows `message`
/// (`raw` without a lease). Others are copied once, into a buffer. Errors: invalid_argument for
/// what is malformed or contradicts itself, unsupported (more dimensions than can be), those of
/// `receive`.
[[nodiscard]] Result<Call> read_infer_request(Pieces message, const ReceiveBuffer& receive);

/// The fields `model_name` and `id`, as far as they can be read: for what is said about a request
/// that cannot.
struct RequestNames {
  std::string model;
  std::string id;
};
[[nodiscard]] RequestNames read_request_names(Pieces message);

}  // namespace millrace::server
