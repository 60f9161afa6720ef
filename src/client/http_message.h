// Inferences on the wire of HTTP, as a client writes and reads them. Pure functions.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/request.h>

#include "client/regions.h"

namespace millrace::client {

/// A request's body: first the JSON, then the pieces. These point into the request or into `made`.
struct InferBody {
  struct Piece {
    const void* data = nullptr;
    std::size_t bytes = 0;
  };
  std::string json;
  std::vector<Piece> pieces;
  std::vector<std::string> made;
  std::size_t bytes = 0;  // of everything
};

/// Writes a request, all data in binary; what lies in a region is named. Errors: invalid_argument
/// for what cannot be sent (strided, on a device and in no region).
[[nodiscard]] Result<InferBody> write_request(const Request& request, const RegionTable& regions);

/// Reads the body of an answer to `request`: the JSON is its first `json_bytes` (nullopt: all of
/// it). Views of the outputs point into the body, which their leases hold; those in regions are
/// the request's targets. Errors: internal for what is not an answer.
[[nodiscard]] Result<Response> read_answer(std::string body, std::optional<std::size_t> json_bytes,
                                           const Request& request);

/// The text of an error that came as JSON {"error": "..."}; otherwise the body's beginning.
[[nodiscard]] std::string error_text(std::string_view body);

/// Copies an output to its target, where it has one. Errors: internal when it does not fit.
[[nodiscard]] Result<void> deliver(NamedTensor& output, const Request& request);

}  // namespace millrace::client
