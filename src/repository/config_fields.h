// Every field of a configuration in the well-known format, and what becomes of it here.
// docs/repository.md lists the same, which a test compares.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "repository/config_text.h"

namespace millrace {

enum class FieldKind : std::uint8_t {
  supported,
  hint,     // accepted with a warning that says what is done instead
  refused,  // it would change answers, and is not supported
};
/// "supported", "hint", "refused".
[[nodiscard]] std::string_view to_string(FieldKind kind) noexcept;

struct ConfigField {
  std::string_view
      path;  // "dynamic_batching.preferred_batch_size"; stands for all that is below it, too
  FieldKind kind;
  std::string_view note;  // what becomes of it, or what is done instead
};

/// In the order of the documentation.
[[nodiscard]] std::span<const ConfigField> config_fields() noexcept;

/// A field that a configuration states.
struct StatedField {
  std::string path;   // with indices: "input[0].dims"
  std::string where;  // "models/a/config.pbtxt:3:1"
  std::string value;  // on one line, cut when it is long
  const ConfigField* field = nullptr;
};

/// What a configuration states, in the order of the schema. Errors: unsupported for the first that
/// is refused, with its place and what to do.
[[nodiscard]] Result<std::vector<StatedField>> stated_fields(const ConfigText& text);

/// One line for each hint among them.
[[nodiscard]] std::vector<std::string> hints_of(const std::vector<StatedField>& fields);

}  // namespace millrace
