// Text files of results, written whole or not at all, for the rooms above that print.
#pragma once

#include <string>
#include <string_view>

#include "base/file.h"

namespace millrace {

/// A file that appears under its name when committed, and not at all after an error: see
/// `AtomicFile`.
using OutputFile = AtomicFile;

/// Writes a file in one call. Errors: unavailable, disk full included.
[[nodiscard]] inline Result<void> write_text(const std::string& path, std::string_view text) {
  return write_file(path, text);
}

}  // namespace millrace
