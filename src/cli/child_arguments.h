// What posix_spawn takes.
#pragma once

#include <string>
#include <vector>

namespace millrace::cli {

/// Pointers into `texts`, which must stay as they are, and a null one at the end.
[[nodiscard]] inline std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace millrace::cli
