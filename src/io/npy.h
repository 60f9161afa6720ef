// NumPy's array files (.npy, format versions 1 to 3).
//
// Types: bool, (u)int8-64, float16/32/64 as they are; byte strings ("S") and unicode ("U", as
// UTF-8) become BYTES. Big-endian and Fortran-ordered files are converted. Pickled objects,
// structures, complex numbers and dates are refused by name.
#pragma once

#include <string>
#include <string_view>

#include <millrace/tensor.h>

namespace millrace {

/// Reads one array into memory of its own, C-contiguous. `source` is what errors call it, usually
/// the path. Errors: invalid_argument (not such a file, cut short, bytes left over, sizes that
/// overflow), unsupported (a type or rank that Millrace does not have), out_of_memory.
[[nodiscard]] Result<Tensor> parse_npy(std::string_view bytes, std::string_view source);
/// The same from a file. Errors: also not_found, unavailable.
[[nodiscard]] Result<Tensor> read_npy(const std::string& path);

/// An array as the two parts of a .npy file, to be written one after the other.
struct NpyParts {
  std::string header;
  std::string_view data;  // in `owned` or in the tensor's memory
  std::string owned;

  NpyParts() = default;
  NpyParts(const NpyParts&) = delete;
  NpyParts& operator=(const NpyParts&) = delete;
};
/// Describes contiguous host memory as a .npy file, version 1. BF16 and FP8, for which NumPy has no
/// type, are written as float32, which holds them exactly; BYTES as "S" of the longest element.
/// `parts` may refer to the view's memory. Errors: invalid_argument (device memory, strides),
/// unsupported (a BYTES element that ends in a zero byte, which the format drops).
[[nodiscard]] Result<void> make_npy(const TensorView& view, NpyParts& parts);
/// Writes a file whole or not at all. Errors: as make_npy; unavailable when it cannot be written.
[[nodiscard]] Result<void> write_npy(const TensorView& view, const std::string& path);

}  // namespace millrace
