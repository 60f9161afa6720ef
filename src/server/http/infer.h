// Inference on the wire of HTTP: the JSON of a request with its binary data becomes a Call, an
// Answer becomes JSON with binary data. Pure functions.
#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/inline_vector.h>
#include <millrace/model.h>

#include "server/call.h"

namespace millrace::server {

/// The most inputs, and outputs, of a request.
inline constexpr std::size_t kMaxTensors = 1024;
/// What stands for the size of an input that has no binary data.
inline constexpr std::size_t kNotBinary = std::numeric_limits<std::size_t>::max();

/// How the outputs go back.
struct OutputForms {
  bool binary = false;  // those that the request says nothing about
  /// Of the outputs asked for, in their order.
  InlineVector<bool, 4> asked;
};

/// An inference as the JSON says it. Binary data comes behind the JSON, input after input.
struct InferRequest {
  Call call;
  /// By input: the bytes of its binary data, or kNotBinary.
  InlineVector<std::size_t, 4> binary_bytes;
  OutputForms forms;
};

/// Reads the JSON of a request into `request` (new, model and version may be set). `binary_bytes`
/// is the length of what follows the JSON; nullopt: the client did not say where the JSON ends, so
/// there can be no binary data. Inputs with data in the JSON get it; those with binary data are to
/// be bound by the caller, their sizes adding up to `binary_bytes`. Errors: invalid_argument.
[[nodiscard]] Result<void> read_infer(std::string_view json,
                                      std::optional<std::size_t> binary_bytes,
                                      InferRequest& request);

/// Gives each binary input its part of `data`, which is as long as they say; `lease` may hold
/// nothing, as with CallInput::raw.
void bind_binary(InferRequest& request, const char* data, const Lease& lease);

/// A request whose body is the data of the model's one input, and nothing else: the shape follows
/// from what the model says and from the number of bytes; all outputs go back in binary. The body
/// of a BYTES input is its one element without a length; the caller puts that before it. Errors:
/// invalid_argument.
[[nodiscard]] Result<void> read_raw_infer(const TensorInfo& input, std::size_t bytes,
                                          InferRequest& request);

/// An answer's body: first the JSON, then the pieces. These point into the answer or into `made`.
struct AnswerBody {
  struct Piece {
    const void* data = nullptr;
    std::size_t bytes = 0;
  };
  std::string json;
  InlineVector<Piece, 4> pieces;
  std::vector<std::string> made;
  bool binary = false;  // some output is, even if it has no bytes

  [[nodiscard]] std::size_t bytes() const noexcept {
    std::size_t sum = json.size();
    for (const Piece& piece : pieces) sum += piece.bytes;
    return sum;
  }
  /// As new, with its memory kept.
  void clear() {
    json.clear();
    pieces.clear();
    made.clear();
    binary = false;
  }
};

/// Writes an answer into `body` (empty). `answer` must outlive it. Errors: invalid_argument for
/// values that JSON cannot carry.
[[nodiscard]] Result<void> write_answer(const Answer& answer, const OutputForms& forms,
                                        AnswerBody& body);

}  // namespace millrace::server
