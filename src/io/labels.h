// Names of classes, one a line.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <millrace/error.h>

namespace millrace {

/// Line i names class i; blanks at the ends are dropped, empty lines at the end of the file too.
/// Errors: not_found, unavailable; invalid_argument when there is no label or a line is empty.
[[nodiscard]] Result<std::vector<std::string>> read_labels(const std::string& path);
[[nodiscard]] Result<std::vector<std::string>> parse_labels(std::string_view text,
                                                            std::string_view source);

}  // namespace millrace
