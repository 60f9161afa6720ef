// JSON read from front to back, and written, without building a tree of it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <millrace/error.h>

namespace millrace::server {

/// Walks over one JSON text (RFC 8259, UTF-8 checked, nothing but blanks behind it). Nothing is
/// allocated but for strings with escapes. After the first error every function answers false.
///
///   JsonReader json(text);
///   std::string_view key;
///   json.begin_object();
///   while (json.next_key(key)) {
///     if (key == "id") json.read_string(id); else json.skip();
///   }
///   if (!json.finish()) return json.error();
class JsonReader {
 public:
  /// The deepest nesting that is read.
  static constexpr int kMaxDepth = 64;

  enum class Kind : std::uint8_t { object, array, string, number, boolean, null, nothing };

  /// The text must outlive the reader and the views that it gives.
  explicit JsonReader(std::string_view text) noexcept
      : begin_(text.data()), at_(text.data()), end_(text.data() + text.size()) {}

  /// What comes next; `nothing` where no value begins.
  [[nodiscard]] Kind peek() noexcept;
  bool begin_object() { return open('{', "an object"); }
  /// The next key, or false at the end of the object. The view is good until the next string.
  bool next_key(std::string_view& key);
  bool begin_array() { return open('[', "an array"); }
  /// Whether there is another element; false at the end of the array.
  bool next_element();

  /// The view is good until the next string.
  bool read_string(std::string_view& value);
  bool read_string(std::string& value);
  bool read_bool(bool& value);
  /// A whole number without fraction or exponent, within the type.
  bool read_integer(std::int64_t& value);
  bool read_unsigned(std::uint64_t& value);
  /// Too large for a double: an error. Too small: 0.
  bool read_double(double& value);
  /// Any number, as it is written.
  bool read_number(std::string_view& token);
  bool read_null();
  /// Any value, checked.
  bool skip();
  /// The text of any value, checked.
  bool read_raw(std::string_view& text);
  /// Whether all was read without an error and nothing follows.
  bool finish();

  [[nodiscard]] bool ok() const noexcept { return message_.empty(); }
  /// Bytes that were not read yet.
  [[nodiscard]] std::size_t left() const noexcept { return static_cast<std::size_t>(end_ - at_); }
  /// Says that what was read last is wrong, unless there was an error before. Always false.
  bool fail(std::string message);
  /// What went wrong first, and at which byte.
  [[nodiscard]] Error error() const;

 private:
  void skip_blanks() noexcept;
  bool open(char bracket, std::string_view what);
  bool next(char close, std::string_view what);
  bool expect(std::string_view what);
  bool literal(std::string_view word);
  bool unescape(const char* from, std::string_view& value);
  bool escape(const char*& at);
  bool utf8(const char* from, const char* to);
  bool skip_value();

  const char* begin_;
  const char* at_;
  const char* end_;
  int depth_ = 0;
  bool first_ = false;  // nothing was read in the innermost object or array
  std::string scratch_;
  std::string message_;
  std::size_t where_ = 0;
};

/// Appends a string in quotes. What is not UTF-8 becomes U+FFFD.
void append_json_string(std::string& out, std::string_view text);
/// Appends a finite number in its shortest form that reads back as the same.
void append_json_number(std::string& out, double value);
void append_json_number(std::string& out, float value);
void append_json_number(std::string& out, std::int64_t value);
void append_json_number(std::string& out, std::uint64_t value);

/// The number of bytes that the UTF-8 character at the front takes; 0: it is none.
[[nodiscard]] std::size_t utf8_length(std::string_view text) noexcept;

}  // namespace millrace::server
