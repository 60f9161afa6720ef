// JSON as it is written piece by piece.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "server/http/json.h"

namespace millrace::server {

/// Objects and arrays, with the commas between what is in them. Keys are empty in arrays, and for
/// the whole.
class JsonWriter {
 public:
  void open(std::string_view key, char bracket) {
    name(key);
    out_ += bracket;
    first_ = true;
  }
  void close(char bracket) {
    out_ += bracket;
    first_ = false;
  }
  void text(std::string_view key, std::string_view value) {
    name(key);
    append_json_string(out_, value);
  }
  void number(std::string_view key, std::int64_t value) {
    name(key);
    append_json_number(out_, value);
  }
  void number(std::string_view key, double value) {
    name(key);
    append_json_number(out_, value);
  }
  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  void name(std::string_view key) {
    if (!first_) out_ += ',';
    first_ = false;
    if (key.empty()) return;
    append_json_string(out_, key);
    out_ += ':';
  }

  std::string out_;
  bool first_ = true;
};

}  // namespace millrace::server
