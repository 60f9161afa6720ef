// Where the elements of a strided tensor lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <millrace/error.h>
#include <millrace/shape.h>
#include <millrace/tensor.h>

namespace millrace {

/// Product of two non-negative numbers; false when it does not fit in 63 bits.
[[nodiscard]] bool multiply(std::int64_t a, std::int64_t b, std::int64_t& product) noexcept;

/// The number of elements from the first to the last in memory, both included; 0 without elements.
/// Of a contiguous tensor: the element count. Errors: invalid_argument for strides of another rank
/// than the shape's or an extent over 63 bits, unsupported for negative strides; and as
/// element_count.
[[nodiscard]] Result<std::int64_t> extent(const Shape& shape, const Strides& strides);

/// Copies a strided host tensor of fixed-size elements into contiguous memory of `byte_count`
/// bytes. Both must be valid (see `validate`) and must not overlap.
void copy_to_contiguous(const TensorView& source, void* target) noexcept;

/// How many copied pieces bring a strided tensor of fixed-size elements closely packed elsewhere:
/// its rows, at one distance from each other, are one piece; further dimensions that do not
/// continue that distance multiply it. 0 without elements. Errors: unsupported when the elements
/// within a row are apart, or when it would take more than `kMostPiecesOfATensor`.
inline constexpr std::size_t kMostPiecesOfATensor = 1024;
[[nodiscard]] Result<std::size_t> count_pieces(const TensorView& source);
/// Appends those pieces. Only where `count_pieces` gave no error.
void append_pieces(const TensorView& source, void* target, std::vector<CopyPiece>& pieces);

}  // namespace millrace
