#include "io/labels.h"

#include "base/file.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace {

Result<std::vector<std::string>> parse_labels(std::string_view text, std::string_view source) {
  std::vector<std::string> labels;
  text = text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = trimmed(text.substr(0, end));
    if (line.empty()) {
      return Error{ErrorCode::invalid_argument,
                   concat(source, ":", labels.size() + 1, ": expected a label, got an empty line")};
    }
    labels.emplace_back(line);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  if (labels.empty()) {
    return Error{ErrorCode::invalid_argument,
                 concat(source, ": expected one label a line, got none")};
  }
  return labels;
}

Result<std::vector<std::string>> read_labels(const std::string& path) {
  constexpr std::size_t kMostBytes = std::size_t{64} << 20;
  MILLRACE_ASSIGN(const std::string text, read_file(path, kMostBytes));
  return parse_labels(text, path);
}

}  // namespace millrace
