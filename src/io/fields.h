// Reading JSON objects strictly: every field is known, of the right type and in range, or refused
// with what was expected, what was found and where.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <millrace/error.h>

namespace millrace {

/// The known name that is most like `name`; empty when none is alike.
[[nodiscard]] std::string nearest_name(std::string_view name,
                                       std::span<const std::string_view> known);

/// "unknown field "lane"; did you mean "lanes"?", else with the list of those known.
[[nodiscard]] std::string unknown_field(std::string_view name,
                                        std::span<const std::string_view> known);

/// Parses one JSON document; a field that comes twice in an object is an error. Errors:
/// invalid_argument, beginning with `where`.
[[nodiscard]] Result<nlohmann::json> parse_json(std::string_view text, std::string_view where);

/// Reads the fields of an object one after the other. The first error stays, and what is read after
/// it does nothing; `finish` returns it. Absent fields leave their targets as they are.
class Fields {
 public:
  /// `where` is the path to the object, as in: models/a.json: batching. `value` must outlive this.
  Fields(const nlohmann::json& value, std::string where, std::span<const std::string_view> known);

  [[nodiscard]] bool has(std::string_view name) const;
  /// The value for the caller to read; null when absent or after an error.
  [[nodiscard]] const nlohmann::json* find(std::string_view name) const;
  void text(std::string_view name, std::string& out);
  void flag(std::string_view name, bool& out);
  void number(std::string_view name, double& out, double low, double high);
  void texts(std::string_view name, std::vector<std::string>& out);
  void text_map(std::string_view name, std::map<std::string, std::string>& out);
  template <class T>
  void integer(std::string_view name, T& out, std::int64_t low,
               std::int64_t high = std::numeric_limits<T>::max()) {
    std::int64_t value = 0;
    if (whole(name, value, low, high)) out = static_cast<T>(value);
  }
  /// Remembers an error about a field.
  void fail(std::string_view name, std::string_view expected, const nlohmann::json& found);
  void fail(Error error);
  [[nodiscard]] bool ok() const noexcept { return result_.ok(); }
  [[nodiscard]] Result<void> finish() const { return result_; }
  [[nodiscard]] std::string where(std::string_view name) const;

 private:
  bool whole(std::string_view name, std::int64_t& out, std::int64_t low, std::int64_t high);

  const nlohmann::json& value_;
  std::string where_;
  Result<void> result_;
};

/// A value for an error message: short, on one line.
[[nodiscard]] std::string shown(const nlohmann::json& value);

}  // namespace millrace
