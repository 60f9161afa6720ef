// Tensors as JSON: numbers, truths and strings, nested or flat, in row-major order.
#pragma once

#include <string>

#include "server/call.h"
#include "server/http/json.h"

namespace millrace::server {

/// Reads the data of an input whose name, type and shape are set. Nested arrays must be as the
/// shape says. False: the reader has the error.
bool read_json_tensor(JsonReader& json, CallInput& input);

/// Appends the flat array of a host tensor. Errors: invalid_argument for what JSON cannot carry
/// (16-bit and 8-bit floats, NaN, infinities, bytes that are not UTF-8).
[[nodiscard]] Result<void> append_json_tensor(std::string& out, std::string_view name,
                                              const TensorView& view);

/// BYTES as the protocol has them in binary: each element behind its length of 4 bytes. Errors:
/// invalid_argument for an element of 4 GiB or more.
[[nodiscard]] Result<std::string> bytes_rows(std::string_view name, const TensorView& view);

}  // namespace millrace::server
