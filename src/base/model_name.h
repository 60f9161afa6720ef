// What a model is called that was given no name.
#pragma once

#include <string>
#include <string_view>

namespace millrace {

/// "digits" of "models/digits.onnx", "busy" of "reference:busy?batch_us=100".
[[nodiscard]] inline std::string name_from_path(const std::string& path) {
  constexpr std::string_view kReference = "reference:";
  if (path.starts_with(kReference)) {
    const std::string kind = path.substr(kReference.size());
    return kind.substr(0, kind.find('?'));
  }
  const std::size_t slash = path.find_last_of('/');
  const std::string file = slash == std::string::npos ? path : path.substr(slash + 1);
  return file.substr(0, file.find('.'));
}

}  // namespace millrace
