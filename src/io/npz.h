// NumPy's archives of named arrays (.npz): zip files of .npy files, stored or deflated.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/request.h>

namespace millrace {

/// An array of an archive by its name there, without ".npy". Its view lies in memory that its lease
/// holds.
using NamedArray = NamedTensor;

/// All arrays in the order of the archive. Sizes and checksums are checked before anything is
/// believed. Errors: as parse_npy, naming archive and member; invalid_argument for a name that
/// comes twice; unsupported for encrypted members and compression other than deflate.
[[nodiscard]] Result<std::vector<NamedArray>> parse_npz(std::string_view bytes,
                                                        std::string_view source);
/// The same from a file. Errors: also not_found, unavailable.
[[nodiscard]] Result<std::vector<NamedArray>> read_npz(const std::string& path);

/// Writes an archive, stored without compression, whole or not at all. Contiguous host memory only.
/// Errors: as make_npy; unavailable when it cannot be written.
[[nodiscard]] Result<void> write_npz(std::span<const NamedTensor> arrays, const std::string& path);

}  // namespace millrace
