// Configurations in the well-known format, as text: config.pbtxt, or JSON as clients send it along
// with a request.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <google/protobuf/text_format.h>

#include <millrace/error.h>

#include "base/text.h"
#include "repository/model_config.pb.h"

namespace millrace {

/// A configuration with the places in the text that it came from.
class ConfigText {
 public:
  /// `source` begins every error: the file, or what else the text is. Errors: invalid_argument with
  /// line and column, for text that is malformed, has unknown fields or the same field twice.
  [[nodiscard]] static Result<ConfigText> parse(std::string_view text, std::string source);
  /// Of the JSON form. Errors: invalid_argument, without a place.
  [[nodiscard]] static Result<ConfigText> parse_json(std::string_view text, std::string source);
  /// Of no text: everything is to be completed.
  [[nodiscard]] static ConfigText none(std::string source);

  [[nodiscard]] const inference::ModelConfig& config() const noexcept { return config_; }
  /// "models/a/config.pbtxt".
  [[nodiscard]] const std::string& source() const noexcept { return source_; }
  /// Whether max_batch_size is there at all: 0 that is stated is not 0 by default.
  [[nodiscard]] bool states_max_batch_size() const noexcept { return states_max_batch_size_; }

  /// "models/a/config.pbtxt:3:1" of a field, or of one of its elements: a path such as
  /// "max_batch_size", "input[1].dims" or "dynamic_batching.default_queue_policy.max_queue_size".
  /// Of a field that is not there: of what it would be in.
  [[nodiscard]] std::string where(std::string_view path) const;
  /// An invalid_argument that begins with the place and the path.
  template <class... Pieces>
  [[nodiscard]] Error error(std::string_view path, const Pieces&... pieces) const {
    return {ErrorCode::invalid_argument,
            concat(where(path), ": ", path, path.empty() ? "" : ": ", pieces...)};
  }

 private:
  explicit ConfigText(std::string source) : source_(std::move(source)) {}

  inference::ModelConfig config_;
  std::string source_;
  bool states_max_batch_size_ = false;
  std::unique_ptr<google::protobuf::TextFormat::ParseInfoTree> places_;  // null: JSON, or none
};

}  // namespace millrace
