#include "server/http/json.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "base/text.h"

namespace millrace::server {
namespace {

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

bool is_continuation(char c) noexcept { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

// Of a character beyond ASCII: how many bytes, and within which limits the second one lies.
std::size_t utf8_sequence(unsigned char first, unsigned char& low, unsigned char& high) noexcept {
  low = 0x80;
  high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) return 2;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;  // no surrogates
  if (first >= 0xE0 && first <= 0xEF) return 3;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  if (first >= 0xF0 && first <= 0xF4) return 4;
  return 0;
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto put = [&out](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

template <class T>
void append_number(std::string& out, T value) {
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  out.append(digits, end.ptr);
}

}  // namespace

std::size_t utf8_length(std::string_view text) noexcept {
  if (text.empty()) return 0;
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return 1;
  unsigned char low = 0;
  unsigned char high = 0;
  const std::size_t length = utf8_sequence(first, low, high);
  if (length == 0 || text.size() < length) return 0;
  const auto second = static_cast<unsigned char>(text[1]);
  if (second < low || second > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if (!is_continuation(text[i])) return 0;
  }
  return length;
}

void JsonReader::skip_blanks() noexcept {
  while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
}

bool JsonReader::fail(std::string message) {
  if (ok()) {
    message_ = std::move(message);
    where_ = static_cast<std::size_t>(at_ - begin_);
  }
  at_ = end_;
  return false;
}

Error JsonReader::error() const {
  return {ErrorCode::invalid_argument, concat("JSON, byte ", where_, ": ", message_)};
}

bool JsonReader::expect(std::string_view what) {
  if (!ok()) return false;
  if (at_ == end_) return fail(concat("expected ", what, ", found the end"));
  return fail(concat("expected ", what, ", found ", quote({at_, 1})));
}

JsonReader::Kind JsonReader::peek() noexcept {
  skip_blanks();
  if (at_ == end_) return Kind::nothing;
  switch (*at_) {
    case '{':
      return Kind::object;
    case '[':
      return Kind::array;
    case '"':
      return Kind::string;
    case 't':
    case 'f':
      return Kind::boolean;
    case 'n':
      return Kind::null;
    default:
      return *at_ == '-' || is_digit(*at_) ? Kind::number : Kind::nothing;
  }
}

bool JsonReader::open(char bracket, std::string_view what) {
  skip_blanks();
  if (at_ == end_ || *at_ != bracket) return expect(what);
  if (depth_ == kMaxDepth) return fail(concat("nested deeper than ", kMaxDepth, " levels"));
  ++at_;
  ++depth_;
  first_ = true;
  return true;
}

// To the next entry, past the comma; false at the closing bracket, which is read.
bool JsonReader::next(char close, std::string_view what) {
  skip_blanks();
  if (at_ == end_) return expect(what);
  if (*at_ == close) {
    ++at_;
    --depth_;
    first_ = false;
    return false;
  }
  if (!first_) {
    if (*at_ != ',') return expect(what);
    ++at_;
    skip_blanks();
  }
  first_ = false;
  return true;
}

bool JsonReader::next_key(std::string_view& key) {
  if (!next('}', "\",\" or \"}\"")) return false;
  if (!read_string(key)) return false;
  skip_blanks();
  if (at_ == end_ || *at_ != ':') return expect("\":\"");
  ++at_;
  return true;
}

bool JsonReader::next_element() { return next(']', "\",\" or \"]\""); }

bool JsonReader::utf8(const char* from, const char* to) {
  while (from != to) {
    if (static_cast<unsigned char>(*from) < 0x80) {
      ++from;
      continue;
    }
    const std::size_t length = utf8_length({from, static_cast<std::size_t>(to - from)});
    if (length == 0) return fail("a string that is not UTF-8");
    from += length;
  }
  return true;
}

bool JsonReader::read_string(std::string_view& value) {
  skip_blanks();
  if (at_ == end_ || *at_ != '"') return expect("a string");
  const char* from = ++at_;
  bool plain = true;
  for (; at_ != end_ && *at_ != '"' && *at_ != '\\'; ++at_) {
    const auto c = static_cast<unsigned char>(*at_);
    if (c < 0x20) return fail("a control character in a string");
    if (c >= 0x80) plain = false;
  }
  if (at_ == end_) return expect("the end of the string");
  if (*at_ == '\\') return unescape(from, value);
  value = {from, static_cast<std::size_t>(at_ - from)};
  if (!plain && !utf8(from, at_)) return false;
  ++at_;
  return true;
}

bool JsonReader::read_string(std::string& value) {
  std::string_view view;
  if (!read_string(view)) return false;
  value = view;
  return true;
}

// A string whose first backslash is next.
bool JsonReader::unescape(const char* from, std::string_view& value) {
  scratch_.assign(from, at_);
  while (at_ != end_ && *at_ != '"') {
    if (static_cast<unsigned char>(*at_) < 0x20) return fail("a control character in a string");
    if (*at_ == '\\') {
      if (!escape(at_)) return false;
    } else {
      scratch_ += *at_++;
    }
  }
  if (at_ == end_) return expect("the end of the string");
  if (!utf8(scratch_.data(), scratch_.data() + scratch_.size())) return false;
  ++at_;
  value = scratch_;
  return true;
}

bool JsonReader::escape(const char*& at) {
  constexpr std::string_view kNames = "\"\\/bfnrt";
  constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
  const auto hex = [this](const char* digits, std::uint32_t& code) {
    return end_ - digits >= 4 && std::from_chars(digits, digits + 4, code, 16).ptr == digits + 4;
  };
  if (end_ - at < 2) return expect("an escape");
  if (const std::size_t known = kNames.find(at[1]); known != std::string_view::npos) {
    scratch_ += kValues[known];
    at += 2;
    return true;
  }
  std::uint32_t code = 0;
  if (at[1] != 'u' || !hex(at + 2, code)) return fail("an escape that there is not");
  at += 6;
  if (code >= 0xD800 && code < 0xDC00) {
    std::uint32_t low = 0;
    if (end_ - at < 6 || at[0] != '\\' || at[1] != 'u' || !hex(at + 2, low) || low < 0xDC00 ||
        low > 0xDFFF) {
      return fail("half of a surrogate pair");
    }
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    at += 6;
  } else if (code >= 0xDC00 && code < 0xE000) {
    return fail("half of a surrogate pair");
  }
  append_utf8(scratch_, code);
  return true;
}

bool JsonReader::literal(std::string_view word) {
  if (std::string_view(at_, static_cast<std::size_t>(end_ - at_)).substr(0, word.size()) != word) {
    return expect(word);
  }
  at_ += word.size();
  return true;
}

bool JsonReader::read_bool(bool& value) {
  skip_blanks();
  if (at_ == end_ || (*at_ != 't' && *at_ != 'f')) return expect("true or false");
  value = *at_ == 't';
  return literal(value ? "true" : "false");
}

bool JsonReader::read_null() {
  skip_blanks();
  return literal("null");
}

bool JsonReader::read_number(std::string_view& token) {
  skip_blanks();
  const char* from = at_;
  const char* at = at_;
  const auto digits = [&] {
    const char* first = at;
    while (at != end_ && is_digit(*at)) ++at;
    return at != first;
  };
  if (at != end_ && *at == '-') ++at;
  if (at != end_ && *at == '0') {
    ++at;
  } else if (!digits()) {
    return expect("a number");
  }
  bool good = true;
  if (at != end_ && *at == '.') {
    ++at;
    good = digits();
  }
  if (good && at != end_ && (*at == 'e' || *at == 'E')) {
    ++at;
    if (at != end_ && (*at == '+' || *at == '-')) ++at;
    good = digits();
  }
  if (!good || (at != end_ && is_digit(*at))) return fail("a number that is badly written");
  token = {from, static_cast<std::size_t>(at - from)};
  at_ = at;
  return true;
}

bool JsonReader::read_integer(std::int64_t& value) {
  std::string_view token;
  if (!read_number(token)) return false;
  const auto end = std::from_chars(token.data(), token.data() + token.size(), value);
  if (end.ec == std::errc() && end.ptr == token.data() + token.size()) return true;
  return fail(concat("expected a whole number of 64 bits, found ", quote(token)));
}

bool JsonReader::read_unsigned(std::uint64_t& value) {
  std::string_view token;
  if (!read_number(token)) return false;
  const auto end = std::from_chars(token.data(), token.data() + token.size(), value);
  if (end.ec == std::errc() && end.ptr == token.data() + token.size()) return true;
  return fail(concat("expected a whole number of 64 bits without a sign, found ", quote(token)));
}

bool JsonReader::read_double(double& value) {
  std::string_view token;
  if (!read_number(token)) return false;
  const auto end = std::from_chars(token.data(), token.data() + token.size(), value);
  if (end.ec == std::errc()) return true;
  value = std::strtod(std::string(token).c_str(), nullptr);  // tells too large from too small
  if (std::isfinite(value)) return true;
  return fail(concat("the number ", quote(token), " is too large"));
}

bool JsonReader::skip_value() {
  std::string_view text;
  bool truth = false;
  switch (peek()) {
    case Kind::object:
      begin_object();
      while (next_key(text)) skip_value();
      break;
    case Kind::array:
      begin_array();
      while (next_element()) skip_value();
      break;
    case Kind::string:
      return read_string(text);
    case Kind::number:
      return read_number(text);
    case Kind::boolean:
      return read_bool(truth);
    case Kind::null:
      return read_null();
    case Kind::nothing:
      return expect("a value");
  }
  return ok();
}

bool JsonReader::skip() { return skip_value(); }

bool JsonReader::read_raw(std::string_view& text) {
  skip_blanks();
  const char* from = at_;
  if (!skip_value()) return false;
  text = {from, static_cast<std::size_t>(at_ - from)};
  return true;
}

bool JsonReader::finish() {
  if (!ok()) return false;
  skip_blanks();
  return at_ == end_ || expect("the end");
}

void append_json_string(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += text[i++];
    } else if (c < 0x20) {
      out += "\\u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
      ++i;
    } else if (c < 0x80) {
      out += text[i++];
    } else if (const std::size_t length = utf8_length(text.substr(i)); length > 0) {
      out += text.substr(i, length);
      i += length;
    } else {
      out += "\xEF\xBF\xBD";
      ++i;
    }
  }
  out += '"';
}

void append_json_number(std::string& out, double value) { append_number(out, value); }
void append_json_number(std::string& out, float value) { append_number(out, value); }
void append_json_number(std::string& out, std::int64_t value) { append_number(out, value); }
void append_json_number(std::string& out, std::uint64_t value) { append_number(out, value); }

}  // namespace millrace::server
