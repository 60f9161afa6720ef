#include "repository/config_text.h"

#include <charconv>
#include <optional>
#include <vector>

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/util/json_util.h>
#include <nlohmann/json.hpp>

#include "io/fields.h"

namespace millrace {
namespace {

namespace protobuf = google::protobuf;
using Tree = protobuf::TextFormat::ParseInfoTree;

constexpr std::size_t kMostBytes = std::size_t{1} << 20;
constexpr int kMostNested = 64;

/// Keeps the first error: the others follow from it.
class FirstError : public protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (!message_.empty()) return;
    line_ = line;
    column_ = column;
    message_ = message;
  }
  /// The parser looks at what comes behind an unknown name when it refuses it: that name's place is
  /// meant.
  void move_to(std::string_view name, std::string_view text) {
    for (int line = 0; line < line_; ++line)
      text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
    const std::size_t at = text.substr(0, static_cast<std::size_t>(column_)).rfind(name);
    if (line_ >= 0 && !name.empty() && at != std::string_view::npos) column_ = static_cast<int>(at);
  }
  [[nodiscard]] std::string text(const std::string& source) const {
    if (line_ < 0) return concat(source, ": ", message_);
    return concat(source, ":", line_ + 1, ":", column_ + 1, ": ", message_);
  }
  [[nodiscard]] const std::string& message() const noexcept { return message_; }

 private:
  int line_ = -1;
  int column_ = -1;
  std::string message_;
};

/// What is in quotes after `before`; empty: there is nothing.
std::string_view quoted_after(std::string_view text, std::string_view before) {
  const std::size_t at = text.find(before);
  if (at == std::string_view::npos) return {};
  const std::size_t first = text.find('"', at);
  if (first == std::string_view::npos) return {};
  const std::size_t last = text.find('"', first + 1);
  if (last == std::string_view::npos) return {};
  return text.substr(first + 1, last - first - 1);
}

/// Of 'Message type "T" has no field named "f".': the field of T that is most like f.
std::string suggestion(std::string_view message) {
  const std::string_view type = quoted_after(message, "Message type");
  const std::string_view field = quoted_after(message, "no field named");
  const protobuf::Descriptor* descriptor =
      protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(std::string(type));
  if (!descriptor || field.empty()) return {};
  std::vector<std::string_view> known;
  known.reserve(static_cast<std::size_t>(descriptor->field_count()));
  for (int i = 0; i < descriptor->field_count(); ++i) known.push_back(descriptor->field(i)->name());
  const std::string nearest = nearest_name(field, known);
  return nearest.empty() ? "" : concat(" Did you mean \"", nearest, "\"?");
}

Result<void> check_size(std::string_view text, const std::string& source) {
  if (text.size() <= kMostBytes) return {};
  return Error{ErrorCode::invalid_argument,
               concat(source, ": expected a configuration of at most ", format_bytes(kMostBytes),
                      ", got ", format_bytes(text.size()))};
}

struct Step {
  std::string name;
  int index = -1;  // none
};

/// "a.b[2].c" in pieces.
std::vector<Step> steps_of(std::string_view path) {
  std::vector<Step> steps;
  while (!path.empty()) {
    const std::size_t dot = std::min(path.find('.'), path.size());
    std::string_view piece = path.substr(0, dot);
    path.remove_prefix(std::min(dot + 1, path.size()));
    Step step;
    const std::size_t bracket = piece.find('[');
    if (bracket != std::string_view::npos) {
      (void)std::from_chars(piece.data() + bracket + 1, piece.data() + piece.size(), step.index);
      piece = piece.substr(0, bracket);
    }
    step.name = std::string(piece);
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace

Result<ConfigText> ConfigText::parse(std::string_view text, std::string source) {
  if (Result<void> size = check_size(text, source); !size) return std::move(size).error();
  ConfigText out(std::move(source));
  out.places_ = std::make_unique<Tree>();
  FirstError errors;
  protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  parser.WriteLocationsTo(out.places_.get());
  parser.SetRecursionLimit(kMostNested);
  const std::string copy(text);
  if (!parser.ParseFromString(copy, &out.config_)) {
    errors.move_to(quoted_after(errors.message(), "no field named"), text);
    return Error{ErrorCode::invalid_argument,
                 concat(errors.text(out.source_), suggestion(errors.message()))};
  }
  const auto* field = inference::ModelConfig::descriptor()->FindFieldByNumber(
      inference::ModelConfig::kMaxBatchSizeFieldNumber);
  out.states_max_batch_size_ = out.places_->GetLocation(field, -1).line >= 0;
  return out;
}

Result<ConfigText> ConfigText::parse_json(std::string_view text, std::string source) {
  if (Result<void> size = check_size(text, source); !size) return std::move(size).error();
  // Read by our own parser first: it refuses fields that come twice, and says what the other does
  // not.
  Result<nlohmann::json> json = millrace::parse_json(text, source);
  if (!json) return std::move(json).error();
  if (!json->is_object()) {
    return Error{ErrorCode::invalid_argument,
                 concat(source, ": expected an object, got ", shown(*json))};
  }
  ConfigText out(std::move(source));
  const auto status = protobuf::util::JsonStringToMessage(
      protobuf::StringPiece(text.data(), text.size()), &out.config_);
  if (!status.ok()) {
    return Error{ErrorCode::invalid_argument,
                 concat(out.source_, ": ",
                        quote(std::string_view(status.message().data(), status.message().size())))};
  }
  out.states_max_batch_size_ = json->contains("max_batch_size") || json->contains("maxBatchSize");
  return out;
}

ConfigText ConfigText::none(std::string source) { return ConfigText(std::move(source)); }

std::string ConfigText::where(std::string_view path) const {
  if (!places_) return source_;
  const Tree* tree = places_.get();
  const protobuf::Descriptor* type = inference::ModelConfig::descriptor();
  std::optional<protobuf::TextFormat::ParseLocation> place;
  for (const Step& step : steps_of(path)) {
    const protobuf::FieldDescriptor* field = type ? type->FindFieldByName(step.name) : nullptr;
    if (!field || !tree) break;
    const int index = field->is_repeated() ? std::max(step.index, 0) : -1;
    const protobuf::TextFormat::ParseLocation own = tree->GetLocation(field, index);
    // Of the elements of a list in brackets only the list has a place.
    const protobuf::TextFormat::ParseLocation found =
        own.line < 0 && index > 0 ? tree->GetLocation(field, 0) : own;
    if (found.line < 0) break;
    place = found;
    type = field->message_type();
    tree = type ? tree->GetTreeForNested(field, index) : nullptr;
  }
  if (!place) return source_;
  return concat(source_, ":", place->line + 1, ":", place->column + 1);
}

}  // namespace millrace
