// An Answer as a ModelInferResponse of the wire.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/call.h"

namespace millrace::server {

/// Part of a message to be sent: bytes of its own, or `size` bytes at `data` that `lease` keeps.
struct MessagePart {
  std::string bytes;
  const void* data = nullptr;
  std::size_t size = 0;
  Lease lease;

  [[nodiscard]] std::string_view view() const noexcept {
    return data ? std::string_view(static_cast<const char*>(data), size) : bytes;
  }
};
using Message = std::vector<MessagePart>;

/// Outputs of fewer bytes are copied into the message: that costs less than a part of their own.
inline constexpr std::size_t kCopiedOutputBytes = 4096;

/// A ModelInferResponse. Large outputs are sent from where they lie, by the answer's leases.
[[nodiscard]] Message write_infer_answer(Answer&& answer);
/// The same as the ModelStreamInferResponse that holds it.
[[nodiscard]] Message write_stream_answer(Answer&& answer);
/// A ModelStreamInferResponse that says what went wrong with the request of that model and id.
[[nodiscard]] Message write_stream_error(const Error& error, std::string_view model,
                                         std::string_view id);

}  // namespace millrace::server
