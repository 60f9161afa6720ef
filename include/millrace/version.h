// Versions of Millrace and of what it was built with and found at run time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace millrace {

/// "0.1.0".
[[nodiscard]] std::string_view version() noexcept;

/// A component and its version, as a bug report needs them: "compiler", "cuda runtime",
/// "onnxruntime", ...
struct ComponentVersion {
  std::string component;
  std::string version;
};
[[nodiscard]] std::vector<ComponentVersion> component_versions();

}  // namespace millrace
