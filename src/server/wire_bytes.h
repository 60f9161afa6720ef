// BYTES tensors as the wire has them: each element behind its length, 4 bytes, little-endian.
#pragma once

#include <cstddef>
#include <span>

#include <millrace/tensor.h>

namespace millrace::server {

/// Reads the elements of a tensor of that shape; copies them. Errors: invalid_argument where their
/// number or lengths do not fit, naming `what`.
[[nodiscard]] Result<Tensor> read_wire_bytes(std::span<const std::byte> wire, const Shape& shape,
                                             std::string_view what);
/// How many bytes `write_wire_bytes` writes.
[[nodiscard]] std::size_t wire_bytes_size(const TensorView& view) noexcept;
/// Writes a BYTES tensor in host memory to `wire`, which has room for `wire_bytes_size`.
void write_wire_bytes(const TensorView& view, std::byte* wire) noexcept;

}  // namespace millrace::server
