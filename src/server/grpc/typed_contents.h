// InferTensorContents: a tensor's elements as numbers of the message, not as a block of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include <millrace/data_type.h>
#include <millrace/error.h>

#include "server/grpc/wire.h"

namespace millrace::server {

struct TypedContents {
  Pieces message;
  WireBytes contents;
  DataType type = DataType::fp32;
  std::int64_t count = 0;  // of elements that the shape asks for
};

/// Whether there are as many elements as the shape says, in the field of the type, and nothing
/// else. Errors: invalid_argument, also for types that have no field (FP16, BF16, FP8).
[[nodiscard]] Result<void> check(const TypedContents& typed);

/// The elements of checked contents, row-major; `to` has room for all. Not for BYTES. Errors:
/// invalid_argument for a number that the type does not hold.
[[nodiscard]] Result<void> copy_elements(const TypedContents& typed, void* to);

// Of checked BYTES: what they take with a length of 4 bytes before each, and such a copy; returns
// its size.
[[nodiscard]] std::size_t wire_bytes_size(const TypedContents& typed);
std::size_t copy_wire_bytes(const TypedContents& typed, void* to);

}  // namespace millrace::server
