// Text for people, and from people: messages, sizes, durations, numbers.
#pragma once

#include <charconv>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include <millrace/error.h>

namespace millrace {

/// Appends text, numbers, or whatever has a `to_string` in its own namespace.
template <class T>
void append_text(std::string& out, const T& value) {
  if constexpr (std::same_as<T, bool>) {
    out += value ? "true" : "false";
  } else if constexpr (std::same_as<T, char>) {
    out += value;
  } else if constexpr (std::is_arithmetic_v<T>) {
    char digits[64];
    std::to_chars_result end{};
    if constexpr (std::integral<T>) {
      end = std::to_chars(digits, digits + sizeof digits, value);
    } else {
      end = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::general, 6);
    }
    out.append(digits, end.ptr);
  } else if constexpr (std::convertible_to<const T&, std::string_view>) {
    out += std::string_view(value);
  } else {
    out += to_string(value);
  }
}

/// The pieces one after another: concat("expected ", shape, ", got ", n).
template <class... Pieces>
[[nodiscard]] std::string concat(const Pieces&... pieces) {
  std::string out;
  (append_text(out, pieces), ...);
  return out;
}

/// The values of a range with `separator` between them.
template <class Range>
[[nodiscard]] std::string join(const Range& range, std::string_view separator) {
  std::string out;
  bool first = true;
  for (const auto& value : range) {
    if (!first) out += separator;
    first = false;
    append_text(out, value);
  }
  return out;
}

/// `text` in double quotes, fit for a message: control characters and bytes outside ASCII are
/// escaped, and long texts are cut in the middle.
[[nodiscard]] std::string quote(std::string_view text);

/// Without blanks at both ends.
[[nodiscard]] std::string_view trimmed(std::string_view text) noexcept;

/// Whether two texts are equal but for the case of ASCII letters.
[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b) noexcept;

/// "512 B", "1.5 MiB": in binary units, with one or two digits behind the point.
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);
/// "950 ns", "12.3 us", "4.56 ms", "1.5 s", "2 min 5 s".
[[nodiscard]] std::string format_duration(std::chrono::nanoseconds duration);

/// A whole decimal number, with nothing before or after it but a minus where `low` is negative.
/// Errors: invalid_argument, naming `what`, the range and the text found.
[[nodiscard]] Result<std::int64_t> parse_integer(
    std::string_view text, std::string_view what,
    std::int64_t low = std::numeric_limits<std::int64_t>::min(),
    std::int64_t high = std::numeric_limits<std::int64_t>::max());
/// A finite decimal number. Errors: as parse_integer.
[[nodiscard]] Result<double> parse_number(std::string_view text, std::string_view what);
/// "500ns", "500us", "2ms", "1.5s", "3min", "1h"; a bare "0" too. Never negative. Errors: as
/// parse_integer.
[[nodiscard]] Result<std::chrono::nanoseconds> parse_duration(std::string_view text,
                                                              std::string_view what);
/// "4096", "64KiB", "1.5 GiB", "2GB" (decimal), "10B". Errors: as parse_integer.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text, std::string_view what);

}  // namespace millrace
